"""Under which conditions a generator was measured: what every number of an evaluation shares."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from lightning_gan3d.generator import Generator
from lightning_gan3d.training.rundir import provenance

CONDITIONS = "evaluation.conditions.json"
"""The file beside `evaluation.json`."""


def conditions_of(
    generator: Generator, fingerprint: str, seed: int, device: torch.device | str
) -> dict[str, Any]:
    """Return what every measure of a generator has in common, as plain values.

    Read the images of its notes with it: n and cameras are in those. Commit and library versions
    are those that measured; the run's manifest has those that trained. Call it after measuring: the
    code that marched the rays is chosen at the first of them.
    """
    found = provenance(())
    return {
        "resolution": generator.resolution,
        "rendering_resolution": generator.rendering_resolution,
        "precision": precision_of(generator),
        "truncation_psi": 1.0,
        "seed": seed,
        "weights_sha256": weights_hash(generator),
        "dataset_fingerprint": fingerprint,
        "device": str(device),
        **{k: found[k] for k in ("commit", "dirty", "versions")},
    }


def precision_of(generator: Generator) -> str:
    """Tell numbers and code that images come from, in words.

    Scenes seen from several cameras (consistency, refit) may be stored in fewer bits than those of
    single images (FID).
    """
    renderer = generator.cfg.renderer
    weights = str(next(generator.parameters()).dtype).removeprefix("torch.")
    words = f"weights {weights}, rendering {getattr(renderer, 'precision', 'fp32')}"
    stored = getattr(renderer, "cache_precision", "fp32")
    if stored != "fp32":
        words += f", scenes of several views {stored}"
    taken = getattr(generator.renderer, "path_taken", None)
    return words if taken is None else f"{words}, rays by {taken}"


def weights_hash(module: torch.nn.Module) -> str:
    """Return SHA-256 of names, shapes, types and bytes of parameters and buffers, sorted by name.

    It is that of the weights, whatever file they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        # By bytes: NumPy has no bfloat16.
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def write_conditions(folder: Path, conditions: dict[str, Any]) -> None:
    """Write them beside the measures, whole or not at all."""
    temporary = folder / f"{CONDITIONS}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(conditions, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / CONDITIONS)

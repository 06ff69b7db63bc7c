"""Under which conditions a generator was measured: what every number of an evaluation shares."""

from pathlib import Path
from typing import Any

import torch

from lightning_gan3d.files import provenance, sha256_of_tensors, write_json
from lightning_gan3d.generator import Generator

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
    """Return the SHA-256 of parameters and buffers, whatever file they came from."""
    return sha256_of_tensors(module.state_dict())


def write_conditions(folder: Path, conditions: dict[str, Any]) -> None:
    """Write them beside the measures, whole or not at all."""
    write_json(folder / CONDITIONS, conditions)

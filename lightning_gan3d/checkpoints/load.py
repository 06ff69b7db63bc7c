"""Load a network from a run, a checkpoint, an export or an NVIDIA pickle."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from lightning_gan3d.checkpoints import importer, stored_networks
from lightning_gan3d.checkpoints.stored_networks import NetworkKind, Stored
from lightning_gan3d.config import ConfigError
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.discriminator import Discriminator

_KINDS: dict[str, Literal["generator", "generator_raw"]] = {
    "G_ema": "generator",
    "G": "generator_raw",
}


def load_generator(
    path: str | Path,
    device: torch.device | str = "cpu",
    which: Literal["G_ema", "G"] = "G_ema",
) -> Generator:
    """Load a generator from a run directory (its newest checkpoint), a checkpoint, or an export.

    An NVIDIA pickle (EG3D, StyleGAN2) is read too, without running any of its code; differences
    from its own code are warnings. `which`: the average over training, which is evaluated, or the
    weights as trained.

    Raises:
        CheckpointError: the file is not a network, is damaged, or is not supported (exit 2).
        UnsafePickle: the pickle asks for code; nothing was executed (exit 3).
    """
    if which not in _KINDS:
        raise ConfigError(f"which={which}: use G_ema (the average) or G (the weights as trained)")
    stored = read_networks(path, [_KINDS[which]])
    _warn(stored)
    return stored.generator(_KINDS[which]).to(device)


def load_discriminator(path: str | Path, device: torch.device | str = "cpu") -> Discriminator:
    """Load a discriminator; paths, warnings and errors are those of `load_generator`."""
    stored = read_networks(path, ["discriminator"])
    _warn(stored)
    return stored.discriminator().to(device)


def _warn(stored: Stored) -> None:
    for note in stored.about.get("notes", []):
        warnings.warn(f"{stored.path}: {note}", stacklevel=3)


def read_networks(path: str | Path, kinds: Sequence[NetworkKind]) -> Stored:
    """Read those of `kinds` that exist, in any of the formats."""
    path = Path(path)
    if path.is_file() and path.suffix != ".safetensors":
        return importer.read_file(path, kinds)
    return stored_networks.read_folder(path, kinds)

"""Load a network from wherever it lies: a run, a checkpoint, an export, an NVIDIA pickle."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from lightning_gan3d.checkpoints import importer, native
from lightning_gan3d.checkpoints.stored import Network, Stored
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

    An NVIDIA pickle (EG3D, StyleGAN2) is read too, without running any of its code; what is
    computed otherwise than by its own code is a warning. `which`: the average over training that is
    measured and shown, or the weights as trained.

    Raises:
        CheckpointError: the file is no network, is damaged, or holds what is not known (exit 2).
        UnsafePickle: the pickle asks for code; nothing was executed (exit 3).
    """
    if which not in _KINDS:
        raise ConfigError(f"which={which}: use G_ema, the average, or G, the weights as trained")
    stored = read_networks(path, [_KINDS[which]])
    _warn(stored)
    return stored.generator(_KINDS[which]).to(device)


def load_discriminator(path: str | Path, device: torch.device | str = "cpu") -> Discriminator:
    """Load the discriminator of a run directory (its newest checkpoint) or of a checkpoint.

    Reads, warns and raises as `load_generator`.
    """
    stored = read_networks(path, ["discriminator"])
    _warn(stored)
    return stored.discriminator().to(device)


def _warn(stored: Stored) -> None:
    for note in stored.about.get("notes", []):
        warnings.warn(f"{stored.path}: {note}", stacklevel=3)


def read_networks(path: str | Path, kinds: Sequence[Network]) -> Stored:
    """Read those of `kinds` that are there; in our terms, whatever wrote them."""
    path = Path(path)
    if path.is_file() and path.suffix != ".safetensors":
        return importer.read_file(path, kinds)
    return native.read_networks(path, kinds)

"""Load a network from a run, a checkpoint, an export or an NVIDIA pickle."""

import dataclasses
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_gan3d.cameras import Orbit
from lightning_gan3d.checkpoints import importer, references, store, stored_networks
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored_networks import NetworkKind, Stored
from lightning_gan3d.config import ConfigError, Positive, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.camera_prior import prior_orbit
from lightning_gan3d.data.dataset import DataConfig
from lightning_gan3d.data.labels import read_orbit
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.discriminator import Discriminator

_NETWORKS: dict[str, Literal["generator", "generator_raw"]] = {
    "G_ema": "generator",
    "G": "generator_raw",
}
_Numbers = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class _StoredOrbit:
    """An `Orbit` in the index of an export; an import has radius and target."""

    radius: Positive
    target: _Numbers
    elevation: float = 0.0
    azimuths: tuple[float, float] = (0.0, 0.0)
    full: bool = True
    intrinsics: tuple[_Numbers, _Numbers, _Numbers] | None = None


CIRCLE = "circle around the box"
"""Start of the source of an orbit whose data set cannot be read."""


def load_generator(
    path: str | Path,
    device: torch.device | str = "cpu",
    which: Literal["G_ema", "G"] = "G_ema",
) -> Generator:
    """Load a generator from a run directory (its newest checkpoint), a checkpoint, or an export.

    `pretrained:NAME` and `hf://ORG/NAME` are such folders too (`checkpoints/references.py`). An
    NVIDIA pickle (EG3D, StyleGAN2) is read without running any of its code; differences from its
    own code are warnings. `which`: the average over training, which is evaluated, or the weights
    as trained.

    Raises:
        CheckpointError: the file is not a network, is damaged, or is not supported (exit 2).
        UnsafePickle: the pickle asks for code; nothing was executed (exit 3).
    """
    if which not in _NETWORKS:
        raise ConfigError(f"which={which}: use G_ema (the average) or G (the weights as trained)")
    stored = read_networks(path, [_NETWORKS[which]])
    warn_of_differences(stored)
    return stored.generator(_NETWORKS[which]).to(device)


def load_discriminator(path: str | Path, device: torch.device | str = "cpu") -> Discriminator:
    """Load a discriminator; paths, warnings and errors are those of `load_generator`."""
    stored = read_networks(path, ["discriminator"])
    warn_of_differences(stored)
    return stored.discriminator().to(device)


def warn_of_differences(stored: Stored) -> None:
    """Warn of differences between an imported network and its original code."""
    for note in stored.about.get("notes", []):
        warnings.warn(f"{stored.path}: {note}", stacklevel=3)


def read_networks(path: str | Path, kinds: Sequence[NetworkKind]) -> Stored:
    """Read those of `kinds` that exist, in any of the formats."""
    path = references.resolve(path)
    if path.is_file() and path.suffix != ".safetensors":
        return importer.read_file(path, kinds)
    return stored_networks.read_folder(path, kinds)


def orbit_of(stored: Stored) -> tuple[Orbit, str]:
    """Return the orbit of cameras on which a generator is shown, and where it comes from.

    It follows the cameras of the data set. Without the data set it is the one that an export holds,
    the video path of an imported checkpoint, or else a circle around the box.
    """
    prior, box = stored.config.cameras, stored.config.generator.scene.box
    if prior.kind == "prior":
        return prior_orbit(prior, box), "cameras of the prior"
    if stored.config.data.labels != "camera":
        return Orbit.around_box(box), "data without cameras"
    try:
        path = stored.config.data.path
        return read_orbit(path), f"cameras of {Path(path).name}"
    except (DataError, OSError) as error:
        reason = error
    orbit = stored.about.get("orbit")
    if orbit is None:
        circle = Orbit.around_box(box)
        return circle, f"{CIRCLE} (cannot read the data set: {reason})"
    values = build(_StoredOrbit, orbit, path="orbit.")
    if values.intrinsics is None:
        return Orbit.of_eg3d(values.radius, values.target), "EG3D's video path"
    fields = {**vars(values), "intrinsics": torch.tensor(values.intrinsics)}
    return Orbit(**fields), stored.about.get("cameras", "stored cameras")


def export_generator(path: str | Path, out: Path) -> Path:
    """Write the averaged generator of a run as a folder to share: tensors, options, cameras.

    Raises CheckpointError if `out` exists, or if the cameras of the data set are unknown: a
    generator that is shown from other cameras than it was trained with shows worse images.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: give another folder")
    stored = read_networks(path, ["generator"])
    _, source = orbit_of(stored)
    if source.startswith(CIRCLE):
        raise CheckpointError(f"{path}: {source}; export where data.path can be read")
    out.mkdir(parents=True)
    if (stored.path / stored_networks.LATENT).is_file():
        shutil.copy(stored.path / stored_networks.LATENT, out)
    write_export(out, stored, stored.generator("generator"))
    return out


def write_export(out: Path, stored: Stored, generator: Generator) -> None:
    """Write a generator with the options and cameras of `stored`, and seal the folder."""
    orbit, source = orbit_of(stored)
    values: dict[str, Any] = orbit._asdict() | {"intrinsics": orbit.intrinsics.tolist()}
    of, resolution = stored.config.data, stored.resolution
    data = DataConfig(resolution=resolution, labels=of.labels, num_classes=of.num_classes)
    config = dataclasses.replace(stored.config, data=data)
    stored_networks.save_generator(out, generator, config)
    kept = [k for k in ("kimg", "source", "licence") if k in stored.about]
    store.seal(out, {"orbit": values, "cameras": source} | {k: stored.about[k] for k in kept})

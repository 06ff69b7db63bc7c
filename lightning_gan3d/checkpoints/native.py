"""Networks as safetensors beside their YAML: tensors and plain values, nothing that can run.

An exported folder holds `config.yaml` and `generator.safetensors` (the averaged generator). A
checkpoint is such a folder with more in it, so that run, checkpoint and export load alike.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_gan3d import config as cfg
from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.checkpoints.stored import NAMES, Network, Stored
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.generator import Generator

FORMAT = "lightning_gan3d"
CONFIG = "config.yaml"


def save_network(
    folder: Path,
    kind: Network,
    tensors: Mapping[str, Tensor],
    resolution: int,
    rendering_resolution: int,
) -> None:
    """Write one network, with the two resolutions that it needs besides its configuration."""
    about = {
        "format": FORMAT,
        "schema": str(store.SCHEMA),
        "resolution": str(resolution),
        "rendering_resolution": str(rendering_resolution),
    }
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    save_file(whole, folder / f"{kind}.safetensors", metadata=about)


def save_generator(folder: str | Path, generator: Generator, config: ExperimentConfig) -> Path:
    """Export a generator: a folder that `load_generator` reads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(cfg.to_yaml(config), encoding="utf-8")
    sizes = (generator.resolution, generator.rendering_resolution)
    save_network(folder, "generator", generator.state_dict(), *sizes)
    return folder


def read_networks(path: str | Path, kinds: Sequence[Network]) -> Stored:
    """Read those of `kinds` that a run (its newest checkpoint), checkpoint or export holds.

    Raises `CheckpointError` where it holds none of them, or is damaged.
    """
    folder, about = resolve(path, kinds)
    tensors: dict[Network, dict[str, Tensor]] = {}
    sizes: dict[str, str] = {}
    for kind in kinds:
        file = folder / f"{kind}.safetensors"
        if file.is_file():
            tensors[kind], sizes = read_tensors(file)
    resolution, raw = (int(sizes[k]) for k in ("resolution", "rendering_resolution"))
    return Stored(folder, _config(folder), resolution, raw, tensors, about)


def resolve(path: str | Path, kinds: Sequence[Network]) -> tuple[Path, dict[str, Any]]:
    """Return the folder that holds a network, and what its index says: verified if it has one."""
    path = Path(path)
    about: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        path = path.parent
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such folder; name a run directory, a checkpoint, an exported generator, "
            "or an NVIDIA pickle (.pkl)"
        )
    if (path / "checkpoints").is_dir():
        warnings: list[str] = []
        found = store.newest(path / "checkpoints", warnings.append)
        if found is None:
            seen = f" ({'; '.join(warnings)})" if warnings else ""
            raise CheckpointError(f"{path}: the run has no whole checkpoint yet{seen}")
        path = found
        about = store.read_index(path)
    elif (path / store.INDEX).is_file():
        about = store.verify(path)
    if not any((path / f"{kind}.safetensors").is_file() for kind in kinds):
        there = ", ".join(sorted(p.name for p in path.glob("*.safetensors"))) or "no networks"
        wanted = " or ".join(f"{kind}.safetensors ({NAMES[kind]})" for kind in kinds)
        raise CheckpointError(f"{path}: holds no {wanted}; it holds {there}")
    return path, about


def _config(folder: Path) -> ExperimentConfig:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: {CONFIG} is missing beside the network")
    return load_experiment(folder / CONFIG)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of one of our files, and what it says of itself."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not written by {FORMAT}; import or convert it first")
    if about.get("schema") != str(store.SCHEMA):
        raise CheckpointError(
            f"{path}: written by schema {about.get('schema')}; this version reads {store.SCHEMA}"
        )
    return tensors, about

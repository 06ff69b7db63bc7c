"""Networks as safetensors beside their YAML: tensors and plain values, nothing that can run.

An exported folder holds `config.yaml` and `generator.safetensors` (the averaged generator). A
checkpoint is such a folder with more in it, so that run, checkpoint and export load alike.
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_gan3d import config as cfg
from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.discriminator import Discriminator

FORMAT = "lightning_gan3d"
CONFIG = "config.yaml"
Network = Literal["generator", "generator_raw", "discriminator"]
"""The averaged generator, the one that is trained, and the discriminator."""


def save_network(
    folder: Path, kind: Network, network: nn.Module, resolution: int, rendering_resolution: int
) -> None:
    """Write one network, with the two resolutions that it needs besides its configuration."""
    about = {
        "format": FORMAT,
        "schema": str(store.SCHEMA),
        "resolution": str(resolution),
        "rendering_resolution": str(rendering_resolution),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, folder / f"{kind}.safetensors", metadata=about)


def save_generator(folder: str | Path, generator: Generator, config: ExperimentConfig) -> Path:
    """Export a generator: a folder that `load_generator` reads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(cfg.to_yaml(config), encoding="utf-8")
    save_network(
        folder, "generator", generator, generator.resolution, generator.rendering_resolution
    )
    return folder


def load_generator(
    path: str | Path,
    device: torch.device | str = "cpu",
    which: Literal["average", "raw"] = "average",
) -> Generator:
    """Load a generator from a run directory (its newest checkpoint), a checkpoint, or an export.

    `which`: the average over training that is measured and shown, or the weights as trained.
    """
    kind: Network = "generator" if which == "average" else "generator_raw"
    folder = resolve(path, kind)
    tensors, about = read_tensors(folder / f"{kind}.safetensors")
    generator = Generator(_config(folder).generator, int(about["resolution"]))
    generator.rendering_resolution = int(about["rendering_resolution"])
    _fill(generator, tensors, folder / f"{kind}.safetensors")
    return generator.to(device)


def load_discriminator(path: str | Path, device: torch.device | str = "cpu") -> Discriminator:
    """Load the discriminator of a run directory (its newest checkpoint) or of a checkpoint."""
    folder = resolve(path, "discriminator")
    tensors, about = read_tensors(folder / "discriminator.safetensors")
    network = Discriminator(_config(folder).discriminator, int(about["resolution"]), LABEL_DIM)
    _fill(network, tensors, folder / "discriminator.safetensors")
    return network.to(device)


def resolve(path: str | Path, kind: Network) -> Path:
    """Return the folder that holds a network: verified if it is a checkpoint."""
    path = Path(path)
    if path.suffix == ".safetensors":
        path = path.parent
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such folder; name a run directory, a checkpoint or an exported generator"
        )
    if (path / "checkpoints").is_dir():
        warnings: list[str] = []
        found = store.newest(path / "checkpoints", warnings.append)
        if found is None:
            seen = f" ({'; '.join(warnings)})" if warnings else ""
            raise CheckpointError(f"{path}: the run has no whole checkpoint yet{seen}")
        path = found
    elif (path / store.INDEX).is_file():
        store.verify(path)
    if not (path / f"{kind}.safetensors").is_file():
        there = ", ".join(sorted(p.name for p in path.glob("*.safetensors"))) or "no networks"
        raise CheckpointError(f"{path}: holds no {kind}.safetensors; it holds {there}")
    return path


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


def _fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load strictly; a mismatch is named."""
    wanted = network.state_dict()
    faults = [f"{k} is missing" for k in wanted if k not in tensors]
    faults += [f"{k} is not part of the network" for k in tensors if k not in wanted]
    faults += [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{path} does not fit its {CONFIG}: {'; '.join(faults[:3])}{more}")
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False)

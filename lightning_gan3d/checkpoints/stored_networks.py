"""Networks on disk: safetensors files beside their YAML, free of executable code.

An exported folder holds `config.yaml` and `generator.safetensors` (the averaged generator). A
checkpoint is such a folder with further files, so that runs, checkpoints and exports load alike.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.pickled_objects import printable
from lightning_gan3d.checkpoints.store import CheckpointError
from lightning_gan3d.experiment import ExperimentConfig, load_experiment, make_discriminator
from lightning_gan3d.generator import Generator
from lightning_gan3d.networks.discriminator import Discriminator
from lightning_gan3d.runs import CONFIG, write_config

log = logging.getLogger(__name__)
NetworkKind = Literal["generator", "generator_raw", "discriminator"]
"""Averaged generator, trained generator, discriminator."""
NAMES: dict[NetworkKind, str] = {"generator": "G_ema", "generator_raw": "G", "discriminator": "D"}
"""Names as in papers and in EG3D's files."""
FORMAT = "lightning_gan3d"
LATENT = "latent.safetensors"
"""The inverted latent beside a generator."""


class Stored(NamedTuple):
    """Networks of one file or folder."""

    path: Path
    config: ExperimentConfig
    resolution: int
    """Of the images."""
    rendering_resolution: int
    """Of `image_raw`."""
    tensors: dict[NetworkKind, dict[str, Tensor]]
    about: dict[str, Any]
    """Their source; `kimg` if known; `notes` for the user."""
    lod: float = 0.0
    """Level of detail of the generators: `Representation.lod`."""

    def generator(self, kind: Literal["generator", "generator_raw"]) -> Generator:
        """Build a generator, for evaluation and without gradients."""
        self.check(kind, self.config)
        generator = Generator(self.config.generator, self.resolution, self.config.data.num_classes)
        generator.rendering_resolution = self.rendering_resolution
        generator.representation.lod = self.lod
        fill(generator, self.tensors[kind])
        return generator

    def discriminator(self) -> Discriminator:
        """Build the discriminator, for evaluation and without gradients."""
        self.check("discriminator", self.config)
        discriminator = make_discriminator(self.config, self.resolution)
        discriminator.lod = self.lod
        fill(discriminator, self.tensors["discriminator"])
        return discriminator

    def check(
        self, kind: NetworkKind, config: ExperimentConfig, loose: tuple[str, ...] = ()
    ) -> None:
        """Reject a network that does not fit `config`, before memory is allocated for it.

        Tensors with a prefix of `loose` may be missing or left over.
        """
        if kind not in self.tensors:
            names = ", ".join(NAMES[k] for k in self.tensors) or "no network"
            raise CheckpointError(f"{self.path}: holds no {NAMES[kind]}; it holds {names}")
        tensors = self.tensors[kind]
        with torch.device("meta"), _ShapesOnly():
            network = (
                make_discriminator(config, self.resolution)
                if kind == "discriminator"
                else Generator(config.generator, self.resolution, config.data.num_classes)
            )
        own = network.state_dict()
        expected = {k: v for k, v in own.items() if k in tensors or not k.startswith(loose)}
        tensors = {k: v for k, v in tensors.items() if k in own or not k.startswith(loose)}
        faults = [f"{k} is missing" for k in expected if k not in tensors]
        faults += [
            f"{printable(k)} is not part of the network" for k in tensors if k not in expected
        ]
        faults += [
            f"{k} is {tuple(tensors[k].shape)}, not {tuple(v.shape)}"
            for k, v in expected.items()
            if k in tensors and tensors[k].shape != v.shape
        ]
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise CheckpointError(
                f"{self.path} ({NAMES[kind]}) does not fit its configuration: "
                f"{'; '.join(faults[:3])}{more}"
            )


class _ShapesOnly(TorchFunctionMode):
    """Skip random initial weights: on the meta device they would import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return zeros in place of random weights, and skip their scaling."""
        if func is Tensor.div_:
            return args[0]
        return (torch.zeros if func in (torch.randn, torch.rand) else func)(*args, **kwargs or {})


def fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load checked tensors, for evaluation and without gradients."""
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False)


def save_network(
    folder: Path,
    kind: NetworkKind,
    tensors: Mapping[str, Tensor],
    *sizes: int | float,
) -> None:
    """Write one network, with what it needs besides its configuration.

    `sizes`: resolution, rendering resolution, and the level of detail if it grows.
    """
    names = ("resolution", "rendering_resolution", "lod")[: len(sizes)]
    about = {"format": FORMAT, "schema": str(store.SCHEMA)}
    about |= {name: str(size) for name, size in zip(names, sizes, strict=True)}
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    save_file(contiguous, folder / f"{kind}.safetensors", metadata=about)
    _sort_metadata(folder / f"{kind}.safetensors")


def _sort_metadata(path: Path) -> None:
    """Order a file's metadata, so that equal tensors are equal files: safetensors does not."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, f"{path}: the sorted header is longer"
        file.seek(8)
        file.write(text.ljust(size))


def save_generator(folder: str | Path, generator: Generator, config: ExperimentConfig) -> Path:
    """Export a generator: a folder that `load_generator` reads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    save_network(folder, "generator", generator.state_dict(), *sizes_of(generator))
    return folder


def sizes_of(generator: Generator) -> tuple[int | float, ...]:
    """Return the sizes to store with a network of this generator or its discriminator."""
    lod = generator.representation.lod
    return (generator.resolution, generator.rendering_resolution, *([lod] if lod else []))


def read_folder(path: str | Path, kinds: Sequence[NetworkKind]) -> Stored:
    """Read those of `kinds` that a run (its newest checkpoint), checkpoint or export holds.

    Raises `CheckpointError` if it holds none of them, or is damaged.
    """
    folder, about = _resolve(Path(path))
    files = {kind: folder / f"{kind}.safetensors" for kind in kinds}
    files = {kind: file for kind, file in files.items() if file.is_file()}
    if not files:
        names = ", ".join(sorted(p.name for p in folder.glob("*.safetensors"))) or "no networks"
        expected = " or ".join(f"{kind}.safetensors ({NAMES[kind]})" for kind in kinds)
        raise CheckpointError(f"{folder}: holds no {expected}; it holds {names}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: {CONFIG} is missing beside the network")
    tensors: dict[NetworkKind, dict[str, Tensor]] = {}
    for kind, file in files.items():
        tensors[kind], sizes = read_tensors(file)
    try:
        resolution, raw = (int(sizes[k]) for k in ("resolution", "rendering_resolution"))
        lod = float(sizes.get("lod", 0.0))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder}: no valid resolution: {error}") from None
    return Stored(folder, load_experiment(folder / CONFIG), resolution, raw, tensors, about, lod)


def _resolve(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the networks and its index, which is verified if there is one."""
    if path.suffix == ".safetensors":
        path = path.parent
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such folder; name a run directory, a checkpoint, an exported generator, "
            "or an NVIDIA pickle (.pkl)"
        )
    if (path / "checkpoints").is_dir():
        newest = store.newest(path / "checkpoints", log.warning)
        if newest is None:
            raise CheckpointError(f"{path}: the run has no complete checkpoint yet")
        return newest, store.read_index(newest)
    return path, store.verify(path) if (path / store.INDEX).is_file() else {}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of one of our files."""
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

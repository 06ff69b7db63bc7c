"""Evaluate a run, a generator file or stored images: open the target, measure it, write files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from lightning_gan3d.checkpoints.load import load_generator, read_networks
from lightning_gan3d.config import ConfigError, from_options, to_tree, to_yaml
from lightning_gan3d.data.archive import open_source
from lightning_gan3d.data.datamodule import open_test
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.synth import SynthObjects
from lightning_gan3d.devices import choose_device, device_name
from lightning_gan3d.experiment import ExperimentConfig, make_networks, override
from lightning_gan3d.files import provenance, sha256_of_tensors, write_json, write_text
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, write_metrics
from lightning_gan3d.metrics.cache import default_folder
from lightning_gan3d.metrics.config import SEED, EvaluationConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.evaluate import evaluate, source_of
from lightning_gan3d.metrics.pretrained import find
from lightning_gan3d.metrics.process_group import rank, world_size
from lightning_gan3d.metrics.protocol import precision_of
from lightning_gan3d.metrics.sources import GeneratorSource, ObjectSource, ViewSource
from lightning_gan3d.metrics.stored_images import StoredImages
from lightning_gan3d.runs import CONDITIONS, CONFIG, EVALUATION, MANIFEST, Run, read_manifest


@dataclass(frozen=True)
class ImagesConfig:
    """What stored images are compared with, and how."""

    data: DataConfig = DataConfig()
    """The data set."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The metrics."""
    name: str = ""
    """Name in reports; empty: that of the folder."""


@dataclass(frozen=True)
class Target:
    """What is evaluated, with all that its evaluation needs."""

    context: EvaluationContext
    folder: Path
    """Where results are written."""
    evaluation: EvaluationConfig
    """The options as configured; those of the context may be cut to the images at hand."""
    config: Any = None
    """Configuration to write; None: the folder is the run's own, which has one."""
    identity: dict[str, str] = field(default_factory=dict)
    """Name and digest of the generator or images, for the manifest."""

    def write(self, metrics: list[Metric], command: Sequence[str] = ()) -> "Evaluation":
        """Write metrics and conditions; outside of a run also configuration and manifest.

        The manifest comes last: without one, a report treats the folder as incomplete.
        """
        if rank() != 0:
            return Evaluation(self.folder / EVALUATION, [])
        if self.config is not None:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            write_text(self.folder / CONFIG, to_yaml(self.config))
        write_json(self.folder / CONDITIONS, self._conditions())
        write_metrics(self.folder / EVALUATION, metrics)
        if self.config is not None:
            write_json(self.folder / MANIFEST, self._manifest(command))
        return Evaluation(self.folder / EVALUATION, metrics)

    def _conditions(self) -> dict[str, Any]:
        """What all metrics share. Call it after measuring: then the rendering path is known."""
        source, train = self.context.source, self.context.train
        conditions: dict[str, Any] = {}
        if isinstance(source, StoredImages):
            conditions = {
                "resolution": source.resolution,
                "images_fingerprint": source.fingerprint,
                "images": len(source),
            }
        elif isinstance(source, GeneratorSource):
            generator = source.generator
            conditions = {
                "resolution": generator.resolution,
                "rendering_resolution": generator.rendering_resolution,
                "precision": precision_of(generator),
                "truncation_psi": 1.0,
                "seed": self.context.seed,
                "weights_sha256": sha256_of_tensors(generator.state_dict()),
            }
        origin = provenance()
        return {
            **conditions,
            "dataset_fingerprint": train.fingerprint,
            "device": str(self.context.device),
            **{k: origin[k] for k in ("commit", "dirty", "versions")},
            "evaluation": to_tree(self.evaluation),
        }

    def _manifest(self, command: Sequence[str]) -> dict[str, Any]:
        train = self.context.train
        return {
            **provenance(command),
            "evaluated": self.identity,
            "device": device_name(self.context.device),
            "threads": torch.get_num_threads(),
            "dataset": getattr(train, "name", ""),
            "dataset_fingerprint": train.fingerprint,
            "resolution": train.resolution,
            "finished": True,
        }


def evaluate_run(path: str | Path, device: str = "auto") -> "Evaluation":
    """Evaluate a run by its own configuration."""
    target = open_run(Run(path), (), choose_device(device))
    context = replace(target.context, folder=target.folder, cache=default_folder())
    return target.write(evaluate(context))


def open_target(
    path: str | Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    out: Path | None = None,
    weights: Mapping[str, Path] | None = None,
) -> Target:
    """Open a run, a checkpoint, an export, a pickle, or a folder of images.

    Results of a run go into the run, unless `out` names a folder; those of others into `out`, or
    `runs/evaluated/<name>`. `overrides` change the configuration for this evaluation only. Raises
    `UserError` for anything that cannot be evaluated, before anything is measured.
    """
    path, weights = Path(path), weights or {}
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file or folder; name a run, a checkpoint, an export, a pickle, or a "
            "folder of images"
        )
    for name, file in weights.items():
        find(name, file)
    if (path / "checkpoints").is_dir() and out is None:
        target = open_run(Run(path), overrides, choose_device(device))
    else:
        folder = out or Path("runs/evaluated") / (
            path.stem if path.is_file() else path.resolve().name
        )
        if (folder / "checkpoints").is_dir():
            raise ConfigError(f"--out {folder}: is a run's own folder; name another one")
        is_network = path.suffix in (".pkl", ".safetensors") or (path / CONFIG).is_file()
        open_ = _open_network if is_network else _open_images
        target = open_(path, overrides, choose_device(device), folder)
        if rank() == 0:
            _claim(folder, target.identity)
    context = replace(target.context, weights=weights, folder=target.folder, cache=default_folder())
    return replace(target, context=context)


def open_run(run: Run, overrides: Sequence[str], device: torch.device) -> Target:
    """Open the averaged generator of a run's newest checkpoint."""
    config = override(run.config(), overrides)
    _reject_losses(run, config.evaluation)
    generator = load_generator(run.path, device)
    initial = None
    # Fine-tuned and imported generators have no untrained state.
    if not config.init_from.path and "imported_from" not in run.manifest():
        initial, _ = make_networks(config, generator.resolution)
        initial.rendering_resolution = generator.rendering_resolution
        initial = initial.to(device)
    context = _context(generator, config, device, initial)
    return Target(context, run.path, config.evaluation)


def _open_network(
    path: Path, overrides: Sequence[str], device: torch.device, folder: Path
) -> Target:
    """Open a generator file; its configuration or the overrides name the data."""
    stored = read_networks(path, ["generator"])
    config = override(stored.config, overrides)
    if not config.data.path:
        raise ConfigError(f"{path}: does not name its data; add data.path=FILE")
    generator = stored.generator("generator").to(device)
    context = _context(generator, config, device)
    if generator.resolution != context.train.resolution:
        raise ConfigError(
            f"{path}: makes images of {generator.resolution} pixels, those of {config.data.path} "
            f"have {context.train.resolution}; set data.resolution={generator.resolution}"
        )
    identity = {"name": path.name, "digest": sha256_of_tensors(generator.state_dict())}
    return Target(context, folder, config.evaluation, to_tree(config), identity)


def _context(
    generator: Generator,
    config: ExperimentConfig,
    device: torch.device,
    initial: Generator | None = None,
) -> EvaluationContext:
    """Pair a generator with its data."""
    train = ImageDataset(config.data, "train")
    test = open_test(config.data, train)
    return EvaluationContext(
        source_of(generator.eval(), train, device),
        train,
        test,
        config.evaluation,
        device,
        truth=truth_of(config.data, train, test),
        initial=None if initial is None else source_of(initial.eval(), train, device),
    )


def _open_images(
    path: Path, overrides: Sequence[str], device: torch.device, folder: Path
) -> Target:
    """Open images that another generator made; the overrides name the data."""
    config = from_options(ImagesConfig, overrides)
    if not config.data.path:
        raise ConfigError(
            f"{path}: neither a run nor a generator, hence read as a folder of images; add the "
            "data to compare them with, data.path=FILE"
        )
    cfg, source, train = (
        config.evaluation,
        StoredImages(path, SEED),
        ImageDataset(config.data, "train"),
    )
    if source.resolution != train.resolution:
        raise ConfigError(
            f"{path}: images of {source.resolution} pixels, those of {config.data.path} have "
            f"{train.resolution}; set data.resolution={source.resolution}, or resize the images"
        )
    if len(source) < 2:
        raise ConfigError(f"{path}: holds {len(source)} image; use two or more")
    num_images = min(cfg.num_images, len(source))
    distribution = cfg.distribution
    if distribution is not None:
        if distribution.poses is not None:
            raise ConfigError(
                "evaluation.distribution.poses: stored images have fixed cameras; set it to null"
            )
        most = min(distribution.num_images or num_images, len(source))
        distribution = replace(distribution, num_images=most, repeats=1)
    context = EvaluationContext(
        source,
        train,
        open_test(config.data, train),
        replace(cfg, num_images=num_images, distribution=distribution),
        device,
        curves=False,
    )
    name = config.name or folder.resolve().name
    kind = {"images": True, "generator": {"representation": {"kind": name}}}
    identity = {"name": path.name, "digest": source.fingerprint}
    return Target(context, folder, cfg, {**to_tree(config), "name": name, **kind}, identity)


def truth_of(
    cfg: DataConfig, train: ImageDataset, test: ImageDataset | None, seed: int = SEED
) -> ViewSource | None:
    """Return the objects of a procedural data set, held-out ones if any; None for other data."""
    if "synth" not in read_index(open_source(cfg.path)):
        return None
    objects = SynthObjects.open(cfg.path)
    numbers = (test or train).objects
    known = range(objects.cfg.num_objects) if numbers is None else sorted(set(numbers.tolist()))
    return ObjectSource(
        objects.render, known, train.labels, train.resolution, seed, level=objects.level
    )


def _reject_losses(run: Run, cfg: EvaluationConfig) -> None:
    """Reject an evaluation that would drop metrics which the run holds."""
    before = run.config().evaluation
    off = [f.name for f in fields(cfg) if getattr(cfg, f.name) in (None, False)]
    lost = [name for name in off if getattr(before, name) not in (None, False)]
    if lost and (run.path / EVALUATION).is_file():
        raise ConfigError(
            f"evaluation.{lost[0]} is off, but {run.path / EVALUATION} holds its metrics and would "
            "lose them; add --out FOLDER"
        )


def _claim(folder: Path, identity: Mapping[str, str]) -> None:
    """Make the folder; reject one that holds the evaluation of something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: cannot be used ({error}); name another --out") from error
    if manifest and manifest.get("evaluated") != identity:
        name = manifest.get("evaluated", {}).get("name", "a run")
        raise ConfigError(
            f"{folder}: holds the evaluation of {name}, which is another target or has changed; "
            "name another --out, or remove the folder"
        )


def given_weights(
    inception: Path | None, vgg16: Path | None, clip: Path | None = None
) -> dict[str, Path]:
    """Return the paths given by hand, by name; the mode selects one of both Inceptions."""
    paths = {"inception": inception, "inception-pytorch": inception, "vgg16": vgg16, "clip": clip}
    return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True)
class Evaluation:
    """Metrics and their file; printed as a table."""

    path: Path
    metrics: list[Metric]

    def __str__(self) -> str:
        """Print one line per value, one per reason of missing ones, and the number on curves."""
        if rank() != 0:
            return f"rank {rank()} of {world_size()}: rank 0 writes the metrics"
        shown = [m for m in self.metrics if m.value is not None and m.at is None]
        width = max((len(m.key) for m in shown), default=0)
        lines = []
        for m in shown:
            spread = f" ± {m.spread:.3g}" if m.spread is not None else ""
            value = f"{m.value:.4g}{spread} {m.unit}".rstrip()
            lines.append(f"{m.key:{width}}  {value}  (n = {m.n})")
        reasons: dict[str, list[str]] = {}
        for m in self.metrics:
            if m.value is None:
                reasons.setdefault(m.note, []).append(m.key)
        lines += [f"missing: {', '.join(keys)}: {why}" for why, keys in reasons.items()]
        if curves := sum(m.at is not None for m in self.metrics):
            lines.append(f"and {curves} values over the angle between views")
        return "\n".join([*lines, f"written to {self.path}"])

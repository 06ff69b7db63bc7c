"""The target of an evaluation: a run, a generator file or stored images; and its results."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from lightning_gan3d.checkpoints import references
from lightning_gan3d.checkpoints.load import load_generator, read_networks
from lightning_gan3d.config import ConfigError, build, from_options, to_tree, to_yaml
from lightning_gan3d.data.datamodule import open_test
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects
from lightning_gan3d.devices import choose_device, device_name, set_threads
from lightning_gan3d.experiment import ExperimentConfig, make_networks, override
from lightning_gan3d.files import parse_json, provenance, sha256_of_tensors, write_json, write_text
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, read_metrics, write_metrics
from lightning_gan3d.metric_table import Use, describe, order, selected
from lightning_gan3d.metrics.config import SEED, EvaluationConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.evaluate import evaluate, source_of
from lightning_gan3d.metrics.pretrained import find
from lightning_gan3d.metrics.process_group import rank, world_size
from lightning_gan3d.metrics.protocol import default_folder, precision_of
from lightning_gan3d.metrics.sources import GeneratorSource, ObjectSource, ViewSource
from lightning_gan3d.metrics.stored_images import StoredImages
from lightning_gan3d.runs import CONDITIONS, CONFIG, EVALUATION, MANIFEST, Run, read_manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagesConfig:
    """Options of an evaluation of stored images."""

    data: DataConfig = DataConfig()
    """The data set to compare with."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The metrics."""
    name: str = ""
    """Name in reports; empty: that of the folder."""


@dataclass(frozen=True)
class Target:
    """An opened generator or set of images, with its data."""

    context: EvaluationContext
    folder: Path
    """Folder of the results."""
    evaluation: EvaluationConfig
    """The options as configured; the context may evaluate fewer images."""
    config: Any = None
    """Configuration to write; None: the folder is a run's own, which has one."""
    identity: dict[str, str] = field(default_factory=dict)
    """Name and digest of the generator or images, for the manifest."""

    def measure(self, command: Sequence[str] = ()) -> "Evaluation":
        """Evaluate and write; each metric is on disk as soon as it is computed.

        Until it is computed again, one of an earlier evaluation under equal conditions stays.
        Outside of a run, the manifest is written last: without it, a report treats the folder as
        incomplete.
        """
        file = self.folder / EVALUATION
        try:
            earlier = read_metrics(file)
            conditions = parse_json((self.folder / CONDITIONS).read_bytes(), dict)
        except (OSError, ValueError):
            earlier, conditions = [], {}

        def keep(metrics: list[Metric]) -> None:
            new = {m.id for m in metrics}
            same = self._conditions() == conditions
            self._write([*metrics, *(m for m in earlier if same and m.id not in new)])

        metrics = evaluate(self.context, keep)
        if rank() == 0:
            self._write(metrics)
            if self.config is not None:
                write_json(self.folder / MANIFEST, self._manifest(command))
        return Evaluation(file, metrics)

    def _write(self, metrics: list[Metric]) -> None:
        if self.config is not None:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            write_text(self.folder / CONFIG, to_yaml(self.config))
        write_json(self.folder / CONDITIONS, self._conditions())
        write_metrics(self.folder / EVALUATION, metrics)

    def _conditions(self) -> dict[str, Any]:
        """Conditions that all metrics share; the rendering path is known only after measuring."""
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
    return target.measure()


def open_target(
    path: str | Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    out: Path | None = None,
    weights: Mapping[str, Path | None] | None = None,
) -> Target:
    """Open a run, a checkpoint, an export, a pickle, a reference, or a folder of images.

    Results are written to the run itself, or `runs/evaluated/<name>`; `out` names another folder.
    `overrides` change the configuration of this evaluation only. `weights`: paths of pretrained
    networks. Raises `UserError` if the target cannot be evaluated, before measuring anything.
    """
    reference, path = path, references.resolve(path)
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file or folder; name a run, a checkpoint, an export, a pickle, or a "
            "folder of images"
        )
    given = {name: file for name, file in (weights or {}).items() if file is not None}
    for name, file in given.items():
        find(name, file)  # raises for a missing file
    if (path / "checkpoints").is_dir() and out is None:
        run = Run(path)
        if run.manifest().get("finished") is False:
            log.warning("warning: %s: not finished; evaluates its newest checkpoint", path)
        target = open_run(run, overrides, choose_device(device))
    else:
        name = path.stem if path.is_file() else path.resolve().name
        if path != Path(reference):
            name = references.name_of(reference)
        folder = out or Path("runs/evaluated") / name
        if (folder / "checkpoints").is_dir():
            raise ConfigError(f"--out {folder}: is a run directory; name another folder")
        is_network = path.suffix in (".pkl", ".safetensors") or (path / CONFIG).is_file()
        open_ = _open_network if is_network else _open_images
        target = open_(path, overrides, choose_device(device), folder)
        if rank() == 0:
            _claim(folder, target.identity)
    return replace(target, context=replace(target.context, weights=given))


def open_run(run: Run, overrides: Sequence[str], device: torch.device) -> Target:
    """Open the averaged generator of a run's newest checkpoint."""
    config = override(run.config(), overrides)
    _reject_losses(run, config.evaluation)
    set_threads(config.training.threads, device)  # equal bits as after the training
    generator = load_generator(run.path, device)
    context = _context(generator, config, device, run.path)
    # Fine-tuned and imported generators have no untrained state.
    if not config.init_from.path and "imported_from" not in run.manifest():
        initial, _ = make_networks(config, generator.resolution)
        initial.rendering_resolution = generator.rendering_resolution
        initial.representation.lod = generator.representation.lod
        initial = initial.to(device).eval()
        fakes = config.fake_labels(torch.as_tensor(context.train.labels))
        context = replace(context, initial=source_of(initial, fakes, device))
    return Target(context, run.path, config.evaluation)


def _open_network(
    path: Path, overrides: Sequence[str], device: torch.device, folder: Path
) -> Target:
    """Open a generator file. Its configuration or the overrides name the data."""
    stored = read_networks(path, ["generator"])
    config = override(stored.config, overrides)
    if not config.data.path:
        raise ConfigError(f"{path}: does not name its data; add data.path=FILE")
    generator = stored.generator("generator").to(device)
    context = _context(generator, config, device, folder)
    train = context.train
    assert isinstance(train, ImageDataset)
    if generator.resolution != train.resolution:
        raise ConfigError(
            f"{path}: generates images of {generator.resolution} pixels, but {config.data.path} "
            f"has {train.resolution}; {train.how_to_resize(generator.resolution)}"
        )
    identity = {"name": path.name, "digest": sha256_of_tensors(generator.state_dict())}
    return Target(context, folder, config.evaluation, to_tree(config), identity)


def _context(
    generator: Generator, config: ExperimentConfig, device: torch.device, folder: Path
) -> EvaluationContext:
    """Open the data of a generator."""
    train = ImageDataset(config.data, "train")
    test = open_test(config.data, train)
    return EvaluationContext(
        source_of(generator.eval(), config.fake_labels(train.labels), device),
        train,
        test,
        config.evaluation,
        device,
        truth=_truth(config.data, train, test),
        multiview=_multiview(config.data, train),
        synth=_synth(train),
        cache=default_folder(),
        folder=folder,
    )


def _open_images(
    path: Path, overrides: Sequence[str], device: torch.device, folder: Path
) -> Target:
    """Open stored images. The overrides name the data."""
    config = from_options(ImagesConfig, overrides)
    if not config.data.path:
        raise ConfigError(
            f"{path}: neither a run nor a generator, so it is read as a folder of images; name the "
            "data to compare with, data.path=FILE"
        )
    cfg, source = config.evaluation, StoredImages(path, SEED, config.data.convert)
    train = ImageDataset(config.data, "train")
    if source.resolution != train.resolution:
        raise ConfigError(
            f"{path}: images of {source.resolution} pixels, but {config.data.path} has "
            f"{train.resolution}; resize them, or {train.how_to_resize(source.resolution)}"
        )
    if len(source) < 2:
        raise ConfigError(f"{path}: contains {len(source)} image; use two or more")
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
        multiview=_multiview(config.data, train),
        synth=_synth(train),
        curves=False,
        cache=default_folder(),
        folder=folder,
    )
    name = config.name or folder.resolve().name
    kind = {"images": True, "generator": {"representation": {"kind": name}}}
    identity = {"name": path.name, "digest": source.fingerprint}
    return Target(context, folder, cfg, {**to_tree(config), "name": name, **kind}, identity)


def _truth(cfg: DataConfig, train: ImageDataset, test: ImageDataset | None) -> ViewSource | None:
    """Return the objects of a procedural data set, held-out ones if any; None for other data."""
    if "synth" not in train.metadata or cfg.labels != "camera":
        return None
    objects = SynthObjects.open(cfg.path)
    of_images = (test or train).objects
    ids = range(objects.cfg.num_objects) if of_images is None else sorted(set(of_images.tolist()))
    return ObjectSource(
        objects.render, ids, train.labels, train.resolution, SEED, level=objects.level
    )


def _synth(train: ImageDataset) -> SynthConfig | None:
    """Return the options of a procedural data set; None for other data."""
    return build(SynthConfig, train.metadata["synth"]) if "synth" in train.metadata else None


def _multiview(cfg: DataConfig, train: ImageDataset) -> StoredImages | None:
    """Return the images of a data set that numbers its objects; None for other cameras."""
    if train.objects is None or cfg.repair_cameras or cfg.labels != "camera":
        return None
    return StoredImages(cfg.path, SEED, cfg.convert)


def _reject_losses(run: Run, cfg: EvaluationConfig) -> None:
    """Reject an evaluation that would overwrite metrics of the run without replacing them."""
    before = run.config().evaluation
    off = [f.name for f in fields(cfg) if getattr(cfg, f.name) in (None, False)]
    lost = [name for name in off if getattr(before, name) not in (None, False)]
    if lost and (run.path / EVALUATION).is_file():
        raise ConfigError(
            f"evaluation.{lost[0]} is off: {run.path / EVALUATION} would lose its metrics; add "
            "--out FOLDER"
        )


def _claim(folder: Path, identity: Mapping[str, str]) -> None:
    """Create the folder; reject one that contains the evaluation of another target."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: cannot be used ({error}); name another --out") from error
    if manifest and manifest.get("evaluated") != identity:
        name = manifest.get("evaluated", {}).get("name", "a run")
        raise ConfigError(
            f"{folder}: contains the evaluation of {name}, which is another target or has changed; "
            "name another --out, or remove the folder"
        )


@dataclass(frozen=True)
class Evaluation:
    """Metrics and their file; printed as a table of the headline metrics."""

    path: Path
    metrics: list[Metric]

    def __str__(self) -> str:
        """One line per value, and one per reason why values are missing."""
        if rank() != 0:
            return f"rank {rank()} of {world_size()}: rank 0 writes the metrics"
        by_id = {m.id: m for m in self.metrics}
        rows, reasons = [], dict[str, list[str]]()
        for metric_id in sorted(selected(by_id, Use.SUMMARY), key=order):
            m, info = by_id[metric_id], describe(metric_id, by_id[metric_id].unit)
            if m.value is None:
                reasons.setdefault(m.note, []).append(info.short)
                continue
            spread = "" if m.spread is None else f" ± {info.format_like(m.spread, m.value)}"
            value = f"{info.format(m.value)}{spread} {info.printed_unit}".rstrip()
            rows.append((f"{info.label} {info.arrow}".rstrip(), value))
        width = max((len(label) for label, _ in rows), default=0)
        return "\n".join(
            [
                *(f"{label:<{width}}  {value}" for label, value in rows),
                *(f"missing: {', '.join(names)}: {why}" for why, names in reasons.items()),
                f"all {len(self.metrics)} metrics, with protocols: {self.path}",
            ]
        )

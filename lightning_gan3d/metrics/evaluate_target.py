"""Measure a run, a checkpoint or stored images, and write what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
from lightning_gan3d.files import provenance, write_json
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, write_measures
from lightning_gan3d.metrics.cache import default_folder
from lightning_gan3d.metrics.conditions import conditions_of, weights_hash, write_conditions
from lightning_gan3d.metrics.config import SEED, EvaluationConfig
from lightning_gan3d.metrics.distribution.crew import ALONE, Crew
from lightning_gan3d.metrics.evaluate import evaluate
from lightning_gan3d.metrics.evaluate_stored import evaluate_stored
from lightning_gan3d.metrics.pretrained import find
from lightning_gan3d.metrics.sources import ObjectSource
from lightning_gan3d.metrics.stored_images import StoredImages
from lightning_gan3d.runs import CONFIG, MANIFEST, Run, read_manifest

EVALUATION = "evaluation.json"
"""The file of a run directory that holds its measures."""


def truth_of(
    cfg: DataConfig, train: ImageDataset, test: ImageDataset | None, seed: int = SEED
) -> ObjectSource | None:
    """The objects of a procedural data set, held-out ones if there are any; None for others."""
    if "synth" not in read_index(open_source(cfg.path)):
        return None
    objects = SynthObjects.open(cfg.path)
    numbers = (test or train).objects
    known = range(objects.cfg.num_objects) if numbers is None else sorted(set(numbers.tolist()))
    return ObjectSource(
        objects.render, known, train.labels, train.resolution, seed, level=objects.level
    )


def evaluate_target(
    path: str | Path,
    device: str = "auto",
    overrides: Sequence[str] = (),
    out: Path | None = None,
    weights: Mapping[str, Path] | None = None,
    command: Sequence[str] = (),
    crew: Crew = ALONE,
) -> "Evaluation":
    """Measure a run, a checkpoint or export or pickle of a generator, or images that one made.

    What is found of a run is written into it, unless `out` names another folder; of others into
    `out`, or `runs/evaluated/<name>`: a folder that a report takes for a run. Of a `crew`, only the
    leading process writes and returns measures.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file or folder; name a run, a checkpoint, an export, a pickle, or a "
            "folder of images"
        )
    if (path / "checkpoints").is_dir() and out is None:
        return evaluate_run(path, device, None, weights, overrides, crew)
    for name, given in (weights or {}).items():
        find(name, given)
    folder = out or Path("runs/evaluated") / (path.stem if path.is_file() else path.resolve().name)
    if (folder / "checkpoints").is_dir():
        raise ConfigError(f"--out {folder}: is a run's own folder; name another one")
    networks = path.suffix in (".pkl", ".safetensors") or (path / CONFIG).is_file()
    measure = _evaluate_checkpoint if networks else _evaluate_images
    where = crew.device(choose_device(device))
    return measure(path, where, overrides, folder, weights, command, crew)


def evaluate_run(
    path: str | Path,
    device: str = "auto",
    cache: Path | None = None,
    weights: Mapping[str, Path] | None = None,
    overrides: Sequence[str] = (),
    crew: Crew = ALONE,
) -> "Evaluation":
    """Measure the averaged generator of a run's newest checkpoint, and write `evaluation.json`.

    `cache` is the folder of what generators of the same data share; None means the user's.
    `weights` are paths of pretrained networks by the names that `gan3d weights list` shows; one
    that cannot be used is refused before anything is measured. `overrides` are laid over the run's
    configuration, e.g. `evaluation.num_images=5000`, for this evaluation alone.
    """
    for name, given in (weights or {}).items():
        find(name, given)
    run = Run(path)
    config = override(run.config(), overrides)
    _refuse_losses(run, config.evaluation)
    where = crew.device(choose_device(device))
    train = ImageDataset(config.data, "train")
    generator = load_generator(run.path, where)
    initial = None
    # What began as another generator's weights has no untrained state to compare with.
    if not config.init_from.path and "imported_from" not in run.manifest():
        initial, _ = make_networks(config, train.resolution)
        initial.rendering_resolution = generator.rendering_resolution
        initial = initial.to(where)
    measures = _evaluate(generator, config, train, where, initial, cache, weights, run.path, crew)
    if not crew.leads:
        return Evaluation(run.path / EVALUATION, [], crew)
    conditions = conditions_of(generator, train.fingerprint, SEED, where)
    return _write(run.path, measures, conditions, config.evaluation)


def _refuse_losses(run: Run, cfg: EvaluationConfig) -> None:
    """Refuse to replace what a run holds by measures of which parts are left out."""
    before = run.config().evaluation
    parts = [f.name for f in fields(cfg) if getattr(cfg, f.name) in (None, False)]
    lost = [name for name in parts if getattr(before, name) not in (None, False)]
    if lost and (run.path / EVALUATION).is_file():
        raise ConfigError(
            f"evaluation.{lost[0]} is left out, which {run.path / EVALUATION} holds and would lose;"
            " add --out FOLDER"
        )


def _evaluate(
    generator: Generator,
    config: ExperimentConfig,
    train: ImageDataset,
    where: torch.device,
    initial: Generator | None,
    cache: Path | None,
    weights: Mapping[str, Path] | None,
    folder: Path,
    crew: Crew,
) -> list[Metric]:
    test = open_test(config.data, train)
    return evaluate(
        generator,
        train,
        test,
        config.evaluation,
        where,
        initial=initial,
        truth=truth_of(config.data, train, test),
        cache=cache or default_folder(),
        weights=weights,
        folder=folder,
        crew=crew,
    )


def _evaluate_checkpoint(
    path: Path,
    where: torch.device,
    overrides: Sequence[str],
    folder: Path,
    weights: Mapping[str, Path] | None,
    command: Sequence[str],
    crew: Crew,
) -> "Evaluation":
    """Measure a generator that lies by itself, against the data that its configuration names."""
    stored = read_networks(path, ["generator"])
    config = override(stored.config, overrides)
    if not config.data.path:
        raise ConfigError(f"{path}: does not say which data to compare with; add data.path=FILE")
    train = ImageDataset(config.data, "train")
    generator = stored.generator("generator").to(where)
    if generator.resolution != train.resolution:
        raise ConfigError(
            f"{path}: makes images of {generator.resolution} pixels, those of {config.data.path} "
            f"have {train.resolution}; set data.resolution={generator.resolution}"
        )
    evaluated = {"name": path.name, "digest": weights_hash(generator)}
    if crew.leads:
        _claim(folder, evaluated)
    measures = _evaluate(generator, config, train, where, None, None, weights, folder, crew)
    if not crew.leads:
        return Evaluation(folder / EVALUATION, [], crew)
    # Afterwards: they tell which path has marched the rays.
    conditions = conditions_of(generator, train.fingerprint, SEED, where)
    manifest = _manifest(evaluated, train, where, command)
    return _finish(folder, to_tree(config), manifest, measures, conditions, config.evaluation)


@dataclass(frozen=True)
class ImagesConfig:
    """What stored images are compared with, and how."""

    data: DataConfig = DataConfig()
    """The data set."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The measures."""
    name: str = ""
    """In reports; empty: that of the folder."""


def _evaluate_images(
    path: Path,
    where: torch.device,
    overrides: Sequence[str],
    folder: Path,
    weights: Mapping[str, Path] | None,
    command: Sequence[str],
    crew: Crew,
) -> "Evaluation":
    """Measure images that somebody's generator made, against a data set."""
    stored = StoredImages(path)
    config = from_options(ImagesConfig, overrides)
    if not config.data.path:
        raise ConfigError(
            f"{path}: is neither a run nor a generator, so that it is taken for images; add the "
            "data to compare them with, data.path=FILE"
        )
    train = ImageDataset(config.data, "train")
    name = config.name or folder.resolve().name
    kind = {"images": True, "generator": {"representation": {"kind": name}}}
    evaluated = {"name": path.name, "digest": stored.fingerprint}
    if crew.leads:
        _claim(folder, evaluated)
    measures = evaluate_stored(
        stored,
        train,
        open_test(config.data, train),
        config.evaluation,
        where,
        SEED,
        default_folder(),
        weights,
        folder,
        crew,
    )
    if not crew.leads:
        return Evaluation(folder / EVALUATION, [], crew)
    found = provenance(())
    conditions = {
        "resolution": stored.resolution,
        "images_fingerprint": stored.fingerprint,
        "images": len(stored),
        "dataset_fingerprint": train.fingerprint,
        "device": str(where),
        **{k: found[k] for k in ("commit", "dirty", "versions")},
    }
    tree = {**to_tree(config), "name": name, **kind}
    manifest = _manifest(evaluated, train, where, command)
    return _finish(folder, tree, manifest, measures, conditions, config.evaluation)


def _claim(folder: Path, evaluated: Mapping[str, str]) -> None:
    """Make the folder before anything is measured; refuse one that holds something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = read_manifest(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: cannot be used ({error}); name another --out") from error
    there = held.get("evaluated", {}).get("name", "a run") if held else ""
    if held and held.get("evaluated") != evaluated:
        raise ConfigError(
            f"{folder}: holds what was measured of {there}, which is another one or has changed; "
            "name another --out, or remove it"
        )


def _manifest(
    evaluated: Mapping[str, str], train: ImageDataset, where: torch.device, command: Sequence[str]
) -> dict[str, Any]:
    """What a report asks of a run."""
    return {
        **provenance(command),
        "evaluated": dict(evaluated),
        "device": device_name(where),
        "threads": torch.get_num_threads(),
        "dataset": train.name,
        "dataset_fingerprint": train.fingerprint,
        "resolution": train.resolution,
        "finished": True,
    }


def _finish(
    folder: Path,
    tree: Any,
    manifest: Mapping[str, Any],
    measures: list[Metric],
    conditions: dict[str, Any],
    cfg: EvaluationConfig,
) -> "Evaluation":
    """Write all at the end, the manifest last: without one a report shows a gap."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / CONFIG).write_text(to_yaml(tree), encoding="utf-8")
    evaluation = _write(folder, measures, conditions, cfg)
    write_json(folder / MANIFEST, manifest)
    return evaluation


def _write(
    folder: Path, measures: list[Metric], conditions: dict[str, Any], cfg: EvaluationConfig
) -> "Evaluation":
    write_conditions(folder, {**conditions, "evaluation": to_tree(cfg)})
    write_measures(folder / EVALUATION, measures)
    return Evaluation(folder / EVALUATION, measures)


def given_weights(
    inception: Path | None, vgg16: Path | None, clip: Path | None = None
) -> dict[str, Path]:
    """Return the paths that were given by hand, by name.

    Which of both Inceptions a path is, the configuration's mode decides.
    """
    given = {"inception": inception, "inception-pytorch": inception, "vgg16": vgg16, "clip": clip}
    return {name: path for name, path in given.items() if path is not None}


class Evaluation:
    """What was measured, and where it is written; printed as a table."""

    def __init__(self, path: Path, measures: list[Metric], crew: Crew = ALONE) -> None:
        """Keep all."""
        self.path, self.measures, self.crew = path, measures, crew

    def __str__(self) -> str:
        """One line for each value with its unit, spread and count; one for each missing reason.

        Values at other angles than that of neighbours are counted alone: the file has them.
        """
        if not self.crew.leads:
            me = f"process {self.crew.rank} of {self.crew.world}"
            return f"{me}: its part of the features is there; process 0 measures and writes"
        shown = [m for m in self.measures if m.value is not None and "@" not in m.metric]
        width = max((len(m.metric) for m in shown), default=0)
        lines = []
        for m in shown:
            spread = f" ± {m.spread:.3g}" if m.spread is not None else ""
            value = f"{m.value:.4g}{spread} {m.unit}".rstrip()
            lines.append(f"{m.metric:{width}}  {value}  (n = {m.n})")
        reasons: dict[str, list[str]] = {}
        for m in self.measures:
            if m.value is None:
                reasons.setdefault(m.note, []).append(m.metric)
        lines += [f"missing: {', '.join(names)}: {why}" for why, names in reasons.items()]
        curves = sum("@" in m.metric for m in self.measures)
        if curves:
            lines.append(f"and {curves} values over the angle between views")
        return "\n".join([*lines, f"written to {self.path}"])

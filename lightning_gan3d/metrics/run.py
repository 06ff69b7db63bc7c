"""Measure the generator of a run directory, and write what was found beside it."""

from collections.abc import Mapping
from pathlib import Path

from lightning_gan3d.data.archive import open_source
from lightning_gan3d.data.datamodule import open_test
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synth import SynthObjects
from lightning_gan3d.measure import Measure, write_measures
from lightning_gan3d.metrics.cache import default_folder
from lightning_gan3d.metrics.conditions import conditions_of, write_conditions
from lightning_gan3d.metrics.evaluate import SEED, evaluate
from lightning_gan3d.metrics.sources import ObjectSource
from lightning_gan3d.metrics.weights import find
from lightning_gan3d.training.module import make_networks
from lightning_gan3d.training.rundir import Run
from lightning_gan3d.training.system import resolve_device

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


def evaluate_run(
    path: str | Path,
    device: str = "auto",
    cache: Path | None = None,
    weights: Mapping[str, Path] | None = None,
) -> "Evaluation":
    """Measure the averaged generator of a run's newest checkpoint, and write `evaluation.json`.

    `cache` is the folder of what generators of the same data share; None means the user's.
    `weights` are paths of pretrained networks by the names that `gan3d weights list` shows; one
    that cannot be used is refused before anything is measured.
    """
    for name, given in (weights or {}).items():
        find(name, given)
    run = Run(path)
    config = run.config()
    where = resolve_device(device)
    train = ImageDataset(config.data, "train")
    test = open_test(config.data, train)
    generator = run.generator(str(where))
    initial = None
    # What began as another generator's weights has no untrained state to compare with.
    if not config.init_from.path and "imported_from" not in run.manifest():
        initial, _ = make_networks(config, train.resolution)
        initial.rendering_resolution = generator.rendering_resolution
        initial = initial.to(where)
    measures = evaluate(
        generator,
        train,
        test,
        config.evaluation,
        where,
        initial=initial,
        truth=truth_of(config.data, train, test),
        cache=cache or default_folder(),
        weights=weights,
        folder=run.path,
    )
    write_conditions(run.path, conditions_of(generator, train.fingerprint, SEED, where))
    write_measures(run.path / EVALUATION, measures)
    return Evaluation(run.path / EVALUATION, measures)


def given_weights(inception: Path | None, vgg16: Path | None) -> dict[str, Path]:
    """Return the paths that were given by hand, by name.

    Which of both Inceptions a path is, the configuration's mode decides.
    """
    given = {"inception": inception, "inception-pytorch": inception, "vgg16": vgg16}
    return {name: path for name, path in given.items() if path is not None}


class Evaluation:
    """What was measured, and where it is written; printed as a table."""

    def __init__(self, path: Path, measures: list[Measure]) -> None:
        """Keep both."""
        self.path, self.measures = path, measures

    def __str__(self) -> str:
        """One line for each measure: name, value, unit, spread and count, or why it is missing."""
        width = max((len(m.metric) for m in self.measures), default=0)
        lines = []
        for m in self.measures:
            if m.value is None:
                lines.append(f"{m.metric:{width}}  missing: {m.note}")
                continue
            spread = f" ± {m.spread:.3g}" if m.spread is not None else ""
            lines.append(f"{m.metric:{width}}  {m.value:.4g}{spread} {m.unit}  (n = {m.n})")
        return "\n".join([*lines, f"written to {self.path}"])

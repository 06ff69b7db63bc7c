"""`gan3d bench`: counts, speed, memory and growth of one generator, written to `bench.json`."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_gan3d import experiment
from lightning_gan3d.benchmark import setup
from lightning_gan3d.benchmark.growth import growth_with_grid, growth_with_rendering
from lightning_gan3d.benchmark.speed import FULL, QUICK
from lightning_gan3d.benchmark.stages import measure_stages
from lightning_gan3d.benchmark.training import measure_training
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.cost import count_cost
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.devices import choose_device, keep_freed_memory
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, write_measures
from lightning_gan3d.networks.synthesis import describe_layers
from lightning_gan3d.presets import preset_names
from lightning_gan3d.report.runs import find_runs
from lightning_gan3d.runs import Run

RENDERING_FACTORS = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0, 4.0)}
"""Sizes of the rendering, relative to its own; by `quick`."""
GRID_FACTORS = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0)}
"""Sizes of the grid, relative to its own; by `quick`."""


def benchmark_run(
    target: ExperimentConfig | Run,
    device: str = "auto",
    quick: bool = False,
    command: Sequence[str] = (),
    out: Path | None = None,
) -> list[Metric]:
    """Measure a run, or an experiment as initialised, with the threads of its training.

    What is measured does not depend on the weights. A run gets its `bench.json` into its directory,
    a configuration into the folder `out`, if there is one.
    """
    config = target.config() if isinstance(target, Run) else target
    where = choose_device(device)
    if where.type == "cpu":
        keep_freed_memory()  # as training does, so that its speed and this one belong together
    with setup.cpu_threads(config.training.threads):
        generator = (
            load_generator(target.path, where)
            if isinstance(target, Run)
            else Generator(config.generator, image_resolution(config)).to(where)
        )
        measures = measure_generator(generator, quick, config.training.microbatch_size)
        measures += measure_training(config, generator.resolution, where, quick)
        told = setup.current(where, command).measure(quick, describe_layers(generator))
        measures.insert(0, told)
    folder = target.path if isinstance(target, Run) else out
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_measures(folder / "bench.json", measures)
    return measures


def measure_generator(generator: Generator, quick: bool, batch: int) -> list[Metric]:
    """Counts, speed, memory and growth of generating images; where the generator is."""
    protocol = QUICK if quick else FULL
    device = next(generator.parameters()).device
    own = generator.rendering_resolution
    sizes = sorted({int(own * f) for f in RENDERING_FACTORS[quick] if own * f >= 8})
    return [
        *count_cost(generator).measures(),
        *measure_stages(generator, protocol, batch),
        *growth_with_rendering(generator, sizes, protocol),
        *growth_with_grid(
            generator.cfg, generator.resolution, GRID_FACTORS[quick], protocol, device
        ),
    ]


def image_resolution(config: ExperimentConfig) -> int:
    """Return the side of the images: as configured, else as the data set has them."""
    if config.data.resolution is not None:
        return config.data.resolution
    if not config.data.path or not Path(config.data.path).exists():
        raise ConfigError(
            f"data.resolution is not set, and there is no data at data.path={config.data.path!r} "
            "to tell it: set data.resolution, e.g. 128"
        )
    return ImageDataset(config.data).resolution


def bench_targets(
    targets: Sequence[str],
    root: Path = Path("runs"),
    device: str = "auto",
    quick: bool = False,
    command: Sequence[str] = (),
) -> str:
    """Measure each target and return a table.

    A target is a run directory, a folder of runs, a preset or a YAML file; of the last two the
    numbers go to `root/bench/<name>/bench.json`. Runs without a trained generator are named.
    """
    # All targets are read before the first is measured, so that a mistake costs nothing.
    jobs: list[tuple[str, ExperimentConfig | Run, Path | None]] = []
    gaps: list[str] = []
    for target in targets:
        if Path(target).is_dir():
            for record in find_runs([Path(target)]):
                if record.gap:
                    gaps.append(f"{record.path}: not measured: {record.gap}")
                else:
                    jobs.append((str(record.path), Run(record.path), None))
        else:
            config = experiment.load_experiment(target)
            image_resolution(config)
            jobs.append((config.name, config, root / "bench" / config.name))
    tables = [
        table(name, benchmark_run(what, device, quick, command, out)) for name, what, out in jobs
    ]
    return "\n\n".join([*tables, *gaps])


def table(name: str, measures: Sequence[Metric]) -> str:
    """Return the measures as aligned lines of text."""
    width = max(len(m.metric) for m in measures)
    lines = [
        f"  {m.metric:<{width}}  "
        + (f"missing: {m.note}" if m.value is None else f"{m.value:>12.5g} {m.unit}")
        for m in measures
    ]
    return "\n".join([name, *lines])


def cost_of_presets() -> str:
    """Return a table of what every preset costs; counted without data and without computing."""
    rows = ["preset                      parameters  representation   scene bytes   GFLOP an image"]
    for name in preset_names("runs"):
        config = experiment.load_experiment(name)
        with torch.device("meta"):
            cost = count_cost(Generator(config.generator, image_resolution(config)))
        rows.append(
            f"{name:<26}{cost.total_parameters:>12,}{cost.parameters['representation']:>16,}"
            f"{cost.scene_bytes:>14,}{cost.total_flops / 1e9:>17.4g}"
        )
    return "\n".join(rows)

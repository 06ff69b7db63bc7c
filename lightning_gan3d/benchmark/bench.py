"""`gan3d bench`: counts, speed, memory and growth of one generator, written to `bench.json`."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_gan3d import experiment
from lightning_gan3d.benchmark.growth import growth_with_grid, growth_with_rendering
from lightning_gan3d.benchmark.speed import FULL, QUICK, Environment, cpu_threads
from lightning_gan3d.benchmark.stages import Profiler, measure_stages
from lightning_gan3d.benchmark.training import measure_training
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.cost import count_cost
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.devices import choose_device, keep_freed_memory
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, write_metrics
from lightning_gan3d.networks.synthesis import describe_layers
from lightning_gan3d.presets import preset_names
from lightning_gan3d.runs import CONFIG, Run, walk

RENDERING_FACTORS = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0, 4.0)}
"""Rendering resolutions relative to the generator's own; by `quick`."""
GRID_FACTORS = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0)}
"""Grid resolutions relative to the configured one; by `quick`."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of `gan3d bench`."""

    device: str = "auto"
    quick: bool = False
    """Fewer repeats and sizes."""
    command: tuple[str, ...] = ()
    """The command line, for the record."""


def bench_targets(targets: Sequence[str], options: BenchOptions, root: Path = Path("runs")) -> str:
    """Measure each target and return a table.

    A target is a run directory, a folder of runs, a preset or a YAML file; for the last two,
    results go to `root/bench/<name>/bench.json`. Unfinished runs are listed, not measured.
    """
    # Read all targets before measuring the first, so that errors come at once.
    jobs: list[tuple[str, ExperimentConfig | Run, Path]] = []
    skipped: list[str] = []
    for target in targets:
        if Path(target).is_dir():
            finished, unfinished = _runs_below(Path(target))
            jobs += [(str(run.path), run, run.path) for run in finished]
            skipped += unfinished
        else:
            config = experiment.load_experiment(target)
            image_resolution(config)
            jobs.append((config.name, config, root / "bench" / config.name))
    gc.freeze()  # imported modules: the collection before each measurement skips them
    tables = [table(name, bench_target(target, options, out)) for name, target, out in jobs]
    return "\n\n".join([*tables, *skipped])


def _runs_below(folder: Path) -> tuple[list[Run], list[str]]:
    """Finished runs, and a line for each unfinished one."""
    paths = [path for path, files in walk(folder) if CONFIG in files]
    if not paths:
        raise ConfigError(f"{folder}: no run directory; one contains {CONFIG}")
    finished, unfinished = [], []
    for run in map(Run, paths):
        try:
            reason = "" if run.finished else "unfinished"
        except ValueError as error:  # a broken manifest
            reason = str(error)
        if reason:
            unfinished.append(f"{run.path}: not measured: {reason}")
        else:
            finished.append(run)
    return finished, unfinished


def bench_target(
    target: ExperimentConfig | Run, options: BenchOptions, out: Path | None = None
) -> list[Metric]:
    """Measure a run, or an experiment as initialised; write `out/bench.json`.

    Costs do not depend on the weights. Uses the CPU threads of the training.
    """
    config = target.config() if isinstance(target, Run) else target
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()  # as in training, so that both speeds are comparable
    with cpu_threads(config.training.threads):
        if isinstance(target, Run):
            generator = load_generator(target.path, device)
        else:
            generator = Generator(config.generator, image_resolution(config)).to(device)
        metrics = measure_generator(generator, options.quick, config.training.microbatch_size)
        metrics += measure_training(config, generator.resolution, device, options.quick)
        environment = Environment.current(device, options.command)
        metrics.insert(0, environment.metric(options.quick, describe_layers(generator)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_metrics(out / "bench.json", metrics)
    return metrics


def measure_generator(generator: Generator, quick: bool, batch: int) -> list[Metric]:
    """Counts, speed, memory and growth of generating images, on the generator's device."""
    protocol = QUICK if quick else FULL
    profiler = Profiler(protocol, next(generator.parameters()).device)
    own, factors = generator.rendering_resolution, GRID_FACTORS[quick]
    sizes = sorted({int(own * f) for f in RENDERING_FACTORS[quick] if own * f >= 8})
    return [
        *count_cost(generator).metrics(),
        *measure_stages(generator, protocol, batch),
        *growth_with_rendering(generator, sizes, profiler),
        *growth_with_grid(generator.cfg, generator.resolution, factors, profiler),
    ]


def image_resolution(config: ExperimentConfig) -> int:
    """Edge of the images: as configured, else that of the data set."""
    if config.data.resolution is not None:
        return config.data.resolution
    if not config.data.path or not Path(config.data.path).exists():
        raise ConfigError(
            f"data.resolution is not set, and data.path={config.data.path!r} does not exist: "
            "set data.resolution, e.g. 128"
        )
    return ImageDataset(config.data).resolution


def table(name: str, metrics: Sequence[Metric]) -> str:
    """Metrics as aligned lines of text."""
    width = max(len(m.key) for m in metrics)
    lines = [
        f"  {m.key:<{width}}  "
        + (f"missing: {m.note}" if m.value is None else f"{m.value:>12.5g} {m.unit}")
        for m in metrics
    ]
    return "\n".join([name, *lines])


def cost_of_presets() -> str:
    """Table of the cost of every preset, counted without data."""
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

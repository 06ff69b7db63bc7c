"""`gan3d bench`: counts, speed, memory and growth of one generator, written to `bench.json`."""

import contextlib
import gc
import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import torch

from lightning_gan3d import experiment
from lightning_gan3d.benchmark.growth import growth_with_grid, growth_with_rendering
from lightning_gan3d.benchmark.speed import FULL, QUICK, Environment, cpu_threads
from lightning_gan3d.benchmark.stages import Profiler, measure_generation
from lightning_gan3d.benchmark.training import measure_training
from lightning_gan3d.checkpoints import references
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
from lightning_gan3d.progress import track
from lightning_gan3d.runs import CONFIG, Run, walk

RENDERING_FACTORS = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0, 4.0)}
"""Rendering resolutions relative to the generator's own; by `quick`."""
PROCESSES = {True: 2, False: 3}
"""Processes that measure the timings of each target; by `quick`."""
GRID_FACTORS = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0)}
"""Grid resolutions relative to the configured one; by `quick`."""


Inputs = TypeVarTuple("Inputs")
Result = TypeVar("Result")


@dataclass(frozen=True)
class BenchOptions:
    """Options of `gan3d bench`."""

    device: str = "auto"
    quick: bool = False
    """Fewer processes, repeats and sizes."""
    command: tuple[str, ...] = ()
    """The command line, for the record."""
    overrides: tuple[str, ...] = ()
    """Overrides of presets and YAML files."""


def bench_targets(targets: Sequence[str], options: BenchOptions, root: Path = Path("runs")) -> str:
    """Measure each target and return a table.

    A target is a run directory, a folder of runs, a preset or a YAML file; for the last two,
    results go to `root/bench/<name>/bench.json`. Unfinished runs are listed, not measured.
    """
    # Read all targets before measuring the first, so that errors come at once.
    jobs: list[tuple[str, Path]] = []
    skipped: list[str] = []
    for target in map(str, map(references.resolve, targets)):
        if Path(target).is_dir():
            if options.overrides:
                raise ConfigError(
                    f"override `{options.overrides[0]}`: changes presets and files; {target} is a "
                    "folder of runs"
                )
            finished, unfinished = _runs_below(Path(target))
            jobs += [(str(run.path), run.path) for run in finished]
            skipped += unfinished
        else:
            config = experiment.load_experiment(target, options.overrides)
            image_resolution(config)
            jobs.append((target, root / "bench" / config.name))
    for results in measure_in_rounds([target for target, _ in jobs], options):
        for (_, out), metrics in zip(jobs, results, strict=True):
            out.mkdir(parents=True, exist_ok=True)
            write_metrics(out / "bench.json", metrics)
    tables = [table(name, metrics) for (name, _), metrics in zip(jobs, results, strict=True)]
    return "\n\n".join([*tables, *skipped])


def measure_in_rounds(
    targets: Sequence[str], options: BenchOptions
) -> Iterator[list[list[Metric]]]:
    """Measure targets in alternation, each in several fresh processes; yield after each round.

    Timings vary more between processes than within one, and a machine's speed drifts. So each round
    measures all targets. The first also counts costs and measures memory and growth.
    """
    rounds: list[list[list[Metric]]] = []
    for num in range(PROCESSES[options.quick]):
        order = targets if num % 2 == 0 else targets[::-1]
        calls = in_fresh_processes(order, _in_process, options, num == 0)
        bar = f"round {num + 1} of {PROCESSES[options.quick]}"
        results = list(track(calls, bar, len(order)))
        rounds.append(results if num % 2 == 0 else results[::-1])
        yield [combine(processes) for processes in zip(*rounds, strict=True)]


def _in_process(target: str, options: BenchOptions, full: bool) -> list[Metric]:
    gc.freeze()  # imported modules: the collection before each measurement skips them
    try:
        return measure_target(target, options, full)
    finally:
        gc.unfreeze()  # else extensions print their leaks at exit


def in_fresh_processes(
    targets: Iterable[str], function: Callable[[str, *Inputs], Result], *args: *Inputs
) -> Iterator[Result]:
    """Call function(target, *args) in a new process for each target, one after another.

    Imports take seconds, so as many processes as cores start at once, before the first call.
    """
    waiting, cores = iter(targets), os.cpu_count() or 1
    while group := list(itertools.islice(waiting, cores)):
        with contextlib.ExitStack() as stack:
            pools = [
                stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
                for _ in group
            ]
            wait([pool.submit(_imported) for pool in pools])
            for target, pool in zip(group, pools, strict=True):
                with pool:  # its memory is free for the next one
                    yield _call(pool, target, function, *args)


def _imported() -> None:
    """Do nothing: to be called, it was imported with this module."""


def _call(
    pool: ProcessPoolExecutor, target: str, function: Callable[..., Result], *args: Any
) -> Result:
    try:
        return pool.submit(function, target, *args).result()
    except BrokenProcessPool:
        raise ConfigError(
            f"{target}: the process of the benchmark ended early, often for lack of memory; see "
            "its output above. A script that calls this needs `if __name__ == '__main__':`"
        ) from None


def combine(processes: Sequence[Sequence[Metric]]) -> list[Metric]:
    """Return the median over processes of each metric; of the first process if others lack it."""
    by_key = [{m.key: m for m in metrics} for metrics in processes]
    result = []
    for m in processes[0]:
        each = [metrics[m.key] for metrics in by_key if m.key in metrics]
        valid = [x for x in each if x.value is not None]
        if len(each) == 1 or not valid:
            result.append(m)
            continue
        values = [x.value for x in valid if x.value is not None]
        texts = ", ".join(f"{x:.3g}" for x in values)
        note = f"median of {len(values)} fresh processes ({texts} {m.unit}); first: {valid[0].note}"
        if why := next((x.note for x in each if x.value is None), ""):
            note += f"; left out {len(each) - len(valid)} of {len(each)} processes: {why}"
        spread = statistics.stdev(values) if len(values) > 1 else None
        median = statistics.median(values)
        result.append(replace(m, value=median, n=len(values), spread=spread, note=note))
    return result


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


def measure_target(target: str, options: BenchOptions, full: bool) -> list[Metric]:
    """Measure a run directory, or an experiment as initialised, in this process.

    Costs do not depend on the weights. Uses the CPU threads of the training. `full`: not only
    timings.
    """
    run = Run(Path(target)) if Path(target).is_dir() else None
    config = run.config() if run else experiment.load_experiment(target, options.overrides)
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()  # as in training, so that both speeds are comparable
    profiler = Profiler(QUICK if options.quick else FULL, device, timings_only=not full)
    with cpu_threads(config.training.threads):
        if run is not None:
            generator = load_generator(run.path, device)
        else:
            resolution, num_classes = image_resolution(config), config.data.num_classes
            generator = Generator(config.generator, resolution, num_classes).to(device)
        batch = config.training.microbatch_size
        metrics = measure_generation(generator, profiler, batch)
        metrics += measure_training(config, generator.resolution, profiler)
        if full:
            environment = Environment.current(device, options.command)
            metrics = [
                environment.metric(options.quick, describe_layers(generator)),
                *count_cost(generator).metrics(),
                *metrics,
                *measure_growth(generator, profiler, options.quick),
            ]
        return metrics


def measure_growth(generator: Generator, profiler: Profiler, quick: bool) -> list[Metric]:
    """Growth with the rendering resolution and the grid's."""
    own, factors = generator.rendering_resolution, RENDERING_FACTORS[quick]
    sizes = sorted({int(own * f) for f in factors if own * f >= 8})
    return [
        *growth_with_rendering(generator, sizes, profiler),
        *growth_with_grid(generator.cfg, generator.resolution, GRID_FACTORS[quick], profiler),
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

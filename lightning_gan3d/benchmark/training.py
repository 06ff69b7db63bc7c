"""Training speed and memory: whole steps of the loop and their phases, without reading data.

Lazy penalties make some steps slower than others. Each kind of step is timed by itself and weighted
by its share of the steps.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_gan3d.benchmark.memory import (
    MB,
    MemoryUnknownError,
    method,
    peak_bytes,
    process_method,
    process_peak,
)
from lightning_gan3d.benchmark.speed import time_rounds
from lightning_gan3d.benchmark.stages import Profiler, Stage
from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.cost import count_flops, make_inputs, num_bytes, to_meta
from lightning_gan3d.data.datamodule import Batch
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.training.config import LossConfig
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import Phase
from lightning_gan3d.training.terms import named

StepKind = tuple[str, ...]
"""Lazy phases at the end of a step, and the loss terms that not all steps have."""
SHORT_NAMES: dict[Phase, str] = {
    "G loss": "g",
    "G density penalty": "g_density",
    "D loss": "d",
    "D penalty": "d_penalty",
    "proxy loss": "proxy",
}
"""Phases in names of metrics."""


def phase_intervals(loss: LossConfig) -> dict[Phase, int]:
    """Phases of a configuration, and the steps from one run of each to the next."""
    intervals: dict[Phase, int] = {"G loss": 1, "D loss": 1}
    if loss.lazy_density > 1:
        intervals["G density penalty"] = loss.lazy_density
    if loss.lazy_penalty > 1:
        intervals["D penalty"] = loss.lazy_penalty
    return intervals


def step_kinds(loss: LossConfig) -> list[StepKind]:
    """Kind of each step of one cycle, after which all lazy phases and loss terms repeat."""
    terms = {name: term.interval for name, term in named(loss.terms).items()}
    intervals = (*phase_intervals(loss).items(), *terms.items())
    lazy = {name: n for name, n in intervals if n > 1}
    cycle = math.lcm(*lazy.values())
    return [tuple(p for p, n in lazy.items() if step % n == 0) for step in range(cycle)]


def mean_step(kinds: list[StepKind], seconds: dict[StepKind, float]) -> float:
    """Mean duration of a step over a cycle."""
    return sum(seconds[kind] for kind in kinds) / len(kinds)


def measure_training(config: ExperimentConfig, resolution: int, profiler: Profiler) -> list[Metric]:
    """Measure steps and phases of one process, with the schedules at the end of training."""
    if not config.generator.is_trainable:
        return [missing("speed.train_img_s", "the renderer has no gradient", "img/s")]
    kinds = step_kinds(config.loss)
    cycle, counts = len(kinds), Counter(kinds)
    config = _at_least(config, cycle)
    module, batch = make_step(config, resolution, profiler.device)
    last_cycle = (config.training.num_steps // cycle - 1) * cycle
    batch = batch._replace(step=last_cycle)

    def step_of(kind: StepKind) -> Callable[[], None]:
        at = batch._replace(step=last_cycle + kinds.index(kind))
        return lambda: module.training_step(at, 0)

    steps = {_describe(kind): step_of(kind) for kind in counts}
    timed = time_rounds(steps, profiler.protocol, profiler.device)
    timings = {kind: timed[_describe(kind)] for kind in counts}
    size = len(batch.images)
    rate, fast, slow = (
        size / mean_step(kinds, {k: t.quartiles[i] for k, t in timings.items()}) for i in range(3)
    )
    descriptions = ", ".join(
        f"{_describe(kind)} {1e3 * timing.median:.3g} ms ({counts[kind]} of {cycle})"
        for kind, timing in timings.items()
    )
    n = sum(len(t.seconds) for t in timings.values())
    note = (
        f"batch {size} in one process, {config.training.precision}, without reading data; medians "
        f"of each kind of step, weighted by its share of the steps: {descriptions}; quartiles "
        f"{slow:.3g} to {fast:.3g} img/s"
    )
    metrics = [
        Metric("speed.train_img_s", rate, "img/s", n, note=note),
        *measure_phases(module, batch, profiler),
        *measure_discriminator(module, module.input.resolution, profiler),
    ]
    if profiler.timings_only:
        return metrics
    return metrics + _training_memory(module, list(steps.values()), profiler.device)


def _at_least(config: ExperimentConfig, steps: int) -> ExperimentConfig:
    """Extend a training to this many steps."""
    kimg = max(config.training.kimg, steps * config.training.batch / 1000)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, kimg=kimg))


def _describe(kind: StepKind) -> str:
    return f"with {' and '.join(kind)}" if kind else "plain"


def make_step(
    config: ExperimentConfig, resolution: int, device: torch.device
) -> tuple[AdversarialModule, Batch]:
    """Build the loop, and one process's batch of noise images with cameras on a circle.

    If objects are discriminated, each image has one, in its middle.
    """
    size = config.training.batch // config.training.devices
    shape = (size, 3, resolution, resolution)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    module = AdversarialModule(config, resolution, torch.zeros(0, LABEL_DIM))
    labels = make_inputs(module.generator, size).label
    module.camera_labels = labels
    boxes = None
    if config.discriminator.objects is not None:
        boxes = torch.tensor([0.25, 0.25, 0.75, 0.75], device=device).expand(size, 1, 4)
    batch = Batch(images.to(device), labels.to(device), 0, boxes=boxes)
    return module.to(device).train(), batch


def measure_phases(module: AdversarialModule, batch: Batch, profiler: Profiler) -> list[Metric]:
    """Time and peak memory of each phase of the configuration, its optimizer included."""
    intervals = phase_intervals(module.config.loss)
    if module.proxy:
        intervals["proxy loss"] = 1
    rows = []
    for phase, name in SHORT_NAMES.items():
        if phase in intervals:
            note = f"{phase}, every {intervals[phase]} step(s), batch {len(batch.images)}"
            names = f"speed.train_{name}_ms", f"memory.train_{name}_mb"
            rows += profiler.measure(names, phase_of(module, phase, batch), note)
    return rows


def phase_of(module: AdversarialModule, phase: Phase, batch: Batch) -> Callable[[], None]:
    """A call of one phase of the step that `batch` belongs to."""
    steps = {
        "G loss": module.generator_step,
        "G density penalty": module.density_step,
        "D loss": module.discriminator_step,
        "D penalty": module.penalty_step,
        "proxy loss": module.proxy_step,
    }
    microbatches = module.split(batch)
    return lambda: steps[phase](microbatches)


def measure_discriminator(
    module: AdversarialModule, resolution: int, profiler: Profiler
) -> list[Metric]:
    """Time, roofline share and peak memory of the logit of one image."""
    label = make_inputs(module.generator).label

    def inputs(device: torch.device) -> tuple[Images, Tensor]:
        raw = min(module.generator.rendering_resolution, resolution)
        image = torch.zeros(1, 3, resolution, resolution, device=device)
        image_raw = torch.zeros(1, 3, raw, raw, device=device)
        return Images(image, image_raw), label.to(device)

    images, label = inputs(profiler.device)
    network = module.discriminator
    counted = to_meta(network)
    flops = count_flops(lambda: counted(*inputs(torch.device("meta"))))["Global"]
    stage = Stage(
        f"logit of one image of {resolution}²",
        lambda: network(images, label),
        flops,
        num_bytes(network) - num_bytes(network.objects) + num_bytes(images),  # objects: not called
    )
    return profiler.measure_stages({"discriminator": stage})


def persistent_bytes(module: AdversarialModule) -> int:
    """Bytes between steps: networks, averaged generator, moments of the optimizers."""
    return num_bytes(module) + num_bytes([o.state_dict() for o in module.configure_optimizers()])


def _training_memory(
    module: AdversarialModule, steps: list[Callable[[], Any]], device: torch.device
) -> list[Metric]:
    """Peak memory by torch's allocator, and by the process as a check."""
    persistent = persistent_bytes(module) / MB
    metrics = []
    for name, how, measure in (
        ("memory.train_mb", method(device), peak_bytes),
        ("memory.train_process_mb", process_method(device), process_peak),
    ):
        try:
            peak = max(measure(step, device) for step in steps) / MB
        except MemoryUnknownError as error:
            metrics.append(missing(name, str(error), "MB"))
            continue
        note = (
            f"{persistent:.4g} MB between steps (networks, average, optimizers) and at most "
            f"{peak:.4g} MB above them within a step of any kind; {how}"
        )
        metrics.append(Metric(name, persistent + peak, "MB", len(steps), note=note))
    return metrics

"""Training speed and memory: whole steps of the loop itself, without the reading of data.

Lazy penalties make some steps dearer than others. Each kind of step is timed by itself and weighted
by how often it comes, so that few steps tell what a long training would.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree

from lightning_gan3d.benchmark.inputs import make_inputs
from lightning_gan3d.benchmark.memory import MB, MemoryUnknownError, method, peak_bytes
from lightning_gan3d.benchmark.phases import measure_discriminator, measure_phases
from lightning_gan3d.benchmark.speed import FULL, QUICK, Timing, time_calls
from lightning_gan3d.data.datamodule import Batch
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.training.config import LossConfig
from lightning_gan3d.training.module import AdversarialModule

StepKind = tuple[bool, bool]
"""Whether a step ends with a penalty of the discriminator, and with one of the density."""


def kinds_of_steps(loss: LossConfig) -> tuple[dict[StepKind, int], Counter[StepKind], int]:
    """Return a step of each kind, how often each comes in one cycle, and the cycle's length."""
    penalty = loss.r1_interval if loss.penalises_discriminator else 1
    density = loss.density_reg_interval if loss.density_reg > 0 else 1
    cycle = math.lcm(penalty, density)
    example: dict[StepKind, int] = {}
    often: Counter[StepKind] = Counter()
    for step in range(cycle):
        kind = (
            penalty > 1 and step % penalty == 0,
            density > 1 and step % density == 0,
        )
        example.setdefault(kind, step)
        often[kind] += 1
    return example, often, cycle


def seconds_per_step(
    timings: dict[StepKind, Timing], often: Counter[StepKind], of: Callable[[Timing], float]
) -> float:
    """Return the mean duration of a step over a cycle, from one number of each kind's timing."""
    return sum(of(timings[kind]) * n for kind, n in often.items()) / often.total()


def measure_training(
    config: ExperimentConfig, resolution: int, device: torch.device, quick: bool
) -> list[Metric]:
    """Time and weigh steps (G, then D) of one process, as they are at the end of training."""
    example, often, cycle = kinds_of_steps(config.loss)
    config = _at_least(config, cycle)
    module, batch = make_step(config, resolution, device)
    # The last whole cycle, when schedules are over and renderings have their final size.
    late = (config.training.num_steps // cycle - 1) * cycle
    protocol = QUICK if quick else FULL

    def step(kind: StepKind) -> Any:
        module.training_step(batch._replace(step=late + example[kind]), 0)

    timings = {
        kind: time_calls(lambda k=kind: step(k), protocol, device)  # type: ignore[misc]  # bound now
        for kind in often
    }
    size = len(batch.images)
    rate, slow, fast = (
        size / seconds_per_step(timings, often, of)
        for of in (
            lambda t: t.median,
            lambda t: t.quartiles[1],
            lambda t: t.quartiles[0],
        )
    )
    repeats = sum(len(t.seconds) for t in timings.values())
    kinds = ", ".join(_words(k, often[k], cycle, t) for k, t in timings.items())
    note = (
        f"batch {size} in one process, {config.training.precision}, without reading data; medians "
        f"of each kind of step weighted by how often it comes: {kinds}; quartiles {slow:.3g} to "
        f"{fast:.3g} img/s"
    )
    speed = Metric.of_key("speed.train_img_s", rate, "img/s", repeats, note=note)
    phases = measure_phases(module, batch._replace(step=late), protocol, device)
    logits = measure_discriminator(module, resolution, protocol, device)
    return [speed, *phases, *logits, _peak(module, step, list(often), device)]


def _at_least(config: ExperimentConfig, steps: int) -> ExperimentConfig:
    """Make a training shorter than one cycle last that long."""
    kimg = max(config.training.kimg, steps * config.training.batch / 1000)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, kimg=kimg))


def make_step(
    config: ExperimentConfig, resolution: int, device: torch.device
) -> tuple[AdversarialModule, Batch]:
    """Build the loop, and a batch of noise seen from all around; one process's share of it."""
    size = config.training.batch // config.training.devices
    images = torch.randint(
        256,
        (size, 3, resolution, resolution),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    module = AdversarialModule(config, resolution, torch.zeros(0, 25))
    labels = make_inputs(module.generator, size).label
    module.camera_labels = labels
    return module.to(device).train(), Batch(images.to(device), labels.to(device), 0)


def held_bytes(module: AdversarialModule) -> int:
    """Bytes that are held between steps: networks, their average, the optimizers' moments."""
    moments = pytree.tree_leaves([o.state_dict() for o in module.configure_optimizers()])
    tensors = [*module.parameters(), *module.buffers(), *moments]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _peak(
    module: AdversarialModule,
    step: Callable[[StepKind], Any],
    kinds: list[StepKind],
    device: torch.device,
) -> Metric:
    try:
        peak = max(peak_bytes(lambda k=kind: step(k), device) for kind in kinds)  # type: ignore[misc]  # bound
    except MemoryUnknownError as error:
        return missing("memory.train_mb", str(error), "MB")
    held = held_bytes(module)
    note = (
        f"{held / MB:.4g} MB held between steps (networks, average, optimizers) and at most "
        f"{peak / MB:.4g} MB above them within a step of any kind; {method(device)}"
    )
    return Metric.of_key("memory.train_mb", (held + peak) / MB, "MB", len(kinds), note=note)


def _words(kind: StepKind, often: int, cycle: int, timing: Timing) -> str:
    penalty, density = kind
    extra = [name for name, on in (("D penalty", penalty), ("density penalty", density)) if on]
    name = f"with {' and '.join(extra)}" if extra else "plain"
    return f"{name} {1e3 * timing.median:.3g} ms ({often} of {cycle})"

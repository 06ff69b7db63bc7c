"""The phases of a training step, and the discriminator, each timed and weighed by itself."""

import copy
from collections.abc import Callable

import torch

from lightning_gan3d.benchmark.floor import measure_peaks, share_of_floor
from lightning_gan3d.benchmark.memory import measure_peak
from lightning_gan3d.benchmark.speed import Protocol, time_calls
from lightning_gan3d.benchmark.stages import bytes_of, size_of
from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.cost import count_flops
from lightning_gan3d.data.datamodule import Batch
from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric
from lightning_gan3d.training.config import LossConfig
from lightning_gan3d.training.module import AdversarialModule, Microbatch
from lightning_gan3d.training.optimizers import Phase

PHASE_NAMES: dict[Phase, str] = {
    "G loss": "g",
    "G density penalty": "g_density",
    "D loss": "d",
    "D penalty": "d_penalty",
}


def measure_phases(
    module: AdversarialModule, batch: Batch, protocol: Protocol, device: torch.device
) -> list[Metric]:
    """Time and weigh each phase of a step that the configuration has, its optimizer included."""
    every = intervals(module.config.loss)
    microbatches = module.split(batch)
    times, memory = [], []
    for phase in PHASE_NAMES:
        if phase not in every:
            continue

        def run(phase: Phase = phase) -> None:
            steps_of(module)[phase](microbatches)

        what = f"phase `{phase}`, once in {every[phase]} step(s), batch {len(batch.images)}"
        name = PHASE_NAMES[phase]
        times.append(time_calls(run, protocol, device).measure(f"speed.train_{name}_ms", what))
        memory.append(measure_peak(f"memory.train_{name}_mb", run, device, what))
    return [*times, *memory]


def steps_of(module: AdversarialModule) -> dict[Phase, Callable[[list[Microbatch]], None]]:
    """Return the method of each phase."""
    return {
        "G loss": module.generator_step,
        "G density penalty": module.density_step,
        "D loss": module.discriminator_step,
        "D penalty": module.penalty_step,
    }


def intervals(loss: LossConfig) -> dict[Phase, int]:
    """Return the phases that a configuration has, and the steps between two runs of each."""
    every: dict[Phase, int] = {"G loss": 1, "D loss": 1}
    if loss.density_reg > 0 and loss.density_reg_interval > 1:
        every["G density penalty"] = loss.density_reg_interval
    if loss.penalises_discriminator and loss.r1_interval > 1:
        every["D penalty"] = loss.r1_interval
    return every


def measure_discriminator(
    module: AdversarialModule, resolution: int, protocol: Protocol, device: torch.device
) -> list[Metric]:
    """Time and weigh the logit of one image."""

    def inputs(where: torch.device) -> tuple[Images, torch.Tensor]:
        raw = module.generator.rendering_resolution
        image = torch.zeros(1, 3, resolution, resolution, device=where)
        images = Images(image, torch.zeros(1, 3, raw, raw, device=where))
        return images, torch.zeros(1, LABEL_DIM, device=where)

    images, label = inputs(device)

    @torch.no_grad()
    def call() -> torch.Tensor:
        logits: torch.Tensor = module.discriminator(images, label)
        return logits

    meta = torch.device("meta")
    counted = copy.deepcopy(module.discriminator).requires_grad_(False).to(meta)
    flops = count_flops(lambda: counted(*inputs(meta)))["Global"]
    timing = time_calls(call, protocol, device)
    nbytes = size_of(module.discriminator) + bytes_of(images)
    peaks = measure_peaks(device, torch.get_num_threads())
    what = f"logit of one image of {resolution}²"
    return [
        timing.measure("speed.discriminator_ms", what),
        share_of_floor("discriminator", timing, flops, nbytes, peaks),
        measure_peak("memory.discriminator_mb", call, device, what),
    ]

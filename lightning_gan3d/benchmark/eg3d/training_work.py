"""The four phases of a training step with their optimizers: the official ones and ours."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.official import (
    INTERVALS,
    Checkout,
    Trainer,
    Work,
    discriminator_kwargs,
    generator_kwargs,
    our_discriminator,
    our_generator,
    rendering_kwargs,
)
from lightning_gan3d.benchmark.training import phase_of
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.datamodule import Batch
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import Phase

PHASES: dict[str, Phase] = {
    "Gmain": "G loss",
    "Greg": "G density penalty",
    "Dmain": "D loss",
    "Dreg": "D penalty",
}
TrainingPrecision = Literal["fp32", "bf16"]
NOT_COMPARED = "not compared here (docs/eg3d.md)"
"""Each side draws its own numbers, so losses differ; tests/eg3d compares with equal draws."""
LATE = 1_000_000
"""Images after which all schedules are constant."""


class Setting(NamedTuple):
    """Sizes of one training setup."""

    resolution: int
    rendering: int
    samples: int
    batch: int
    channel_base: int
    preset: str
    radius: float
    focal: float


SETTINGS = {
    "cpu": Setting(128, 32, 24, 4, 8192, "eg3d/shapenet128", 1.7, 1.7074),
    "cuda": Setting(512, 64, 48, 4, 32768, "eg3d/ffhq512", 2.7, 4.2647),
}
"""By device: smaller on a CPU; EG3D's own on a GPU."""


def works(
    code: Checkout,
    device: torch.device,
    precisions: tuple[str, ...],
    selected: Callable[[str], bool],
) -> Iterator[Work]:
    """Yield the selected phases."""
    phases = [name for name in PHASES if selected(f"train_{name}")]
    precisions = tuple(p for p in precisions if p in get_args(TrainingPrecision))
    if not phases or not precisions:
        return
    s = SETTINGS["cuda" if device.type == "cuda" else "cpu"]
    images, label, z = _inputs(s, device)
    trainer, modules = _build(code, s, label, precisions)
    first = next(iter(modules.values()))
    for name in phases:
        theirs = trainer.phase(name, images, label, z, label)
        yield Work(
            f"train_{name}",
            f"{PHASES[name]} with its optimizer, {s.resolution}², rendered at {s.rendering}² with "
            f"{s.samples} + {s.samples} samples, batch {s.batch}, channel base {s.channel_base}",
            functools.partial(_call_all, theirs, trainer.update_average)
            if name == "Gmain"
            else theirs,
            {p: _phase(module, PHASES[name], images, label) for p, module in modules.items()},
            lambda _: NOT_COMPARED,
            lambda: str(first.generator.renderer.backend),
            INTERVALS[name],
        )


def _call_all(*calls: Callable[[], None]) -> None:
    for call in calls:
        call()


def _inputs(s: Setting, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    size = s.batch, 3, s.resolution, s.resolution
    images = torch.randint(256, size, dtype=torch.uint8, generator=rng)
    azimuth = torch.rand(s.batch, generator=rng) - 0.5
    elevation = 0.4 * torch.rand(s.batch, generator=rng)
    cameras = Cameras.on_sphere(azimuth, elevation, s.radius, focal=s.focal)
    z = torch.randn(s.batch, 512, generator=rng)
    return images.to(device), cameras.to_label().to(device), z.to(device)


def _build(
    code: Checkout, s: Setting, labels: Tensor, precisions: tuple[str, ...]
) -> tuple[Trainer, dict[str, AdversarialModule]]:
    """Return the official trainer, and our modules by precision, with equal weights."""
    device = labels.device
    rendering = rendering_kwargs(
        s.resolution,
        depth_resolution=s.samples,
        depth_resolution_importance=s.samples,
        c_gen_conditioning_zero=False,
        gpc_reg_prob=0.5,
    )
    g_kwargs = generator_kwargs(s.resolution, s.channel_base, rendering_kwargs=rendering)
    d_kwargs = discriminator_kwargs(s.resolution, s.channel_base)
    theirs = code.generator(g_kwargs, device), code.discriminator(d_kwargs, device)
    generator = our_generator(theirs[0], g_kwargs)
    discriminator = our_discriminator(theirs[1], d_kwargs)
    modules = {}
    for precision in precisions:
        module = AdversarialModule(_config(s, precision), s.resolution, labels.cpu())
        module.generator.load_state_dict(generator.tensors)
        module.discriminator.load_state_dict(discriminator.tensors)
        modules[precision] = module.to(device).train()
    return Trainer(code, *theirs, s.rendering, device), modules


def _config(s: Setting, precision: str) -> ExperimentConfig:
    return load_experiment(
        s.preset,
        [
            "generator.mapping.label_scale=1",
            f"generator.representation.synthesis.channel_base={s.channel_base}",
            f"discriminator.channel_base={s.channel_base}",
            f"generator.renderer.samples_coarse={s.samples}",
            f"generator.renderer.samples_fine={s.samples}",
            f"training.batch={s.batch}",
            "training.microbatch=null",
            "training.devices=1",
            f"training.precision={precision}",
            f"training.rendering_resolution.initial={s.rendering}",
            "loss.r1_gamma=1",
            f"data.resolution={s.resolution}",
        ],
    )


def _phase(
    module: AdversarialModule, phase: Phase, images: Tensor, labels: Tensor
) -> Callable[[], Any]:
    """Return a call of one phase; that of the G loss also updates the moving average."""
    first = LATE // len(images)
    steps = iter(range(first, 2 * first))

    def run() -> None:
        phase_of(module, phase, Batch(images, labels, next(steps)))()
        if phase == "G loss":
            module.moving_average.update(0.999, module.gate.healthy)

    return run

"""The works of training: the four phases of a step, each with its optimizer, against ours."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d.compare import Work
from lightning_gan3d.benchmark.eg3d.official import INTERVALS, Checkout, Trainer, described, ours_of
from lightning_gan3d.benchmark.eg3d.official_arguments import (
    discriminator_kwargs,
    generator_kwargs,
    rendering_kwargs,
)
from lightning_gan3d.benchmark.phases import steps_of
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.checkpoints import nvidia
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
"""Of phases: both sides draw, so that losses differ; the tests hand them equal draws."""


class Setting(NamedTuple):
    """Sizes of a training."""

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
"""By device: what a CPU manages in seconds, and EG3D's own."""


def works(
    code: Checkout,
    device: torch.device,
    precisions: tuple[str, ...],
    wanted: Callable[[str], bool],
) -> Iterator[Work]:
    """Yield the phases that are wanted."""
    keys = {name: f"train_{name}" for name in PHASES}
    if not any(map(wanted, keys.values())):
        return
    s = SETTINGS["cuda" if device.type == "cuda" else "cpu"]
    trained = [p for p in precisions if p in get_args(TrainingPrecision)]
    if not trained:
        return
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
    parts = ours_of(theirs[0], g_kwargs)
    critic = nvidia.read_discriminator(described(theirs[1], "DualDiscriminator", d_kwargs))
    trainer = Trainer(code, *theirs, s.rendering, device)
    images, label, z = _inputs(s, device)
    modules = {p: _module(s, p, parts, critic, label, device) for p in trained}
    for name, key in keys.items():
        if not wanted(key):
            continue
        run = trainer.phase(name, images, label, z, label)
        main = name.endswith("main") and name[0] == "G"
        yield Work(
            key,
            f"{PHASES[name]} with its optimizer, {s.resolution}², rendered at {s.rendering}² with "
            f"{s.samples} + {s.samples} samples, batch {s.batch}, channel base {s.channel_base}",
            functools.partial(_and, run, trainer.follow) if main else run,
            {p: _phase(m, PHASES[name], images, label, main) for p, m in modules.items()},
            lambda _: NOT_COMPARED,
            lambda: str(next(iter(modules.values())).generator.renderer.path_taken),
            INTERVALS[name],
        )


def _and(*calls: Callable[[], None]) -> None:
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


def _module(
    s: Setting,
    precision: str,
    generator: nvidia.GeneratorParts,
    discriminator: nvidia.DiscriminatorParts,
    labels: Tensor,
    device: torch.device,
) -> AdversarialModule:
    config = _config(s, precision)
    module = AdversarialModule(config, s.resolution, labels.cpu())
    module.generator.load_state_dict(generator.tensors)
    module.discriminator.load_state_dict(discriminator.tensors)
    return module.to(device).train()


def _phase(
    module: AdversarialModule, phase: Phase, images: Tensor, labels: Tensor, main: bool
) -> Callable[[], Any]:
    late = 1_000_000 // len(images)
    steps = iter(range(late, 2 * late))

    def run() -> None:
        steps_of(module)[phase](module.split(Batch(images, labels, next(steps))))
        if main:
            module.moving_average.update(0.999, module.gate.healthy)

    return run

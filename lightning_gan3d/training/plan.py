"""What a run is about to do, for `--dry-run` and for its manifest."""

from typing import Any

import torch

from lightning_gan3d import devices
from lightning_gan3d.config import ConfigError
from lightning_gan3d.cost import count_cost
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import ExperimentConfig, make_networks
from lightning_gan3d.generator import Generator, num_parameters
from lightning_gan3d.training.finetune import check_init
from lightning_gan3d.training.module import AdversarialModule


def check_trainable(config: ExperimentConfig, resolution: int) -> None:
    """Refuse to render at more pixels than the images have, and what could not learn views."""
    generator = config.generator
    if generator.view_in_label and generator.mapping.condition == "none":
        raise ConfigError(
            "generator.mapping.condition=none: a representation without a 3D scene sees the camera "
            "only through its label; use condition: camera"
        )
    for name in ("initial", "final"):
        value = getattr(config.training.rendering_resolution, name)
        if value is not None and value > resolution:
            raise ConfigError(
                f"training.rendering_resolution.{name}={value}: the images have {resolution} "
                f"pixels; use at most {resolution}"
            )


def describe(
    config: ExperimentConfig, device: torch.device, data: DataModule, module: AdversarialModule
) -> dict[str, Any]:
    """What the manifest says of the run itself."""
    return {
        "experiment": config.name,
        "hash": config.hash,
        "seed": config.seed,
        "device": devices.device_name(device),
        "processes": config.training.devices,
        "threads": torch.get_num_threads(),
        "dataset": data.train.name,
        "dataset_fingerprint": data.train.fingerprint,
        "dataset_images": len(data.train),
        "resolution": data.train.resolution,
        "parameters": {
            "generator": num_parameters(module.generator),
            "representation": num_parameters(module.generator.representation),
            "discriminator": num_parameters(module.discriminator),
        },
        "continued_at_step": module.steps_done,
    }


def plan(config: ExperimentConfig) -> str:
    """What a run would do and need, in words; nothing is trained or written."""
    training = config.training
    device = devices.choose_device(training.device, training.devices)
    data = DataModule(config.data, training.batch, training.microbatch_size, config.seed)
    resolution = data.train.resolution
    check_trainable(config, resolution)
    if config.init_from.path:
        check_init(config, resolution)
    generator, discriminator = make_networks(config, resolution)
    g, d = num_parameters(generator), num_parameters(discriminator)
    representation = num_parameters(generator.representation)
    # Weights, gradients and two moments of both, and the averaged generator; 4 bytes each.
    fixed = 4 * (4 * (g + d) + g) / 1e6
    with torch.device("meta"):
        cost = count_cost(Generator(config.generator, resolution))
    held_out = 0 if data.test is None else len(data.test)
    lines = [
        f"run             {config.name} {config.hash}, seed {config.seed}",
        f"data            {data.train.name}: {len(data.train)} images of {resolution}² "
        f"({held_out} held out), fingerprint {data.train.fingerprint}",
        f"device          {devices.device_name(device)}, {training.devices} process(es)",
        f"length          {training.kimg:g} kimg: {training.num_steps} steps of {training.batch} "
        f"images in {training.num_microbatches} microbatch(es)",
        f"generator       {g:,} parameters, of which the representation {representation:,}",
        f"image           a scene of {cost.scene_bytes:,} bytes, "
        f"{cost.total_flops / 1e9:.3g} GFLOP for one image of it",
        f"discriminator   {d:,} parameters",
        f"memory          {fixed:,.1f} MB for weights, gradients, moments and average; "
        f"activations of {training.microbatch_size} images come on top",
    ]
    return "\n".join(lines)

"""Checks across the parts of an experiment that need its data, before anything is written."""

from typing import Any

import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import ExperimentConfig, make_networks
from lightning_gan3d.training.optimizers import freeze
from lightning_gan3d.training.trainer_plugins import check_trainer
from representations.composition import ComposedConfig


def make_data(config: ExperimentConfig) -> DataModule:
    """Open an experiment's data; batches have boxes for `discriminator.objects`."""
    training = config.training
    data = DataModule(config.data, training.batch, training.microbatch_size, config.seed)
    if config.discriminator.objects is not None:
        representation = config.generator.representation
        assert isinstance(representation, ComposedConfig), "checked with the configuration"
        data.train.use_boxes(representation.num_objects)
    return data


def check_trainable(config: ExperimentConfig, resolution: int) -> None:
    """Reject options that cannot work: of the trainer, of resolutions, of labels."""
    check_trainer(config.trainer)
    config.generator.check_gradient("training")
    training, num_nodes = config.training, config.trainer.num_nodes
    if training.num_microbatches % (training.devices * num_nodes):
        raise ConfigError(
            f"trainer.num_nodes={num_nodes}: {num_nodes} x training.devices={training.devices} do "
            f"not divide the {training.num_microbatches} microbatch(es) of a step; set "
            "training.microbatch to a smaller divisor of the batch"
        )
    _check_labels(config)
    _check_patches(config, resolution)
    _check_growing(config, resolution)
    _check_background(config)
    objects = config.discriminator.objects
    if objects is not None and objects.resolution > resolution:
        raise ConfigError(
            f"discriminator.objects.resolution={objects.resolution}: the images have {resolution} "
            f"pixels; use {resolution} or less"
        )
    if training.views > 1 and config.generator.view_in_label:
        raise ConfigError(
            f"training.views={training.views}: the generator has no 3D scene; set training.views=1"
        )
    if config.loss.proxy.pretrain_kimg > 0:
        with torch.device("meta"):
            renderer: Any = make_networks(config, resolution)[0].renderer
        if not list(renderer.proxy.parameters()):
            raise ConfigError(
                f"loss.proxy.pretrain_kimg={config.loss.proxy.pretrain_kimg}: the proxy has no "
                "parameters; set 0"
            )
    if config.frozen_parts:
        with torch.device("meta"):
            freeze(*make_networks(config, resolution), config.frozen_parts)
    for name in ("initial", "final"):
        value = getattr(config.training.rendering_resolution, name)
        if value is not None and value > resolution:
            raise ConfigError(
                f"training.rendering_resolution.{name}={value}: the images have {resolution} "
                f"pixels; use at most {resolution}"
            )


def _check_background(config: ExperimentConfig) -> None:
    """Reject random backgrounds that cannot replace the renderer's."""
    if not config.data.random_background:
        return
    background = getattr(config.generator.renderer, "background", None)
    if background != {"black": 0.0, "white": 1.0}[config.data.convert]:
        raise ConfigError(
            f"data.random_background=true, data.convert={config.data.convert}: the renderer's "
            f"background is {background}; use a renderer with one, 0 (black) or 1 (white)"
        )
    if config.generator.factor > 1:
        raise ConfigError(
            "data.random_background=true: super-resolution has no opacity; set "
            "generator.superresolution.factor=1 and generator.head=null"
        )


def _check_patches(config: ExperimentConfig, resolution: int) -> None:
    """Reject options that patches do not have."""
    generator, training, patch = config.generator, config.training, config.training.patch
    if patch is None:
        if config.discriminator.patch != "none":
            raise ConfigError("discriminator.patch=modulate: set training.patch too, or none here")
        return
    if patch.resolution > resolution:
        raise ConfigError(
            f"training.patch.resolution={patch.resolution}: the images have {resolution} pixels; "
            f"use {resolution} or less"
        )
    for wrong, value in (
        (generator.view_in_label, "a 3D generator.representation"),
        (generator.factor > 1, "generator.superresolution.factor=1 and generator.head=null"),
        (config.discriminator.dual, "discriminator.dual=false"),
        (training.rendering_resolution.initial, "training.rendering_resolution.initial=null"),
        (config.loss.adversarial == "wgan", "loss.adversarial=nonsaturating"),
    ):
        if wrong:
            raise ConfigError(f"training.patch: patches have full resolution; set {value}")


def _check_growing(config: ExperimentConfig, resolution: int) -> None:
    """Reject options that progressive growing does not have, and stages that do not fit."""
    generator, training, growing = config.generator, config.training, config.training.growing
    if growing is None:
        return
    gammas = any(stage.r1_gamma is not None for stage in growing.stages)
    network = getattr(generator.representation, "network", "stylegan2")
    for wrong, value in (
        (generator.view_in_label and network.startswith("stylegan3"),
         "generator.representation.network=stylegan2 or progan"),
        (generator.factor > 1, "generator.superresolution.factor=1"),
        (generator.head is not None, "generator.head=null"),
        (config.discriminator.dual, "discriminator.dual=false"),
        (config.discriminator.objects is not None, "discriminator.objects=null"),
        (training.patch is not None, "training.patch=null"),
        (training.rendering_resolution.initial,
         "training.rendering_resolution={initial: null, final: null}"),
        (training.compile, "training.compile=false"),
        (gammas and config.loss.r1_gamma == 0, "loss.r1_gamma above 0, or none in its stages"),
        (growing.stages[-1].resolution != resolution,
         f"the resolution of its last stage to {resolution}, that of the images"),
    ):  # fmt: skip
        if wrong:
            raise ConfigError(f"training.growing: set {value}", field="training")


def _check_labels(config: ExperimentConfig) -> None:
    """Reject generators and losses that need cameras or classes which the data lack."""
    generator = config.generator
    labels, prior = config.data.labels, config.cameras.kind == "prior"
    condition, projects = generator.mapping.condition, config.discriminator.conditioning
    on_camera = projects == "projection" and labels != "class"
    adversarial = config.loss.adversarial
    if prior and adversarial != "nonsaturating" and on_camera:
        raise ConfigError(
            f"loss.adversarial={adversarial} with cameras.kind=prior: a pair has two cameras; set "
            "discriminator.conditioning=none"
        )
    if config.loss.camera_real > 0 and projects == "predict" and labels != "camera":
        raise ConfigError(
            f"loss.camera_real={config.loss.camera_real} with data.labels={labels}: the images "
            "have no cameras; set loss.camera_real=0"
        )
    if labels != "camera":
        usable = (labels, "none", "camera") if prior else (labels, "none")
        unposed_3d = not generator.view_in_label and not prior
        for wrong, value in (
            (unposed_3d, "cameras.kind=prior, or generator.representation.kind=image2d"),
            (condition not in usable, f"generator.mapping.condition={labels}"),
            (on_camera, "discriminator.conditioning=none"),
        ):
            if wrong:
                raise ConfigError(f"data.labels={labels}: the images have no cameras; set {value}")
    elif condition == "class":
        raise ConfigError("generator.mapping.condition=class: set data.labels=class, or use camera")
    elif generator.view_in_label and generator.mapping.condition == "none":
        raise ConfigError(
            "generator.mapping.condition=none: a representation without a 3D scene gets the camera "
            "from its label alone; use condition: camera"
        )

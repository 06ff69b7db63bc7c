"""The configuration of a run, read from a preset or YAML file with overrides."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d import config as cfg
from lightning_gan3d.arms import UNHASHED
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.camera_prior import CamerasConfig, FakeLabels, fake_labels
from lightning_gan3d.data.dataset import DataConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.metrics.config import (
    AttributesConfig,
    DepthConfig,
    EvaluationConfig,
    MasksConfig,
    MotionConfig,
    PartsConfig,
)
from lightning_gan3d.networks.augment import AugmentConfig
from lightning_gan3d.networks.band_limits import StyleGAN3Config
from lightning_gan3d.networks.discriminator import Discriminator, DiscriminatorConfig
from lightning_gan3d.presets import find_file
from lightning_gan3d.ranges import is_folder_name
from lightning_gan3d.training.config import (
    CosineConfig,
    InitConfig,
    LoggingConfig,
    LossConfig,
    OptimizersConfig,
    ProxyLossConfig,
    TrainerConfig,
    TrainingConfig,
)
from lightning_gan3d.training.critic import CriticConfig
from lightning_gan3d.training.terms import check_terms

ADDED: dict[str, Any] = {
    "cameras": CamerasConfig(),
    "data.labels": "camera",
    "data.num_classes": 0,
    "data.random_background": False,
    "loss.terms": (),
    "training.hours": None,
    "training.views": 1,
    "training.patch": None,
    "discriminator.patch": "none",
    "discriminator.objects": None,
    "generator.scene.density.sdf_beta": 0.1,
    "training.cosine": CosineConfig(),
    "training.freeze": (),
    "evaluation.frontal": True,
    "evaluation.attributes": AttributesConfig(),
    "generator.head": None,
    "generator.representation.colour": "generated",
    "evaluation.depth": DepthConfig(),
    "evaluation.parts": PartsConfig(),
    "loss.proxy": ProxyLossConfig(),
    "optimizer.proxy": OptimizersConfig().proxy,
    "evaluation.masks": MasksConfig(),
    **{
        f"generator.representation.{part}{name}": default
        for part in ("", "object.", "background.")
        for name, default in (("network", "stylegan2"), ("stylegan3", StyleGAN3Config()))
    },
    "evaluation.motion": MotionConfig(),
    "training.growing": None,
    "loss.wgan_penalty": 10.0,
    "loss.wgan_drift": 0.001,
    "discriminator.architecture": "residual",
    "critic": CriticConfig(),
    "evaluation.samples": None,
    **{
        f"generator.renderer.{part}{name}": default
        for part in ("", "proxy.")
        for name, default in (("importance", "weights"), ("nucleus_mass", 0.98))
    },
}
"""Options that earlier versions did not have, and the value that leaves their runs unchanged: with
this value an option does not enter the hash."""


@dataclass(frozen=True)
class ExperimentConfig:
    """All options of one training run."""

    name: str
    """Folder of the runs, and their name in reports."""
    data: DataConfig
    """The images and their cameras."""
    generator: GeneratorConfig
    """The generator."""
    cameras: CamerasConfig = CamerasConfig()
    """The cameras of generated images."""
    seed: Annotated[int, Ge(0)] = 0
    """Key of every random draw."""
    label: str = ""
    """Name of this configuration in logs and reports; default: by what differs from others."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """The discriminator."""
    critic: CriticConfig = CriticConfig()
    """What the generator learns from: the discriminator, or encoders of images."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of the discriminator's input."""
    loss: LossConfig = LossConfig()
    """Adversarial loss and regularisers."""
    optimizer: OptimizersConfig = OptimizersConfig()
    """The optimizers."""
    training: TrainingConfig = TrainingConfig()
    """Budget, batch, schedules, precision and device."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Metrics, computed at the end of training and by `gan3d evaluate`."""
    init_from: InitConfig = InitConfig()
    """Checkpoint to fine-tune from."""
    logging: LoggingConfig = LoggingConfig()
    """Logging besides the run's own files."""
    trainer: TrainerConfig = TrainerConfig()
    """Lightning's Trainer: time limit, profiler, callbacks, loggers."""

    def __post_init__(self) -> None:
        """Check constraints across parts."""
        if not is_folder_name(self.name):
            raise ConfigError(
                f"name={self.name!r}: use a plain folder name, e.g. triplane", field="name"
            )
        if self.training.eval_kimg > 0 and self.evaluation.swd is None:
            raise ConfigError(
                f"training.eval_kimg={self.training.eval_kimg} computes the sliced Wasserstein "
                "distance, which evaluation.swd=null disables; set training.eval_kimg=0",
                field="training",
            )
        if self.loss.density_reg > 0 and self.generator.scene.density.activation == "sdf":
            raise ConfigError(
                f"loss.density_reg={self.loss.density_reg}: it flattens a signed distance; set "
                "loss.density_reg=0 and loss.terms=[{kind: eikonal, weight: 0.1}]",
                field="loss",
            )
        if self.loss.density_reg > 0 and not self.generator.is_field:
            raise ConfigError(
                f"loss.density_reg={self.loss.density_reg}: this representation has no density "
                "field; set loss.density_reg=0",
                field="loss",
            )
        probability = self.training.cosine.augment_probability
        if probability is not None and self.augment.mode != "fixed":
            raise ConfigError(
                f"training.cosine.augment_probability={probability}: augment.mode="
                f"{self.augment.mode} ignores it; set augment.mode=fixed",
                field="training",
            )
        if self.loss.adversarial == "wgan" and self.augment.mode == "ada":
            raise ConfigError(
                "augment.mode=ada with loss.adversarial=wgan: it needs logits whose sign means "
                "real or generated; set augment.mode=fixed or none",
                field="augment",
            )
        check_terms(self.loss.terms, self.generator)
        self._check_objects()
        self._check_proxy()
        self._check_critic()

    def _check_objects(self) -> None:
        """Reject a discriminator of objects that cannot have its crops or its penalty."""
        objects, penalised = self.discriminator.objects, self.loss.penalises_discriminator
        if objects is None:
            return
        scenes, problem = self.generator.representation_type.scene_type, ""
        if "objects" not in getattr(scenes, "__dataclass_fields__", {}):
            problem = "the scenes have no objects; set generator.representation.kind=composed"
        elif self.training.patch is not None:
            problem = "patches cut objects; set training.patch=null"
        elif self.loss.adversarial == "wgan":
            problem = "their loss is non-saturating; set loss.adversarial=nonsaturating"
        elif objects.r1_gamma > 0 and not penalised:
            problem = (
                f"r1_gamma={objects.r1_gamma}: it is part of the penalties of `loss`, which are "
                "off; set loss.r1_gamma above 0, or discriminator.objects.r1_gamma=0"
            )
        if problem:
            raise ConfigError(
                f"discriminator.objects: {problem}, or discriminator.objects=null",
                field="discriminator",
            )

    def _check_proxy(self) -> None:
        """Reject options of a proxy that nothing reads."""
        if self.generator.renderer_type.has_proxy:
            return
        for part, key in (("loss", self.loss.proxy), ("optimizer", self.optimizer.proxy)):
            if key != ADDED[f"{part}.proxy"]:
                raise ConfigError(
                    f"{part}.proxy: the renderer has no proxy; leave it out, or set "
                    "generator.renderer.kind=proxied",
                    field=part,
                )

    def _check_critic(self) -> None:
        """Reject a direction without a start, and options of what it does not have."""
        training = self.training
        frozen = [part for part in training.freeze if part.partition(".")[0] == "discriminator"]
        for wrong, remedy in (
            (not self.init_from.path, "set init_from.path, e.g. pretrained:triplane"),
            (training.patch is not None, "set training.patch=null: encoders see whole images"),
            (training.growing is not None, "set training.growing=null: it has full size already"),
            (self.loss.adversarial != "nonsaturating",
             "set loss.adversarial=nonsaturating: there is no adversarial loss"),
            (self.augment.mode != "none", "set augment.mode=none: encoders see images as they are"),
            (frozen, f"remove {', '.join(frozen)} from training.freeze: no discriminator is "
             "trained"),
        ):  # fmt: skip
            if wrong and self.critic.kind == "direction":
                raise ConfigError(
                    f"critic.kind=direction: it fine-tunes a generator; {remedy}", field="critic"
                )

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Parts that are not trained; a direction never trains the mapping."""
        has_layers = self.generator.mapping.num_layers > 0
        keeps = self.critic.kind == "direction" and has_layers
        return (*self.training.freeze, *(("mapping",) if keeps else ()))

    def discriminator_resolution(self, resolution: int) -> int:
        """Return the side of what the discriminator sees: of patches, or of whole images."""
        patch = self.training.patch
        return resolution if patch is None else patch.resolution

    def fake_labels(self, labels: Float[Tensor, "n label_dim"]) -> FakeLabels:
        """Return the labels from which those of generated images are drawn.

        `labels`: those of the training images.
        """
        return fake_labels(self.cameras, self.generator.scene.box, labels)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits, equal for runs that differ only in seed, paths or machine."""
        return run_hash(self)


def run_hash(config: ExperimentConfig) -> str:
    """Hash the resolved configuration without `UNHASHED`, and without `ADDED` at their defaults."""
    tree = cfg.to_tree(config)
    for key in UNHASHED:
        above, _, name = key.rpartition(".")
        del (tree[above] if above else tree)[name]
    for key, default in ADDED.items():
        *path, name = key.split(".")
        part = reduce(lambda part, below: part.get(below) or {}, path, tree)
        if name in part and part[name] == cfg.to_tree(default):
            del part[name]
    if not config.trainer.callbacks:  # they may change the training
        del tree["trainer"]
    if config.discriminator.conditioning != "predict":
        del tree["loss"]["camera_fake"], tree["loss"]["camera_real"]
    # The names identify the sources, their folders do not; a run checks the content.
    tree["init_from"]["path"] = Path(config.init_from.path).name
    critic, options = tree.get("critic", {}), ("target", "source", "image", "text")
    parts = (critic, *critic.get("encoders", ()))
    names = Counter(Path(part[k]).name for part in parts for k in options if part.get(k))
    for part in parts:
        for k in options:
            if part.get(k) and names[name := Path(part[k]).name] == 1:  # else two would be one
                part[k] = name
    return cfg.digest(tree)


def load_experiment(name: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read and validate a preset or YAML file with `key.path=value` overrides."""
    origins = cfg.Origins()
    tree = cfg.load_tree(find_file(name), origins)
    tree = cfg.resolve(cfg.apply_overrides(tree, overrides, origins))
    return cfg.build(ExperimentConfig, tree, origins)


def override(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Apply `key.path=value` overrides to an experiment and validate it again."""
    origins = cfg.Origins()
    tree = cfg.apply_overrides(cfg.to_tree(config), overrides, origins)
    return cfg.build(ExperimentConfig, cfg.resolve(tree), origins)


def make_networks(config: ExperimentConfig, resolution: int) -> tuple[Generator, Discriminator]:
    """Build generator and discriminator, initialised from the seed alone.

    Each has its own stream, so that all representations of a comparison meet one discriminator.
    """
    draws, num_classes = Draws(config.seed).scope("initialisation"), config.data.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.generator("generator").initial_seed())
        generator = Generator(config.generator, resolution, num_classes)
        torch.manual_seed(draws.generator("discriminator").initial_seed())
        discriminator = make_discriminator(config, resolution)
    return generator, discriminator


def make_discriminator(config: ExperimentConfig, resolution: int) -> Discriminator:
    """Build the discriminator for images of `resolution`."""
    growing, seen = config.training.growing, config.discriminator_resolution(resolution)
    levels = [] if growing is None else [stage.resolution for stage in growing.stages[:-1]]
    return Discriminator(config.discriminator, seen, config.data.num_classes, levels)

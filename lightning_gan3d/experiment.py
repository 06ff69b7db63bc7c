"""An experiment: everything that a run depends on, from a preset or a YAML file and overrides."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import lightning_gan3d
from lightning_gan3d import config as cfg
from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.dataset import DataConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.metrics.config import EvaluationConfig
from lightning_gan3d.networks.augment import AugmentConfig
from lightning_gan3d.networks.discriminator import Discriminator, DiscriminatorConfig
from lightning_gan3d.training.config import (
    InitConfig,
    LoggingConfig,
    LossConfig,
    OptimizersConfig,
    TrainingConfig,
)


@dataclass(frozen=True)
class ExperimentConfig:
    """One run of one generator on one data set."""

    name: str
    """Names the folder of the runs, and the run in reports."""
    data: DataConfig
    """The images and their cameras."""
    generator: GeneratorConfig
    """The generator."""
    seed: int = 0
    """Keys every random choice of the run."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """The discriminator."""
    augment: AugmentConfig = AugmentConfig()
    """Adaptive augmentation of what the discriminator sees."""
    loss: LossConfig = LossConfig()
    """The adversarial loss and its regularisers."""
    optimizer: OptimizersConfig = OptimizersConfig()
    """The two optimizers."""
    training: TrainingConfig = TrainingConfig()
    """Budget, batch, schedules, precision and device."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured at the end, and how."""
    init_from: InitConfig = InitConfig()
    """What to fine-tune."""
    logging: LoggingConfig = LoggingConfig()
    """Where progress goes besides the run's own files."""

    def __post_init__(self) -> None:
        """Check what no part can check alone."""
        if not self.name or set(self.name) & set('/\\\n:*?"<>|') or self.name.startswith("."):
            raise ConfigError(
                f"name={self.name!r}: use a plain folder name, e.g. triplane", field="name"
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: use 0 or more", field="seed")
        if self.training.eval_kimg > 0 and self.evaluation.swd is None:
            raise ConfigError(
                f"training.eval_kimg={self.training.eval_kimg} measures the sliced Wasserstein "
                "distance, which evaluation.swd=null leaves out; set one of them otherwise",
                field="training",
            )
        if self.loss.density_reg > 0 and not self.generator.is_field:
            raise ConfigError(
                f"loss.density_reg={self.loss.density_reg}: this representation has no density "
                "field; set loss.density_reg=0",
                field="loss",
            )

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits: equal for runs that differ only in seed, paths or machine."""
        return run_hash(self)


HASH_IGNORES = {
    "seed": None,
    "logging": None,
    "data": ("path", "num_workers", "memory_mb"),
    "training": ("device", "devices", "threads"),
}
"""What does not change the experiment: seed, paths, device, workers, threads and logging."""


def run_hash(config: ExperimentConfig) -> str:
    """Hash the resolved configuration without what `HASH_IGNORES` names."""
    tree = cfg.to_tree(config)
    for key, inner in HASH_IGNORES.items():
        if inner is None:
            del tree[key]
        else:
            tree[key] = {k: v for k, v in tree[key].items() if k not in inner}
    # Another source is another experiment, another folder is not; a run checks the content.
    tree["init_from"]["path"] = Path(config.init_from.path).name
    return cfg.digest(tree)


def presets_folder() -> Path:
    """The folder of the presets: beside the package, in a clone and in an installation alike."""
    return Path(lightning_gan3d.__file__).parent.parent / "experiments"


def preset_names(group: Literal["runs", "sweeps", "all"] = "all") -> list[str]:
    """Names under which presets can be asked for, e.g. `triplane` or `equal/parameters_voxel`.

    `runs` leaves out sweeps, and the bases that others start from.
    """
    folder = presets_folder()
    names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
    if group == "sweeps":
        return [n for n in names if n.startswith("sweeps/")]
    if group == "runs":
        return [n for n in names if not n.startswith("sweeps/") and n.split("/")[-1] != "base"]
    return names


def find_file(name: str | Path) -> Path:
    """Return a YAML file by path, or a preset by name."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    preset = presets_folder() / f"{name}.yaml"
    if preset.is_file():
        return preset
    names = preset_names("runs")
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise ConfigError(
        f"no preset `{name}` and no file of that name; {hint}presets: {', '.join(names)}"
    )


def load_experiment(name: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a preset or file with `key.path=value` overrides; everything is checked here."""
    origins = cfg.Origins()
    tree = cfg.load_tree(find_file(name), origins)
    tree = cfg.resolve(cfg.apply_overrides(tree, overrides, origins))
    return cfg.build(ExperimentConfig, tree, origins)


def override(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Lay `key.path=value` arguments over an experiment; everything is checked again."""
    origins = cfg.Origins()
    tree = cfg.apply_overrides(cfg.to_tree(config), overrides, origins)
    return cfg.build(ExperimentConfig, cfg.resolve(tree), origins)


def make_networks(config: ExperimentConfig, resolution: int) -> tuple[Generator, Discriminator]:
    """Build generator and discriminator, initialised from the seed alone.

    Each has its own stream, so that all representations of a comparison meet one discriminator.
    """
    draws = Draws(config.seed).scope("initialisation")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.generator("generator").initial_seed())
        generator = Generator(config.generator, resolution)
        torch.manual_seed(draws.generator("discriminator").initial_seed())
        discriminator = Discriminator(config.discriminator, resolution, LABEL_DIM)
    return generator, discriminator

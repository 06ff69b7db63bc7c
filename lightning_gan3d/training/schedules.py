"""Schedules: plain functions of the number of images seen, the same for any batch size."""

import math
from dataclasses import replace
from typing import NamedTuple

from lightning_gan3d.training.config import (
    AdamConfig,
    CosineConfig,
    GrowingConfig,
    InitConfig,
    OptimizersConfig,
    ResolutionScheduleConfig,
    TermConfig,
    TrainingConfig,
)


class Level(NamedTuple):
    """Where progressive growing is."""

    stage: int
    resolution: int
    """Side of the images."""
    alpha: float
    """Share of the stage in a fade from the one before, in (0, 1]. 1: it trains alone."""

    def lod(self, resolution: int) -> float:
        """ProGAN's level of detail: halvings of `resolution`, fractional in a fade."""
        return math.log2(resolution / self.resolution) + 1 - self.alpha

    def follows(self, before: "Level") -> bool:
        """True if a fade starts or ends: floor or ceiling of the level of detail changes."""
        return (self.stage, self.alpha < 1) != (before.stage, before.alpha < 1)


class ScheduleState(NamedTuple):
    """Values of all schedules in one step."""

    step: int
    rendering_resolution: int
    blur_sigma: float
    """Pixels of the image."""
    swap_probability: float
    learning_rate_factor: float
    ema_decay: float
    gamma_factor: float
    augment_probability: float
    beta2_g: float
    beta2_d: float
    patch_progress: float
    """From whole images, 0, to patches of all scales, 1."""
    term_weights: tuple[float, ...] = ()
    """Of `loss.terms`; 0: not computed in this step."""
    level: Level | None = None
    """Of progressive growing; None: full size."""


def _progress(images: int, start_kimg: float, fade_kimg: float) -> float:
    """Progress of a change that starts at `start_kimg` and takes `fade_kimg`, in [0, 1]."""
    passed = images - start_kimg * 1000
    if fade_kimg <= 0:
        return 1.0 if passed >= 0 else 0.0
    return min(max(passed / (fade_kimg * 1000), 0.0), 1.0)


def cosine(cfg: CosineConfig, images: int, start: float, final: float | None) -> float:
    """Half a cosine from `start` to `final` over `cfg.kimg`: R3GAN (Huang et al. 2024).

    start + (final - start) (1 - cos(pi * progress)) / 2; `start` if `final` is None.
    """
    if final is None:
        return start
    share = _progress(images, 0.0, cfg.kimg)
    return start + (final - start) * (1 - math.cos(math.pi * share)) / 2


def with_init(training: TrainingConfig, init: InitConfig) -> TrainingConfig:
    """Adapt the schedules to fine-tuning as EG3D's `--resume`, if `init_from` says so."""
    if not init.path or init.schedules != "eg3d":
        return training
    return replace(training, blur_fade_kimg=0.0, swap_fade_kimg=0.0, ema_rampup=None)


def rendering_resolution(cfg: ResolutionScheduleConfig, images: int, default: int) -> int:
    """Resolution of `image_raw`; `default` is the generator's own."""
    initial = default if cfg.initial is None else cfg.initial
    if cfg.final is None:
        return initial
    share = _progress(images, cfg.start_kimg, cfg.fade_kimg)
    return round(initial + (cfg.final - initial) * share)


def level(cfg: GrowingConfig, images: int) -> Level:
    """Level after `images`: each stage trains alone, then the next fades in (ProGAN)."""
    state, start = Level(0, cfg.stages[0].resolution, 1.0), 0.0
    for i, stage in enumerate(cfg.stages[1:], start=1):
        start += cfg.stages[i - 1].kimg or 0.0
        alpha = _progress(images, start, stage.fade_kimg)
        if alpha <= 0:
            break
        state, start = Level(i, stage.resolution, alpha), start + stage.fade_kimg
    return state


def grown(
    state: ScheduleState, cfg: GrowingConfig | None, r1_gamma: float, images: int
) -> ScheduleState:
    """Return the state with the level after `images` and the factors of its stage.

    The blur keeps its width relative to the image. `r1_gamma` is that of `loss`.
    """
    if cfg is None:
        return state
    at = level(cfg, images)
    stage = cfg.stages[at.stage]
    gamma = 1.0 if stage.r1_gamma is None else stage.r1_gamma / r1_gamma
    return state._replace(
        rendering_resolution=at.resolution,
        blur_sigma=state.blur_sigma * at.resolution / cfg.stages[-1].resolution,
        learning_rate_factor=state.learning_rate_factor * stage.lr_factor,
        gamma_factor=state.gamma_factor * gamma,
        level=at,
    )


def blur_sigma(cfg: TrainingConfig, images: int) -> float:
    """Standard deviation of the blur in pixels of the image: linear to 0, as EG3D."""
    if cfg.blur_fade_kimg <= 0:
        return 0.0
    return cfg.blur_sigma * (1 - _progress(images, 0.0, cfg.blur_fade_kimg))


def patch_progress(cfg: TrainingConfig, images: int) -> float:
    """Progress from whole images to patches of all scales."""
    return 1.0 if cfg.patch is None else _progress(images, 0.0, cfg.patch.fade_kimg)


def swap_probability(cfg: TrainingConfig, images: int) -> float:
    """Probability of conditioning the generator on a neighbour's camera (EG3D, section 4.4)."""
    share = _progress(images, 0.0, cfg.swap_fade_kimg)
    return cfg.swap_initial + (cfg.swap_final - cfg.swap_initial) * share


def term_weight(cfg: TermConfig, step: int, images: int) -> float:
    """Weight of a loss term: times its interval every `interval` steps, 0 in the others."""
    if step % cfg.interval:
        return 0.0
    final = cfg.weight if cfg.final_weight is None else cfg.final_weight
    share = _progress(images, cfg.start_kimg, cfg.fade_kimg)
    return cfg.interval * (cfg.weight + (final - cfg.weight) * share)


def learning_rate_factor(cfg: OptimizersConfig, images: int, total_images: int) -> float:
    """Factor on both learning rates after `images` of `total_images`: warm-up, constant, decay."""
    warmup = min(1.0, images / (cfg.warmup_kimg * 1000)) if cfg.warmup_kimg > 0 else 1.0
    start = cfg.decay_start * total_images
    if images <= start or start >= total_images:
        return warmup
    decayed = min(1.0, (images - start) / (total_images - start))
    return warmup * (1 + (cfg.decay_to - 1) * decayed)


def ema_decay(cfg: TrainingConfig, images: int) -> float:
    """Decay of the generator's moving average in the step after `images`.

    0.5 ** (batch / half-life); the half-life is at most `ema_rampup` of the images seen, so that
    the average forgets the initialisation (Karras et al. 2020, ADA, appendix).
    """
    half_life_kimg = cfg.ema_half_life_kimg
    half_life = 1000 * (cfg.batch * 10 / 32 if half_life_kimg is None else half_life_kimg)
    final_kimg = cfg.cosine.ema_half_life_kimg
    final = None if final_kimg is None else 1000 * final_kimg
    half_life = cosine(cfg.cosine, images, half_life, final)
    if cfg.ema_rampup is not None:
        half_life = min(half_life, cfg.ema_rampup * images)
    return float(0.5 ** (cfg.batch / half_life)) if half_life > 0 else 0.0


def lazy_adam(cfg: AdamConfig, interval: int) -> AdamConfig:
    """Correct Adam for one extra penalty step every `interval` steps. 1: no extra steps.

    lr * r, betas ** r, r = interval / (interval + 1): Karras et al. 2020 (StyleGAN2), appendix B.
    """
    if interval == 1:
        return cfg
    r = interval / (interval + 1)
    return AdamConfig(cfg.lr * r, (cfg.betas[0] ** r, cfg.betas[1] ** r), cfg.eps)


def beta2(cfg: CosineConfig, adam: AdamConfig, interval: int, images: int) -> float:
    """Adam's second decay rate of a step: the schedule first, then the power r of `lazy_adam`."""
    scheduled = cosine(cfg, images, adam.betas[1], cfg.beta2)
    return lazy_adam(replace(adam, betas=(adam.betas[0], scheduled)), interval).betas[1]


def is_due(interval_kimg: float, before: int, after: int) -> bool:
    """True if an interval ends between two counts of images. An interval of 0 never ends."""
    every = max(1, round(interval_kimg * 1000))
    return interval_kimg > 0 and after // every > before // every

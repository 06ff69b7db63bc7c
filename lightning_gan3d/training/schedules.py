"""Schedules: plain functions of the images seen, so that a resumed run or another batch agrees."""

from dataclasses import replace

from lightning_gan3d.training.config import (
    AdamConfig,
    InitConfig,
    OptimizersConfig,
    ResolutionScheduleConfig,
    TrainingConfig,
)


def _progress(images: int, start_kimg: float, fade_kimg: float) -> float:
    """How much of a change from `start_kimg` over `fade_kimg` has happened, in [0, 1]."""
    passed = images - start_kimg * 1000
    if fade_kimg <= 0:
        return 1.0 if passed >= 0 else 0.0
    return min(max(passed / (fade_kimg * 1000), 0.0), 1.0)


def of_start(training: TrainingConfig, init: InitConfig) -> TrainingConfig:
    """Return the schedules of a run: as EG3D's `--resume` where `init_from` asks for that."""
    if not init.path or init.schedules != "eg3d":
        return training
    return replace(training, blur_fade_kimg=0.0, swap_fade_kimg=0.0, ema_rampup=None)


def rendering_resolution(cfg: ResolutionScheduleConfig, images: int, natural: int) -> int:
    """Resolution of `image_raw`; `natural` is what the generator renders at when not told."""
    initial = natural if cfg.initial is None else cfg.initial
    if cfg.final is None:
        return initial
    share = _progress(images, cfg.start_kimg, cfg.fade_kimg)
    return round(initial + (cfg.final - initial) * share)


def blur_sigma(cfg: TrainingConfig, images: int) -> float:
    """Standard deviation of the blur in pixels of the image: linear to 0, as EG3D."""
    if cfg.blur_fade_kimg <= 0:
        return 0.0
    return cfg.blur_sigma * (1 - _progress(images, 0.0, cfg.blur_fade_kimg))


def swap_probability(cfg: TrainingConfig, images: int) -> float:
    """Probability that a neighbour's camera conditions the generator (EG3D, section 4.4)."""
    share = _progress(images, 0.0, cfg.swap_fade_kimg)
    return cfg.swap_initial + (cfg.swap_final - cfg.swap_initial) * share


def learning_rate_factor(cfg: OptimizersConfig, images: int, total_images: int) -> float:
    """Factor on both learning rates after `images` of `total_images`: warm-up, plateau, fall."""
    warmup = min(1.0, images / (cfg.warmup_kimg * 1000)) if cfg.warmup_kimg > 0 else 1.0
    start = cfg.decay_start * total_images
    if images <= start or start >= total_images:
        return warmup
    fallen = min(1.0, (images - start) / (total_images - start))
    return warmup * (1 + (cfg.decay_to - 1) * fallen)


def ema_decay(cfg: TrainingConfig, images: int) -> float:
    """Share that the average keeps in one step, after `images` before it.

    0.5 ** (batch / half-life); the half-life is at most `ema_rampup` of the images seen, so that
    the average does not drag the initialisation along (Karras et al. 2020, ADA, appendix).
    """
    half_life = cfg.ema_half_life_kimg
    in_images = 1000 * (cfg.batch * 10 / 32 if half_life is None else half_life)
    if cfg.ema_rampup is not None:
        in_images = min(in_images, cfg.ema_rampup * images)
    return float(0.5 ** (cfg.batch / in_images)) if in_images > 0 else 0.0


def lazy_adam(cfg: AdamConfig, interval: int | None) -> AdamConfig:
    """Adam shared by main steps and a penalty every `interval` of them: one step more an interval.

    As StyleGAN2 (Karras et al. 2020, appendix B), with r = interval / (interval + 1): lr * r, and
    betas ** r. None, or an interval of 1 (a penalty within the main step): unchanged.
    """
    if interval is None or interval == 1:
        return cfg
    r = interval / (interval + 1)
    return AdamConfig(cfg.lr * r, (cfg.betas[0] ** r, cfg.betas[1] ** r), cfg.eps)


def is_due(interval_kimg: float, before: int, after: int) -> bool:
    """Whether an interval ended between two counts of images. An interval of 0 never ends."""
    every = max(1, round(interval_kimg * 1000))
    return interval_kimg > 0 and after // every > before // every

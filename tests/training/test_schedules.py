import math

import pytest

from lightning_gan3d.training import schedules
from lightning_gan3d.training.config import (
    AdamConfig,
    OptimizersConfig,
    ResolutionScheduleConfig,
    TrainingConfig,
)


def test_resolution_takes_every_integer_value():
    cfg = ResolutionScheduleConfig(initial=64, final=128, fade_kimg=1000.0)
    sizes = [schedules.rendering_resolution(cfg, n * 1000, 64) for n in range(0, 1500, 4)]
    assert sizes[0] == 64
    assert sizes[-1] == 128
    assert sorted(set(sizes)) == list(range(64, 129))
    assert sizes == sorted(sizes)
    assert schedules.rendering_resolution(cfg, 500_000, 64) == 96


def test_resolution_can_be_a_step_or_constant():
    step = ResolutionScheduleConfig(initial=16, final=32, start_kimg=3.2, fade_kimg=0.0)
    assert [schedules.rendering_resolution(step, n, 32) for n in (0, 3199, 3200)] == [16, 16, 32]
    assert schedules.rendering_resolution(ResolutionScheduleConfig(), 10**9, 48) == 48
    assert schedules.rendering_resolution(ResolutionScheduleConfig(initial=20), 10**9, 48) == 20


def test_blur_fades_linearly_and_is_off_by_default():
    cfg = TrainingConfig(blur_sigma=10.0, blur_fade_kimg=200.0)
    assert [schedules.blur_sigma(cfg, n) for n in (0, 100_000, 200_000, 300_000)] == [10, 5, 0, 0]
    assert schedules.blur_sigma(TrainingConfig(), 0) == 0


def test_swap_probability_changes_from_1_to_a_half():
    cfg = TrainingConfig()
    values = [schedules.swap_probability(cfg, n) for n in (0, 500_000, 1_000_000, 2_000_000)]
    assert values == [1.0, 0.75, 0.5, 0.5]
    constant = TrainingConfig(swap_fade_kimg=0.0, swap_final=0.25)
    assert schedules.swap_probability(constant, 0) == 0.25


def test_learning_rate_has_warm_up_and_decay():
    cfg = OptimizersConfig(warmup_kimg=0.1, decay_start=0.5, decay_to=0.1)
    values = [schedules.learning_rate_factor(cfg, n, 1000) for n in (50, 100, 500, 750, 1000)]
    assert values == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert schedules.learning_rate_factor(OptimizersConfig(), 1000, 1000) == 1.0


@pytest.mark.parametrize("batch", [8, 32])
def test_half_life_does_not_depend_on_the_batch(batch):
    cfg = TrainingConfig(batch=batch, ema_half_life_kimg=1.28, ema_rampup=None)
    product = math.prod(schedules.ema_decay(cfg, n) for n in range(0, 1280, batch))
    assert product == pytest.approx(0.5)


def test_ema_decay_ramps_up():
    cfg = TrainingConfig(batch=32)
    assert schedules.ema_decay(cfg, 0) == 0
    assert schedules.ema_decay(cfg, 32_000) == pytest.approx(0.5 ** (32 / 1600))
    assert schedules.ema_decay(cfg, 10**7) == pytest.approx(0.5 ** (32 / 10_000))


def test_lazy_adam_has_the_published_values():
    g = schedules.lazy_adam(AdamConfig(lr=0.0025), 4)
    d = schedules.lazy_adam(AdamConfig(lr=0.002), 16)
    assert (g.lr, g.betas[1]) == pytest.approx((0.002, 0.99199), rel=1e-5)
    assert (d.lr, d.betas[1]) == pytest.approx((0.0018824, 0.99059), rel=1e-4)
    assert schedules.lazy_adam(AdamConfig(), 1) == AdamConfig()


@pytest.mark.parametrize("batch", [7, 32, 300])
def test_actions_are_due_once_per_interval(batch):
    total = batch * 100
    times = sum(schedules.is_due(0.1, n, n + batch) for n in range(0, total, batch))
    assert times == min(100, total // 100)
    assert not schedules.is_due(0.0, 0, 10**9)

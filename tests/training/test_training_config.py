import pytest

from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.training.config import (
    AdamConfig,
    LoggingConfig,
    LossConfig,
    OptimizersConfig,
    ResolutionScheduleConfig,
    TrainingConfig,
)


@pytest.mark.parametrize(
    ("cls", "option"),
    [
        (LossConfig, "r1_gamma=-1.0"),
        (LossConfig, "r2_gamma=-1.0"),
        (LossConfig, "r1_interval=0"),
        (LossConfig, "style_mixing=1.5"),
        (LossConfig, "density_reg=-0.1"),
        (LossConfig, "density_reg_interval=0"),
        (LossConfig, "density_reg_num_points=0"),
        (LossConfig, "density_reg_distance=0.0"),
        (AdamConfig, "lr=0.0"),
        (AdamConfig, "betas=[0.0, 1.0]"),
        (AdamConfig, "eps=0.0"),
        (OptimizersConfig, "warmup_kimg=-1.0"),
        (OptimizersConfig, "decay_start=1.1"),
        (OptimizersConfig, "decay_to=-0.1"),
        (ResolutionScheduleConfig, "initial=2"),
        (ResolutionScheduleConfig, "final=64"),
        (ResolutionScheduleConfig, "fade_kimg=-1.0"),
        (TrainingConfig, "kimg=0.0"),
        (TrainingConfig, "kimg=.nan"),
        (TrainingConfig, "batch=0"),
        (TrainingConfig, "microbatch=5"),
        (TrainingConfig, "devices=2"),
        (TrainingConfig, "threads=0"),
        (TrainingConfig, "log_kimg=0.0"),
        (TrainingConfig, "sample_kimg=-1.0"),
        (TrainingConfig, "keep_checkpoints=1"),
        (TrainingConfig, "ema_half_life_kimg=-1.0"),
        (TrainingConfig, "ema_rampup=0.0"),
        (TrainingConfig, "swap_initial=1.1"),
        (TrainingConfig, "blur_sigma=-1.0"),
        (LoggingConfig, "sample_views=0"),
        (LoggingConfig, "sample_swing=4.0"),
        (LoggingConfig, "wandb_timeout=0.0"),
    ],
)
def test_invalid_values_are_rejected_with_their_field_and_a_remedy(cls, option):
    field = option.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"\b{field}.*: (use|set)"):
        from_options(cls, [option])


def test_batches_must_divide_and_the_message_lists_divisors():
    with pytest.raises(ConfigError, match="use one of 1, 2, 3, 4, 6"):
        TrainingConfig(batch=12, microbatch=5)
    with pytest.raises(ConfigError, match=r"divisor of batch / devices = 12 / 2"):
        TrainingConfig(batch=12, devices=2)
    shared = TrainingConfig(batch=12, microbatch=3, devices=2)
    assert (shared.microbatch_size, shared.num_microbatches) == (3, 4)
    assert TrainingConfig(batch=12).microbatch_size == 12


def test_length_is_whole_batches_rounded_up():
    assert TrainingConfig(kimg=0.064, batch=8).num_steps == 8
    assert TrainingConfig(kimg=0.065, batch=8).num_steps == 9
    assert TrainingConfig(kimg=0.001, batch=8).num_steps == 1


def test_r2_is_on_by_default_for_the_relativistic_loss():
    assert LossConfig(r1_gamma=2.0).r2 == 0
    assert LossConfig(adversarial="relativistic", r1_gamma=2.0).r2 == 2
    assert LossConfig(adversarial="relativistic", r2_gamma=0.5).r2 == 0.5
    assert not LossConfig(r1_gamma=0.0).penalises_discriminator


def test_lazy_intervals_are_1_without_a_penalty():
    on = LossConfig(r1_interval=8, density_reg=0.1, density_reg_interval=3)
    off = LossConfig(r1_interval=8, r1_gamma=0.0, density_reg_interval=3)
    assert (on.lazy_penalty, on.lazy_density) == (8, 3)
    assert (off.lazy_penalty, off.lazy_density) == (1, 1)

"""The presets `eg3d/...` match the official program's options for the published commands."""

import json
from pathlib import Path

import ours
import pytest
import reference
from reference import PUBLISHED

from lightning_gan3d.checkpoints import nvidia
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.training import schedules

STORED = json.loads(Path(__file__).with_name("published.json").read_text())


@pytest.mark.parametrize("preset", PUBLISHED)
def test_networks_and_rendering_match_the_published_options(preset):
    options, config = STORED[preset], load_experiment(f"eg3d/{preset}")
    data = {"c_dim": 25, "img_resolution": config.data.resolution, "img_channels": 3}
    names = ("class_name",)
    g = {k: v for k, v in options["G_kwargs"].items() if k not in names} | data
    d = {k: v for k, v in options["D_kwargs"].items() if k not in names} | data
    parts = nvidia.read_generator(ours.source("TriPlaneGenerator", g))
    assert parts.config == config.generator
    actual = nvidia.read_discriminator(ours.source("DualDiscriminator", d))
    assert actual.config == config.discriminator


@pytest.mark.parametrize("preset", PUBLISHED)
def test_training_matches_the_published_options(preset):
    options, config = STORED[preset], load_experiment(f"eg3d/{preset}")
    loss, rendering = options["loss_kwargs"], options["G_kwargs"]["rendering_kwargs"]
    training = schedules.with_init(config.training, config.init_from)
    assert config.loss.adversarial == "nonsaturating"
    assert config.loss.r1_gamma == loss["r1_gamma"]
    assert config.loss.r1_interval == options.get("D_reg_interval", 16)
    assert config.loss.density_reg == rendering["density_reg"]
    assert config.loss.density_reg_interval == options["G_reg_interval"]
    assert config.loss.density_reg_distance == rendering["density_reg_p_dist"]
    assert config.loss.style_mixing == loss["style_mixing_prob"]
    for network, adam in (
        ("G_opt_kwargs", config.optimizer.generator),
        ("D_opt_kwargs", config.optimizer.discriminator),
    ):
        expected = options[network]
        assert (adam.lr, list(adam.betas), adam.eps) == (
            expected["lr"],
            expected["betas"],
            expected["eps"],
        )
    assert training.kimg == options["total_kimg"]
    assert (training.batch, training.devices) == (options["batch_size"], options["num_gpus"])
    assert training.microbatch == options["batch_gpu"]
    assert training.ema_half_life_kimg == options["ema_kimg"]
    assert training.ema_rampup == options.get("ema_rampup", 0.05)
    resolution = training.rendering_resolution
    assert resolution.initial == loss["neural_rendering_resolution_initial"]
    assert resolution.final == loss["neural_rendering_resolution_final"]
    assert resolution.fade_kimg == loss["neural_rendering_resolution_fade_kimg"]
    assert schedules.blur_sigma(training, 0) == loss["blur_init_sigma"]
    if loss["blur_init_sigma"]:
        assert training.blur_fade_kimg == loss["blur_fade_kimg"]
    if loss["gpc_reg_prob"] is None:
        assert config.generator.mapping.label_scale == 0
    else:
        assert training.swap_final == loss["gpc_reg_prob"]
        assert training.swap_fade_kimg == loss["gpc_reg_fade_kimg"]
    if "augment_kwargs" in options:
        assert config.augment.mode == "ada"
        assert config.augment.target == options["ada_target"]
        assert config.augment.speed_kimg == options["ada_kimg"]
    else:
        assert config.augment.mode == "none"


@pytest.mark.skipif(
    reference.checkout() is None, reason=f"{reference.VARIABLE} names no checkout of EG3D"
)
@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_stored_options_match_a_checkout(preset, tmp_path):
    assert reference.official_options(preset, tmp_path) == STORED[preset]

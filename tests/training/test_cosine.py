"""Cosine schedules: closed forms, effect on the optimizers, exact resume; recommended gamma."""

import json
import math
from functools import reduce
from operator import attrgetter

import pytest
import torch
from torch import nn

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import ADDED, load_experiment
from lightning_gan3d.runs import Run
from lightning_gan3d.training import losses, schedules
from lightning_gan3d.training.config import AdamConfig, CosineConfig, TrainingConfig
from lightning_gan3d.training.fit import plan
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.optimizers import gated_step, make_adam

R3GAN = (
    "loss.adversarial=relativistic",
    "loss.r1_gamma=2.0",
    "augment={mode: fixed, probability: 0.0}",
    "optimizer.generator.betas=[0.0, 0.9]",
    "optimizer.discriminator.betas=[0.0, 0.9]",
    "training.ema_half_life_kimg=0",
    "training.ema_rampup=null",
    "training.cosine={kimg: 0.064, gamma_factor: 0.1, lr_factor: 0.25, beta2: 0.99, "
    "ema_half_life_kimg: 0.5, augment_probability: 0.3}",
)


def test_a_cosine_has_its_closed_form():
    cosine = CosineConfig(kimg=20.0, gamma_factor=0.1)
    values = [
        schedules.cosine(cosine, n, 1.0, 0.1) for n in (0, 5_000, 10_000, 15_000, 20_000, 10**9)
    ]
    quarter = math.sqrt(2) / 4
    share = [0, 0.5 - quarter, 0.5, 0.5 + quarter, 1, 1]
    assert values == pytest.approx([1 - 0.9 * s for s in share])
    assert schedules.cosine(cosine, 10_000, 0.7, None) == 0.7


def test_the_schedules_of_a_module_have_r3gans_values(tiny):
    module = AdversarialModule(tiny(*R3GAN, "loss.r1_interval=2"), 16, torch.zeros(1, 25))
    start, middle, end = (module.schedule(step) for step in (0, 4, 8))
    assert [s.gamma_factor for s in (start, middle, end)] == pytest.approx([1, 0.55, 0.1])
    assert [s.learning_rate_factor for s in (start, middle, end)] == pytest.approx([1, 0.625, 0.25])
    assert [s.augment_probability for s in (start, middle, end)] == pytest.approx([0, 0.15, 0.3])
    assert [s.beta2_g for s in (start, middle, end)] == pytest.approx([0.9, 0.945, 0.99])
    # Two penalties in three steps of the discriminator: the power 2 / 3 comes after the schedule.
    assert [s.beta2_d for s in (start, middle, end)] == pytest.approx(
        [b ** (2 / 3) for b in (0.9, 0.945, 0.99)]
    )
    half_lives = [math.inf if s.ema_decay == 0 else s.ema_decay for s in (start, middle, end)]
    assert half_lives == pytest.approx([math.inf, 0.5 ** (8 / 250), 0.5 ** (8 / 500)])


def test_the_half_life_changes_from_the_default():
    cosine = CosineConfig(kimg=1.0, ema_half_life_kimg=2.0)
    training = TrainingConfig(batch=32, ema_rampup=None, cosine=cosine)  # 10 kimg
    assert schedules.ema_decay(training, 500) == pytest.approx(0.5 ** (32 / 6000))


def test_a_fine_tuning_continues_the_cosines_of_its_source(tiny):
    module = AdversarialModule(tiny(*R3GAN), 16, torch.zeros(1, 25))
    module.images_before = 32
    assert module.schedule(0).gamma_factor == pytest.approx(0.55)


def test_a_step_uses_the_scheduled_beta2_as_torch_does():
    torch.manual_seed(0)
    ours, moment = nn.Parameter(torch.ones(3)), torch.zeros(3)
    expected = ours.detach().clone()
    optimizer = make_adam([ours], AdamConfig(lr=0.1, betas=(0.0, 0.9)))
    for step, beta2 in enumerate((0.9, 0.95, 0.99), start=1):
        ours.grad = torch.randn(3)
        moment = beta2 * moment + (1 - beta2) * ours.grad**2
        root = (moment / (1 - beta2**step)).sqrt()
        expected -= 0.1 * ours.grad / (root + 1e-8)
        gated_step(optimizer, 1.0, torch.tensor(True), beta2)
    torch.testing.assert_close(ours.detach(), expected)


def test_every_cosine_reaches_its_consumer(tiny):
    config = tiny(*R3GAN)
    data = DataModule(config.data, 8, 8, 0)
    module = AdversarialModule(config, 16, data.train.labels)
    data.set_start_step(4)
    module.training_step(next(iter(data.train_dataloader(0, 1))), 0)
    state = module.schedule(4)
    for optimizer, beta2 in (
        (module.optimizer_g, state.beta2_g),
        (module.optimizer_d, state.beta2_d),
    ):
        (group,) = optimizer.param_groups
        assert group["betas"] == (0.0, beta2)
        assert group["lr"] == pytest.approx(0.625 * optimizer.defaults["lr"])
    assert float(module.augment.p) == pytest.approx(0.15)


@pytest.mark.parametrize("interval", [1, 2])
def test_the_factor_multiplies_the_penalty_of_either_kind_of_step(tiny, train, numbers, interval):
    """With a factor of 0, the weight is immaterial."""
    off = (f"loss.r1_interval={interval}", "training.cosine={kimg: 0.001, gamma_factor: 0.0}")
    weights = [numbers(train(tiny(*off, f"loss.r1_gamma={g}"), 1, 2)) for g in (5.0, 9.0)]
    assert torch.equal(*weights)


def test_a_resume_within_the_cosines_is_bitwise_equal(tiny, resumed, numbers):
    config = tiny(*R3GAN, "training.freeze=[mapping, discriminator.b16]")
    whole, half, module = resumed(config)
    assert torch.equal(numbers(module), numbers(whole))
    assert not torch.equal(numbers(half), numbers(whole))


def test_the_log_has_the_cosines_of_a_run(tiny, start):
    _, path, _ = start(tiny(*R3GAN, "training.kimg=0.016"))
    (row,) = Run(path).metrics()
    assert row["schedule/beta2_g"] == pytest.approx(0.9 + 0.09 * (1 - math.cos(math.pi / 8)) / 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["training.cosine.beta2=0.99"], r"training.cosine.kimg=0: set the length .*, e.g. \$\{tr"),
        (
            ["training.cosine={kimg: 1, augment_probability: 0.3}", "augment.mode=ada"],
            "augment.mode=ada ignores it; set augment.mode=fixed",
        ),
    ],
)
def test_values_that_nothing_would_read_are_rejected(tiny, options, text):
    with pytest.raises(ConfigError, match=text):
        tiny(*options)


def test_gamma_is_recommended_by_resolution_and_batch_and_never_changed(tiny):
    # StyleGAN2-ADA's automatic configuration: 6.5536 at 1024² and batch 32.
    assert losses.recommended_gamma(1024, 32) == pytest.approx(6.5536)
    (line,) = (text for text in plan(tiny()).splitlines() if "gamma" in text)
    assert "0.5; recommended 0.0064 = 0.0002 * 16² / batch 8 (StyleGAN2-ADA;" in line
    assert "R3GAN" not in line
    assert "R3GAN starts at" in plan(tiny("loss.adversarial=relativistic"))


def test_added_options_enter_the_hash_only_when_they_are_used(tiny, monkeypatch):
    changed = tiny("training.cosine={kimg: 1, beta2: 0.999}", "training.freeze=[mapping]")
    monkeypatch.setattr("lightning_gan3d.config.digest", json.dumps)
    plain, used = json.loads(tiny().hash), json.loads(changed.hash)
    for key, default in ADDED.items():
        *parts, name = key.split(".")
        if parts[-1:] in (["object"], ["background"], ["proxy"]):
            continue  # of scenes of parts and of proxied renderers: see the next test
        assert name not in reduce(dict.__getitem__, parts, plain)
        solid = ["generator.representation={kind: solid}"] if name == "colour" else []
        config = tiny(*solid)
        assert cfg.to_tree(default) == cfg.to_tree(attrgetter(key)(config))
    assert used["training"]["freeze"] == ["mapping"]
    assert used["training"]["cosine"]["beta2"] == 0.999


def test_presets_keep_the_hashes_of_earlier_versions():
    hashes = {"triplane": "a9ea5266", "voxel": "0bbc20a6", "demo/image2d": "dc00c6ae"}
    hashes["family/small_giraffe_hd"] = "ea3b7c70"  # a scene of parts
    hashes["family/small_iggan"] = "7147ce50"  # a proxied renderer
    assert {name: load_experiment(name).hash for name in hashes} == hashes

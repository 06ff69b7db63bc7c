"""Progressive growing in training: levels, fades of images, optimizers, resume, evaluation."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.cost import count_cost
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.images import Images, at_level, to_float
from lightning_gan3d.presets import preset_names
from lightning_gan3d.runs import Run
from lightning_gan3d.training import checkpoint, schedules
from lightning_gan3d.training.callbacks import sample_cameras, sample_grid
from lightning_gan3d.training.compatibility import check_trainable
from lightning_gan3d.training.config import GrowingConfig, LoggingConfig, StageConfig
from lightning_gan3d.training.fit import plan
from lightning_gan3d.training.module import AdversarialModule, make_modules

WHOLE = "training.rendering_resolution={initial: null, final: null}"
FADE = (
    WHOLE,
    "training.growing.stages=[{resolution: 8, kimg: 0.004}, {resolution: 16, fade_kimg: 0.028}]",
)
"""Half-way at 18 images; a step has 8."""
THREE = (
    WHOLE,
    "training.growing.stages=[{resolution: 4, kimg: 0.008}, "
    "{resolution: 8, fade_kimg: 0.016, kimg: 0.008, lr_factor: 0.5}, "
    "{resolution: 16, fade_kimg: 0.016, r1_gamma: 2.0}]",
)
"""Levels of steps 0 to 6: 4, 4, in a fade, 8, 8, in a fade, 16."""
TRIPLANE = "kind: triplane, resolution: 16"
WGAN = ("loss.adversarial=wgan", "loss.r1_gamma=0")
VOXEL = (
    "generator.representation={kind: voxel, resolution: 16, channels: 4, "
    "synthesis: {channels: [8, 8, 8]}}"
)


def progan_lod(kimg, top, first, train, fade):
    """The formula of Karras et al.'s schedule: level of detail below 2^top, from 2^first."""
    phase = math.floor(kimg / (train + fade))
    within = kimg - phase * (train + fade)
    return max(top - first - phase - max(within - train, 0) / fade, 0.0)


@pytest.mark.parametrize("fade", [600.0, 400.0])
def test_levels_are_progans(fade):
    sides = [2**k for k in range(2, 11)]
    first, *others = (StageConfig(r, fade, 600.0) for r in sides)
    last = StageConfig(1024, fade)
    cfg = GrowingConfig((StageConfig(first.resolution, 0.0, 600.0), *others[:-1], last))
    for images in range(0, 12_000_000, 25_000):
        level = schedules.level(cfg, images)
        lod = progan_lod(images / 1000, 10, 2, 600, fade)
        assert level.lod(1024) == pytest.approx(lod, abs=1e-9), images
        assert level.resolution == 2 ** (10 - math.floor(lod)) == sides[level.stage]
    lods = [schedules.level(cfg, n).lod(1024) for n in range(0, 12_000_000, 25_000)]
    assert all(a >= b for a, b in itertools.pairwise(lods))
    assert (lods[0], lods[-1]) == (8.0, 0.0)


def test_without_a_fade_a_stage_starts_at_once():
    cfg = GrowingConfig((StageConfig(8, 0.0, 1.0), StageConfig(16)))
    levels = [schedules.level(cfg, n) for n in (0, 999, 1000)]
    assert levels == [(0, 8, 1.0), (0, 8, 1.0), (1, 16, 1.0)]


def test_a_stage_has_its_factors(tiny):
    options = ("training.blur_sigma=4", "training.blur_fade_kimg=1000000")
    module = AdversarialModule(tiny(*THREE, *options), 16, torch.zeros(1, 25))
    states = [module.schedule(step) for step in range(7)]
    assert [s.level.resolution for s in states] == [4, 4, 8, 8, 8, 16, 16]
    assert [s.level.alpha for s in states] == [1, 1, 0.5, 1, 1, 0.5, 1]
    assert [s.rendering_resolution for s in states] == [s.level.resolution for s in states]
    assert [s.learning_rate_factor for s in states] == [1, 1, 0.5, 0.5, 0.5, 1, 1]
    assert [s.gamma_factor for s in states] == [1, 1, 1, 1, 1, 4, 4]
    assert [s.blur_sigma for s in states] == pytest.approx([1, 1, 2, 2, 2, 4, 4], rel=1e-3)


@pytest.mark.parametrize("kind", ["triplane", "image2d"])
def test_one_stage_of_full_size_changes_no_bit(tiny, train, numbers, kind):
    one = "training.growing.stages=[{resolution: 16}]"
    runs = [train(tiny(WHOLE, *options, kind=kind)) for options in ((), (one,))]
    assert torch.equal(*(numbers(module) for module in runs))


@pytest.mark.parametrize("options", [(), (VOXEL,)])
def test_a_resume_in_a_fade_is_bitwise_equal(tiny, resumed, numbers, options):
    config = tiny(*FADE, *options)
    whole, half, module = resumed(config)
    assert 0 < half.discriminator.lod < 1
    assert torch.equal(numbers(module), numbers(whole))
    assert not torch.equal(numbers(half), numbers(whole))
    assert module.generator.representation.lod == whole.average.representation.lod


def test_moments_are_cleared_when_a_fade_starts_or_ends(tiny, train):
    """The fused Adam counts the steps of each parameter since the last change."""
    options = (*THREE, "loss.r1_gamma=0.5", "loss.r1_interval=1")

    def steps(module):
        adam, parameter = module.optimizer_d, module.discriminator.b4.out.weight
        return int(adam.state[parameter]["step"])

    assert [steps(train(tiny(*options), n)) for n in (2, 3, 4, 5, 7)] == [2, 1, 1, 2, 1]
    kept = (*options, "training.growing.reset_optimizer=false")
    module = train(tiny(*kept), 4)
    assert steps(module) == 4
    used = module.optimizer_d.state
    assert module.discriminator.b16.conv0.weight not in used  # no level of 16 pixels yet
    assert int(used[module.discriminator.b8.conv0.weight]["step"]) == 2


def test_unused_blocks_stay_as_they_are(tiny, train):
    config = tiny(*THREE, kind="image2d")
    before = AdversarialModule(config, 16, torch.zeros(1, 25))
    after = train(config, 2)
    for name, value in after.average.named_parameters():
        start = before.average.get_parameter(name)
        unused = any(f".b{r}." in name for r in (8, 16))
        assert torch.equal(value, start) == unused, name


def test_both_networks_meet_images_of_one_level(tiny):
    for options in (("generator.representation.output=linear",), ()):
        kind = "image2d" if options else "triplane"
        module, data = make_modules(tiny(*THREE, *options, kind=kind))
        data.set_start_step(5)
        (mb,) = module.split(next(iter(data.train_dataloader(0, 1))))
        module.set_level(mb.schedule)
        reals = module.input.reals(mb)
        fakes, _ = module.generate(module.fake_labels(mb), mb)
        for images in (reals, fakes):
            assert images.image.shape == images.image_raw.shape == (8, 3, 16, 16)
            assert images.image is images.image_raw
        full = to_float(mb.images)
        low = F.interpolate(at_level(full, 8), scale_factor=2)
        torch.testing.assert_close(reals.image, (low + full) / 2)


@pytest.mark.parametrize(
    "options",
    [
        ("augment={mode: fixed, probability: 1.0}", "training.blur_fade_kimg=1000"),
        ("loss.adversarial=relativistic", "loss.r1_interval=1", "training.views=2"),
        ("loss.adversarial=wgan", "loss.r1_gamma=0", "training.precision=bf16"),
    ],
)
def test_other_options_work_in_every_level(tiny, train, options):
    stages = [option.replace(", r1_gamma: 2.0", "") for option in THREE]
    module = train(tiny(*stages, *options), 7)
    assert module.gate.broken() is None
    assert all(math.isfinite(value) for value in module.meter.read().values())


def test_a_checkpoint_in_a_fade_generates_images_of_its_level(tiny, train, tmp_path):
    config = tiny(*FADE, kind="image2d")
    module = train(config, 2)
    generator = load_generator(checkpoint.save(module, config, tmp_path, 1.0))
    level = module.schedule(1).level
    assert generator.representation.lod == level.lod(16) == pytest.approx(1 - 4 / 28)
    module.average.representation.lod = 0.0
    z, cameras = torch.randn(2, 8), sample_cameras(module.camera_labels, LoggingConfig())
    cameras = cameras.select(slice(0, 2))
    label = cameras.to_label()
    images, other = (g(z, label, cameras) for g in (generator, module.average))
    assert images.image.shape == (2, 3, 16, 16)
    assert not torch.equal(images.image, other.image)
    generator.representation.lod, generator.rendering_resolution = 1.0, 8
    images = generator(z, label, cameras)
    assert images.image_raw.shape[-1] == 8
    enlarged = F.interpolate(images.image_raw, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(images.image, enlarged)
    grid = sample_grid(generator, cameras, config.logging, 0, torch.device("cpu"))
    assert grid.shape == (2 * 16, 2 * 16, 3)


def test_the_log_has_the_level_and_the_flops_of_its_networks(tiny, start):
    config = tiny(*FADE, "training.log_kimg=0.008", "training.kimg=0.016", kind="image2d")
    _, path, _ = start(config)
    first, second = Run(path).metrics()
    assert (first["schedule/stage"], second["schedule/stage"]) == (0, 1)
    assert second["schedule/alpha"] == pytest.approx(4 / 28)
    generator = load_generator(path)
    assert second["gflop/G"] == pytest.approx(count_cost(generator).total_flops / 1e9)
    generator.representation.lod = 1.0
    assert first["gflop/G"] == pytest.approx(count_cost(generator, 8).total_flops / 1e9)
    assert 2 < second["gflop/D"] / first["gflop/D"] < 8


@pytest.mark.parametrize("grows", [False, True])
def test_a_start_without_or_with_levels_fits(tiny, tmp_path, caplog, grows):
    caplog.set_level("INFO", "lightning_gan3d")
    options = [(WHOLE,), FADE]
    config = tiny(*options[not grows])
    source = AdversarialModule(config, 16, torch.zeros(1, 25))
    path = checkpoint.save(source, config, tmp_path, 1.0)
    config = tiny(*options[grows], f"init_from.path={path}", "seed=1")
    module = AdversarialModule(config, 16, torch.zeros(1, 25))
    before = dict(module.discriminator.state_dict())
    checkpoint.initialise(module, config, None)
    for name, value in module.discriminator.state_dict().items():
        start = before if name.startswith("fromrgb.") else source.discriminator.state_dict()
        assert torch.equal(value, start[name]), name
    what = "starts at random" if grows else "is not used"
    assert f"D's fromrgb.8.weight {what}" in caplog.text


def test_the_plan_has_the_levels_and_where_they_end(tiny):
    for kimg, text in (("0.018", "; ends at 16², faded in to 71%"), ("0.064", "\n")):
        assert f"\ngrowing         8², 16²{text}" in plan(tiny(*FADE, f"training.kimg={kimg}"))


def test_the_critics_loss_by_hand(tiny, monkeypatch):
    module, data = make_modules(tiny(WHOLE, *WGAN, "loss.wgan_penalty=3", "loss.wgan_drift=0.5"))
    (mb,) = module.split(next(iter(data.train_dataloader(0, 1))))
    losses_seen = []
    monkeypatch.setattr(module, "_backward", lambda loss, *_: losses_seen.append(loss.detach()))
    critic, drawn = module.discriminator, mb.scope("D")
    label = module.fake_labels(drawn)
    fake, real = module.generate(label, drawn)[0].image, module.input.reals(drawn).image
    share = drawn.scope("between").draws.uniform("share", (8, 1, 1, 1))
    between = ((1 - share) * real + share * fake).requires_grad_()
    on_fake, on_real, on_between = (
        critic(Images(x, x), y) for x, y in ((fake, label), (real, mb.labels), (between, mb.labels))
    )
    (slope,) = torch.autograd.grad(on_between.sum(), between)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    expected = on_fake.mean() - on_real.mean() + 0.5 * on_real.square().mean() + 3 * penalty
    module.discriminator_step([mb])
    torch.testing.assert_close(losses_seen, [expected.detach()])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["training.growing.stages=[]"], "use one or more"),
        (["training.growing.stages=[{resolution: 4, kimg: 1}, {resolution: 16}]"],
         r"stages.1.resolution=16: use 8"),
        (["training.growing.stages=[{resolution: 16, fade_kimg: 1}]"], "nothing comes before"),
        (["training.growing.stages=[{resolution: 16, kimg: 1}]"], "stages.0.kimg=1.0: use null"),
        (["training.growing.stages=[{resolution: 8}, {resolution: 16}]"],
         "stages.0.kimg=None: use a number"),
        ([WHOLE, "training.growing.stages=[{resolution: 8}]"], "last stage to 16"),
        ([*FADE, "discriminator.dual=true"], "discriminator.dual=false"),
        ([*FADE, "generator.superresolution.factor=2"], "superresolution.factor=1"),
        ([*FADE, "training.patch.resolution=8"], "training.patch=null"),
        ([FADE[1]], re.escape(WHOLE)),
        ([*FADE, "training.compile=true"], "training.compile=false"),
        ([*THREE, "loss.r1_gamma=0"], "loss.r1_gamma above 0"),
        (["loss.adversarial=wgan"], "set loss.r1_gamma=0"),
        ([*WGAN, "augment.mode=ada"], "set augment.mode=fixed or none"),
        ([*WGAN, f"generator.representation={{kind: composed, object: {{{TRIPLANE}}}}}",
          "discriminator.objects={}"], "set loss.adversarial=nonsaturating"),
        (["cameras={kind: prior, preset: faces}", "loss.adversarial=wgan", "loss.r1_gamma=0"],
         "a pair has two cameras"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_rejected(tiny, options, text):
    with pytest.raises(ConfigError, match=text):
        check_trainable(tiny(*options), 16)


GROWING = [n for n in preset_names("runs") if n.startswith("growing/") or "progan" in n]


@pytest.mark.parametrize("name", GROWING)
def test_the_presets_end_at_full_size(name):
    config = load_experiment(name)
    check_trainable(config, config.data.resolution)
    last = schedules.level(config.training.growing, round(1000 * config.training.kimg))
    assert (last.resolution, last.alpha) == (config.data.resolution, 1.0)

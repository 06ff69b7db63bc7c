import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import make_networks
from lightning_gan3d.images import resize, to_float
from lightning_gan3d.networks.layers import Conv2dLayer, FullyConnected, SynthesisLayer
from lightning_gan3d.training import losses
from lightning_gan3d.training.module import AdversarialModule

PLAIN = ("loss.r1_gamma=0", "training.rendering_resolution={initial: 8, final: null}")
"""Steps without penalties, at one resolution."""


SECOND = ("fade_kimg", "start_kimg", "ema_", "decay_to")
"""Parts of the options that take effect in the second step."""


@pytest.fixture(scope="module")
def plain_numbers():
    """Weights without the option, trained once per module."""
    return {}


@pytest.fixture
def changes(tiny, train, numbers, plain_numbers):
    """A function: True if an option, added to others, changes the weights."""

    def differ(base, override):
        steps = 2 if any(part in override for part in SECOND) else 1
        if (base, steps) not in plain_numbers:
            plain_numbers[base, steps] = numbers(train(tiny(*PLAIN, *base), steps))
        weights = numbers(train(tiny(*PLAIN, *base, override), steps))
        return not torch.equal(plain_numbers[base, steps], weights)

    return differ


def batches(config, steps):
    data = DataModule(
        config.data, config.training.batch, config.training.microbatch_size, config.seed
    )
    module = AdversarialModule(config, data.train.resolution, data.train.labels)
    return module, [b for _, b in zip(range(steps), data.train_dataloader(0, 1), strict=False)]


def generate(module, label, mb):
    ws, cameras = module.styles(label, mb), Cameras.from_label(label)
    return module.generator.synthesis(ws, cameras, mb.schedule.rendering_resolution, mb.draws)[1]


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "training.batch=4",
        "training.microbatch=4",
        "training.rendering_resolution={initial: 12, final: null}",
        "training.rendering_resolution={initial: 8, final: 16, start_kimg: 0.008, fade_kimg: 0}",
        "training.rendering_resolution={initial: 8, final: 16, start_kimg: 0, fade_kimg: 0.016}",
        "training.ema_rampup=0.9",
        "training.blur_fade_kimg=1.0",
        "loss.adversarial=relativistic",
        "loss.r1_gamma=3.0",
        "loss.r2_gamma=3.0",
        "loss.style_mixing=1.0",
        "loss.density_reg=5.0",
        "optimizer.generator.lr=0.1",
        "optimizer.discriminator.lr=0.1",
        "optimizer.generator.betas=[0.5, 0.99]",
        "optimizer.discriminator.betas=[0.0, 0.5]",
        "optimizer.generator.eps=1e-2",
        "optimizer.warmup_kimg=1.0",
        "optimizer.decay_start=0.0",
        "augment={mode: fixed, probability: 0.9}",
    ],
)
def test_options_change_the_weights(changes, override):
    assert changes((), override)


@pytest.mark.parametrize(
    ("base", "override"),
    [
        (("training.ema_rampup=null",), "training.ema_half_life_kimg=0.01"),
        (("training.blur_fade_kimg=1.0",), "training.blur_sigma=2.0"),
        (("training.blur_fade_kimg=1.0", "discriminator.dual=true"), "training.blur_raw=eg3d"),
        (("loss.r1_gamma=3.0",), "loss.r1_interval=1"),
        (("loss.r1_gamma=3.0", "training.blur_fade_kimg=1.0"), "loss.penalty_at=discriminator"),
        (("loss.density_reg=5.0",), "loss.density_reg_interval=1"),
        (("loss.density_reg=5.0",), "loss.density_reg_points=eg3d"),
        (("loss.density_reg=5.0",), "loss.density_reg_num_points=10"),
        (("loss.density_reg=5.0",), "loss.density_reg_distance=0.1"),
        (("optimizer.decay_start=0.0",), "optimizer.decay_to=0.9"),
        (("generator.mapping.condition=camera",), "training.swap_initial=0.0"),
        (
            ("generator.mapping.condition=camera", "training.swap_fade_kimg=0.0"),
            "training.swap_final=0.0",
        ),
        (("generator.mapping.condition=camera",), "training.swap_fade_kimg=0.008"),
    ],
)
def test_nested_options_change_the_weights(changes, base, override):
    assert changes(base, override)


def test_equal_seeds_give_equal_weights(tiny, train, numbers):
    assert torch.equal(numbers(train(tiny())), numbers(train(tiny())))


def test_representations_start_with_the_same_discriminator(tiny):
    first = make_networks(tiny(), 16)[1].state_dict()
    second = make_networks(tiny(kind="image2d"), 16)[1].state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_each_step_moves_its_own_network(tiny):
    module, (batch,) = batches(tiny(), 1)
    microbatches = module.split(batch)

    def weights(network):
        return [p.detach().clone() for p in network.parameters()]

    g, d = weights(module.generator), weights(module.discriminator)
    module.generator_step(microbatches)
    assert any(not torch.equal(a, b) for a, b in zip(g, weights(module.generator), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(d, weights(module.discriminator), strict=True))
    g = weights(module.generator)
    module.discriminator_step(microbatches)
    assert all(torch.equal(a, b) for a, b in zip(g, weights(module.generator), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(d, weights(module.discriminator), strict=True))


def steps_of(module):
    """The four optimizer steps, in order."""
    return [
        module.generator_step, module.density_step, module.discriminator_step, module.penalty_step,
    ]  # fmt: skip


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
def test_the_gradient_is_that_of_the_mean_over_the_global_batch(tiny, gradients, loss):
    config = tiny("training.microbatch=4", f"loss.adversarial={loss}", "loss.density_reg=1.0")
    module, (batch,) = batches(config, 1)
    module.training_step(batch, 0)
    whole = list(gradients)
    assert len(whole) == 4
    for step, gradient in zip(steps_of(module), whole, strict=True):
        gradients.clear()
        for microbatch in module.split(batch):
            step([microbatch])
        for expected, *parts in zip(gradient, *gradients, strict=True):
            if expected is not None:
                torch.testing.assert_close(
                    sum(parts), expected, msg=lambda m, s=step: f"{s.__name__}: {m}"
                )
    # One of two microbatches has half the weight.
    alone, (batch,) = batches(config, 1)
    (first, *_), parameters = alone.split(batch), list(alone.discriminator.parameters())
    label = alone.fake_labels(first.scope("D"))
    with torch.no_grad():
        fake = generate(alone, label, first.scope("D"))
    pair = [
        alone.judge(images, labels, first.scope("D"), real)[0].logits
        for images, labels, real in (
            (fake, label, False),
            (alone.input.reals(first), first.labels, True),
        )
    ]
    loss_of_d = losses.discriminator_loss(config.loss.adversarial, *pair)
    expected = torch.autograd.grad(loss_of_d, parameters, allow_unused=True)
    gradients.clear()
    alone.discriminator_step([first])
    for part, of_loss in zip(gradients[0], expected, strict=True):
        if part is not None:
            torch.testing.assert_close(part, of_loss / 2)


def test_lazy_penalties_have_their_interval_as_weight(tiny, gradients):
    config = tiny("loss.r1_interval=3", "loss.density_reg=1.0", "loss.density_reg_interval=2")
    module, all_batches = batches(config, 6)
    for batch in all_batches:
        module.training_step(batch, 0)
    assert len(gradients) == 6 * 2 + 2 + 3
    gradients.clear()
    for interval in (3, 2):
        module, (batch,) = batches(tiny(f"loss.r1_interval={interval}"), 1)
        module.penalty_step(module.split(batch))
    for lazy, other in zip(*gradients, strict=True):
        if lazy is not None:
            torch.testing.assert_close(lazy / 3, other / 2)


def test_a_penalty_with_interval_1_is_part_of_the_discriminator_step(tiny, gradients):
    module, all_batches = batches(tiny("loss.r1_interval=1"), 3)
    for batch in all_batches:
        module.training_step(batch, 0)
    assert len(gradients) == 6


def test_pairs_of_the_relativistic_loss_share_their_labels(tiny):
    module, (batch,) = batches(tiny("loss.adversarial=relativistic"), 1)
    labels = []
    module.discriminator.register_forward_pre_hook(lambda _, args: labels.append(args[1]))
    module.training_step(batch, 0)
    each = [part for label in labels for part in label.split(len(batch.labels))]
    assert len(each) == 6  # G: fake, real; D: fake and real at once; penalties: real, fake
    assert all(torch.equal(label, batch.labels) for label in each)


def test_the_discriminator_gets_the_true_camera_and_the_generator_a_swapped_one(tiny):
    config = tiny("generator.mapping.condition=camera")
    module, (batch,) = batches(config, 1)
    labels, conditions, cameras = [], [], []
    module.discriminator.register_forward_pre_hook(lambda _, args: labels.append(args[1]))
    module.generator.mapping.register_forward_pre_hook(lambda _, args: conditions.append(args[1]))
    module.generator.renderer.register_forward_pre_hook(lambda _, args: cameras.append(args[1]))
    module.generator_step(module.split(batch))
    assert torch.equal(labels[0], cameras[0].to_label())
    assert torch.equal(conditions[0], labels[0].roll(1, 0))  # swapped for certain at the start


def test_cameras_are_not_swapped_without_a_3d_scene(tiny):
    module, (batch,) = batches(tiny(kind="image2d"), 1)
    labels, conditions = [], []
    module.discriminator.register_forward_pre_hook(lambda _, args: labels.append(args[1]))
    module.generator.mapping.register_forward_pre_hook(lambda _, args: conditions.append(args[1]))
    module.generator_step(module.split(batch))
    assert torch.equal(conditions[0], labels[0])


def test_reals_are_reduced_like_fakes_but_not_beside_a_picture(tiny):
    module, (batch,) = batches(tiny(), 1)
    (mb,) = module.split(batch)
    assert mb.schedule.rendering_resolution == 8
    fake = generate(module, mb.labels, mb)
    real = module.input.reals(mb)
    for pair in (fake, real):
        assert pair.image.shape[-1] == 16
        assert pair.image_raw.shape[-1] == 8
        torch.testing.assert_close(pair.image, resize(pair.image_raw, 16))
    picture, (batch,) = batches(tiny(kind="image2d"), 1)
    sharp = picture.input.reals(picture.split(batch)[0]).image
    torch.testing.assert_close(sharp, to_float(batch.images))


def test_styles_are_mixed_by_the_microbatch(tiny):
    module, (batch,) = batches(tiny("loss.style_mixing=1.0"), 1)
    ws = module.styles(batch.labels, module.split(batch)[0])
    same = (ws == ws[:, :1]).all(-1)
    assert torch.equal(same, same[:1].expand_as(same))  # one cutoff
    cutoff = int(same[0].sum())
    assert 1 <= cutoff < ws.shape[1]
    assert (ws[:, cutoff:] == ws[:, cutoff : cutoff + 1]).all()


def mean_w(module, microbatches):
    """Mean style over the latents that a discriminator step draws."""
    scoped = [mb.scope("D") for mb in microbatches]
    return torch.cat([module.styles(module.fake_labels(mb), mb)[:, 0] for mb in scoped]).mean(0)


@pytest.mark.parametrize(("follows", "num"), [("global", 2), ("eg3d", 1)])
def test_the_mean_style_follows_the_global_batch_or_its_first_microbatch(tiny, train, follows, num):
    config = tiny("training.microbatch=4", f"training.w_avg_from={follows}")
    before, (batch,) = batches(config, 1)
    before.generator_step(before.split(batch))
    expected = mean_w(before, before.split(batch)[:num]).detach()
    after = train(config, steps=1)
    decay = config.generator.mapping.w_avg_decay
    torch.testing.assert_close(after.generator.mapping.w_avg, expected * (1 - decay))
    assert torch.equal(after.average.mapping.w_avg, after.generator.mapping.w_avg)


def test_one_coin_swaps_the_cameras_of_a_whole_microbatch(tiny):
    module, (batch,) = batches(tiny("generator.mapping.condition=camera"), 1)
    (mb,) = module.split(batch)
    for step in range(8):
        draws = mb.draws.at(step)
        never, maybe = (
            mb._replace(draws=draws, schedule=mb.schedule._replace(swap_probability=p))
            for p in (0.0, 0.5)
        )
        one = module.styles(batch.labels, maybe, num_coins=1)
        both = [module.styles(x, never) for x in (batch.labels, batch.labels.roll(1, dims=0))]
        swapped = float(draws.uniform("swap", (1, 1))) < 0.5
        torch.testing.assert_close(one, both[swapped])


def test_the_average_follows_the_generator_and_its_resolution(tiny, train):
    module = train(tiny("training.ema_half_life_kimg=0.008", "training.ema_rampup=null"), steps=5)
    fresh, _ = make_networks(module.config, 16)
    pairs = zip(
        module.average.parameters(), module.generator.parameters(), fresh.parameters(), strict=True
    )
    moved = [(a, g, f) for a, g, f in pairs if not torch.equal(g, f)]
    assert len(moved) > 10
    assert not any(torch.equal(a, g) for a, g, _ in moved)
    a, g, f = (torch.cat([p.flatten() for p in column]) for column in zip(*moved, strict=True))
    assert (a - g).norm() < (f - g).norm()
    assert module.average.rendering_resolution == 16  # since step 4


def test_adaptive_augmentation_uses_the_signs_of_an_interval(tiny):
    module, all_batches = batches(tiny("augment={mode: ada, interval: 2, speed_kimg: 0.1}"), 3)
    module.discriminator.register_forward_hook(lambda *args: args[-1].abs() + 1)
    for batch in all_batches:
        module.training_step(batch, 0)
    # All logits of reals are positive: p rises by images / speed; the third step is pending.
    torch.testing.assert_close(module.augment.p, torch.tensor(16 / 100))
    assert module.sign_sum == 1


def test_bf16_multiplies_in_bf16_except_for_penalties(tiny):
    config = tiny("training.precision=bf16", "loss.r1_interval=1")
    lazy = tiny("training.precision=bf16", "loss.r1_interval=2")

    def dtypes_in(config, network, kind):
        module, (batch,) = batches(config, 1)
        dtypes = []
        part = getattr(module, network, None) or getattr(module.generator, network)
        leaf = next(m for m in part.modules() if isinstance(m, kind))
        leaf.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
        module.training_step(batch, 0)
        assert module.gate.healthy
        return dtypes

    low, full = torch.bfloat16, torch.float32
    of_d = "discriminator", Conv2dLayer
    assert dtypes_in(lazy, *of_d) == [low, low, full]  # G, fakes and reals, R1
    assert dtypes_in(config, *of_d) == [low, full, full]  # G; fakes, and reals with R1
    assert set(dtypes_in(lazy, "representation", SynthesisLayer)) == {low}
    assert set(dtypes_in(lazy, "representation", FullyConnected)) == {full}  # styles


def test_bf16_is_close_to_fp32(tiny, train):
    exact, rounded = train(tiny(), 1), train(tiny("training.precision=bf16"), 1)
    means = rounded.meter.read()
    for name, value in exact.meter.read().items():
        assert means[name] == pytest.approx(value, rel=0.2, abs=0.1), name
    assert all(p.dtype == torch.float32 for p in rounded.parameters())


def test_a_step_does_not_synchronise_with_the_device(tiny, monkeypatch):
    # CPU kernels read tensors as arrays, which is no synchronisation.
    module, all_batches = batches(tiny("generator.renderer.path=plain"), 3)
    module.training_step(all_batches[0], 0)

    def fail(*_, **__):
        raise AssertionError("a training step synchronised with the device")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    module.training_step(all_batches[1], 0)
    module.training_step(all_batches[2], 0)


@pytest.mark.parametrize(
    ("phase", "function"),
    [
        ("G loss", "generator_loss"),
        ("G density penalty", "density_l1"),
        ("D loss", "discriminator_loss"),
        ("D penalty", "gradient_penalty"),
    ],
)
def test_a_gradient_that_is_not_finite_changes_nothing(tiny, numbers, monkeypatch, phase, function):
    config = tiny("loss.density_reg=1.0", "loss.density_reg_interval=2", "augment.mode=ada")
    module, all_batches = batches(config, 6)
    for batch in all_batches[:2]:
        module.training_step(batch, 0)
    before = numbers(module)
    genuine = getattr(losses, function)
    with monkeypatch.context() as patch:
        patch.setattr(losses, function, lambda *a, **k: genuine(*a, **k) * float("nan"))
        module.training_step(all_batches[2], 0)
    assert module.gate.broken() == (phase, 2)
    at_breakage = numbers(module)
    if phase == "G loss":
        assert torch.equal(before, at_breakage)
    for batch in all_batches[3:]:
        module.training_step(batch, 0)
    assert torch.equal(at_breakage, numbers(module))
    assert torch.isfinite(at_breakage).all()
    assert torch.isfinite(module.augment.p)

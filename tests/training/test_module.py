import pytest
import torch

from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import make_networks
from lightning_gan3d.networks.layers import Conv2dLayer, FullyConnected, SynthesisLayer
from lightning_gan3d.training import module as module_file
from lightning_gan3d.training.module import AdversarialModule

PLAIN = ("loss.r1_gamma=0", "training.rendering_resolution={initial: 8, final: null}")
"""Steps without penalties, at one resolution."""


SECOND = ("fade_kimg", "start_kimg", "ema_", "decay_to")
"""Parts of the options that show in the second step only."""


@pytest.fixture(scope="module")
def plain_numbers():
    """What options are compared with, trained once."""
    return {}


@pytest.fixture
def changes(tiny, train, numbers, plain_numbers):
    """A function: whether an option, beside others, changes what is learned."""

    def differ(base, override):
        steps = 2 if any(part in override for part in SECOND) else 1
        if (base, steps) not in plain_numbers:
            plain_numbers[base, steps] = numbers(train(tiny(*PLAIN, *base), steps))
        found = numbers(train(tiny(*PLAIN, *base, override), steps))
        return not torch.equal(plain_numbers[base, steps], found)

    return differ


def batches(config, steps):
    data = DataModule(
        config.data, config.training.batch, config.training.microbatch_size, config.seed
    )
    module = AdversarialModule(config, data.train.resolution, data.train.labels)
    return module, [b for _, b in zip(range(steps), data.train_dataloader(0, 1), strict=False)]


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
def test_an_option_changes_what_is_learned(changes, override):
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
def test_an_option_of_an_option_does_too(changes, base, override):
    assert changes(base, override)


def test_the_same_seed_learns_the_same(tiny, train, numbers):
    assert torch.equal(numbers(train(tiny())), numbers(train(tiny())))


def test_representations_meet_the_same_discriminator(tiny):
    first = make_networks(tiny(), 16)[1].state_dict()
    second = make_networks(tiny(kind="image2d"), 16)[1].state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_each_step_moves_its_own_network(tiny):
    module, (batch,) = batches(tiny(), 1)
    now, microbatches = module.now(0), module.split(batch)

    def weights(network):
        return [p.detach().clone() for p in network.parameters()]

    g, d = weights(module.generator), weights(module.discriminator)
    module.generator_step(now, microbatches)
    assert any(not torch.equal(a, b) for a, b in zip(g, weights(module.generator), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(d, weights(module.discriminator), strict=True))
    g = weights(module.generator)
    module.discriminator_step(now, microbatches)
    assert all(torch.equal(a, b) for a, b in zip(g, weights(module.generator), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(d, weights(module.discriminator), strict=True))


def gradients_of(config, steps, monkeypatch):
    """Run steps, and return the gradient of each optimizer step, none of them taken."""
    found = []

    def keep(optimizer, *_):
        parameters = optimizer.param_groups[0]["params"]
        found.append([None if p.grad is None else p.grad.clone() for p in parameters])
        optimizer.zero_grad()

    monkeypatch.setattr(module_file, "gated_step", keep)
    module, all_batches = batches(config, steps)
    for batch in all_batches:
        module.training_step(batch, 0)
    return module, all_batches, found


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
def test_the_gradient_is_that_of_the_mean_over_the_global_batch(tiny, monkeypatch, loss):
    config = tiny("training.microbatch=2", f"loss.adversarial={loss}", "loss.density_reg=1.0")
    module, (batch,), whole = gradients_of(config, 1, monkeypatch)
    phases = [
        ("G loss", module._generator_losses),
        ("G density penalty", module._density_penalties),
        ("D loss", module._discriminator_losses),
        ("D penalty", module._discriminator_penalties),
    ]
    assert len(whole) == len(phases)
    for (phase, terms), gradient in zip(phases, whole, strict=True):
        optimizer = module.optimizer_g if phase[0] == "G" else module.optimizer_d
        parameters = optimizer.param_groups[0]["params"]
        each = [
            torch.autograd.grad(term, parameters, allow_unused=True)
            for term in terms(module.now(0), module.split(batch))
        ]
        assert len(each) == 4
        for wanted, *parts in zip(gradient, *each, strict=True):
            if wanted is not None:
                torch.testing.assert_close(
                    sum(parts) / 4, wanted, msg=lambda m, p=phase: f"{p}: {m}"
                )


def test_lazy_penalties_come_in_their_interval_and_weigh_it(tiny, monkeypatch):
    config = tiny("loss.r1_interval=3", "loss.density_reg=1.0", "loss.density_reg_interval=2")
    *_, found = gradients_of(config, 6, monkeypatch)
    assert len(found) == 6 * 2 + 2 + 3
    module, (batch,) = batches(config, 1)
    (lazy,) = module._discriminator_penalties(module.now(0), module.split(batch))
    module, (batch,) = batches(tiny("loss.r1_interval=2"), 1)
    (other,) = module._discriminator_penalties(module.now(0), module.split(batch))
    torch.testing.assert_close(lazy / 3, other / 2)


def test_a_penalty_in_every_step_needs_no_step_of_its_own(tiny, monkeypatch):
    *_, found = gradients_of(tiny("loss.r1_interval=1"), 3, monkeypatch)
    assert len(found) == 6


def test_pairs_of_the_relativistic_loss_share_their_labels(tiny):
    module, (batch,) = batches(tiny("loss.adversarial=relativistic"), 1)
    seen = []
    module.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    module.training_step(batch, 0)
    assert len(seen) == 6  # G: fake, real; D: fake, real; penalties: real, fake
    assert all(torch.equal(label, batch.labels) for label in seen)


def test_the_discriminator_is_told_the_true_camera_while_the_generator_may_not_be(tiny):
    config = tiny("generator.mapping.condition=camera")
    module, (batch,) = batches(config, 1)
    told, conditions, cameras = [], [], []
    module.discriminator.register_forward_pre_hook(lambda _, args: told.append(args[1]))
    module.generator.mapping.register_forward_pre_hook(lambda _, args: conditions.append(args[1]))
    module.generator.renderer.register_forward_pre_hook(lambda _, args: cameras.append(args[1]))
    module.generator_step(module.now(0), module.split(batch))
    assert torch.equal(told[0], cameras[0].to_label())
    assert torch.equal(conditions[0], told[0].roll(1, 0))  # swapped for certain at the start


def test_where_the_label_is_the_view_nothing_is_swapped(tiny):
    module, (batch,) = batches(tiny(kind="image2d"), 1)
    told, conditions = [], []
    module.discriminator.register_forward_pre_hook(lambda _, args: told.append(args[1]))
    module.generator.mapping.register_forward_pre_hook(lambda _, args: conditions.append(args[1]))
    module.generator_step(module.now(0), module.split(batch))
    assert torch.equal(conditions[0], told[0])


def test_reals_are_as_coarse_as_fakes_but_not_beside_a_picture(tiny):
    module, (batch,) = batches(tiny(), 1)
    now, (mb,) = module.now(0), module.split(batch)
    assert now.rendering_resolution == 8
    fake, _, _ = module.generate(mb.labels, mb.draws, now)
    real = module.reals(mb, now)
    for pair in (fake, real):
        assert pair.image.shape[-1] == 16
        assert pair.image_raw.shape[-1] == 8
        torch.testing.assert_close(pair.image, module_file.pairs.resize(pair.image_raw, 16))
    picture, (batch,) = batches(tiny(kind="image2d"), 1)
    sharp = picture.reals(picture.split(batch)[0], picture.now(0)).image
    torch.testing.assert_close(sharp, module_file.pairs.to_float(batch.images))


def test_styles_are_mixed_by_the_microbatch(tiny):
    module, (batch,) = batches(tiny("loss.style_mixing=1.0"), 1)
    draws, now = module.split(batch)[0].draws, module.now(0)
    ws = module.styles(batch.labels, draws, now)
    same = (ws == ws[:, :1]).all(-1)
    assert torch.equal(same, same[:1].expand_as(same))  # one cutoff
    cutoff = int(same[0].sum())
    assert 1 <= cutoff < ws.shape[1]
    assert (ws[:, cutoff:] == ws[:, cutoff : cutoff + 1]).all()


def test_the_mean_style_follows_the_global_batch(tiny, train):
    config = tiny("training.microbatch=4")
    before, (batch,) = batches(config, 1)
    before.generator_step(before.now(0), before.split(batch))
    w = []
    for mb in before.split(batch):
        draws = mb.draws.scope("D")
        w.append(before.styles(before.fake_labels(mb, draws), draws, before.now(0))[:, 0].detach())
    after = train(config, steps=1)
    decay = config.generator.mapping.w_avg_decay
    torch.testing.assert_close(after.generator.mapping.w_avg, torch.cat(w).mean(0) * (1 - decay))
    assert torch.equal(after.average.mapping.w_avg, after.generator.mapping.w_avg)


def test_the_mean_style_may_follow_the_first_microbatch_as_eg3d(tiny, train):
    config = tiny("training.microbatch=4", "training.w_avg_from=eg3d")
    before, (batch,) = batches(config, 1)
    before.generator_step(before.now(0), before.split(batch))
    first = before.split(batch)[0]
    draws = first.draws.scope("D")
    w = before.styles(before.fake_labels(first, draws), draws, before.now(0))[:, 0].detach()
    decay = config.generator.mapping.w_avg_decay
    found = train(config, steps=1).generator.mapping.w_avg
    torch.testing.assert_close(found, w.mean(0) * (1 - decay))


def test_one_coin_swaps_the_cameras_of_a_whole_microbatch(tiny):
    module, (batch,) = batches(tiny("generator.mapping.condition=camera"), 1)
    now = module.now(0)._replace(swap_probability=0.5)
    draws = module.split(batch)[0].draws
    for step in range(8):
        one = module.styles(batch.labels, draws.at(step), now, num_coins=1)
        both = [
            module.styles(label, draws.at(step), now._replace(swap_probability=0.0))
            for label in (batch.labels, batch.labels.roll(1, dims=0))
        ]
        swapped = float(draws.at(step).uniform("swap", (1, 1))) < 0.5
        torch.testing.assert_close(one, both[swapped])


def test_the_average_follows_the_generator_and_renders_as_it(tiny, train):
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


def test_adaptive_augmentation_sees_the_signs_of_an_interval(tiny):
    module, all_batches = batches(tiny("augment={mode: ada, interval: 2, speed_kimg: 0.1}"), 3)
    module.discriminator.register_forward_hook(lambda *args: args[-1].abs() + 1)
    for batch in all_batches:
        module.training_step(batch, 0)
    # All reals are called real: p rises by images / speed in the interval; the third step waits.
    torch.testing.assert_close(module.augment.p, torch.tensor(16 / 100))
    assert module.sign_sum == 1


def test_bf16_multiplies_in_bf16_but_penalises_in_fp32(tiny):
    config = tiny("training.precision=bf16", "loss.r1_interval=1")
    lazy = tiny("training.precision=bf16", "loss.r1_interval=2")

    def dtypes_in(config, network, kind):
        module, (batch,) = batches(config, 1)
        seen = []
        part = getattr(module, network, None) or getattr(module.generator, network)
        leaf = next(m for m in part.modules() if isinstance(m, kind))
        leaf.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
        module.training_step(batch, 0)
        assert module.gate.healthy
        return seen

    low, full = torch.bfloat16, torch.float32
    of_d = "discriminator", Conv2dLayer
    assert dtypes_in(lazy, *of_d) == [low, low, low, full]  # G, fake, real, R1
    assert dtypes_in(config, *of_d) == [low, full, full]  # G; R1 within D's step
    assert set(dtypes_in(lazy, "representation", SynthesisLayer)) == {low}
    assert set(dtypes_in(lazy, "representation", FullyConnected)) == {full}  # styles


def test_bf16_stays_near_fp32(tiny, train):
    exact, rounded = train(tiny(), 1), train(tiny("training.precision=bf16"), 1)
    found = rounded.meter.read()
    for name, value in exact.meter.read().items():
        assert found[name] == pytest.approx(value, rel=0.2, abs=0.1), name
    assert all(p.dtype == torch.float32 for p in rounded.parameters())


def test_a_step_never_asks_the_device(tiny, monkeypatch):
    # Kernels for a CPU read its tensors as arrays, which is no wait.
    module, all_batches = batches(tiny("generator.renderer.path=plain"), 3)
    module.training_step(all_batches[0], 0)

    def refuse(*_, **__):
        raise AssertionError("a training step waited for the device")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    module.training_step(all_batches[1], 0)
    module.training_step(all_batches[2], 0)


@pytest.mark.parametrize("phase", ["G loss", "G density penalty", "D loss", "D penalty"])
def test_a_gradient_that_is_not_finite_changes_nothing(tiny, numbers, phase):
    config = tiny("loss.density_reg=1.0", "loss.density_reg_interval=2", "augment.mode=ada")
    module, all_batches = batches(config, 6)
    for batch in all_batches[:2]:
        module.training_step(batch, 0)
    before = numbers(module)
    genuine = module._update

    def poisoned(name, now, terms):
        genuine(name, now, (t * float("nan") if name == phase else t for t in terms))

    order = ["G loss", "G density penalty", "D loss", "D penalty"]
    module._update = poisoned
    module.training_step(all_batches[2], 0)
    assert module.gate.broken() == (phase, 2)
    at_breakage = numbers(module)
    if phase == order[0]:
        assert torch.equal(before, at_breakage)
    module._update = genuine
    for batch in all_batches[3:]:
        module.training_step(batch, 0)
    assert torch.equal(at_breakage, numbers(module))
    assert torch.isfinite(at_breakage).all()
    assert torch.isfinite(module.augment.p)

"""The step of a proxy: what each step trains, what the discriminator sees, pretraining, alarms."""

import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.draws import Draws
from lightning_gan3d.training.callbacks import scene_warnings
from lightning_gan3d.training.compatibility import check_trainable
from lightning_gan3d.training.discriminator_input import DiscriminatorInput
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.schedules import ScheduleState
from lightning_gan3d.training.terms import TermInput, undecided
from renderers.proxied import ProxiedRenderer
from representations.solid import Solid

PROXY = "generator.renderer.proxy.samples=6"
FULL_SIZE = "training.rendering_resolution={initial: null, final: null}"
PENALTIES = ("loss.r1_interval=1", "loss.density_reg=1.0", "loss.density_reg_interval=2")


@pytest.fixture
def stepping(tiny, train, monkeypatch):
    """A function that trains one step: names of phases, and the networks that each changes."""

    def parts(module):
        proxy = [p.detach().clone() for p in module.proxy]
        ids = {id(p) for p in module.proxy}
        rest = [p.detach().clone() for p in module.generator.parameters() if id(p) not in ids]
        judge = [p.detach().clone() for p in module.discriminator.parameters()]
        return {"generator": rest, "proxy": proxy, "discriminator": judge}

    def run(*overrides, steps=1):
        changes = []
        genuine = AdversarialModule._optimizer_step

        def observed(self, phase, *args):
            networks = {"generator": self.generator, "discriminator": self.discriminator}
            ids = {id(p) for p in self.proxy}
            touched = {
                "proxy" if id(p) in ids else name
                for name, net in networks.items()
                for p in net.parameters()
                if p.grad is not None
            }
            before = parts(self)
            genuine(self, phase, *args)
            after = parts(self)
            changed = {
                name
                for name, old in before.items()
                if any(not torch.equal(a, b) for a, b in zip(old, after[name], strict=True))
            }
            changes.append((phase, touched, changed))

        monkeypatch.setattr(AdversarialModule, "_optimizer_step", observed)
        module = train(tiny(PROXY, *overrides, kind="solid"), steps)
        return module, changes

    return run


def test_each_step_changes_its_own_network_and_no_gradient_reaches_another(stepping):
    _, changes = stepping(*PENALTIES)
    assert changes == [
        ("G loss", {"generator"}, {"generator"}),
        ("G density penalty", {"generator"}, {"generator"}),
        ("D loss", {"discriminator"}, {"discriminator"}),
        ("proxy loss", {"proxy"}, {"proxy"}),
    ]


def test_pretraining_trains_the_proxy_alone_on_random_solids(stepping, monkeypatch):
    drawn = []
    genuine = ProxiedRenderer.random_scenes

    def recorded(*args):
        drawn.append(genuine(*args))
        return drawn[-1]

    seen, fakes = [], DiscriminatorInput.fakes

    def observed(self, scene, *args, **kwargs):
        seen.append(scene)
        return fakes(self, scene, *args, **kwargs)

    monkeypatch.setattr(ProxiedRenderer, "random_scenes", recorded)
    monkeypatch.setattr(DiscriminatorInput, "fakes", observed)
    module, changes = stepping("loss.proxy.pretrain_kimg=0.008", steps=2)
    assert [phase for phase, *_ in changes] == ["proxy loss", "G loss", "D loss", "proxy loss"]
    assert changes[0][1:] == ({"proxy"}, {"proxy"})
    assert len(drawn) == 1
    assert all(scene is drawn[0] for scene in seen[:2])
    assert module.steps_done == 2


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("triplane", "loss.proxy.matching=1", "loss.proxy: the renderer has no proxy"),
        ("triplane", "optimizer.proxy.lr=1", "optimizer.proxy: the renderer has no proxy"),
    ],
)
def test_options_of_a_proxy_need_one(tiny, kind, override, message):
    with pytest.raises(ConfigError, match=message):
        tiny(override, kind=kind)


def test_pretraining_needs_a_proxy_that_learns(tiny):
    config = tiny(
        "loss.proxy.pretrain_kimg=1", "generator.renderer.proxy.network=none", kind="solid"
    )
    with pytest.raises(ConfigError, match="the proxy has no parameters; set 0"):
        check_trainable(config, 16)


@pytest.mark.parametrize("fakes", ["exact", "proxy"])
def test_the_discriminator_is_trained_with_what_the_option_says(tiny, train, monkeypatch, fakes):
    seen, genuine = [], AdversarialModule.generate

    def observed(self, label, mb):
        images, ws = genuine(self, label, mb)
        seen.append(len(images.image.unique()))
        return images, ws

    monkeypatch.setattr(AdversarialModule, "generate", observed)
    train(tiny(f"generator.renderer.fakes={fakes}", PROXY, FULL_SIZE, kind="solid"), 1)
    # White voxels have at most six shades before black; soft renderings have many.
    assert (seen[0] <= 7) == (fakes == "exact")


def test_the_proxy_learns_the_exact_renderings(tiny, train):
    overrides = ("loss.proxy.pretrain_kimg=1", "training.kimg=1", "optimizer.proxy.lr=0.01")
    config = tiny(*overrides, "generator.renderer.proxy.shading=false", FULL_SIZE, kind="solid")
    data = DataModule(config.data, 8, 8, 0)
    first = next(iter(data.train_dataloader(0, 1)))
    errors = []
    for module in (train(config, 0), train(config, 40)):
        module.meter.read()
        module.proxy_step(module.split(first), pretrains=True)
        errors.append(module.meter.read()["loss/proxy_image"])
    assert errors[1] < 0.85 * errors[0]


def test_output_matching_changes_the_proxy_and_is_the_difference_of_logits(tiny, train):
    def proxy(*overrides):
        module = train(tiny(PROXY, *overrides, kind="solid"), 1)
        return torch.cat([p.flatten() for p in module.proxy]), module.meter.read()

    plain, _ = proxy("loss.proxy.matching=0")
    matched, logged = proxy("loss.proxy.matching=100")
    assert not torch.equal(plain, matched)
    assert logged["proxy/logit_gap"] > 0
    assert 0 < logged["proxy/exact_opacity"] < 1
    assert 0 < logged["scene/filled"] < 1


def test_a_resumed_training_equals_an_undisturbed_one(tiny, resumed, numbers):
    config = tiny(PROXY, kind="solid")
    whole, half, module = resumed(config)
    assert torch.equal(numbers(module), numbers(whole))
    assert not torch.equal(numbers(half), numbers(whole))


def test_a_renderer_without_gradient_and_proxy_is_rejected_before_anything_is_written(
    tiny, start, tmp_path
):
    config = tiny("generator.renderer.kind=raster", kind="solid")
    with pytest.raises(Exception, match="raster: it has no gradient, which training needs"):
        start(config, "rejected")
    assert not (tmp_path / "rejected").exists()


def test_a_proxy_that_drifts_and_solids_without_surface_are_reported():
    healthy = {"D/real": 1.0, "D/fake": -1.0, "proxy/logit_gap": 1.5, "proxy/exact_opacity": 0.2}
    assert scene_warnings({**healthy, "scene/filled": 0.1}) == []
    assert "proxy drifts" in scene_warnings({**healthy, "proxy/logit_gap": 2.5})[0]
    assert "empty solids" in scene_warnings({"scene/filled": 0.0})[0]
    assert "full solids" in scene_warnings({"scene/filled": 0.99})[0]
    assert "empty exact" in scene_warnings({**healthy, "proxy/exact_opacity": 0.0})[0]


def test_the_average_holds_the_trained_proxy(tiny, train):
    module = train(tiny(PROXY, "training.ema_half_life_kimg=0", kind="solid"), 2)
    assert isinstance(module.average.renderer, ProxiedRenderer)
    pairs = zip(module.average.renderer.proxy.parameters(), module.proxy, strict=True)
    assert all(torch.equal(a, p) for a, p in pairs)


def test_undecided_voxels_are_penalised_and_other_scenes_rejected(tiny):
    occupancy = torch.tensor([0.0, 1.0, 0.5, 0.9, 0, 0, 1, 1]).view(1, 1, 2, 2, 2)
    scene = Solid(occupancy, occupancy.expand(-1, 3, -1, -1, -1), SceneConfig(feature_dim=3))
    config = tiny("loss.terms=[{kind: undecided, weight: 1}]", kind="solid")
    (term,) = config.loss.terms
    at = TermInput(scene, ScheduleState(0, *[0] * 10), Draws(0))
    assert float(undecided(term, at)) == pytest.approx((1 + 0.36) / 8)
    with pytest.raises(ConfigError, match="undecided: the scenes are no solids"):
        tiny("loss.terms=[{kind: undecided, weight: 1}]")

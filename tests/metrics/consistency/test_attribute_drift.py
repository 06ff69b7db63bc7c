"""Attributes of heads from view to view."""

import dataclasses
import math

import pytest
import torch
from metric_views import Labels, Perturbed, context

from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics import synthetic_reader
from lightning_gan3d.metrics.config import AttributesConfig
from lightning_gan3d.metrics.consistency import attribute_drift
from lightning_gan3d.metrics.consistency.attribute_drift import (
    ATTRIBUTES,
    attribute_reader,
    columns,
    deviations,
    measure_attributes,
)
from lightning_gan3d.metrics.evaluate import evaluate
from lightning_gan3d.metrics.sources import GeneratorSource, ObjectSource

SYNTH = SynthConfig(kind="heads", num_images=60, num_objects=60)
LABELS = sample_cameras(SYNTH, 100, Draws(1)).to_label()
CFG = AttributesConfig(items=64, views=4)
SMALL = AttributesConfig(items=12, views=3, resolution=16, heads=400, iterations=100, batch=32)


def ctx_of(source, cfg=CFG, **options):
    options = {"synth": SYNTH, "attributes": cfg} | options
    return context(source, Labels(LABELS), **options)


def values_of(metrics):
    return {m.key.removeprefix("attributes."): m.value for m in metrics}


def test_deviations_of_a_hue_are_those_on_the_circle():
    def of(hues):
        rest = {name: torch.tensor([1.0, 4.0]) for name in ATTRIBUTES if name != "hair_hue"}
        return deviations(columns({"hair_hue": torch.tensor(hues), **rest})[None])[0]

    across = of([0.95, 0.05])  # a tenth of a turn, across 0
    assert float(across[0]) == pytest.approx(math.sqrt(2) * math.sin(0.1 * math.pi), rel=1e-5)
    assert float(across[0]) == pytest.approx(float(of([0.45, 0.55])[0]), rel=1e-5)
    assert torch.allclose(across[1:], torch.full((5,), 3 / math.sqrt(2)))
    assert float(of([0.3, 0.3])[0]) == 0


class Painter:
    """Its pixels are the attributes of a latent; they move by `strength` times x of the label."""

    rendering_resolution = 32

    def __init__(self, strength=0.0, per_view=False):
        self.strength, self.per_view = strength, per_view

    def views(self, z, label, cameras):
        k = len(cameras.cam2world) // len(z)
        z, label = z.repeat_interleave(k, 0), label.repeat_interleave(k, 0)
        if self.per_view:
            z = z * torch.arange(1, len(z) + 1)[:, None]
        value = 0.6 * torch.sin(1e3 * z[:, :7]) + self.strength * label[:, 3:4]
        image = value[:, None, None, :].expand(-1, 3, 7, 7)
        return Images(image, image)


class Pixels(torch.nn.Module):
    resolution = 7

    def forward(self, image):
        return image[:, 0, 0]


@pytest.fixture
def perfect(monkeypatch):
    reader = (Pixels(), torch.ones(len(ATTRIBUTES)))
    monkeypatch.setattr(attribute_drift, "attribute_reader", lambda *_: reader)


def painted(**options):
    return GeneratorSource(Painter(**options), 8, LABELS)


@pytest.mark.usefixtures("perfect")
def test_drift_is_zero_for_rigid_subjects_and_that_between_latents_for_shuffled_ones():
    rigid = values_of(measure_attributes(ctx_of(painted())))
    assert rigid["drift"] == 0
    assert rigid["drift_share"] == 0
    shuffled = values_of(measure_attributes(ctx_of(painted(per_view=True))))
    assert shuffled["drift_share"] == pytest.approx(1, abs=0.05)
    assert shuffled["drift_others"] == pytest.approx(rigid["drift_others"], rel=0.1)
    constant = Perturbed(painted(), lambda s, i, c: Images(*[0 * s.views(i, c).image] * 2))
    (share, *_) = measure_attributes(ctx_of(constant))
    assert share.value is None
    assert "latents do not differ" in share.note


@pytest.mark.usefixtures("perfect")
def test_a_subject_that_follows_its_label_drifts_only_with_the_label_following():
    values = values_of(evaluate(ctx_of(painted(strength=0.2), following=True)))
    assert values["drift"] == 0
    assert values["drift_following"] > 0.05
    assert values_of(evaluate(ctx_of(painted(), following=True)))["drift_following"] == 0


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """True heads, whose regressor is trained once."""
    objects = SynthObjects(SYNTH)
    source = ObjectSource(objects.render, range(40), LABELS, 16)
    return source, {"cache": tmp_path_factory.mktemp("cache"), "truth": source}


def test_true_heads_are_the_floor(heads):
    source, options = heads

    def other_head(source, items, cameras):
        k = len(cameras.cam2world) // len(items)
        return source.views(items.repeat_interleave(k) + 7 * torch.arange(k * len(items)), cameras)

    values = values_of(evaluate(ctx_of(Perturbed(source, other_head), SMALL, **options)))
    assert values["drift_share"] == pytest.approx(1, abs=0.15)
    assert values["drift_share_truth"] < 0.4
    assert 0.5 < values["drift_others_truth"] < 1.2
    _, r2 = attribute_reader(ctx_of(source, SMALL, **options), SMALL, SYNTH)
    assert float(r2[ATTRIBUTES.index("skin_tone")]) > 0.8
    assert bool((r2 < 1).all())


@pytest.mark.parametrize(
    "other", [{"resolution": 20}, {"heads": 40}, {"iterations": 3}, {"batch": 9}]
)
def test_each_option_of_the_training_has_an_effect(other):
    base = AttributesConfig(resolution=16, heads=32, iterations=2, batch=8)
    image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    read = [
        attribute_reader(ctx_of(painted()), c, SYNTH)[0](image)
        for c in (base, dataclasses.replace(base, **other))
    ]
    assert not torch.equal(*read)


def test_the_network_learns_from_other_heads_of_the_same_kind(monkeypatch):
    configs = []

    def recorded(cfg):
        configs.append(cfg)
        return SynthObjects(cfg)

    monkeypatch.setattr(synthetic_reader, "SynthObjects", recorded)
    attribute_reader(ctx_of(painted()), AttributesConfig(heads=16, iterations=1), SYNTH)
    (cfg,) = configs
    assert cfg.num_objects == 16
    assert cfg.seed != SYNTH.seed
    assert (cfg.kind, cfg.background, cfg.azimuth) == ("heads", SYNTH.background, SYNTH.azimuth)


@pytest.mark.usefixtures("perfect")
def test_items_and_views_are_those_of_the_options():
    for cfg in (AttributesConfig(items=5, views=2), AttributesConfig(items=9, views=3)):
        _, drift, _ = measure_attributes(ctx_of(painted(), cfg))
        assert drift.n == cfg.items
        assert f"over {cfg.views} cameras" in drift.note


@pytest.mark.usefixtures("perfect")
def test_other_data_have_no_such_metrics_and_missing_ones_a_reason():
    assert measure_attributes(ctx_of(painted(), synth=None)) == []
    assert measure_attributes(ctx_of(painted(), attributes=None)) == []
    broken = Perturbed(painted(), lambda s, i, c: Images(*[math.nan * s.views(i, c).image] * 2))
    assert all("not finite" in m.note for m in measure_attributes(ctx_of(broken, SMALL)))
    blind = dataclasses.replace(painted(), labels=torch.full((5, 25), math.nan))
    assert all("without cameras" in m.note for m in measure_attributes(ctx_of(blind)))

"""Masks of generated objects beside those that a network reads from the images."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from metric_views import Labels, context

from lightning_gan3d.data.synthetic.scenes import ScenesConfig
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import MasksConfig
from lightning_gan3d.metrics.consistency.object_masks import (
    MaskLayers,
    mask_iou,
    mask_reader,
    measure_masks,
)
from lightning_gan3d.metrics.evaluate import evaluate
from lightning_gan3d.metrics.sources import GeneratorSource, ObjectSource

SYNTH = SynthConfig(
    kind="scenes", num_images=40, num_objects=40, scenes=ScenesConfig(objects_max=2)
)
SCENES = SynthObjects(SYNTH).scenes
VIEWS = {}
LABELS = sample_cameras(SYNTH, 40, Draws(1)).to_label()
CFG = MasksConfig(items=16, resolution=16, scenes=320, iterations=160)


@dataclasses.dataclass(frozen=True, eq=False)
class TrueScenes(GeneratorSource):
    """Stands for a generator: true images, and their masks changed by `change`."""

    change: object = staticmethod(lambda mask: mask)

    def views(self, items, cameras):
        key = tuple(items.tolist())
        if key not in VIEWS:  # their cameras are equal in each call
            VIEWS[key] = SCENES.select(items).render(cameras, 32, SYNTH.far)
        view = VIEWS[key]
        return Images(*[view.objects.image] * 2, mask=self.change(view.shares))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Folder that keeps the network."""
    return tmp_path_factory.mktemp("cache")


def metrics_of(cache, change=None, **options):
    change = {} if change is None else {"change": change}
    source = options.pop("source", TrueScenes(None, 4, LABELS, **change))
    options = {"synth": SYNTH, "masks": CFG, "cache": cache} | options
    return measure_masks(context(source, Labels(LABELS), **options))


def iou_of(*args, **options):
    return metrics_of(*args, **options)[0].value


def test_iou_of_known_masks():
    mask = torch.tensor([[1.0, 0.6, 0.4, 0.0]]).expand(5, 4)
    logits = torch.tensor(
        [[2.0, 1, -1, -2], [2, -1, 1, -1], [-1, -1, 1, 1], [-1, -1, -1, -1], [1, 1, 1, torch.nan]]
    )
    assert mask_iou(logits, mask)[:4].tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert bool(mask_iou(logits, mask)[4].isnan())
    assert float(mask_iou(logits[3:4], torch.zeros(1, 4))) == 0


def test_the_layers_give_a_logit_per_pixel_for_any_size():
    for size in (16, 19, 24):
        assert MaskLayers()(torch.zeros(2, 3, size, size)).shape == (2, size**2)


def test_true_masks_score_as_held_out_scenes_and_wrong_ones_lower(cache):
    metrics = metrics_of(cache)
    truth, ceiling = (m.value for m in metrics)
    assert ceiling > 0.5
    assert truth == pytest.approx(ceiling, abs=0.08)
    assert (metrics[0].n, metrics[1].n) == (16, 40)
    assert len(metrics[0].items) == 16
    other = iou_of(cache, lambda mask: mask.roll(1, dims=0))
    assert other < truth / 2
    assert iou_of(cache, torch.zeros_like) == 0
    whole = iou_of(cache, torch.ones_like)
    assert 0.01 < whole < 0.15  # the objects' share of the image
    # The complement, as a background that draws the objects.
    assert iou_of(cache, lambda mask: 1 - mask.sum(1, keepdim=True)) < 0.1
    assert iou_of(cache, lambda mask: mask[:, :1]) < truth - 0.1  # an object without a mask


def test_the_masks_of_an_image_are_summed_at_the_resolution_of_the_network(cache):
    double = iou_of(cache, lambda mask: mask.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert double == pytest.approx(iou_of(cache), abs=0.02)
    halves = iou_of(cache, lambda mask: torch.cat([mask, mask], dim=1) / 2)
    assert halves == pytest.approx(iou_of(cache), abs=1e-6)


def test_the_network_depends_on_seed_and_data_alone():
    cfg = dataclasses.replace(CFG, scenes=32, iterations=3)
    source = TrueScenes(None, 4, LABELS)

    def weights(synth=SYNTH, **options):
        ctx = context(source, Labels(LABELS), **options)
        return mask_reader(ctx, cfg, synth)[0].layers.last.weight

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights(seed=1))
    assert not torch.equal(weights(), weights(dataclasses.replace(SYNTH, seed=7)))


def test_missing_masks_and_unknown_truth_have_reasons(cache):
    for metrics, reason in (
        (metrics_of(cache, lambda _: None), "the renderer has no masks"),
        (metrics_of(cache, synth=None), "the true masks are unknown"),
    ):
        assert [m.key for m in metrics] == ["parts.mask_iou", "parts.mask_iou_reader"]
        assert all(m.value is None and reason in m.note for m in metrics)
    assert metrics_of(cache, lambda _: None, synth=None) == []
    assert metrics_of(cache, masks=None) == []
    objects = SynthObjects(SYNTH)
    assert metrics_of(cache, source=ObjectSource(objects.render, range(4), LABELS, 32)) == []


def test_masks_that_are_not_finite_give_no_number(cache):
    metrics = metrics_of(cache, lambda mask: mask / torch.zeros(()))
    assert metrics[0].value is None
    assert "not finite" in metrics[0].note


def test_an_evaluation_contains_them_with_a_protocol(cache):
    options = {"synth": SYNTH, "masks": CFG, "cache": cache}
    source = TrueScenes(SimpleNamespace(rendering_resolution=32), 4, LABELS)
    metrics = evaluate(context(source, Labels(LABELS), **options))
    assert {m.key for m in metrics} == {"parts.mask_iou", "parts.mask_iou_reader"}
    assert all(m.protocol for m in metrics)

"""Rendered depth beside the depth that images of heads imply."""

import dataclasses

import pytest
import torch
from metric_views import Labels, Perturbed, context

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import DepthConfig
from lightning_gan3d.metrics.evaluate import evaluate
from lightning_gan3d.metrics.geometry.head_depth import measure_depth, pearson, relief_of
from lightning_gan3d.metrics.sources import ObjectSource

SYNTH = SynthConfig(kind="heads", num_images=60, num_objects=60)
LABELS = sample_cameras(SYNTH, 100, Draws(1)).to_label()
CFG = DepthConfig(items=16, resolution=16, heads=400, iterations=150, batch=32)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """True heads, and the folder that keeps the network."""
    objects = SynthObjects(SYNTH)
    return ObjectSource(objects.render, range(40), LABELS, 24), tmp_path_factory.mktemp("cache")


def context_of(fixture, change=None, **options):
    """`change(view, z, cameras)` returns another camera z, from which the depth follows."""
    source, cache = fixture

    def changed(source, items, cameras):
        view = source.views(items, cameras)
        z = cameras.depth_z(view.depth)
        return Images(view.image, view.image, change(z) * view.depth / z, view.opacity)

    shown = source if change is None else Perturbed(source, changed)
    options = {"synth": SYNTH, "depth": CFG, "cache": cache} | options
    return context(shown, Labels(LABELS), **options)


def values_of(metrics):
    return {m.key.removeprefix("depth."): m.value for m in metrics if m.key.startswith("depth")}


def test_pearson_equals_the_library_over_valid_entries_and_is_0_for_a_constant():
    a, b = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(40) < torch.tensor([[40], [17], [30]])
    expected = [torch.corrcoef(torch.stack([a[i][v], b[i][v]]))[0, 1] for i, v in enumerate(valid)]
    assert torch.allclose(pearson(a, b, valid), torch.stack(expected), atol=1e-6)
    assert torch.allclose(pearson(a, 3 - 2 * a, valid), -torch.ones(3))
    assert pearson(a, torch.full_like(a, 2.5), valid).tolist() == [0, 0, 0]


def test_relief_is_the_height_above_the_plane_through_the_origin():
    camera = Cameras.on_sphere(torch.tensor([0.4]), torch.tensor([0.1]), 3.2, 1.5)
    point = torch.tensor([[0.1, 0.2, 0.3]])
    towards = camera.cam2world[:, :3, 3] / 3.2
    rays = camera.rays(9)
    # The depth at which each ray meets the plane through the point that faces the camera.
    height = (point * towards).sum()
    depth = (3.2 - height) / -(rays.dirs * towards[:, None]).sum(-1)
    relief = relief_of(depth.view(1, 1, 9, 9), camera, 3.2)
    assert torch.allclose(relief, height.expand_as(relief), atol=1e-5)


def test_true_heads_are_the_ceiling_and_wrong_shapes_below_it(heads):
    truth = values_of(measure_depth(context_of(heads)))
    assert truth["correlation"] > 0.75
    assert truth["error"] < 0.08
    flat = values_of(measure_depth(context_of(heads, lambda z: 0 * z + 3.2)))
    assert abs(flat["correlation"]) < 0.1
    assert flat["error"] > 3 * truth["error"]
    inverted = values_of(measure_depth(context_of(heads, lambda z: 6.4 - z)))
    assert inverted["correlation"] == pytest.approx(-truth["correlation"], abs=1e-4)
    # A correlation does not see the scale; an error in world units does.
    shallow = values_of(measure_depth(context_of(heads, lambda z: 3.2 + (z - 3.2) / 2)))
    assert shallow["correlation"] == pytest.approx(truth["correlation"], abs=1e-4)
    assert shallow["error"] > 2 * truth["error"]


def test_heads_that_are_not_opaque_do_not_count_and_none_has_a_reason(heads):
    source, cache = heads

    def faded(source, items, cameras, share=0.5):
        view = source.views(items, cameras)
        opacity = view.opacity * (items < share * CFG.items)[:, None, None, None]
        return Images(view.image, view.image, view.depth, opacity)

    options = {"synth": SYNTH, "depth": CFG, "cache": cache}
    metrics = measure_depth(context(Perturbed(source, faded), Labels(LABELS), **options))
    assert [m.n for m in metrics] == [CFG.items // 2] * 2
    clear = Perturbed(source, lambda s, i, c: faded(s, i, c, share=0))
    for metric in measure_depth(context(clear, Labels(LABELS), **options)):
        assert metric.value is None
        assert "no head is at least 50% opaque" in metric.note


def test_variants_and_data_without_heads(heads):
    source, _ = heads
    values = values_of(evaluate(context_of(heads, truth=source)))
    assert values["correlation"] == values["correlation_truth"]
    assert measure_depth(context_of(heads, synth=None)) == []
    assert measure_depth(context_of(heads, depth=None)) == []
    flat = Perturbed(source, lambda s, i, c: Images(*[s.views(i, c).image] * 2))
    for metric in measure_depth(dataclasses.replace(context_of(heads), source=flat)):
        assert "no depth is rendered" in metric.note

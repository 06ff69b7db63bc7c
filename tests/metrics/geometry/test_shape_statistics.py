import dataclasses
import math

import numpy as np
import pytest
import torch
from metric_views import context, figures
from solid_shapes import BOX, Shape, ball, card, soft_ball, without

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.geometry import shape_statistics as geometry
from lightning_gan3d.metrics.geometry.shape_statistics import (
    SHAPE_METRICS,
    VIEW_METRICS,
    VOLUME_METRICS,
    measure_geometry,
)
from lightning_gan3d.metrics.sources import ViewSource

CFG = GeometryConfig(items=2, grid=24, points=256)
BALL = Shape(ball, sigma=soft_ball(0.8))


def measured(source, cfg=CFG, truth=None):
    metrics = measure_geometry(context(source, geometry=cfg, truth=truth))
    result = {m.key.removeprefix("geometry."): m for m in metrics}
    assert all(m.value is not None or m.note for m in result.values())
    return result


def ceiling(truth, cfg):
    return measured(truth, cfg, truth)


def test_a_ball_has_the_values_of_a_ball():
    metrics = measured(BALL)
    assert set(metrics) == {*VIEW_METRICS, *VOLUME_METRICS}
    values = {k: m.value for k, m in metrics.items()}
    area = math.pi * 0.8**2 / (50 / 24) ** 2  # of its disc, in images
    assert values["relief"] == pytest.approx(math.sqrt(2) / 3, rel=0.03)
    assert values["thickness"] == pytest.approx(math.sqrt(2 / 3), rel=0.03)
    assert values["side_share"] == pytest.approx(1, abs=0.01)
    assert values["depth_sd"] == pytest.approx(0.8 * math.sqrt(1 / 18), rel=0.04)
    assert values["opaque"] == pytest.approx(area, rel=0.02)
    assert values["opacity"] == pytest.approx(area, rel=0.02)
    assert values["half_transparent"] == 0
    assert values["billboards"] == 0
    assert values["floaters"] == 0
    assert values["filled"] == pytest.approx(4 / 3 * math.pi * 0.8**3 / BOX**3, rel=0.03)
    assert values["normals_deg"] < 4
    assert all(m.n == 2 for m in metrics.values())


def test_a_textured_card_is_a_billboard():
    metrics = measured(Shape(card))
    assert metrics["billboards"].value == 1
    assert metrics["relief"].value < 1e-3
    assert metrics["thickness"].value < 1e-3
    assert metrics["side_share"].value < 0.05
    for name in VOLUME_METRICS:
        assert metrics[name].value is None
        assert "cannot be queried" in metrics[name].note


def test_a_card_that_follows_the_camera_is_a_billboard_too():
    """The points of all four views form a cross, which is not thin; those of each view are."""

    def flatten(metrics):
        return metrics._replace(depth=torch.full_like(metrics.depth, 50.0))

    metrics = measured(without(BALL, flatten))
    assert metrics["thickness"].value > 0.3
    assert metrics["relief"].value < 0.02
    assert metrics["billboards"].value == 1


def test_the_spread_of_depth_is_that_of_camera_z():
    """A card that faces a near camera has one z, while distances grow toward its corners."""

    class Near(Shape):
        def base(self, items):
            zero = torch.zeros(len(items))
            return Cameras.on_sphere(zero, zero, 1.5, 0.8)

    assert measured(Near(card))["depth_sd"].value < 1e-5


def test_the_normals_of_a_depth_that_does_not_fit_the_density_differ():
    good = measured(BALL)["normals_deg"].value

    def tilt(views):
        ramp = torch.linspace(-0.5, 0.5, views.depth.shape[-1])
        return views._replace(depth=views.depth + ramp * (views.opacity > 0))

    assert measured(without(BALL, tilt))["normals_deg"].value > good + 5


def test_a_second_piece_floats():
    def sigma(points):
        ball_, far = soft_ball(0.5), soft_ball(0.25)
        away = points - points.new_tensor([0.7, 0.7, 0.7])
        return ball_(points) + far(away)

    metrics = measured(dataclasses.replace(BALL, sigma=sigma))
    share = 0.25**3 / (0.25**3 + 0.5**3)
    assert metrics["floaters"].value == pytest.approx(share, rel=0.15)


def test_mist_is_half_transparent_and_has_no_surface():
    def fade(metrics):
        return metrics._replace(opacity=0.5 * metrics.opacity)

    mist = dataclasses.replace(BALL, sigma=lambda p: 0 * p[..., 0] + 0.1)
    metrics = measured(without(mist, fade), truth=BALL)
    assert metrics["half_transparent"].value == 1
    assert metrics["opacity"].value == pytest.approx(measured(BALL)["opacity"].value / 2)
    for name in ("relief", "thickness", "billboards", "side_share", "depth_sd", "floaters"):
        assert metrics[name].value is None
        assert "undefined for all items" in metrics[name].note
    assert metrics["opaque"].value == metrics["filled"].value == 0
    for name in SHAPE_METRICS:
        assert "none of 2 items has a surface" in metrics[name].note


def test_items_without_a_value_are_counted():
    def empty_first(metrics):
        return metrics._replace(opacity=metrics.opacity * empty.pop(0))

    empty = [0.0, 1.0]
    metrics = measured(without(BALL, empty_first))
    assert metrics["relief"].n == 1
    assert "mean over 2 items, undefined for 1" in metrics["relief"].note
    assert metrics["opaque"].n == 2


@pytest.mark.parametrize("field", ["depth", "opacity"])
def test_values_that_are_not_finite_are_missing(field):
    def break_(metrics):
        broken = getattr(metrics, field).clone()
        broken[0, 0, 3, 3] = math.nan
        return metrics._replace(**{field: broken})

    metrics = measured(without(BALL, break_))
    for name in VIEW_METRICS:
        assert metrics[name].value is None
        assert "not finite" in metrics[name].note


def test_a_volume_that_is_not_finite_is_missing():
    metrics = measured(dataclasses.replace(BALL, sigma=lambda p: p[..., 0] / 0))
    for name in VOLUME_METRICS:
        assert "not finite" in metrics[name].note


def test_without_depth_everything_is_missing_with_the_reason():
    def flat(metrics):
        return metrics._replace(depth=None, opacity=None)

    metrics = measured(without(BALL, flat), truth=BALL)
    assert set(metrics) == {*VIEW_METRICS, *VOLUME_METRICS, *SHAPE_METRICS}
    assert all(m.value is None and "no depth is rendered" in m.note for m in metrics.values())


DISTANCES = ("shape_to_data", "shape_from_data")
CHAMFER = (*DISTANCES, "shape_coverage", "shape_accuracy")


def test_shapes_are_apart_from_the_data_as_known():
    """The data are balls of radius 0.6, the samples of 0.8: all pairs are 0.2 apart."""
    small = Shape(ball, 0.6, soft_ball(0.6))
    cfg = dataclasses.replace(CFG, points=2000)
    metrics = measured(BALL, cfg, small)
    for name in CHAMFER:
        assert "2 of 2 items have a surface; 2 of 2 objects" in metrics[name].note
    for name in DISTANCES:
        assert metrics[name].value == pytest.approx(0.2, rel=0.05)
    assert metrics["shape_accuracy"].value == 1  # each is nearest to one of its own kind
    alike = measured(small, cfg, small)
    assert alike["shape_accuracy"].value < 1


def test_the_iou_of_balls_is_the_ratio_of_their_volumes():
    small = Shape(ball, 0.6, soft_ball(0.6))
    cfg = dataclasses.replace(CFG, grid=48)
    iou = measured(BALL, cfg, small)["shape_iou"]
    assert iou.value == pytest.approx((0.6 / 0.8) ** 3, rel=0.02)
    assert iou.n == 2
    assert "not aligned; 0 for 0 of 2 items" in iou.note
    assert measured(small, cfg, small)["shape_iou"].value == 1


def block(low, high, box=2.0):
    """Cells of a cube in which each coordinate is between two numbers."""
    centre = ((np.arange(16) + 0.5) / 16 - 0.5) * box
    inside = (low < centre) & (centre < high)
    grid = inside[:, None, None] & inside[:, None] & inside
    return geometry.Shape(np.zeros((1, 3)), grid.astype(np.float32), box)


def test_iou_of_all_pairs():
    shapes = [block(-0.5, 0.5), block(-0.5, 0.0), block(0.5, 0.75)]
    expected = [[1, 1 / 8, 0], [1 / 8, 1, 0], [0, 0, 1]]
    assert geometry.overlaps(shapes, shapes).tolist() == expected
    # In a larger cube: cells of another size, and matter outside the smaller cube.
    assert geometry.overlaps([block(-0.5, 0.5, 4.0)], shapes)[0].tolist() == expected[0]
    large = block(-1.5, 1.5, 4.0)
    assert geometry.overlaps([block(-1.0, 1.0)], [large]).item() == pytest.approx((1 / 1.5) ** 3)


def test_an_item_without_a_surface_has_no_overlap():
    a, far = block(-0.5, 0.5), block(0.5, 0.75)
    metrics = {m.name: m for m in geometry.compare_shapes([a, None], [a, far], 16)}
    assert metrics["geometry.shape_iou"].value == 0.5
    assert "0 for 1 of 2 items" in metrics["geometry.shape_iou"].note


def test_one_shape_for_all_lacks_variety():
    """A generator that always makes one of the data's objects is near to it, but not it to all."""

    class Collapsed(ViewSource):
        def base(self, items):
            return figures().base(items)

        def views(self, items, cameras):
            return figures().views(0 * items, cameras)

        def volume(self, items):
            return figures().volume(0 * items)

    cfg = dataclasses.replace(CFG, items=6, points=2000)
    metrics = measured(Collapsed(), cfg, figures())
    assert metrics["shape_to_data"].value < 0.6 * metrics["shape_from_data"].value
    assert metrics["shape_coverage"].value == pytest.approx(1 / 6)
    assert measured(figures(), cfg, figures())["shape_coverage"].value == 1


def test_ground_truth_is_measured_as_truth():
    cfg = GeometryConfig(items=4, grid=24, points=2000)
    metrics = ceiling(figures(), cfg)
    assert set(metrics) == {*VIEW_METRICS, *VOLUME_METRICS, *SHAPE_METRICS}
    values = {k: m.value for k, m in metrics.items()}
    assert values["billboards"] == values["floaters"] == 0
    assert 0.2 < values["relief"] < 0.6
    assert values["normals_deg"] < 15
    assert 0 < values["shape_to_data"] < 0.1
    # A ball in the figures' place is farther from them than they are from one another.
    ball_ = measured(Shape(ball, 0.5, soft_ball(0.5)), cfg, figures())
    assert ball_["shape_to_data"].value > 2 * values["shape_to_data"]


def test_no_object_stands_on_both_sides_of_the_truth():
    """With five objects and four items, two are compared with two others."""
    few = dataclasses.replace(figures(), objects=[0, 1, 2, 3, 4])
    cfg = GeometryConfig(items=4, grid=24, points=2000)
    metrics = ceiling(few, cfg)
    for name in DISTANCES:
        row = metrics[name]
        assert row.n == 2
        assert "2 of 2 items have a surface; 2 of 2 objects of the data" in row.note
        assert row.value > 0.03  # an object is about 0.02 from itself
    row = measured(BALL, cfg, few)["shape_to_data"]
    assert "2 of 2 items have a surface; 2 of 2 objects of the data" in row.note
    alone = ceiling(dataclasses.replace(few, objects=[3]), cfg)
    assert "fewer than two objects" in alone["shape_to_data"].note
    assert alone["relief"].value is not None


def test_more_items_than_objects_gain_nothing_over_the_truth():
    """The minimum over more items is smaller: equally many items and objects are compared."""
    few = dataclasses.replace(figures(), objects=[0, 1, 2, 3, 4])
    cfg = GeometryConfig(items=6, grid=24, points=2000)
    metrics = measured(figures(), cfg, few)
    two = measured(figures(), dataclasses.replace(cfg, items=2), few)
    for name in DISTANCES:
        assert metrics[name].n == 2
        assert metrics[name].value == two[name].value


@pytest.mark.parametrize(
    "other", [{"items": 3}, {"foreground": 0.2}, {"flat": 0.9}, {"grid": 20}, {"points": 300}]
)
def test_options_have_an_effect(other):
    def fade(views):  # more toward the silhouette, so that the threshold matters
        disc = torch.nn.functional.avg_pool2d(views.opacity, 7, 1, 3)
        return views._replace(opacity=views.opacity * disc)

    source = without(BALL, fade)
    a, b = (measured(source, c, figures()) for c in (CFG, dataclasses.replace(CFG, **other)))
    assert {k: (m.value, m.n) for k, m in a.items()} != {k: (m.value, m.n) for k, m in b.items()}


@pytest.mark.parametrize(
    ("field", "value"),
    [("items", 1), ("grid", 3), ("points", 0), ("foreground", 0.0), ("flat", 2.0)],
)
def test_invalid_values_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(GeometryConfig, [f"{field}={value}"])

from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_views import Labels, context, figures
from solid_shapes import BOX, Shape, ball, soft_ball

from lightning_gan3d.data.camera_prior import FakeLabels
from lightning_gan3d.data.synthetic.ellipsoids import level_of
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.evaluate import source_of
from lightning_gan3d.metrics.geometry.shape_statistics import measure_geometry
from lightning_gan3d.metrics.geometry.surfaces import grid_of, pieces
from lightning_gan3d.metrics.sources import Volume


def volume(radius=0.8):
    return Shape(ball, sigma=soft_ball(radius)).volume(torch.tensor([0]))


def test_the_grid_holds_occupancy_at_the_centres_of_cells():
    grid = grid_of(volume(), 40)
    assert grid.shape == (40, 40, 40)
    share = (grid >= 0.5).mean()
    assert share == pytest.approx(4 / 3 * np.pi * 0.8**3 / BOX**3, rel=0.01)

    def along_x(points):
        return points[..., 0]

    ramp = grid_of(Volume(along_x, lambda x: x, 2.0), 4)
    assert np.allclose(ramp[:, 0, 0], [-0.75, -0.25, 0.25, 0.75])
    assert np.allclose(ramp[2], 0.25)


def test_normals_of_a_ball_point_outward():
    points = torch.nn.functional.normalize(torch.randn(1, 50, 3), dim=-1)
    assert torch.allclose(volume().normals(0.8 * points), points, atol=1e-5)


def test_a_level_that_does_not_change_has_no_normal():
    flat = Volume(lambda p: 0 * p[..., 0], lambda x: x, 1.0)
    assert bool((flat.normals(torch.rand(1, 5, 3)) == 0).all())


def boxes(*edges):
    grid = np.zeros((20, 20, 20))
    for low, high, value in edges:
        grid[low:high, low:high, low:high] = value
    return grid


def test_floaters_are_outside_the_largest_component():
    assert pieces(boxes((2, 6, 1.0))).floating == 0
    result = pieces(boxes((2, 6, 1.0), (10, 12, 0.75)))
    assert result.num == 2
    assert result.floating == pytest.approx(0.75 * 8 / (64 + 0.75 * 8))
    assert result.filled == pytest.approx((64 + 8) / 8000)


def test_cells_that_touch_at_a_corner_are_connected_and_mist_is_empty():
    assert pieces(boxes((2, 6, 1.0), (6, 8, 1.0))).num == 1
    assert pieces(boxes((2, 6, 1.0), (7, 8, 1.0))).num == 2
    assert pieces(boxes((2, 6, 1.0), (10, 12, 0.4))).floating == 0
    assert pieces(boxes((2, 6, 0.4))) == (0, 0.0, 0.0)


def test_the_level_of_figures_is_zero_on_their_surface():
    source, items = figures(64), torch.tensor([3])
    level = source.volume(items).level
    cameras = source.base(items)
    view = source.views(items, cameras)
    inner = torch.nn.functional.avg_pool2d(view.opacity, 5, 1, 2)[0, 0].flatten() == 1
    points = cameras.unproject(view.depth)[:, inner]
    at = level(points)
    assert float(at.abs().median()) < 0.02
    outward = 0.05 * torch.nn.functional.normalize(cameras.origins[:, None] - points, dim=-1)
    assert (level(points + outward) < 0).float().mean() > 0.95
    assert (level(points - outward) > 0).float().mean() > 0.95
    far = level_of(source.render.__self__.shapes.select(items), torch.full((1, 1, 3), 5.0))
    assert float(far) < -1


def test_gaussians_have_all_metrics_but_normals():
    torch.manual_seed(0)
    splats = Generator(load_experiment("demo/splats", ["loss.terms=[]"]).generator, 32)
    source = source_of(splats, FakeLabels(Labels().labels, ""))
    cfg = GeometryConfig(items=2, grid=16, points=64, foreground=0.5)
    metrics = measure_geometry(context(source, geometry=cfg, truth=figures()))
    missing = {m.name: m.note for m in metrics if m.value is None}
    assert list(missing) == ["geometry.normals_deg"]
    assert "where the density is largest" in missing["geometry.normals_deg"]
    assert all(np.isfinite(m.value) for m in metrics if m.value is not None)


def test_scenes_without_a_density_have_no_volume():
    items = torch.tensor([0])
    assert replace(figures(8), level=None).volume(items) is None
    picture = Generator(load_experiment("demo/image2d").generator, 32)
    assert source_of(picture, FakeLabels(Labels().labels, "")).volume(items) is None

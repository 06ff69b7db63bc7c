import math

import pytest
import torch
from solid_shapes import Shape, ball

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.geometry.surfaces import (
    depth_error,
    extents,
    normal_error,
    normals_from_depth,
    thinness,
)


def seen_ball(resolution=64, camera=None):
    shape = Shape(ball, resolution=resolution)
    cameras = camera or shape.base(torch.tensor([0]))
    views = shape.views(torch.tensor([0]), cameras)
    points = cameras.unproject(views.depth)
    truth = torch.nn.functional.normalize(points, dim=-1).mT.unflatten(2, (resolution, resolution))
    return cameras, views, truth


def plane_depth(cameras, normal, offset, resolution=24):
    rays = cameras.rays(resolution)
    t = (offset - rays.origins @ normal) / (rays.dirs @ normal)
    return t.view(1, 1, resolution, resolution)


@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.4, -0.3, 0.9), (-0.7, 0.5, 0.6)])
def test_normals_of_a_plane_are_exact_from_a_near_and_turned_camera(normal):
    camera = Cameras.on_sphere(torch.tensor([0.3]), torch.tensor([0.2]), 3.0, 1.5)
    unit = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    depth = plane_depth(camera, unit, 0.1)
    pair = normals_from_depth(depth, torch.ones_like(depth) > 0, camera)
    assert int(pair.valid.sum()) > 0.8 * 22 * 22  # at grazing angles depth jumps
    truth = unit.view(1, 3, 1, 1).expand_as(pair.normals)
    assert float(normal_error(pair.normals, truth, pair.valid)) < 1e-3


def test_normals_of_a_ball_point_to_the_camera_and_converge():
    errors = []
    for resolution in (32, 64, 128):
        camera, views, truth = seen_ball(resolution)
        pair = normals_from_depth(views.depth, views.opacity > 0.5, camera)
        towards = camera.cam2world[:, :3, 2].view(1, 3, 1, 1)
        assert ((pair.normals * towards).sum(1)[pair.valid[:, 0]] < 0).all()
        middle = pair.valid & (truth[:, 2:] > 0.6)
        errors.append(float(normal_error(pair.normals, truth, middle)))
    assert errors[0] > 2.5 * errors[1] > 6 * errors[2]
    assert errors[2] < math.radians(0.3)


def test_normals_at_jumps_and_beside_the_background_are_invalid():
    camera, views, _ = seen_ball(32)
    depth = views.depth.clone()
    whole = torch.ones_like(depth) > 0
    depth[..., :16] = 49.0
    depth[..., 16:] = 60.0
    pair = normals_from_depth(depth, whole, camera)
    assert not bool(pair.valid[..., 15:17].any())
    assert int(pair.valid.sum()) == 30 * 28
    hole = whole.clone()
    hole[0, 0, 8, 8] = False
    lost = pair.valid & ~normals_from_depth(depth, hole, camera).valid
    assert sorted(map(tuple, lost[0, 0].nonzero().tolist())) == [
        (7, 8), (8, 7), (8, 8), (8, 9), (9, 8),
    ]  # fmt: skip


def test_the_depth_error_is_that_of_a_known_perturbation():
    _, views, _ = seen_ball(32)
    valid = views.opacity > 0.5
    assert float(depth_error(views.depth, views.depth, valid)) == 0
    wrong = views.depth + 0.25 * (views.opacity > 0.5) + 9 * ~valid
    assert float(depth_error(wrong, views.depth, valid)) == pytest.approx(0.25, rel=1e-3)


def test_the_depth_error_is_the_mean_over_pixels():
    truth = torch.full((1, 1, 4, 4), 2.0)
    bad = truth.clone()
    bad[0, 0, 1, 1] = 4.0
    assert float(depth_error(bad, truth, truth > 0)) == pytest.approx(2 / 16)


def test_the_depth_error_is_nan_without_valid_pixels():
    depth = torch.ones(2, 1, 4, 4)
    valid = torch.zeros(2, 1, 4, 4) > 0
    valid[1] = True
    error = depth_error(depth, depth, valid)
    assert bool(error[0].isnan())
    assert float(error[1]) == 0


@pytest.mark.parametrize("degrees", [0.0, 0.01, 30.0, 179.0])
def test_the_angle_between_normals_is_right_for_small_and_large_ones(degrees):
    angle = math.radians(degrees)
    a = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    b = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).view(1, 3, 1, 1)
    result = normal_error(a, b, torch.ones(1, 1, 1, 1) > 0)
    assert math.degrees(float(result)) == pytest.approx(degrees, rel=1e-4, abs=1e-6)


def test_extents_are_deviations_along_the_axes_of_a_turned_box():
    points = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    result = extents(points * torch.tensor([1.0, 3.0, 2.0]) @ turn.mT + 7)
    assert torch.allclose(result, torch.tensor([1.0, 2.0, 3.0]) / math.sqrt(12), rtol=0.01)


def test_a_plane_is_thin_half_a_ball_is_not_and_too_few_points_are_neither():
    plane = torch.rand(100, 3) * torch.tensor([1.0, 1.0, 0.0])
    assert thinness(plane @ torch.linalg.qr(torch.randn(3, 3))[0]) < 1e-3
    camera, views, _ = seen_ball(128)
    points = camera.unproject(views.depth)[0][views.opacity.flatten() > 0.5]
    assert thinness(points) == pytest.approx(math.sqrt(2) / 3, rel=0.02)
    assert math.isnan(thinness(points[:3]))
    assert math.isnan(thinness(points[:1].expand(9, 3)))
    assert math.isnan(thinness(points * math.nan))

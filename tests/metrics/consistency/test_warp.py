import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.image_similarity import psnr
from lightning_gan3d.metrics.consistency.pairs import pair_sums, pairs_apart
from lightning_gan3d.metrics.consistency.warp import (
    Surfaces,
    on_surface,
    resize_depth_z,
    surfaces,
    warp,
)

CFG = ConsistencyConfig()


def plane_view(cameras, size):
    """The plane z = 0, coloured by an affine function of x and y: interpolating it is exact."""
    rays = cameras.rays(size)
    t = -rays.origins[..., 2] / rays.dirs[..., 2]
    points = rays.origins + rays.dirs * t[..., None]
    colour = torch.stack([points[..., 0], points[..., 1], points[..., 0] - points[..., 1]], 1) * 0.3
    depth = t.view(-1, 1, size, size)
    return colour.view(-1, 3, size, size), depth


def two_cameras():
    """Two cameras of one orientation, so that the map between their images is affine."""
    cam2world = torch.eye(4).repeat(2, 1, 1)
    cam2world[:, 1, 1] = cam2world[:, 2, 2] = -1  # looks along -z, y up
    cam2world[0, :3, 3] = torch.tensor([0.0, 0.0, 3.0])
    cam2world[1, :3, 3] = torch.tensor([0.3, -0.2, 2.5])
    k = torch.tensor([[1.2, 0.0, 0.5], [0.0, 1.2, 0.5], [0.0, 0.0, 1.0]])
    return Cameras(cam2world, k.repeat(2, 1, 1))


def warped_pair(image, cameras, depth, tolerance=0.02, opaque=None):
    z = cameras.depth_z(depth)
    opaque = torch.ones_like(z, dtype=torch.bool) if opaque is None else opaque
    views = Surfaces(image, cameras, z, torch.ones_like(z), opaque)
    return warp(views.select(torch.tensor([0])), views.select(torch.tensor([1])), tolerance)


def test_an_affine_plane_warps_exactly():
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    pair = warped_pair(image, cameras, depth)
    valid = pair.valid[0, 0]
    assert 300 < int(valid.sum()) < 24 * 24  # part of the second view is outside the first
    assert torch.allclose(pair.image[0][:, valid], image[1][:, valid], atol=1e-5)
    assert (image[0] - image[1])[:, valid].abs().mean() > 0.02


def test_ray_distance_in_place_of_camera_z_raises_the_error():
    """A common mistake: off the optical axis, the two differ by the cosine."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    wrong = depth.square() / cameras.depth_z(depth)  # as though `depth` were z
    pair = warped_pair(image, cameras, wrong, tolerance=0.5)
    valid = pair.valid[0, 0]
    assert (pair.image[0] - image[1])[:, valid].abs().max() > 1e-3


def test_points_outside_the_source_are_excluded_not_clamped():
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    pair = warped_pair(image, cameras, depth)
    points = cameras.unproject(depth)[1:]
    uv, _ = cameras.select(slice(0, 1)).project(points)
    inside = ((uv * 24 >= 0.5) & (uv * 24 <= 23.5)).all(-1).view(24, 24)
    assert torch.equal(pair.valid[0, 0], inside)


def test_occluded_pixels_are_excluded():
    """A square that only the source shows occludes a part of the plane."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    clear = warped_pair(image, cameras, depth).valid
    hidden = depth.clone()
    hidden[0, :, 8:16, 8:16] *= 0.5
    image[0, :, 8:16, 8:16] = 5.0
    pair = warped_pair(image, cameras, hidden)
    assert pair.valid.sum() < clear.sum() - 30
    valid = pair.valid[0, 0]
    assert torch.allclose(pair.image[0][:, valid], image[1][:, valid], atol=1e-5)


def test_the_z_buffer_keeps_the_nearest_of_two_points_on_a_pixel():
    """The source's depth occludes nothing; only target points occlude each other."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    depth[0] = 50.0
    both = warped_pair(image, cameras, depth).valid
    near = depth.clone()
    near[1, :, :, ::2] *= 0.7  # every second column of the target lies in front
    result = warped_pair(image, cameras, near).valid
    behind = result[0, 0, :, 1::2].sum() / both[0, 0, :, 1::2].sum()
    assert behind < 0.75
    wide = warped_pair(image, cameras, near, tolerance=0.9).valid
    assert wide[0, 0, :, 1::2].sum() > result[0, 0, :, 1::2].sum()


def test_only_foreground_of_both_views_is_compared():
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    opaque = torch.ones_like(depth, dtype=torch.bool)
    opaque[1, :, :12] = False
    assert not warped_pair(image, cameras, depth, opaque=opaque).valid[0, 0, :12].any()
    opaque = torch.ones_like(opaque)
    opaque[0] = False
    assert not warped_pair(image, cameras, depth, opaque=opaque).valid.any()


def test_the_depth_of_a_tilted_plane_is_resized_exactly():
    eye = torch.tensor([[0.8, 0.4, 2.0]])
    cameras = Cameras.look_at(eye, focal=2.0)
    _, low = plane_view(cameras, 16)
    _, high = plane_view(cameras, 48)
    z, _ = resize_depth_z(cameras.depth_z(low), torch.ones_like(low), 48)
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    assert torch.allclose(z[inner], cameras.depth_z(high)[inner], rtol=1e-5)


def test_the_far_background_does_not_pull_the_depth_of_a_silhouette():
    z = torch.full((1, 1, 8, 8), 100.0)
    opacity = torch.zeros(1, 1, 8, 8)
    z[..., 4:] = 2.0
    opacity[..., 4:] = 1.0
    result, alpha = resize_depth_z(z, opacity, 16)
    assert result[alpha > 0.2].max() < 2.001


def test_a_steep_plane_has_no_edges_and_a_step_has_them_on_both_sides():
    eye = torch.tensor([[2.4, 0.4, 1.0]])  # looks along the plane z = 0 rather than at it
    cameras = Cameras.look_at(eye, focal=3.0)
    _, depth = plane_view(cameras, 16)
    z = cameras.depth_z(depth)
    assert (z[..., 1:] / z[..., :-1] - 1).abs().max() > 0.02  # a slope above the tolerance
    assert on_surface(z, 0.02, 16).all()
    for step, edge in ((1.01, False), (1.05, True), (0.95, True)):
        stepped = torch.cat([z[..., :8], z[..., 8:] * step], dim=-1)
        columns = on_surface(stepped, 0.02, 16)[0, 0].all(dim=0)
        assert columns.tolist() == [not (edge and i in (7, 8)) for i in range(16)]
        doubled = on_surface(stepped, 0.02, 32)[0, 0].all(dim=0)
        assert doubled.tolist() == [not (edge and 12 < i < 19) for i in range(32)]


def test_cameras_rotate_about_the_y_axis():
    start = Cameras.on_sphere(torch.tensor([0.3]), torch.tensor([0.4]), radius=2.0)
    result = start.rotate_y(torch.tensor([-0.2, 0.0, 0.5]))
    expected = Cameras.on_sphere(torch.tensor([0.1, 0.3, 0.8]), torch.full((3,), 0.4), radius=2.0)
    assert torch.allclose(result.cam2world, expected.cam2world, atol=1e-6)
    assert torch.equal(result.intrinsics, expected.intrinsics)


def test_pairs_are_compared_in_both_directions():
    for distance, expected in ((1, [(0, 1), (1, 2), (1, 0), (2, 1)]), (2, [(0, 2), (2, 0)])):
        first, second = pairs_apart(3, distance)
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_psnr_of_a_known_error():
    assert float(psnr(torch.tensor(0.01))) == pytest.approx(20.0)
    assert float(psnr(torch.tensor(0.0))) == pytest.approx(100.0)


def test_errors_are_in_unit_images():
    """Two views from one camera that differ by 0.2 in [-1, 1]: 0.1 in [0, 1], 20 dB."""
    camera = two_cameras().select(slice(0, 1)).rotate_y(torch.zeros(2))
    _, depth = plane_view(camera, 16)
    image = torch.zeros(2, 3, 16, 16)
    image[1] += 0.2
    views = Images(image, image, depth, torch.ones_like(depth))
    errors = pair_sums(surfaces(image, views, camera, CFG), 2, 0.02)
    assert float(psnr(errors.warped / errors.compared)) == pytest.approx(20.0, abs=1e-3)
    assert errors.compared == errors.visible == 2 * 16 * 16
    assert float(errors.depth_median) == pytest.approx(0, abs=1e-6)


def test_depth_that_is_scaled_is_measured_in_the_compared_pixels():
    """Views of a plane from 3 and 2.5 away, the second one's depth a tenth too large."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    assert warped_pair(image, cameras, depth).depth_error.max() < 1e-5
    depth[1] *= 1.1
    pair = warped_pair(image, cameras, depth, tolerance=0.5)
    valid = pair.valid[0, 0]
    # The point is 1.1 * 2.5 from the second camera's plane, hence 3.25 from the first one's.
    assert torch.allclose(pair.depth_error[0, 0][valid], torch.tensor(3.25 / 3 - 1), atol=1e-4)
    assert not pair.depth_error[0, 0][~valid].any()

import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras, focal_from_fov


def some_cameras(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    azimuth = torch.rand(n, generator=g) * 6
    elevation = torch.rand(n, generator=g) - 0.3
    cameras = Cameras.on_sphere(azimuth, elevation, radius=2.7, focal=1.3, target=(0.1, -0.2, 0.3))
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 1] = 0.05  # skew
    intrinsics[:, 1, 1] = 1.1
    intrinsics[:, :2, 2] = torch.tensor([0.45, 0.53])
    return Cameras(cameras.cam2world, intrinsics)


def test_the_frontal_camera_stands_on_plus_z_with_opencv_axes():
    camera = Cameras.on_sphere(torch.zeros(1), torch.zeros(1), radius=2.0)
    right, down, forward = camera.cam2world[0, :3, :3].T
    torch.testing.assert_close(camera.origins[0], torch.tensor([0.0, 0.0, 2.0]))
    torch.testing.assert_close(right, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(down, torch.tensor([0.0, -1.0, 0.0]))
    torch.testing.assert_close(forward, torch.tensor([0.0, 0.0, -1.0]))


def test_azimuth_grows_toward_plus_x_and_elevation_toward_plus_y():
    camera = Cameras.on_sphere(torch.tensor([math.pi / 2, 0.0]), torch.tensor([0.0, math.pi / 4]))
    torch.testing.assert_close(
        camera.origins,
        2.7 * torch.tensor([[1.0, 0, 0], [0, 0.5**0.5, 0.5**0.5]]),
        atol=1e-6,
        rtol=0,
    )


def test_rotations_are_proper_for_any_pose():
    rotation = some_cameras(50).cam2world[:, :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50))


def test_a_camera_that_looks_along_up_is_refused():
    with pytest.raises(ValueError, match="give another `up`"):
        Cameras.look_at(torch.tensor([[0.0, 2.0, 0.0]]))


def test_label_round_trip_is_exact():
    cameras = some_cameras()
    again = Cameras.from_label(cameras.to_label())
    assert torch.equal(again.cam2world, cameras.cam2world)
    assert torch.equal(again.intrinsics, cameras.intrinsics)
    assert (
        cameras.to_label()[0, 3] == cameras.cam2world[0, 0, 3]
    )  # row-major: x translation is fourth


def test_a_point_on_a_ray_projects_back_to_its_pixel_centre_with_skew():
    cameras = some_cameras()
    resolution = 7
    rays = cameras.rays(resolution)
    t = torch.rand(5, resolution**2, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    uv, depth_z = cameras.project(rays.origins + t * rays.dirs)
    pixel = (torch.arange(resolution) + 0.5) / resolution
    expected = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"), dim=-1).view(-1, 2)
    torch.testing.assert_close(uv, expected.expand_as(uv), atol=2e-5, rtol=0)
    torch.testing.assert_close(rays.dirs.norm(dim=-1), torch.ones(5, resolution**2))
    torch.testing.assert_close(
        cameras.depth_z(t.view(5, 1, 7, 7)).flatten(1), depth_z, atol=1e-5, rtol=1e-5
    )


def test_a_point_above_the_axis_appears_in_the_upper_half_of_the_image():
    camera = Cameras.on_sphere(torch.tensor([0.4]), torch.tensor([0.2]))
    uv, depth_z = camera.project(torch.tensor([[[0.0, 0.3, 0.0]]]))
    assert uv[0, 0, 1] < 0.5
    assert depth_z[0, 0] > 0


def test_unproject_inverts_project_for_distances_along_rays():
    cameras = some_cameras(2)
    depth = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(2)) + 1
    points = cameras.unproject(depth)
    torch.testing.assert_close(
        (points - cameras.origins[:, None]).norm(dim=-1), depth.flatten(1), atol=1e-5, rtol=1e-5
    )
    uv, _ = cameras.project(points)
    assert uv[0, 7, 0] == pytest.approx(1.5 / 6, abs=1e-4)  # row 1, column 1
    assert uv[0, 7, 1] == pytest.approx(1.5 / 6, abs=1e-4)


def test_a_crop_sees_the_rays_of_its_pixels():
    cameras = some_cameras(2)
    whole = cameras.rays(8).dirs.view(2, 8, 8, 3)
    patch = cameras.crop(left=0.25, top=0.5, width=0.5, height=0.5).rays(4).dirs.view(2, 4, 4, 3)
    torch.testing.assert_close(patch, whole[:, 4:8, 2:6], atol=1e-6, rtol=1e-6)


def test_the_mirrored_camera_sees_the_mirrored_world():
    cameras = some_cameras(4)
    points = torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(3)) * 0.3
    uv, depth_z = cameras.project(points)
    uv_mirror, depth_mirror = cameras.mirror().project(points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(uv_mirror[..., 0], 1 - uv[..., 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(uv_mirror[..., 1], uv[..., 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(depth_mirror, depth_z)


def test_an_orbit_closes_at_equal_steps():
    origins = Cameras.orbit(8, elevation=0.3, radius=2.0).origins
    steps = (origins.roll(-1, 0) - origins).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:1].expand(8), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(origins.norm(dim=-1), torch.full((8,), 2.0))


def test_a_field_of_view_spans_the_image():
    focal = focal_from_fov(math.pi / 2)
    camera = Cameras.on_sphere(torch.zeros(1), torch.zeros(1), radius=1.0, focal=focal)
    uv, _ = camera.project(torch.tensor([[[1.0, 0.0, 0.0]]]))  # 45 degrees to the right
    assert uv[0, 0, 0] == pytest.approx(1.0)

import json
import math

import pytest
import torch

from lightning_gan3d.cameras import (
    CAR_FOCAL,
    FACE_FOCAL,
    Cameras,
    Orbit,
    focal_from_fov,
    fov_from_focal,
    sphere_axes,
    spherical,
    widest_gap,
)
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.labels import read_orbit


def random_cameras(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    azimuth = torch.rand(n, generator=g) * 6
    elevation = torch.rand(n, generator=g) - 0.3
    cameras = Cameras.on_sphere(azimuth, elevation, radius=2.7, focal=1.3, target=(0.1, -0.2, 0.3))
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 1] = 0.05  # skew
    intrinsics[:, 1, 1] = 1.1
    intrinsics[:, :2, 2] = torch.tensor([0.45, 0.53])
    return Cameras(cameras.cam2world, intrinsics)


def test_the_frontal_camera_is_on_plus_z_with_opencv_axes():
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
    rotation = random_cameras(50).cam2world[:, :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50))


def test_look_at_along_up_is_rejected():
    with pytest.raises(ValueError, match="give another `up`"):
        Cameras.look_at(torch.tensor([[0.0, 2.0, 0.0]]))


def test_label_round_trip_is_exact():
    cameras = random_cameras()
    again = Cameras.from_label(cameras.to_label())
    assert torch.equal(again.cam2world, cameras.cam2world)
    assert torch.equal(again.intrinsics, cameras.intrinsics)
    assert (
        cameras.to_label()[0, 3] == cameras.cam2world[0, 0, 3]
    )  # row-major: x translation is fourth


def test_a_point_on_a_ray_projects_back_to_its_pixel_centre_with_skew():
    cameras = random_cameras()
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
    cameras = random_cameras(2)
    depth = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(2)) + 1
    points = cameras.unproject(depth)
    torch.testing.assert_close(
        (points - cameras.origins[:, None]).norm(dim=-1), depth.flatten(1), atol=1e-5, rtol=1e-5
    )
    uv, depth_z = cameras.project(points)
    assert bool((depth_z > 0).all())  # in front
    assert uv[0, 7, 0] == pytest.approx(1.5 / 6, abs=1e-4)  # row 1, column 1
    assert uv[0, 7, 1] == pytest.approx(1.5 / 6, abs=1e-4)


def test_a_crop_sees_the_rays_of_its_pixels():
    cameras = random_cameras(2)
    whole = cameras.rays(8).dirs.view(2, 8, 8, 3)
    patch = cameras.crop(left=0.25, top=0.5, width=0.5, height=0.5).rays(4).dirs.view(2, 4, 4, 3)
    torch.testing.assert_close(patch, whole[:, 4:8, 2:6], atol=1e-6, rtol=1e-6)


def test_the_mirrored_camera_sees_the_mirrored_world():
    cameras = random_cameras(4)
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
    assert focal_from_fov(0.7, width=90.0) == pytest.approx(90 * focal_from_fov(0.7))
    assert fov_from_focal(focal_from_fov(0.7)) == pytest.approx(0.7)


def test_spherical_inverts_on_sphere():
    azimuth, elevation = torch.tensor([-3.0, 0.0, 0.4, 2.5]), torch.tensor([0.2, -1.2, 0.0, 1.5])
    coordinates = spherical(Cameras.on_sphere(azimuth, elevation, radius=1.7).origins)
    torch.testing.assert_close(coordinates.azimuth, azimuth, atol=1e-5, rtol=0)
    torch.testing.assert_close(coordinates.elevation, elevation, atol=1e-5, rtol=0)
    torch.testing.assert_close(coordinates.radius, torch.full((4,), 1.7))


def test_the_right_of_a_sphere_s_camera_is_where_azimuth_grows():
    azimuth, elevation = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.zeros(2).double()
    eye, right = sphere_axes(azimuth, elevation)
    moved, _ = sphere_axes(azimuth + 1e-6, elevation)
    torch.testing.assert_close((moved - eye) / 1e-6, right, atol=1e-5, rtol=0)


def test_rotation_about_y_adds_to_the_azimuth_and_orders_by_camera():
    cameras = random_cameras(2)
    angles = torch.tensor([0.0, 0.3, -0.5])
    rotated = cameras.rotate_y(angles)
    assert torch.equal(rotated.cam2world[[0, 3]], cameras.cam2world)
    before, after = spherical(cameras.origins), spherical(rotated.origins)
    expected = (before.azimuth[:, None] + angles).flatten()
    difference = torch.remainder(after.azimuth - expected + math.pi, 2 * math.pi) - math.pi
    assert difference.abs().max() < 1e-5
    assert torch.equal(rotated.intrinsics, cameras.intrinsics.repeat_interleave(3, 0))
    # A point on the axis of rotation stays at its pixel.
    point = torch.tensor([0.0, 0.4, 0.0])
    uv, _ = cameras.project(point.expand(2, 1, 3))
    uv_rotated, _ = rotated.project(point.expand(6, 1, 3))
    torch.testing.assert_close(uv_rotated, uv.repeat_interleave(3, 0), atol=1e-5, rtol=1e-5)


def test_frusta_span_the_image_at_the_given_depth():
    cameras = random_cameras(3)
    frusta = cameras.frusta(0.7)
    torch.testing.assert_close(frusta[:, 0], cameras.origins)
    uv, depth_z = cameras.project(frusta[:, 1:])
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(uv, corners.expand_as(uv), atol=1e-5, rtol=0)
    torch.testing.assert_close(depth_z, torch.full((3, 4), 0.7))


def test_the_widest_gap_may_cross_the_back():
    gap, end = widest_gap(torch.tensor([3.0, -0.5, 0.5, -3.0]))
    assert (gap, end) == (pytest.approx(2.5), pytest.approx(-0.5))
    gap, end = widest_gap(torch.tensor([0.4]))
    assert (gap, end) == (pytest.approx(2 * math.pi), pytest.approx(0.4))


def labels_at(azimuth, elevation=0.4, radius=3.2, focal=1.5, target=(0.0, 0.0, 0.0)):
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32)
    elevation = torch.full_like(azimuth, elevation)
    return Cameras.on_sphere(azimuth, elevation, radius, focal, target).to_label()


def test_a_full_circle_is_recognised_and_closes():
    orbit = Orbit.of_labels(labels_at(torch.linspace(0, 2 * math.pi, 40)[:-1]))
    assert orbit.full
    assert orbit.radius == pytest.approx(3.2, abs=1e-4)
    assert orbit.elevation == pytest.approx(0.4, abs=1e-4)
    assert orbit.intrinsics[0, 0] == pytest.approx(1.5)
    assert torch.rad2deg(orbit.angles(4)) == pytest.approx(torch.tensor([0.0, 90.0, 180.0, 270.0]))
    assert orbit.angles(1).tolist() == [0.0]


def test_an_orbit_reproduces_the_cameras_of_its_labels():
    target = (0.1, 0.2, -0.3)
    given = labels_at(torch.linspace(0, 2 * math.pi, 9)[:-1], target=target)
    orbit = Orbit.of_labels(given)
    assert orbit.target == pytest.approx(target, abs=1e-4)
    assert torch.allclose(orbit.cameras(8).to_label(), given, atol=1e-4)


@pytest.mark.parametrize("centre", [0.0, 0.7, math.pi, -2.5])
def test_an_arc_keeps_its_ends_at_any_azimuth(centre):
    orbit = Orbit.of_labels(labels_at(centre + torch.linspace(-0.5, 0.5, 101)))
    assert not orbit.full
    low, high = orbit.azimuths
    assert high - low == pytest.approx(0.9, abs=1e-3)
    assert math.cos((low + high) / 2 - centre) == pytest.approx(1.0, abs=1e-5)
    assert math.cos(float(orbit.angles(1)) - centre) == pytest.approx(1.0, abs=1e-5)
    assert orbit.angles(3).tolist() == pytest.approx([low, (low + high) / 2, high])
    assert abs(low + high) / 2 <= math.pi + 1e-6  # not turns away


def test_the_orbit_of_one_camera_is_that_camera():
    given = labels_at([0.3])
    orbit = Orbit.of_labels(given)
    forward = given[:, [2, 6, 10]].expand(2, 3)
    assert torch.allclose(orbit.cameras(2).cam2world[:, :3, 2], forward, atol=1e-4)


def test_eg3d_films_faces_from_the_front_and_cars_all_around():
    faces, cars = Orbit.of_eg3d(2.7, (0.0, 0.0, 0.2)), Orbit.of_eg3d(1.7, (0.0, 0.0, 0.0))
    assert (faces.full, cars.full) == (False, True)
    assert (float(faces.intrinsics[0, 0]), float(cars.intrinsics[1, 1])) == pytest.approx(
        (FACE_FOCAL, CAR_FOCAL)
    )
    cameras = faces.cameras(5)
    assert cameras.origins[2, 0] == pytest.approx(0, abs=1e-6)
    assert (cameras.origins - torch.tensor([0, 0, 0.2])).norm(dim=1) == pytest.approx(2.7)


def test_the_middle_of_the_box_fills_the_image():
    cameras = Orbit.around_box(2.0).cameras(5)
    assert cameras.origins.norm(dim=1) == pytest.approx(torch.full((5,), 5.4))
    edge = torch.tensor([[1.0, 0.0, 0.0]])
    front = Orbit.around_box(2.0, elevation=0.0).cameras(1)
    assert front.project(edge[None])[0][0, 0].tolist() == pytest.approx([1.0, 0.5], abs=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        '{"labels": null}',
        '{"labels": []}',
        '{"labels": [["a.png", [1, 2]]]}',
        '{"labels": [3]}',
        "{",
    ],
)
def test_invalid_labels_are_rejected(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError):
        read_orbit(tmp_path)


def test_an_empty_path_is_rejected():
    with pytest.raises(DataError, match=r"data\.path is empty"):
        read_orbit("")


def test_the_orbit_of_a_folder_is_read_without_its_images(tmp_path):
    rows = [[f"{i}.png", row] for i, row in enumerate(labels_at([0.0, 1.0, 2.0]).tolist())]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    assert read_orbit(tmp_path).radius == pytest.approx(3.2, abs=1e-4)


def test_moves_around_a_point_change_azimuth_elevation_and_distance():
    target = (0.1, -0.2, 0.3)
    azimuth, elevation = torch.tensor([0.4, 2.0]), torch.tensor([0.1, -0.3])
    cameras = Cameras.on_sphere(azimuth, elevation, 2.0, 1.5, target)
    move = torch.tensor([[0.3, 0.2, 0.0], [-0.5, 0.25, math.log(1.5)]])
    moved = cameras.moved(move, target)
    for i, radius in enumerate((2.0, 3.0)):
        expected = Cameras.on_sphere(
            azimuth[i : i + 1] + move[i, 0],
            elevation[i : i + 1] + move[i, 1],
            radius,
            1.5,
            target,
        )
        assert torch.allclose(moved.cam2world[i], expected.cam2world[0], atol=1e-6)
    still = cameras.moved(torch.zeros(2, 3), target)
    assert torch.allclose(still.cam2world, cameras.cam2world, atol=1e-6)
    assert torch.equal(moved.intrinsics, cameras.intrinsics)

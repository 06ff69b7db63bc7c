import json
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.labels import read_orbit


def labels(azimuth, elevation=0.4, radius=3.2, focal=1.5, target=(0.0, 0.0, 0.0)):
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32)
    elevation = torch.full_like(azimuth, elevation)
    return Cameras.on_sphere(azimuth, elevation, radius, focal, target).to_label()


def test_a_full_circle_is_recognised_and_closes():
    orbit = Orbit.of_labels(labels(torch.linspace(0, 2 * math.pi, 40)[:-1]))
    assert orbit.full
    assert orbit.radius == pytest.approx(3.2, abs=1e-4)
    assert orbit.elevation == pytest.approx(0.4, abs=1e-4)
    assert orbit.intrinsics[0, 0] == pytest.approx(1.5)
    assert torch.rad2deg(orbit.angles(4)) == pytest.approx(torch.tensor([0.0, 90.0, 180.0, 270.0]))
    assert orbit.angles(1).tolist() == [0.0]


def test_cameras_stand_where_those_of_the_data_stood():
    target = (0.1, 0.2, -0.3)
    given = labels(torch.linspace(0, 2 * math.pi, 9)[:-1], target=target)
    orbit = Orbit.of_labels(given)
    assert orbit.target == pytest.approx(target, abs=1e-4)
    assert torch.allclose(orbit.cameras(8).to_label(), given, atol=1e-4)


@pytest.mark.parametrize("centre", [0.0, 0.7, math.pi, -2.5])
def test_an_arc_keeps_to_its_ends_wherever_it_lies(centre):
    orbit = Orbit.of_labels(labels(centre + torch.linspace(-0.5, 0.5, 101)))
    assert not orbit.full
    low, high = orbit.azimuths
    assert high - low == pytest.approx(0.9, abs=1e-3)
    assert math.cos((low + high) / 2 - centre) == pytest.approx(1.0, abs=1e-5)
    assert math.cos(float(orbit.angles(1)) - centre) == pytest.approx(1.0, abs=1e-5)
    assert orbit.angles(3).tolist() == pytest.approx([low, (low + high) / 2, high])


def test_one_camera_is_an_orbit_of_its_own():
    given = labels([0.3])
    orbit = Orbit.of_labels(given)
    forward = given[:, [2, 6, 10]].expand(2, 3)
    assert torch.allclose(orbit.cameras(2).cam2world[:, :3, 2], forward, atol=1e-4)


def test_around_the_box_its_middle_fills_the_frame():
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
def test_labels_that_are_no_cameras_are_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError):
        read_orbit(tmp_path)


def test_no_path_is_refused_rather_than_the_working_folder():
    with pytest.raises(DataError, match=r"data\.path is empty"):
        read_orbit("")


def test_the_orbit_of_a_folder_is_read_without_its_images(tmp_path):
    rows = [[f"{i}.png", row] for i, row in enumerate(labels([0.0, 1.0, 2.0]).tolist())]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    assert read_orbit(tmp_path).radius == pytest.approx(3.2, abs=1e-4)

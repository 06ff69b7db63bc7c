import json
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras, Orbit, spherical
from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.camera_paths import (
    arc_and_back,
    cameras_of,
    figure8,
    smooth_path,
)

ORBIT = Orbit.around_box(2.0, radius=3.2, elevation=0.2)
ARC = ORBIT._replace(azimuths=(-0.2, 0.2), full=False)


def test_named_paths():
    assert torch.equal(cameras_of("orbit", 5, ORBIT).cam2world, ORBIT.cameras(5).cam2world)
    assert len(cameras_of("frontal", 5, ORBIT).cam2world) == 1
    for orbit, width in ((ORBIT, 0.4), (ARC, 0.2)):
        path = spherical(figure8(64, orbit).origins)
        assert path.radius.tolist() == pytest.approx([3.2] * 64)
        assert float(path.azimuth.max()) == pytest.approx(width, abs=1e-2)
        assert float(path.elevation.max()) == pytest.approx(0.2 + 0.15, abs=1e-2)
        crossings = (path.azimuth.abs() < 1e-6) & ((path.elevation - 0.2).abs() < 1e-6)
        assert int(crossings.sum()) == 2  # the middle of an eight, passed twice


def test_angles():
    cameras = cameras_of("0.5:0.1,-0.25:0", 3, ORBIT)
    path = spherical(cameras.origins)
    assert path.azimuth.tolist() == pytest.approx([0.5, -0.25])
    assert path.elevation.tolist() == pytest.approx([0.1, 0.0], abs=1e-6)
    assert torch.equal(cameras.intrinsics[0], ORBIT.intrinsics)


@pytest.mark.parametrize("text", ["orbits", "1", "1:2:3", "a:b", "", "nan:0", "0:1.6", "1:2,3"])
def test_other_texts_are_rejected_with_the_choices(text):
    with pytest.raises(ConfigError, match="use frontal, orbit, figure8"):
        cameras_of(text, 3, ORBIT)


def write(tmp_path, content):
    path = tmp_path / "cameras.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_files_of_cameras(tmp_path):
    cameras = Cameras.orbit(4, 0.3, 3.0, 1.7)
    poses, labels = cameras.cam2world.tolist(), cameras.to_label().tolist()
    rows = [[f"{i}.png", label] for i, label in enumerate(labels)]
    for content in (
        labels,
        {"labels": rows},
        {"cam2world": poses, "intrinsics": cameras.intrinsics.tolist()},
        {"cam2world": poses, "intrinsics": cameras.intrinsics[0].tolist()},
    ):
        read = cameras_of(write(tmp_path, content), 9, ORBIT)
        assert torch.allclose(read.cam2world, cameras.cam2world)
        assert torch.allclose(read.intrinsics, cameras.intrinsics)
    for content in (poses, cameras.cam2world.flatten(1).tolist()):
        read = cameras_of(write(tmp_path, content), 9, ORBIT)
        assert torch.allclose(read.cam2world, cameras.cam2world)
        assert torch.equal(read.intrinsics[2], ORBIT.intrinsics)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "expected a list of 4x4"),
        ("[1, 2]", "expected a list of 4x4"),
        ('{"poses": []}', "expected a list of 4x4"),
        ("null", "expected a list of 4x4"),
        ([[[1.0] * 4] * 4], "camera 0"),
        ([[[math.nan] * 4] * 4], "not finite"),
        ([["x"]], "expected a list of 4x4"),
    ],
)
def test_other_files_are_rejected_in_one_line(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as caught:
        cameras_of(write(tmp_path, content), 3, ORBIT)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_rejected(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for name in ("none.json", "folder.json"):
        with pytest.raises(ConfigError, match="no such file"):
            cameras_of(str(tmp_path / name), 3, ORBIT)


def test_a_path_passes_its_cameras_and_stays_rigid():
    given = Cameras.on_sphere(torch.tensor([0.0, 0.5, 1.5]), torch.tensor([0.0, 0.3, -0.2]), 3.0)
    path = smooth_path(given, 9)
    for i, j in ((0, 0), (1, 4), (2, 8)):
        assert torch.allclose(path.cam2world[j], given.cam2world[i], atol=1e-5)
    rotation = path.cam2world[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(9, 3, 3), atol=1e-5)
    assert smooth_path(given, 3) is given
    one = smooth_path(given.select(slice(0, 1)), 4)
    assert torch.equal(one.cam2world[3], given.cam2world[0])


def test_a_video_of_an_arc_is_closed():
    orbit = Orbit.of_eg3d(2.7, (0.0, 0.0, 0.0))
    assert not orbit.full
    azimuth = spherical(arc_and_back(12, orbit).origins).azimuth
    assert (float(azimuth.min()), float(azimuth.max())) == pytest.approx(orbit.azimuths, abs=1e-5)
    assert torch.allclose(azimuth[1:], azimuth[1:].flip(0), atol=1e-5)
    assert float(azimuth[0]) == pytest.approx(orbit.azimuths[0], abs=1e-5)

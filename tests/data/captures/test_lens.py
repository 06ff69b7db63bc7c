"""Distorted photographs of known points: labels project the points to where images show them."""

import json

import numpy as np
import pytest
import torch
from capture_parts import capture, transforms, write_colmap_txt, write_images
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.colmap import ColmapCamera, camera_of
from lightning_gan3d.data.captures.from_poses import prepare_from_poses
from lightning_gan3d.data.captures.lens import Lens, largest_square, undistort
from lightning_gan3d.data.captures.posed_images import FromPosesConfig
from lightning_gan3d.data.dataset import DataConfig, ImageDataset

RESOLUTION = 96
RAYS = [[0.5, -0.3], [-0.6, 0.45]]
PROJECTIONS = {
    "SIMPLE_RADIAL": ((800, 410, 300, 0.1), [[823.6, 51.84], [-97, 680.25]]),
    "RADIAL": ((800, 410, 300, 0.1, -0.05), [[821.288, 53.2272], [-89.40625, 674.554688]]),
    "OPENCV": (
        (800, 790, 410, 300, -0.3, 0.1, 1e-3, -2e-3),
        [[772.24, 85.31908], [-6.6715, 608.375142]],
    ),
    "OPENCV_FISHEYE": (
        (800, 790, 410, 300, 0.05, -0.02, 0.01, 0.003),
        [[776.702528, 82.728752], [-9.284106, 610.532291]],
    ),
    "FULL_OPENCV": (
        (800, 790, 410, 300, 0.1, 0.2, 2e-3, 1e-3, 0.03, 0.2, 0.1, 0.02),
        [[802.029075, 68.421133], [-60.290033, 649.530587]],
    ),
    "SIMPLE_RADIAL_FISHEYE": (
        (800, 410, 300, 0.05),
        [[777.180068, 79.691959], [-10.367741, 615.275806]],
    ),
    "RADIAL_FISHEYE": (
        (800, 410, 300, 0.05, -0.02),
        [[776.617603, 80.029438], [-8.955345, 614.216509]],
    ),
}
"""Parameters, and the pixels of RAYS as projected by pycolmap 4.2.1; OpenCV 5.0.0 agrees."""


@pytest.mark.parametrize("model", PROJECTIONS)
def test_models_project_as_colmap(model):
    params, expected = PROJECTIONS[model]
    k, lens = camera_of(ColmapCamera(model, (820, 600), params), "x")
    rays = lens.distort(torch.tensor(RAYS, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(rays @ k[:2, :2].T + k[:2, 2], expected, atol=1e-6)


def bend(x, y, k1=0.0, k2=0.0, k3=0.0, p1=0.0, p2=0.0, fisheye=False):
    """OpenCV's documentation, camera calibration; fisheye without tangential distortion."""
    r = np.hypot(x, y)
    if fisheye:
        theta = np.arctan(r)
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6)
        return x * bent / r, y * bent / r
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


def photograph(path, shot, **coefficients):
    """Three balls in the colour channels, at the distorted pixels of points 1 to 3."""
    v, u = np.mgrid[: shot.height, : shot.width] + 0.5
    for i, name in enumerate(shot.names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        rays = (shot.pixels_of(i, shot.points[1:4]) - shot.intrinsics[:2, 2]) / np.diag(
            shot.intrinsics
        )[:2]
        x, y = bend(rays[:, 0], rays[:, 1], **coefficients)
        fx, fy = np.diag(shot.intrinsics)[:2]
        pixels = [
            np.exp(-((u - fx * a - shot.intrinsics[0, 2]) ** 2) / 18)
            * np.exp(-((v - fy * b - shot.intrinsics[1, 2]) ** 2) / 18)
            for a, b in zip(x, y, strict=True)
        ]
        Image.fromarray(np.rint(255 * np.stack(pixels, -1)).astype(np.uint8)).save(path / name)


def errors_of(path, shot):
    """Distances in pixels of the centres of the balls from the projections of their points."""
    dataset = ImageDataset(DataConfig(path=str(path)), "all")
    matrix = np.array(dataset.metadata["from_poses"]["worlds"]["all"]["matrix"])
    points = torch.from_numpy(shot.points[1:4] @ matrix[:3, :3].T + matrix[:3, 3]).float()
    uv, _ = Cameras.from_label(dataset.labels).project(points.expand(len(dataset), -1, -1))
    weights = dataset.images(range(len(dataset))).double()
    at = (torch.arange(RESOLUTION) + 0.5) / RESOLUTION
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    centre = torch.stack([(weights * at).sum((2, 3)), (weights * at[:, None]).sum((2, 3))], -1)
    return (RESOLUTION * (centre - uv)).norm(dim=-1)


def wide(num=6):
    """The object fills more of the image than in other tests: 0.3 of the focal length."""
    return capture(num, size=(270, 192), distance=1.8)


CASES = {
    "barrel": {"k1": -0.25, "k2": 0.05},
    "pincushion": {"k1": 0.2, "k2": -0.05, "k3": 0.01},
    "tangential": {"p1": 0.02, "p2": -0.03},
    "fisheye": {"k1": 0.05, "k2": -0.01, "fisheye": True},
    "pure fisheye": {"fisheye": True},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["keys", "list", "frames", "colmap"])
def test_points_are_where_the_labels_say(tmp_path, name, form):
    """Within 0.05 pixels; without undistortion, the same images are more than half a pixel off."""
    shot, case = wide(), dict(CASES[name])
    photograph(tmp_path / "images", shot, **case)
    fisheye = case.pop("fisheye", False)
    keys = {"camera_model": "OPENCV_FISHEYE"} if fisheye else {}
    full = [case.get(k, 0.0) for k in ("k1", "k2", "k3", "k4", "p1", "p2")]
    tree = transforms(shot, **keys)
    if form == "colmap":
        extra = full[:4] if fisheye else [*full[:2], *full[4:], full[2], 0, 0, 0]
        write_colmap_txt(tmp_path, shot, "OPENCV_FISHEYE" if fisheye else "FULL_OPENCV", extra)
    elif form == "frames":
        tree |= {"k1": 0.7}
        for frame in tree["frames"]:
            frame |= {k: case.get(k, 0) for k in ("k1", "k2", "k3", "p1", "p2")}
    else:
        tree |= {"distortion_params": full} if form == "list" else case
    if form != "colmap":
        (tmp_path / "transforms.json").write_text(json.dumps(tree))
    cfg = FromPosesConfig(resolution=RESOLUTION)
    result = prepare_from_poses(tmp_path, tmp_path / "o.zip", cfg)
    assert float(errors_of(tmp_path / "o.zip", shot).max()) < 0.05
    assert any("6 images were undistorted" in w for w in result.warnings)
    cfg = FromPosesConfig(resolution=RESOLUTION, ignore_distortion=True)
    prepare_from_poses(tmp_path, tmp_path / "p.zip", cfg)
    assert float(errors_of(tmp_path / "p.zip", shot).max()) > 0.5


def test_skew_is_used(tmp_path):
    shot = wide()
    photograph(tmp_path / "images", shot)
    tree = transforms(shot, sk_x=20.0)
    (tmp_path / "transforms.json").write_text(json.dumps(tree))
    prepare_from_poses(tmp_path, tmp_path / "o.zip", FromPosesConfig(resolution=RESOLUTION))
    k = Cameras.from_label(ImageDataset(DataConfig(path=str(tmp_path / "o.zip")), "all").labels)[1]
    np.testing.assert_allclose(k[:, 0, 1], 20 / shot.height, atol=1e-6)


def test_large_photographs_are_reduced_first(tmp_path):
    """Four times the pixels of the output: reduced by two, then undistorted."""
    shot = capture(4, size=(1080, 768), distance=2.1)
    photograph(tmp_path / "images", shot, k1=-0.25, k2=0.05)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(shot, k1=-0.25, k2=0.05)))
    cfg = FromPosesConfig(resolution=RESOLUTION)
    prepare_from_poses(tmp_path, tmp_path / "o.zip", cfg)
    assert float(errors_of(tmp_path / "o.zip", shot).max()) < 0.05


def test_the_square_has_no_empty_pixels():
    """Pincushion distortion shows less than a pinhole: (s/2f)(1 + k1 2 (s/2f)^2) = w/2f."""
    k = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    lens = Lens((0.2,))
    side = largest_square(lens, tuple(k.flat), (100, 100))
    r = side / 200
    assert r * (1 + 0.2 * 2 * r**2) <= 0.5 < (r + 0.005) * (1 + 0.2 * 2 * (r + 0.005) ** 2)
    white = undistort(np.full((100, 100, 3), 255, np.uint8), lens, k, side, 64)
    assert white.shape == (64, 64, 3)
    assert white.min() == 255


def test_beyond_the_fold_nothing_is_shown():
    """r - 0.5 r^3 falls beyond 0.8165: a wider pinhole would show a ring twice."""
    k = np.array([[50.0, 0, 100], [0, 50, 100], [0, 0, 1]])
    side = largest_square(Lens((-0.5,)), tuple(k.flat), (200, 200))
    assert side == pytest.approx(2 * 50 * np.sqrt(2 / 3) / np.sqrt(2), abs=1)


def test_no_distortion_changes_no_bit(tmp_path):
    shot = capture(4)
    write_images(tmp_path / "images", shot)
    outputs = []
    for keys in ({}, {"k1": 0, "p2": 0.0, "distortion_params": [0] * 6}):
        (tmp_path / "transforms.json").write_text(json.dumps(transforms(shot, **keys)))
        cfg = FromPosesConfig(resolution=16)
        assert prepare_from_poses(tmp_path, tmp_path / "o.zip", cfg, overwrite=True)
        outputs.append((tmp_path / "o.zip").read_bytes())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"k1": 60.0}, r"without distortion, \d+ of 64 pixels would be left"),
        ({"k1": -9.0}, r"without distortion, \d+ of 64 pixels would be left"),
        ({"k1": 5.0, "cx": -2000}, "without distortion, 0 of 64 pixels would be left"),
        ({"k5": 0.1}, "k5, k6 and sk_y cannot be used"),
        ({"k6": 0.1, "sk_y": 2}, "k5, k6 and sk_y cannot be used"),
        ({"distortion_params": [0.1] * 4}, "must be k1, k2, k3, k4, p1, p2"),
        ({"distortion_params": "x"}, "must be k1, k2, k3, k4, p1, p2"),
        ({"distortion_params": ["x"] * 6}, "k1=x must be a number"),
        ({"distortion_params": [0.1] + [0] * 5, "k1": 0.2}, "differs from k1, k2, ...: keep one"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model=EQUIRECTANGULAR is not read"),
        ({"camera_model": ["x"]}, "camera_model=.* is not read"),
        ({"camera_model": {}}, "camera_model={} is not read"),
        ({"is_fisheye": "false"}, "is_fisheye=false must be true or false"),
    ],
)
def test_lenses_that_cannot_be_undistorted_are_rejected(tmp_path, keys, message):
    shot = capture(4)
    write_images(tmp_path / "images", shot)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(shot, **keys)))
    with pytest.raises(DataError, match=message):
        prepare_from_poses(tmp_path, tmp_path / "o.zip", FromPosesConfig())


def test_a_shrunk_square_is_rejected_without_crop(tmp_path):
    shot = capture(4, size=(64, 64))
    write_images(tmp_path / "images", shot)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(shot, k1=0.3)))
    with pytest.raises(DataError, match=r"is 64x64, expected a square of \d+x.*crop=centre"):
        prepare_from_poses(tmp_path, tmp_path / "o.zip", FromPosesConfig(crop="none"))

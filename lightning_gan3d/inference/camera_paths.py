"""Cameras for pictures and videos: named paths, lists of angles, and files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras, Orbit
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import MAX_FILE_BYTES, DataError
from lightning_gan3d.data.camera_checks import check_cameras

FIGURE8 = (0.4, 0.15)
"""Half widths in radians of a figure of eight, in azimuth and elevation."""


def cameras_of(text: str, num: int, orbit: Orbit, option: str = "cameras") -> Cameras:
    """Return the cameras that an option names; `option`: its name, for messages.

    `frontal`: one; `orbit`: `num` on the circle or arc; `figure8`: `num` on a closed path; angles
    such as `0:0.3,-0.4:0`: azimuth and elevation in radians on the orbit's sphere, or with a
    distance in world units from its centre, `0:0.3:2.5`; else a JSON file (`read_cameras`).
    """
    if text == "frontal":
        return orbit.cameras(1)
    if text == "orbit":
        return orbit.cameras(num)
    if text == "figure8":
        return figure8(num, orbit)
    if Path(text).suffix == ".json":
        return read_cameras(Path(text), orbit)
    try:
        numbers = [[float(x) for x in part.split(":")] for part in text.split(",")]
        cameras = torch.tensor([x if len(x) == 3 else [*x, orbit.radius] for x in numbers])
        azimuth, elevation, radius = cameras.unbind(dim=1)
        sphere = (elevation.abs() < math.pi / 2) & (radius > 0)
        if not bool(cameras.isfinite().all() and sphere.all()):
            raise ValueError("not on the sphere")
    except ValueError:
        raise ConfigError(
            f"{option}={text}: use frontal, orbit, figure8, angles such as 0:0.3,-0.4:0 (elevation "
            "within ±pi/2), or a .json file"
        ) from None
    return orbit.at(azimuth, elevation, radius)


def figure8(num: int, orbit: Orbit) -> Cameras:
    """Return cameras on a horizontal figure of eight in front of the target."""
    low, high = orbit.azimuths
    width = FIGURE8[0] if orbit.full else min(FIGURE8[0], (high - low) / 2)
    t = torch.arange(num) * (2 * math.pi / num)
    middle = 0.0 if orbit.full else (low + high) / 2
    elevation = orbit.elevation + FIGURE8[1] * (2 * t).sin()
    return orbit.at(middle + width * t.sin(), elevation)


def arc_and_back(num: int, orbit: Orbit) -> Cameras:
    """Return cameras on a closed path over the orbit's arc, forth and back."""
    low, high = orbit.azimuths
    azimuth = (low + high) / 2 - (high - low) / 2 * (torch.arange(num) * (2 * math.pi / num)).cos()
    return orbit.at(azimuth)


def read_cameras(path: Path, orbit: Orbit) -> Cameras:
    """Read a JSON file of cameras: our conventions, `cam2world` 4x4 with OpenCV axes.

    Accepted: a list of 4x4 matrices (also flat), a list of labels of 25 numbers, an object with
    `cam2world` and optionally `intrinsics` (one or one per camera), or a data set's `dataset.json`.
    Without intrinsics, those of the orbit hold.
    """
    if not path.is_file():
        raise ConfigError(f"cameras={path}: no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"cameras={path}: larger than {MAX_FILE_BYTES:,} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cameras={path}: cannot be read: {error}") from None
    try:
        labels = _labels(content, orbit)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError):
        raise ConfigError(
            f"cameras={path}: expected a list of 4x4 matrices, or an object with `cam2world`"
        ) from None
    if not bool(labels.isfinite().all()):
        raise ConfigError(f"cameras={path}: a number is not finite")
    try:
        check_cameras(labels, [f"cameras={path}: camera {i}" for i in range(len(labels))])
    except DataError as error:
        raise ConfigError(str(error)) from None
    return Cameras.from_label(labels.float())


def _labels(content: Any, orbit: Orbit) -> Float[Tensor, "n 25"]:
    intrinsics: Any = orbit.intrinsics.tolist()
    if isinstance(content, Mapping) and "labels" in content:
        content = [row[1] for row in content["labels"]]
    elif isinstance(content, Mapping):
        intrinsics = content.get("intrinsics", intrinsics)
        content = content["cam2world"]
    poses = torch.tensor(content, dtype=torch.float64).flatten(1)
    if len(poses) == 0:
        raise IndexError("no camera")
    if poses.shape[1] == LABEL_DIM:
        return poses
    k = torch.tensor(intrinsics, dtype=torch.float64).reshape(-1, 9).expand(len(poses), 9)
    return torch.cat([poses.reshape(-1, 16), k], dim=1)


def smooth_path(cameras: Cameras, num: int) -> Cameras:
    """Return `num` cameras on a smooth open path through the given ones, ends included.

    Positions and intrinsics follow cubic splines, orientations a spline of rotations.
    """
    given = len(cameras.cam2world)
    if given in (1, num):
        return cameras.select(torch.zeros(num, dtype=torch.int64)) if given == 1 else cameras
    knots, at = np.arange(given), np.linspace(0, given - 1, num)
    pose = cameras.cam2world.double().numpy()
    path = np.tile(np.eye(4), (num, 1, 1))
    path[:, :3, :3] = RotationSpline(knots, Rotation.from_matrix(pose[:, :3, :3]))(at).as_matrix()
    path[:, :3, 3] = CubicSpline(knots, pose[:, :3, 3])(at)
    k = CubicSpline(knots, cameras.intrinsics.double().numpy())(at)
    return Cameras(torch.from_numpy(path).float(), torch.from_numpy(k).float())

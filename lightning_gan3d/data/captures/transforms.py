"""Read `transforms.json` of NeRF, instant-ngp and nerfstudio, strictly.

Poses are cam2world in OpenGL axes (x right, y up, z backward). The axes of the cameras are
converted here, the world's are not.
"""

from collections.abc import Sequence
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lightning_gan3d.cameras import focal_from_fov
from lightning_gan3d.data.archive import DataError, read_file
from lightning_gan3d.data.captures.lens import Lens
from lightning_gan3d.data.captures.posed_images import (
    MAX_NUMBER,
    Capture,
    Frame,
    FromPosesConfig,
    ImageFolder,
    fit_intrinsics,
    ordered,
    reading_notes,
    rigid_pose,
)
from lightning_gan3d.data.labels import parse_json

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Coefficients in the order of nerfstudio's `distortion_params`."""
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
_SPLITS = {"train_filenames": "train", "val_filenames": "val", "test_filenames": "test"}


def transforms_files(folder: Path) -> list[Path]:
    """Return `transforms.json`, or else NeRF's `transforms_train.json` and so on."""
    whole = folder / "transforms.json"
    return [whole] if whole.is_file() else sorted(folder.glob("transforms_*.json"))


def read_transforms(
    files: Sequence[Path], images: ImageFolder, folder: str | None, cfg: FromPosesConfig
) -> Capture:
    """Read files that share a coordinate system; `transforms_train.json` is the split `train`.

    `folder`: the folder below `images.root` that image paths are relative to. None: images match
    by the end of their path.
    """
    frames: list[Frame] = []
    missing: list[str] = []
    applied: set[tuple[tuple[float, ...], ...]] = set()
    total = 0
    for path in files:
        tree = _load(path)
        _, _, split = path.stem.partition("transforms_")
        splits = _splits(tree)
        if "applied_transform" in tree:
            applied.add(_rows(tree["applied_transform"], 3, f"{path}: applied_transform"))
        for i, entry in enumerate(tree["frames"]):
            place = f"{path}: frames[{i}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
                raise DataError(f"{place} must have file_path and transform_matrix")
            total += 1
            name = images.resolve(entry["file_path"], None if folder is None else [folder])
            if name is None:
                missing.append(entry["file_path"])
                continue
            pose = np.array(_rows(entry.get("transform_matrix"), 4, f"{place}: transform_matrix"))
            pose = rigid_pose(name, pose) @ np.diag([1.0, -1.0, -1.0, 1.0])
            size, mode = images.header(name)
            keys = {**tree, **{k: v for k, v in entry.items() if v is not None}}
            intrinsics = _intrinsics(name, entry, tree, size)
            lens = Lens() if cfg.ignore_distortion else _lens(name, keys)
            split_of_frame = split or splits.get(entry["file_path"])
            frames.append(Frame(images, name, pose, intrinsics, size, mode, lens, split_of_frame))
    notes = reading_notes(missing, total, images.root, cfg)
    if len(applied) > 1:
        raise DataError(f"{files[0].parent}: the files differ in applied_transform")
    no_points = np.zeros((0, 3))
    return Capture(ordered(frames, files[0]), no_points, notes, next(iter(applied), None))


def _load(path: Path) -> dict[str, Any]:
    tree = parse_json(read_file(path), str(path))
    if not isinstance(tree.get("frames"), list):
        raise DataError(f"{path}: `frames` must be a list of frames")
    return tree


def _splits(tree: dict[str, Any]) -> dict[str, str]:
    """Return the split of each image that nerfstudio's lists name."""
    lists = [(tree.get(key), split) for key, split in _SPLITS.items()]
    return {
        n: split for names, split in lists if type(names) is list for n in names if type(n) is str
    }


def _lens(name: str, keys: dict[str, Any]) -> Lens:
    model, stated = keys.get("camera_model") or "OPENCV", keys.get("distortion_params")
    if keys.get("is_fisheye") not in (None, True, False):
        raise DataError(f"{name}: is_fisheye={str(keys['is_fisheye'])[:40]} must be true or false")
    fisheye = model == "OPENCV_FISHEYE" or bool(keys.get("is_fisheye"))
    if not (fisheye or model in _PINHOLES):
        raise DataError(f"{name}: camera_model={str(model)[:40]} is not read; undistort first")
    single = {
        k: v for k in (*_DISTORTION, "k5", "k6", "sk_y") if (v := _number(keys, k, name, 0.0))
    }
    if stated is not None:
        if not isinstance(stated, list) or len(stated) != len(_DISTORTION):
            raise DataError(f"{name}: distortion_params must be {', '.join(_DISTORTION)}")
        listed = dict(zip(_DISTORTION, stated, strict=True))
        listed = {k: v for k in _DISTORTION if (v := _number(listed, k, name))}
        if single not in ({}, listed):
            raise DataError(f"{name}: distortion_params differs from {', '.join(single)}: keep one")
        single = listed
    rest = [k for k in ("k5", "k6", "sk_y") if k in single]
    if rest:
        raise DataError(f"{name}: {', '.join(rest)} cannot be used; undistort first")
    k1, k2, k3, k4, p1, p2 = (single.get(k, 0.0) for k in _DISTORTION)
    return Lens((k1, k2, k3, k4), (p1, p2), fisheye=fisheye) if single or fisheye else Lens()


def _intrinsics(
    name: str, frame: dict[str, Any], file: dict[str, Any], size: tuple[int, int]
) -> Float[np.ndarray, "3 3"]:
    """Return the pinhole matrix in pixels of the image; the frame's keys override the file's.

    `size`: width and height of the image.
    """
    keys = {**file, **{k: v for k, v in frame.items() if v is not None}}
    width, height = (_number(keys, k, name, float(n)) for k, n in zip("wh", size, strict=True))
    if not (width >= 1 and height >= 1):
        raise DataError(f"{name}: the camera is for images of {width:g}x{height:g}")
    (fx, fy), (file_fx, file_fy) = (
        (_focal(tree, "x", width, name), _focal(tree, "y", height, name)) for tree in (frame, file)
    )
    if fy is None and (fx is None or file_fx is None):
        fy = file_fy  # if the frame replaces the file's fx, the file's fy is of another lens
    fx = file_fx if fx is None else fx
    if fx is None:
        raise DataError(f"{name}: set fl_x (pixels) or camera_angle_x (radians)")
    fy = fx if fy is None else fy  # square pixels
    cx, cy = _number(keys, "cx", name, width / 2), _number(keys, "cy", name, height / 2)
    skew = _number(keys, "sk_x", name, 0.0)
    matrix = np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
    return fit_intrinsics(name, matrix, (round(width), round(height)), size)


def _focal(tree: dict[str, Any], axis: str, side: float, name: str) -> float | None:
    """Return the focal length along an axis in pixels; None if the tree has none."""
    if tree.get(f"fl_{axis}") is not None:
        return _number(tree, f"fl_{axis}", name)
    if tree.get(f"camera_angle_{axis}") is None:
        return None
    angle = _number(tree, f"camera_angle_{axis}", name)
    if not 0 < angle < pi:
        raise DataError(
            f"{name}: camera_angle_{axis}={angle:g} must be between 0 and pi, in radians"
        )
    return focal_from_fov(angle, side)


def _number(tree: dict[str, Any], key: str, name: str, default: float | None = None) -> float:
    value: Any = default if tree.get(key) is None else tree[key]
    if type(value) not in (int, float) or not -MAX_NUMBER < value < MAX_NUMBER:
        raise DataError(
            f"{name}: {key}={str(value)[:40]} must be a finite number, at most {MAX_NUMBER:g}"
        )
    return float(value)


def _rows(value: Any, least: int, place: str) -> tuple[tuple[float, ...], ...]:
    valid = isinstance(value, list) and len(value) in (least, 4)
    if not valid or not all(
        isinstance(row, list)
        and len(row) == 4
        and all(type(x) in (int, float) and not abs(x) > MAX_NUMBER for x in row)
        for row in value
    ):
        raise DataError(f"{place} must be {least} rows of 4 numbers, at most {MAX_NUMBER:g}")
    return tuple(tuple(float(x) for x in row) for row in value)

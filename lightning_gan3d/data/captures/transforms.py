"""Read `transforms.json` of NeRF, instant-ngp and nerfstudio, strictly.

By default, poses are cam2world in OpenGL axes (x right, y up, z backward). The axes of the cameras
are converted here, the world's are not.
"""

import posixpath
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
_APPLIED = ("applied_transform", "applied_scale")
_SPLITS = {"train_filenames": "train", "val_filenames": "val", "test_filenames": "test"}
_KEYS = {
    *_DISTORTION, *_APPLIED, *_SPLITS, "k5", "k6", "sk_x", "sk_y", "distortion_params", "w", "h",
    "camera_model", "is_fisheye", "fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "cx", "cy",
    "frames", "file_path", "transform_matrix", "mask_path",
}  # fmt: skip
"""Keys that are used; the others are named."""
_CAMERA_SIGNS = {"opencv": (1.0, 1.0, 1.0, 1.0), "opengl": (1.0, -1.0, -1.0, 1.0)}


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
    applied: list[dict[str, Any]] = []
    unused: set[str] = set()
    masks = None if folder is None else images
    for path in files:
        tree = parse_json(read_file(path), str(path))
        if not isinstance(tree.get("frames"), list):
            raise DataError(f"{path}: `frames` must be a list of frames")
        _, _, split = path.stem.partition("transforms_")
        splits = _splits(tree, path)
        stated = {k: tree[k] for k in _APPLIED if tree.get(k) is not None}
        _rows(stated.get("applied_transform", [[0.0] * 4] * 3), 3, f"{path}: applied_transform")
        _number(stated, "applied_scale", str(path), 1.0)
        applied += [stated] if stated else []
        for i, entry in enumerate(tree["frames"]):
            place = f"{path}: frames[{i}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
                raise DataError(f"{place} must have file_path and transform_matrix")
            keys = {k: v for t in (tree, entry) for k, v in t.items() if v is not None}
            unused |= keys.keys() - _KEYS
            name = images.resolve(entry["file_path"], None if folder is None else [folder])
            if name is None:
                missing.append(entry["file_path"])
                continue
            pose = np.array(_rows(entry.get("transform_matrix"), 4, f"{place}: transform_matrix"))
            pose = rigid_pose(name, pose)
            pose = pose if cfg.poses == "cam2world" else np.linalg.inv(pose)
            pose = pose @ np.diag(_CAMERA_SIGNS[cfg.convention])
            size, mode = images.header(name)
            intrinsics = _intrinsics(name, keys, (entry, tree), size)
            lens, mask = _lens(name, keys, cfg.ignore_distortion), None
            if "mask_path" in keys and cfg.masks == "apply":
                masks = masks or ImageFolder(path.parent)
                mask = masks.mask(str(keys["mask_path"]), name)
            part = split or splits.get(posixpath.normpath(entry["file_path"]))
            frames.append(Frame(images, name, pose, intrinsics, size, mode, lens, mask, part))
    notes = reading_notes(missing, len(frames) + len(missing), images.root, cfg)
    if unused:
        names = ", ".join(ascii(k)[1:-1][:40] for k in sorted(unused)[:30])
        notes = (*notes, f"keys of transforms.json that are not used: {names}")
    if any(stated != applied[0] for stated in applied):
        raise DataError(f"{files[0].parent}: the files differ in {' or '.join(_APPLIED)}")
    no_points = np.zeros((0, 3))
    return Capture(ordered(frames, files[0]), no_points, notes, applied[0] if applied else {})


def _splits(tree: dict[str, Any], path: Path) -> dict[str, str]:
    """Return the split of each image that nerfstudio's lists name."""
    splits: dict[str, str] = {}
    for key, split in _SPLITS.items():
        names = tree.get(key) or []
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DataError(f"{path}: {key} must be a list of paths")
        splits |= {posixpath.normpath(n): split for n in names}
    return splits


def _lens(name: str, keys: dict[str, Any], ignore: bool) -> Lens:
    """Return the distortion; rejects models and coefficients that are not read."""
    model, fisheye = keys.get("camera_model", "OPENCV"), keys.get("is_fisheye", False)
    if fisheye not in (True, False):
        raise DataError(f"{name}: is_fisheye={str(fisheye)[:40]} must be true or false")
    if model not in (*_PINHOLES, "OPENCV_FISHEYE"):
        raise DataError(f"{name}: camera_model={str(model)[:40]} is not read; undistort first")
    if ignore:
        return Lens()
    k = {key: _number(keys, key, name, 0.0) for key in (*_DISTORTION, "k5", "k6", "sk_y")}
    listed = keys.get("distortion_params")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != len(_DISTORTION):
            raise DataError(f"{name}: distortion_params must be {', '.join(_DISTORTION)}")
        pairs = zip(_DISTORTION, listed, strict=True)
        both = k | {key: _number({key: v}, key, name, 0.0) for key, v in pairs}
        if any(k.values()) and k != both:
            raise DataError(f"{name}: distortion_params differs from k1, k2, ...: keep one")
        k = both
    if k["k5"] or k["k6"] or k["sk_y"]:
        raise DataError(f"{name}: k5, k6 and sk_y cannot be used; undistort first")
    *radial, p1, p2 = (k[key] for key in _DISTORTION)
    return Lens(tuple(radial), (p1, p2), fisheye=fisheye or model == "OPENCV_FISHEYE")


def _intrinsics(
    name: str, keys: dict[str, Any], trees: tuple[dict[str, Any], ...], size: tuple[int, int]
) -> Float[np.ndarray, "3 3"]:
    """Return the pinhole matrix in pixels of the image.

    `keys`: those of the frame and, where it lacks them, of the file. `trees`: of frame and file.
    `size`: width and height of the image.
    """
    width, height = (_number(keys, k, name, float(n)) for k, n in zip("wh", size, strict=True))
    if not (width >= 1 and height >= 1):
        raise DataError(f"{name}: the camera is for images of {width:g}x{height:g}")
    (fx, fy), (file_fx, file_fy) = (
        (_focal(tree, "x", width, name), _focal(tree, "y", height, name)) for tree in trees
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
    focal = angled = None
    if tree.get(f"fl_{axis}") is not None:
        focal = _number(tree, f"fl_{axis}", name)
    if tree.get(f"camera_angle_{axis}") is not None:
        angle = _number(tree, f"camera_angle_{axis}", name)
        if not 0 < angle < pi:
            raise DataError(
                f"{name}: camera_angle_{axis}={angle:g} must be between 0 and pi, in radians"
            )
        angled = focal_from_fov(angle, side)
        if focal is not None and abs(angled - focal) > 0.01 * abs(focal):
            raise DataError(
                f"{name}: fl_{axis}={focal:g} contradicts camera_angle_{axis}={angle:g}, which is "
                f"{angled:g} pixels of {side:g}; remove the wrong one"
            )
    return angled if focal is None else focal


def _number(tree: dict[str, Any], key: str, name: str, default: float | None = None) -> float:
    value: Any = default if tree.get(key) is None else tree[key]
    if type(value) not in (int, float) or not -MAX_NUMBER < value < MAX_NUMBER:
        raise DataError(f"{name}: {key}={str(value)[:40]} must be a number up to {MAX_NUMBER:g}")
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

"""Read `transforms.json` as NeRF, instant-ngp and nerfstudio write it, strictly.

Poses are cam2world in OpenGL's camera axes (x right, y up, z backward). Only the axes of the
cameras are turned here, the world stays as it is.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.config import FromPosesConfig
from lightning_gan3d.data.captures.posed import (
    Frame,
    ImageFolder,
    PosedImages,
    fit_intrinsics,
    in_order,
    rigid_pose,
    without_image,
)

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
_SPLITS = {"train_filenames": "train", "val_filenames": "val", "test_filenames": "test"}
_MOST = 1e300
"""JSON knows whole numbers that no float can hold."""
_UNDISTORT = "undistort images and cameras first (docs/data.md)"


def transforms_files(folder: Path) -> list[Path]:
    """Return `transforms.json`; where there is none, NeRF's `transforms_train.json` and so on."""
    whole = folder / "transforms.json"
    return [whole] if whole.is_file() else sorted(folder.glob("transforms_*.json"))


def read_transforms(
    files: Sequence[Path], images: ImageFolder, place: str | None, cfg: FromPosesConfig
) -> PosedImages:
    """Read files that share a world; `transforms_train.json` is the split `train`.

    `place`: the folder below `images.root` that names are relative to; None: anywhere in it, by
    the end of their path.
    """
    frames: list[Frame] = []
    missing: list[str] = []
    applied: set[tuple[tuple[float, ...], ...]] = set()
    total = 0
    for path in files:
        tree = _load(path)
        _, _, split = path.stem.partition("transforms_")
        splits = _named_splits(tree)
        if "applied_transform" in tree:
            applied.add(_rows(tree["applied_transform"], 3, f"{path}: applied_transform"))
        for i, entry in enumerate(tree["frames"]):
            where = f"{path}: frames[{i}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
                raise DataError(f"{where}: a frame has a file_path and a transform_matrix")
            total += 1
            written = entry["file_path"]
            name = _find(images, written, place)
            if name is None:
                missing.append(written)
                continue
            pose = np.array(_rows(entry.get("transform_matrix"), 4, f"{where}: transform_matrix"))
            pose = rigid_pose(name, pose) @ np.diag([1.0, -1.0, -1.0, 1.0])
            size = images.size(name)
            matrix = _intrinsics(entry, tree, name, size, cfg.ignore_distortion)
            frames.append(Frame(name, pose, matrix, size, split or splits.get(written)))
    notes = without_image(missing, total, images.root, cfg.skip_missing)
    if len(applied) > 1:
        raise DataError(f"{files[0].parent}: its files differ in applied_transform")
    notes += ("distortion is ignored",) if cfg.ignore_distortion else ()
    ordered = in_order(frames, files[0])
    return PosedImages(ordered, np.zeros((0, 3)), notes, next(iter(applied), None))


def _load(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("frames"), list):
        raise DataError(f"{path}: `frames` must be a list of frames")
    return tree


def _named_splits(tree: dict[str, Any]) -> dict[str, str]:
    found = {}
    for key, split in _SPLITS.items():
        names = tree.get(key)
        found.update({n: split for n in names if isinstance(n, str)} if type(names) is list else {})
    return found


def _find(images: ImageFolder, written: str, place: str | None) -> str | None:
    if place is not None:
        return images.find(written, [place])
    parts = PurePosixPath(written.replace("\\", "/")).parts
    for start in range(len(parts)):
        if parts[start] not in ("/", "..", "."):
            name = images.find("/".join(parts[start:]), [""])
            if name is not None:
                return name
    return None


def _intrinsics(
    frame: dict[str, Any],
    tree: dict[str, Any],
    name: str,
    size: tuple[int, int],
    ignore_distortion: bool,
) -> Float[np.ndarray, "3 3"]:
    """Return the pinhole in pixels of the image; keys of the frame go before those of the file."""
    camera = {**tree, **{k: v for k, v in frame.items() if v is not None}}
    model = camera.get("camera_model", "PINHOLE")
    if camera.get("is_fisheye") or model not in _PINHOLES:
        kind = "fisheye" if camera.get("is_fisheye") else model
        raise DataError(f"{name}: its camera model {kind} is no pinhole; {_UNDISTORT}")
    distortion = {k: _number(camera, k, name) for k in _DISTORTION if camera.get(k) is not None}
    if any(distortion.values()) and not ignore_distortion:
        raise DataError(
            f"{name}: its camera has distortion "
            f"{', '.join(f'{k}={v:g}' for k, v in distortion.items() if v)}; {_UNDISTORT}, or "
            "ignore_distortion=true"
        )
    width, height = (
        _number(camera, k, name) if camera.get(k) is not None else float(s)
        for k, s in zip("wh", size, strict=True)
    )
    if not (width >= 1 and height >= 1):
        raise DataError(f"{name}: its camera is for images of {width:g}x{height:g}")
    fx, fy = _focals(frame, tree, (width, height), name)
    cx, cy = (
        _number(camera, k, name) if camera.get(k) is not None else s / 2
        for k, s in (("cx", width), ("cy", height))
    )
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
    return fit_intrinsics(name, matrix, (round(width), round(height)), size)


def _focals(
    frame: dict[str, Any], tree: dict[str, Any], size: tuple[float, float], name: str
) -> tuple[float, float]:
    """Return both focal lengths in pixels.

    The frame's come first, be they lengths or angles; and where they replace the file's along x,
    the file's along y goes with it, for it belongs to another lens. Without one, pixels are square.
    """
    (fx, fy), (file_fx, file_fy) = (
        tuple(_focal(d, axis, side, name) for axis, side in zip("xy", size, strict=True))
        for d in (frame, tree)
    )
    if fy is None and (fx is None or file_fx is None):
        fy = file_fy
    fx = file_fx if fx is None else fx
    if fx is None:
        raise DataError(f"{name}: no fl_x (pixels) and no camera_angle_x (radians) for it")
    return fx, fx if fy is None else fy


def _focal(camera: dict[str, Any], axis: str, side: float, name: str) -> float | None:
    if camera.get(f"fl_{axis}") is not None:
        focal = _number(camera, f"fl_{axis}", name)
        if focal <= 0:
            raise DataError(f"{name}: fl_{axis}={focal:g} must be positive")
        return focal
    if camera.get(f"camera_angle_{axis}") is None:
        return None
    angle = _number(camera, f"camera_angle_{axis}", name)
    if not 0 < angle < math.pi:
        raise DataError(
            f"{name}: camera_angle_{axis}={angle:g} must be between 0 and pi: it is in radians"
        )
    return 0.5 * side / math.tan(0.5 * angle)


def _number(tree: dict[str, Any], key: str, where: str) -> float:
    value = tree[key]
    if type(value) not in (int, float) or not -_MOST < value < _MOST:
        raise DataError(f"{where}: {key}={str(value)[:40]} must be a finite number")
    return float(value)


def _rows(value: Any, least: int, where: str) -> tuple[tuple[float, ...], ...]:
    good = isinstance(value, list) and len(value) in (least, 4)
    if not good or not all(
        isinstance(row, list)
        and len(row) == 4
        and all(type(x) in (int, float) and not abs(x) > _MOST for x in row)
        for row in value
    ):
        raise DataError(f"{where} must be {least} rows of 4 numbers")
    return tuple(tuple(float(x) for x in row) for row in value)

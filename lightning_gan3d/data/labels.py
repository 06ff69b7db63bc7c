"""The labels of a data set: 25 numbers per image, checked before they are used."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras, Orbit
from lightning_gan3d.data.archive import DataError, Source, open_source

ROTATION_TOLERANCE = 1e-3
MAX_FOCAL = 50.0
"""Limit in image widths, a field of view of one degree: larger values are in pixels."""


def read_index(source: Source) -> dict[str, Any]:
    """Read `dataset.json`: `labels`, and our own `splits`, `objects`, `copies`, `sha256`, ..."""
    if "dataset.json" not in source.names:
        raise DataError(
            f"{source.path} has no dataset.json at its root: every image needs a camera"
        )
    return parse_json(source.read("dataset.json"), f"dataset.json of {source.path}")


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object; `name` is the file in errors."""
    try:
        tree = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{name} must hold a JSON object, not {str(tree)[:40]}")
    return tree


def name_map(index: dict[str, Any], key: str, kind: type, name: str) -> dict[str, Any]:
    """Return a key of an index that maps image names to values of one type; `{}` if missing."""
    mapping = index.get(key, {})
    if not isinstance(mapping, dict) or not all(type(v) is kind for v in mapping.values()):
        raise DataError(f"{name}: `{key}` must map image names to {kind.__name__}")
    return mapping


def label_rows(index: dict[str, Any], name: str) -> dict[str, list[float]]:
    """Return the labels of an index by image, checked to be 25 finite numbers each."""
    rows: dict[str, list[float]] = {}
    if not isinstance(index.get("labels"), list):
        raise DataError(
            f'{name}: `labels` must be [["name.png", [25 numbers]], ...], not '
            f"{str(index.get('labels'))[:40]}"
        )
    for item in index["labels"]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise DataError(f'{name}: {str(item)[:60]} is not ["name.png", [25 numbers]]')
        image = item[0].replace("\\", "/")
        if image in rows:
            raise DataError(f"{image}: two labels in {name}")
        rows[image] = _label(item[1], f"{image} in {name}")
    return rows


def _label(label: Any, name: str) -> list[float]:
    if not isinstance(label, list) or len(label) != LABEL_DIM:
        value = f"{len(label)} numbers" if isinstance(label, list) else str(label)[:40]
        raise DataError(
            f"{name}: the label is {value}, expected {LABEL_DIM} numbers (16 pose + 9 intrinsics)"
        )
    for number in label:
        if type(number) not in (int, float):
            raise DataError(f"{name}: {number!r} in the label is not a number")
        if not math.isfinite(number):
            raise DataError(f"{name}: {number} in the label is not finite")
    return label


def read_labels(
    index: dict[str, Any], names: Sequence[str], source: Source
) -> Float[Tensor, "n 25"]:
    """Return the labels in the order of `names`; images and labels must match one to one."""
    rows = label_rows(index, f"dataset.json of {source.path}")
    missing = [n for n in names if n not in rows]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(names):,} images lack a label: {_list(missing)} in "
            f"{source.path}"
        )
    images = set(names)
    orphans = [n for n in rows if n not in images]
    if orphans:
        raise DataError(
            f"{len(orphans):,} labels are of images missing from {source.path}: {_list(orphans)}"
        )
    return torch.from_numpy(np.array([rows[n] for n in names], dtype=np.float64))


def read_orbit(data: str | Path) -> Orbit:
    """Fit an orbit to the cameras of a data set; its images are not read."""
    if not str(data):
        raise DataError("data.path is empty")
    source = open_source(data)
    rows = label_rows(read_index(source), f"dataset.json of {data}")
    if not rows:
        raise DataError(f"dataset.json of {data} has no labels")
    return Orbit.of_labels(torch.tensor(list(rows.values()), dtype=torch.float64))


def check_cameras(
    labels: Float[Tensor, "n 25"], names: Sequence[str], repair: bool = False
) -> Float[Tensor, "n 25"]:
    """Check that labels are cameras; `repair` replaces invalid rotations by the nearest ones."""
    pose, intrinsics = Cameras.from_label(labels)
    last = labels.new_tensor([0.0, 0.0, 0.0, 1.0])
    for i in _first((pose[:, 3] - last).abs().amax(dim=1) > 1e-6):
        hint = "; it looks transposed" if bool((pose[i, :3, 3].abs() < 1e-6).all()) else ""
        raise DataError(
            f"{names[i]}: last row of the pose is {_numbers(pose[i, 3])}, expected 0 0 0 1{hint}"
        )
    rotation = pose[:, :3, :3]
    determinant = torch.linalg.det(rotation)
    for i in _first(determinant <= 0):
        raise DataError(
            f"{names[i]}: the rotation mirrors (determinant {float(determinant[i]):.3f}, expected "
            "+1); is an axis flipped? Poses are cam2world in OpenCV axes"
        )
    off = (rotation.mT @ rotation - torch.eye(3, dtype=labels.dtype)).norm(dim=(1, 2))
    for i in _first(off > ROTATION_TOLERANCE):
        if repair:
            u, _, vh = torch.linalg.svd(rotation)
            labels = labels.clone()
            labels[:, :16].view(-1, 4, 4)[:, :3, :3] = u @ vh
            break
        raise DataError(
            f"{names[i]}: the pose has no valid rotation (|R'R - I| = {float(off[i]):.3g}, limit "
            f"{ROTATION_TOLERANCE}); `repair_cameras: true` uses the nearest one"
        )
    _check_intrinsics(intrinsics, names)
    return labels


def _check_intrinsics(k: Float[Tensor, "n 3 3"], names: Sequence[str]) -> None:
    remedy = "divide the intrinsics by the image size"
    focal, centre = k[:, [0, 1], [0, 1]], k[:, :2, 2]
    for i in _first((focal <= 0).any(dim=1)):
        raise DataError(f"{names[i]}: focal lengths {_numbers(focal[i])} must be positive")
    for i in _first((focal > MAX_FOCAL).any(dim=1)):
        raise DataError(f"{names[i]}: fx={float(focal[i, 0]):g} looks like pixels; {remedy}")
    for i in _first((centre.sub(0.5).abs() > 5).any(dim=1)):
        raise DataError(
            f"{names[i]}: principal point {_numbers(centre[i])} looks like pixels; {remedy}"
        )
    rest = torch.cat([k[:, 2], k[:, 1, :1]], dim=1) - k.new_tensor([0.0, 0.0, 1.0, 0.0])
    for i in _first(rest.abs().amax(dim=1) > 1e-6):
        raise DataError(
            f"{names[i]}: intrinsics are {_numbers(k[i].flatten())}, expected "
            "[fx s cx; 0 fy cy; 0 0 1]"
        )


def aim(cameras: Cameras) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the position of the point on each optical axis that is nearest to the origin.

    First its distance from the camera along the axis, negative behind the camera. Second its
    distance from the origin, as a fraction of the camera's.
    """
    origins, forward = cameras.origins, cameras.forward
    ahead = -(origins * forward).sum(dim=1)
    miss = (origins + ahead[:, None] * forward).norm(dim=1)
    return ahead, miss / origins.norm(dim=1).clamp(min=1e-9)


def _first(wrong: Tensor) -> list[int]:
    return [int(i) for i in wrong.nonzero()[:1, 0]]


def _numbers(numbers: Tensor) -> str:
    return " ".join(f"{float(x):g}" for x in numbers)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

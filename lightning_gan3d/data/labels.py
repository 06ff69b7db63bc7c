"""The labels of a data set, 25 numbers an image, checked before anything is trained on them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Orbit
from lightning_gan3d.data.archive import DataError, Source, open_source

ROTATION_TOLERANCE = 1e-3
MAX_FOCAL = 50.0
"""In image widths, and 50 sees one degree: what is larger was measured in pixels."""


def read_index(source: Source) -> dict[str, Any]:
    """Read `dataset.json`.

    `labels`, and as extras of ours `splits`, `objects`, `sha256` and the maker's settings.
    """
    if "dataset.json" not in source.names:
        raise DataError(
            f"{source.path} has no dataset.json at its root: poses are needed for every image"
        )
    try:
        index = json.loads(source.read("dataset.json"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"dataset.json of {source.path} is not valid JSON: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("labels"), list):
        found = "null" if isinstance(index, dict) and index.get("labels", 0) is None else "no list"
        raise DataError(
            f'dataset.json of {source.path}: `labels` must be [["name.png", [25 numbers]], ...], '
            f"it is {found}"
        )
    return index


def read_labels(
    index: dict[str, Any], names: Sequence[str], source: Source
) -> Float[Tensor, "n 25"]:
    """Return the labels in the order of `names`; every image has one and every label its image."""
    rows: dict[str, list[float]] = {}
    for item in index["labels"]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise DataError(
                f'dataset.json of {source.path}: {str(item)[:60]} is not ["name.png", [25 numbers]]'
            )
        name = item[0].replace("\\", "/")
        if name in rows:
            raise DataError(f"{name}: two labels in dataset.json of {source.path}")
        rows[name] = _numbers(name, item[1])
    without = [n for n in names if n not in rows]
    if without:
        raise DataError(
            f"{len(without):,} of {len(names):,} images lack a label: {_some(without)} in "
            f"{source.path}"
        )
    known = set(names)
    orphans = [n for n in rows if n not in known]
    if orphans:
        raise DataError(
            f"{len(orphans):,} labels name images that {source.path} lacks: {_some(orphans)}"
        )
    return torch.from_numpy(np.array([rows[n] for n in names], dtype=np.float64))


def _numbers(name: str, label: Any) -> list[float]:
    if not isinstance(label, list):
        raise DataError(
            f"{name}: label is {str(label)[:40]}, need {LABEL_DIM} numbers (16 pose + 9 intrinsics)"
        )
    if len(label) != LABEL_DIM:
        raise DataError(f"{name}: {len(label)} numbers, need {LABEL_DIM} (16 pose + 9 intrinsics)")
    for number in label:
        if type(number) not in (int, float):
            raise DataError(f"{name}: {number!r} in the label is not a number")
        if not math.isfinite(number):
            raise DataError(f"{name}: {number} in the label is not finite")
    return label


def check_cameras(
    labels: Float[Tensor, "n 25"], names: Sequence[str], repair: bool = False
) -> Float[Tensor, "n 25"]:
    """Return the labels after checking that they are cameras.

    `repair` takes the nearest rotation instead of refusing.
    """
    pose, intrinsics = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    last = labels.new_tensor([0.0, 0.0, 0.0, 1.0])
    wrong = (pose[:, 3] - last).abs().amax(dim=1) > 1e-6
    for i in _first(wrong):
        hint = "; it looks transposed" if bool((pose[i, :3, 3].abs() < 1e-6).all()) else ""
        raise DataError(
            f"{names[i]}: last row of the pose is {_show(pose[i, 3])}, must be 0 0 0 1{hint}"
        )
    rotation = pose[:, :3, :3]
    off = (rotation.mT @ rotation - torch.eye(3, dtype=labels.dtype)).norm(dim=(1, 2))
    for i in _first(torch.linalg.det(rotation) <= 0):
        raise DataError(
            f"{names[i]}: the rotation mirrors (determinant "
            f"{float(torch.linalg.det(rotation[i])):.3f}, must be +1); "
            "is an axis flipped? Poses are cam2world in OpenCV axes"
        )
    for i in _first(off > ROTATION_TOLERANCE):
        if repair:
            u, _, vh = torch.linalg.svd(rotation)
            labels = labels.clone()
            labels[:, :16].view(-1, 4, 4)[:, :3, :3] = u @ vh
            break
        raise DataError(
            f"{names[i]}: the pose holds no rotation (|R'R - I| = {float(off[i]):.3g}, limit "
            f"{ROTATION_TOLERANCE}); "
            "`repair_cameras: true` takes the nearest one"
        )
    _check_intrinsics(intrinsics, names)
    return labels


def _check_intrinsics(k: Float[Tensor, "n 3 3"], names: Sequence[str]) -> None:
    focal = k[:, [0, 1], [0, 1]]
    for i in _first((focal <= 0).any(dim=1)):
        raise DataError(f"{names[i]}: focal lengths {_show(focal[i])} must be positive")
    for i in _first((focal > MAX_FOCAL).any(dim=1)):
        raise DataError(
            f"{names[i]}: fx={float(focal[i, 0]):g} looks like pixels; divide the intrinsics by "
            "the image size"
        )
    centre = k[:, :2, 2]
    for i in _first((centre.sub(0.5).abs() > 5).any(dim=1)):
        raise DataError(
            f"{names[i]}: principal point {_show(centre[i])} looks like pixels; divide the "
            "intrinsics by the image size"
        )
    rest = torch.cat([k[:, 2], k[:, 1, :1]], dim=1) - k.new_tensor([0.0, 0.0, 1.0, 0.0])
    for i in _first(rest.abs().amax(dim=1) > 1e-6):
        raise DataError(
            f"{names[i]}: intrinsics must be [fx s cx; 0 fy cy; 0 0 1], found "
            f"{_show(k[i].flatten())}"
        )


def _first(wrong: Tensor) -> list[int]:
    return [int(i) for i in wrong.nonzero()[:1, 0]]


def _show(numbers: Tensor) -> str:
    return " ".join(f"{float(x):g}" for x in numbers)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def read_orbit(data: str | Path) -> Orbit:
    """Read the orbit off the labels of a data set; its images are not touched."""
    if not str(data):
        raise DataError("no data set is named (data.path is empty)")
    rows = read_index(open_source(data))["labels"]
    try:
        labels = torch.tensor([label for _, label in rows], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{data}: labels that are no cameras: {error}") from error
    if labels.ndim != 2 or labels.shape[1] != LABEL_DIM or not bool(labels.isfinite().all()):
        raise DataError(f"{data}: labels must be rows of {LABEL_DIM} finite numbers")
    return Orbit.of_labels(labels)

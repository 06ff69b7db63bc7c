"""Checks of the cameras of a data set: invalid ones are rejected, unusual ones are named."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError

ROTATION_TOLERANCE = 1e-3
MIN_FOCAL, MAX_FOCAL = 0.01, 50.0
"""Limits in image widths, fields of view of 178.9 and one degree: larger values are in pixels."""
MAX_DISTANCE = 1e6
"""Limit of a camera's distance from the origin in world units; float32 resolves 0.06 there."""
_MAX_MISS = 0.25
"""Optical axes farther from the origin give a warning; a fraction of the camera's distance."""
_MAX_TILT = 0.34
"""Sine of 20 degrees, the largest usual roll."""
_DECIMALS = 6


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
    for i in _first(~(determinant > 0)):  # also NaN, of huge numbers
        raise DataError(
            f"{names[i]}: the rotation mirrors (determinant {float(determinant[i]):.3f}, expected "
            "+1); is an axis flipped? Poses are cam2world in OpenCV axes"
        )
    off = (rotation.mT @ rotation - torch.eye(3, dtype=labels.dtype)).norm(dim=(1, 2))
    for i in _first(~(off <= ROTATION_TOLERANCE)):
        if repair:
            u, _, vh = torch.linalg.svd(rotation)
            labels = labels.clone()
            labels[:, :16].view(-1, 4, 4)[:, :3, :3] = u @ vh
            break
        raise DataError(
            f"{names[i]}: the pose has no valid rotation (|R'R - I| = {float(off[i]):.3g}, limit "
            f"{ROTATION_TOLERANCE}); `repair_cameras=true` uses the nearest one (in training: "
            "`data.repair_cameras`)"
        )
    distance = pose[:, :3, 3].norm(dim=1)
    for i in _first(~(distance <= MAX_DISTANCE)):
        raise DataError(
            f"{names[i]}: the camera is {float(distance[i]):.3g} world units from the origin, "
            f"limit {MAX_DISTANCE:g}; scale the world so that the object has about one unit"
        )
    _check_intrinsics(intrinsics, names)
    return labels


def _check_intrinsics(k: Float[Tensor, "n 3 3"], names: Sequence[str]) -> None:
    remedy = "divide the intrinsics by the image size"
    focal, centre = k[:, [0, 1], [0, 1]], torch.stack([k[:, 0, 2], k[:, 1, 2], k[:, 0, 1] + 0.5], 1)
    for i in _first((focal < MIN_FOCAL).any(dim=1)):
        raise DataError(
            f"{names[i]}: focal lengths {_numbers(focal[i])} must be positive, {MIN_FOCAL} or more"
        )
    for i in _first((focal > MAX_FOCAL).any(dim=1)):
        raise DataError(f"{names[i]}: fx={float(focal[i, 0]):g} looks like pixels; {remedy}")
    for i in _first((centre.sub(0.5).abs() > 5).any(dim=1)):
        raise DataError(
            f"{names[i]}: principal point {_numbers(centre[i, :2])} or skew {float(k[i, 0, 1]):g} "
            f"looks like pixels; {remedy}"
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


class Duplicates(NamedTuple):
    """The first image with the camera of each image, equal or mirrored; number of mirrored ones."""

    first: list[int]
    num_mirrored: int


def find_duplicates(labels: Float[Tensor, "n 25"]) -> Duplicates:
    """Find images with equal or mirrored cameras.

    Poses estimated from photographs coincide to six decimals in copies only.
    """
    mirrored = Cameras.from_label(labels).mirror().to_label()
    # adding 0 turns -0 into 0, which has other bytes
    plain, other = (np.round(x.double().numpy(), _DECIMALS) + 0.0 for x in (labels, mirrored))
    index_of: dict[bytes, int] = {}
    first: list[int] = []
    for i in range(len(labels)):
        key, mirrored_key = plain[i].tobytes(), other[i].tobytes()
        first.append(index_of.get(key, index_of.get(mirrored_key, i)))
        index_of.setdefault(key, first[-1])
    return Duplicates(first, int((plain != plain[first]).any(axis=1).sum()))


def unusual_cameras(cameras: Cameras, box: float) -> list[str]:
    """Warn about cameras that are valid but rarely intended. `box`: edge of the scene."""
    ahead, miss = aim(cameras)
    distance = cameras.origins.norm(dim=1)
    away, past = ahead < 0, (miss > _MAX_MISS) & (ahead >= 0)
    off = (cameras.intrinsics[:, :2, 2] - 0.5).abs().amax(dim=1) > 0.25
    far = (distance > 100 * box) | (distance < 0.01 * box)
    counted = [
        (
            away,
            "look away from the origin: are the poses world2cam, or in OpenGL axes (z backward)? "
            "They must be cam2world in OpenCV axes",
        ),
        (past, "look past the origin, the centre of the box"),
        (off, "have a principal point far from the image centre (0.5): is a corner the origin?"),
        (far, f"are far from the scale of the box ({box:g}): are their units, e.g., millimetres?"),
    ]
    warnings = [f"{int(mask.sum()):,} cameras {text}" for mask, text in counted if mask.any()]
    num = len(cameras.origins)
    if num > 1 and len(torch.unique(cameras.to_label(), dim=0)) == 1:
        warnings.append("all cameras are the same: one view direction does not determine a shape")
    # Cameras without roll have horizontal right vectors.
    tilt = cameras.cam2world[:, :3, 0].square().mean(dim=0).sqrt()
    if int((cameras.cam2world[:, 1, 1] > 0).sum()) > num // 2:
        warnings.append("most cameras are upside down: the world's y must point up")
    elif tilt[1] > _MAX_TILT:
        level = [axis for axis, t in zip("xz", tilt[[0, 2]], strict=True) if t <= _MAX_TILT]
        cause = f"{level[0]} seems to be up" if len(level) == 1 else "the cameras are rolled"
        warnings.append(f"the cameras are not level in a world whose y is up: {cause}")
    return warnings


def _first(wrong: Tensor) -> list[int]:
    return [int(i) for i in wrong.nonzero()[:1, 0]]


def _numbers(numbers: Tensor) -> str:
    return " ".join(f"{float(x):g}" for x in numbers)

"""Depth maps: normals, errors against ground truth, and flatness."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras

JUMP = 0.1
"""Relative difference in depth above which neighbours are on different surfaces."""


class Normals(NamedTuple):
    """World-space unit normals that face the camera, and a mask of the pixels that have one."""

    normals: Float[Tensor, "v 3 h w"]
    valid: Bool[Tensor, "v 1 h w"]


def normals_from_depth(
    depth: Float[Tensor, "v 1 h w"], opaque: Bool[Tensor, "v 1 h w"], cameras: Cameras
) -> Normals:
    """Return normals by central differences of the unprojected points; `depth` along the rays.

    Valid if the pixel and its four neighbours are opaque and no depth jumps between them; never at
    the border.
    """
    size = depth.shape[-1]
    points = rearrange(cameras.unproject(depth), "v (h w) c -> v c h w", h=size)
    right = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    down = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    normals = torch.zeros_like(points)
    # In OpenCV axes x cross y is forward, so this order faces the camera.
    normals[..., 1:-1, 1:-1] = normalize(torch.linalg.cross(down, right, dim=1), dim=1)
    middle = depth[..., 1:-1, 1:-1]
    inner = opaque[..., 1:-1, 1:-1].clone()
    for neighbour, is_opaque in zip(_neighbours(depth), _neighbours(opaque), strict=True):
        inner &= is_opaque & ((neighbour - middle).abs() <= JUMP * middle)
    valid = torch.zeros_like(opaque)
    valid[..., 1:-1, 1:-1] = inner
    return Normals(normals, valid)


def _neighbours(x: Tensor) -> list[Tensor]:
    return [x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]]


def depth_error(
    depth: Float[Tensor, "v 1 h w"],
    truth: Float[Tensor, "v 1 h w"],
    valid: Bool[Tensor, "v 1 h w"],
) -> Float[Tensor, " v"]:
    """Return the mean |error| of each view at valid pixels, in world units; NaN without any.

    No scale or shift is fitted: a depth that is off by a factor is wrong.
    """
    return _mean((depth - truth).abs(), valid)


def normal_error(
    normals: Float[Tensor, "v 3 h w"],
    truth: Float[Tensor, "v 3 h w"],
    valid: Bool[Tensor, "v 1 h w"],
) -> Float[Tensor, " v"]:
    """Return the mean angle in radians between unit normals at valid pixels; NaN without any."""
    # Unlike the arc cosine of the product, atan2 keeps small angles in float32.
    difference, total = (normals - truth).norm(dim=1), (normals + truth).norm(dim=1)
    return _mean((2 * torch.atan2(difference, total))[:, None], valid)


def _mean(x: Float[Tensor, "v 1 h w"], valid: Bool[Tensor, "v 1 h w"]) -> Float[Tensor, " v"]:
    return torch.where(valid, x, 0).flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1)


def extents(points: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """Return the standard deviations along the principal axes, smallest first, in world units."""
    covariance = torch.cov(points.double().mT, correction=0)
    variances: Tensor = torch.linalg.eigvalsh(covariance)
    return variances.clamp(min=0).sqrt().to(points)


def thinness(points: Float[Tensor, "n 3"]) -> float:
    """Return the smallest over the largest extent: 0 for a plane, 1 for a sphere.

    The half of a ball that one distant camera sees has sqrt(2) / 3 = 0.47. NaN below four points,
    if points are not finite, or if all are equal.
    """
    if len(points) < 4 or not bool(points.isfinite().all()):
        return float("nan")
    small, _, large = extents(points).tolist()
    return small / large if large > 1e-9 else float("nan")

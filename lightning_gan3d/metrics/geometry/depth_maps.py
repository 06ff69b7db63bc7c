"""Depth maps: normals, errors against the truth, and how flat a surface is."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras

JUMP = 0.1
"""Neighbours whose depths differ by more than this share are on different surfaces."""


class Normals(NamedTuple):
    """Unit normals in the world, toward the camera, and where there are any."""

    normals: Float[Tensor, "v 3 h w"]
    valid: Bool[Tensor, "v 1 h w"]


def normals_from_depth(
    depth: Float[Tensor, "v 1 h w"], opaque: Bool[Tensor, "v 1 h w"], cameras: Cameras
) -> Normals:
    """Return normals by central differences of the unprojected points, distance along the rays.

    Valid where the pixel and its four neighbours are opaque and no depth jumps between them; never
    in the outermost pixels.
    """
    size = depth.shape[-1]
    points = rearrange(cameras.unproject(depth), "v (h w) c -> v c h w", h=size)
    right = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    down = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    # In OpenCV axes x cross y is forward, so that the other order points back to the camera.
    inner = normalize(torch.linalg.cross(down, right, dim=1), dim=1)
    normals = torch.zeros_like(points)
    normals[..., 1:-1, 1:-1] = inner
    middle = depth[..., 1:-1, 1:-1]
    valid = torch.zeros_like(opaque)
    good = opaque[..., 1:-1, 1:-1].clone()
    for near, seen in zip(_around(depth), _around(opaque), strict=True):
        good &= seen & ((near - middle).abs() <= JUMP * middle)
    valid[..., 1:-1, 1:-1] = good
    return Normals(normals, valid)


def _around(x: Tensor) -> list[Tensor]:
    return [x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]]


class DepthErrors(NamedTuple):
    """Errors of each view's depth over the pixels compared; NaN where there are none."""

    absolute: Float[Tensor, " v"]
    """Mean |error|, in world units."""
    root_mean_square: Float[Tensor, " v"]
    """Root of the mean squared error, in world units."""
    relative: Float[Tensor, " v"]
    """Mean |error| / truth."""
    compared: Float[Tensor, " v"]
    """Pixels compared."""


def depth_errors(
    depth: Float[Tensor, "v 1 h w"],
    truth: Float[Tensor, "v 1 h w"],
    valid: Bool[Tensor, "v 1 h w"],
) -> DepthErrors:
    """Compare depths with the truth, both along the ray or both camera z, where `valid`.

    No scale or shift is fitted: a depth that is off by a factor is wrong.
    """
    error = (depth - truth).abs()
    return DepthErrors(
        _mean(error, valid),
        _mean(error.square(), valid).sqrt(),
        _mean(error / truth.clamp(min=1e-6), valid),
        valid.flatten(1).sum(dim=1).to(depth),
    )


def normal_errors(
    normals: Float[Tensor, "v 3 h w"],
    truth: Float[Tensor, "v 3 h w"],
    valid: Bool[Tensor, "v 1 h w"],
) -> Float[Tensor, " v"]:
    """Return the mean angle in radians between unit normals, where `valid`; NaN without pixels."""
    # Better conditioned than the arc cosine of the product, which loses small angles to rounding.
    apart, sum_ = (normals - truth).norm(dim=1), (normals + truth).norm(dim=1)
    return _mean((2 * torch.atan2(apart, sum_))[:, None], valid)


def _mean(x: Float[Tensor, "v 1 h w"], valid: Bool[Tensor, "v 1 h w"]) -> Float[Tensor, " v"]:
    total = torch.where(valid, x, 0).flatten(1).sum(dim=1)
    # 0 / 0 is NaN: nothing was compared.
    return total / valid.flatten(1).sum(dim=1)


def extents(points: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """Return the standard deviations along the principal axes, smallest first, in world units."""
    covariance = torch.cov(points.double().mT, correction=0)
    variances: Tensor = torch.linalg.eigvalsh(covariance)
    return variances.clamp(min=0).sqrt().to(points)


def thinness(points: Float[Tensor, "n 3"]) -> float:
    """Return the smallest over the largest extent of points: 0 in a plane, 1 in a full sphere.

    The half of a ball that one distant camera sees has sqrt(2) / 3 = 0.47. NaN below four points,
    where points are not finite, and where all points are one.
    """
    if len(points) < 4 or not bool(points.isfinite().all()):
        return float("nan")
    small, _, large = extents(points).tolist()
    return small / large if large > 1e-9 else float("nan")

"""Sums of Gaussians at points; on the points of a grid, far Gaussians are left out."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PAIRS = 2**18
"""Points times Gaussians at a time: bounds memory."""
BLOCK = 16
"""Points along each axis of a grid that are computed together."""
SMALLEST = -80.0
"""Logarithm of the smallest value of a Gaussian over that at its mean."""
NEGLIGIBLE = 1e-3
"""On grids, a Gaussian adds where it is above this."""


class Gaussians(NamedTuple):
    """Functions value * exp(-d^2 / 2), with d the Mahalanobis distance from the mean."""

    means: Float[Tensor, "b n 3"]
    scales: Float[Tensor, "b n 3"]
    """Standard deviations along the Gaussian's own axes."""
    rotations: Float[Tensor, "b n 4"]
    """Quaternions w, x, y, z."""
    values: Float[Tensor, "b n c"]
    """At the means; not negative."""


def sum_at(points: Float[Tensor, "b p 3"], gaussians: Gaussians) -> Float[Tensor, "b p c"]:
    """Sum Gaussians at points; differentiable, but only without a gradient is memory bounded."""
    means, scales, rotations, values = gaussians
    axes = rotation_rows(rotations) / scales.mT[:, None]  # b row axis n
    offsets = -torch.einsum("bnr,brkn->bkn", means, axes)
    size = max(1, PAIRS // max(1, values.shape[0] * values.shape[1]))
    parts = torch.split(points, size, dim=1)
    sums = [_sum(part, axes.flatten(2), offsets.flatten(1)[:, None], values) for part in parts]
    return torch.cat(sums, dim=1)


def _sum(
    points: Float[Tensor, "b p 3"],
    axes: Float[Tensor, "b 3 kn"],
    offsets: Float[Tensor, "b 1 kn"],
    values: Float[Tensor, "b n c"],
) -> Float[Tensor, "b p c"]:
    # In standard deviations along the axes: a quadratic form in the points would lose digits.
    x, y, z = torch.baddbmm(offsets, points, axes).tensor_split(3, dim=2)
    squared = torch.addcmul(torch.addcmul(x * x, y, y), z, z)
    # Subnormal numbers are many times slower on a CPU.
    return torch.exp((squared / -2).clamp_min(SMALLEST)) @ values


@torch.no_grad()
def sum_layers(
    gaussians: Gaussians, axes: Sequence[Float[Tensor, " _"]]
) -> Iterator[Float[Tensor, "y z"]]:
    """Yield the sum of one scene's Gaussians on a grid, a layer for each x; `axes`: x, y and z.

    Each block of the grid sums those that reach it.
    """
    means, scales, rotations, values = (x[0] for x in gaussians)
    variances = (rotation_rows(gaussians.rotations)[0] * scales.mT).square().sum(dim=1)
    squared = 2 * torch.log(values.amax(dim=1) / NEGLIGIBLE)
    reach = torch.where(squared > 0, (squared.clamp_min(0) * variances).sqrt(), -math.inf).mT
    low, high = means - reach, means + reach
    for xs in torch.split(axes[0], BLOCK):
        slab = []
        for ys in torch.split(axes[1], BLOCK):
            row = []
            for zs in torch.split(axes[2], BLOCK):
                first, last = (torch.stack([x[i] for x in (xs, ys, zs)]) for i in (0, -1))
                near = ((low <= last) & (high >= first)).all(dim=1).nonzero()[:, 0]
                points = torch.stack(torch.meshgrid(xs, ys, zs, indexing="ij"), dim=-1)
                chosen = Gaussians(*(x[None, near] for x in (means, scales, rotations, values)))
                row.append(sum_at(points.view(1, -1, 3), chosen).view(points.shape[:3]))
            slab.append(torch.cat(row, dim=2))
        yield from torch.cat(slab, dim=1)


def rotation_rows(quaternions: Float[Tensor, "b n 4"]) -> Float[Tensor, "b 3 3 n"]:
    """Rotation matrices of quaternions (w, x, y, z) of any length, by row and column."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(dim=-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)

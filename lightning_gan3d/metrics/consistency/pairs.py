"""Pairs of views of an item, warped into each other: sums over their pixels."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from lightning_gan3d.metrics.consistency.image_similarity import LpipsMap, ssim_map
from lightning_gan3d.metrics.consistency.warp import FAINT, Surfaces, warp

PIXELS_AT_ONCE = 2**21
"""Target pixels warped at a time; takes a few hundred MB."""


class PairSums(NamedTuple):
    """Sums over the pairs of each item, by the distance of a pair's views (1: neighbours).

    Errors are those of images in [0, 1].
    """

    warped: Float[Tensor, "b d"]
    """Squared errors after warping, mean over channels."""
    unwarped: Float[Tensor, "b d"]
    """Squared errors without warping, at the same pixels."""
    compared: Float[Tensor, "b d"]
    """Compared pixels."""
    visible: Float[Tensor, "b d"]
    """Target pixels of opacity `FAINT` or more."""
    similarity: Float[Tensor, "b d"]
    """SSIM of windows."""
    windows: Float[Tensor, "b d"]
    """Windows that count."""
    depth: Float[Tensor, "b d"]
    """Relative errors of camera z."""
    depth_median: Float[Tensor, "b d"]
    """Median (not sum) of these errors; NaN if nothing was compared."""
    lpips: Float[Tensor, "b d"]
    """LPIPS at compared pixels; NaN without a network."""


def pairs_apart(k: int, distance: int) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Return sources and targets of all pairs of views `distance` apart, in both directions."""
    first, second = torch.arange(k - distance), torch.arange(distance, k)
    return torch.cat([first, second]), torch.cat([second, first])


def pair_sums(
    views: Surfaces, k: int, tolerance: float, lpips: LpipsMap | None = None, furthest: int = 1
) -> PairSums:
    """Compare the k views of each item at distances 1 to `furthest`. Images are in [-1, 1]."""
    num_views, device = len(views.image), views.image.device
    columns = []
    for distance in range(1, furthest + 1):
        first, second = pairs_apart(k, distance)
        at_once = max(1, PIXELS_AT_ONCE // (len(first) * views.image[0, 0].numel()))
        parts = []
        for offset in torch.split(torch.arange(0, num_views, k), at_once):
            source, target = (
                views.select((offset[:, None] + side).flatten().to(device))
                for side in (first, second)
            )
            parts.append(_compare(source, target, len(offset), tolerance, lpips))
        columns.append([torch.cat(x) for x in zip(*parts, strict=True)])
    return PairSums(*(torch.stack(x, dim=1).cpu() for x in zip(*columns, strict=True)))


def _compare(
    source: Surfaces, target: Surfaces, items: int, tolerance: float, lpips: LpipsMap | None
) -> list[Tensor]:
    """Warp sources into targets and sum by item, in the order of `PairSums`."""
    warped, valid, depth_error = warp(source, target, tolerance)
    image = target.image

    def by_item(x: Tensor) -> Tensor:
        return rearrange(x, "(b p) ... -> b (p ...)", b=items)

    def total(x: Tensor) -> Tensor:
        return by_item(x).sum(dim=1)

    similarity, counts = ssim_map(warped / 2 + 0.5, image / 2 + 0.5, valid)
    lpips_map = torch.full_like(valid, torch.nan, dtype=image.dtype)
    if lpips is not None:
        # The target fills both images at invalid pixels, so that these add no difference.
        lpips_map = lpips(torch.where(valid, warped, image), image) * valid
    return [
        total((warped - image).square() / 12 * valid),  # / 4 for [0, 1], / 3 channels
        total((source.image - image).square() / 12 * valid),
        total(valid.float()),
        total((target.opacity >= FAINT).float()),
        total(torch.where(counts, similarity, 0.0)),
        total(counts.float()),
        total(depth_error),
        by_item(torch.where(valid, depth_error, torch.nan)).nanmedian(dim=1).values,
        total(lpips_map),
    ]


def concatenate(parts: Iterable[PairSums]) -> PairSums:
    """Concatenate sums over items."""
    return PairSums(*map(torch.cat, zip(*parts, strict=True)))

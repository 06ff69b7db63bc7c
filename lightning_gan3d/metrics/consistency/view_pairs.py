"""Pairs of views of an item, one warped into the other: what the comparison sums up to."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.consistency.lpips_map import Perceptual
from lightning_gan3d.metrics.consistency.ssim import ssim_map
from lightning_gan3d.metrics.consistency.warp import FAINT, on_surface, resize_depth_z, warp

PIXELS_AT_ONCE = 2**21
"""Target pixels of the pairs that are warped at a time: some hundred MB."""


class PairSums(NamedTuple):
    """Sums over the pairs of each item, by the distance of the pair's views: 1 is a neighbour.

    Errors are those of [0, 1] images.
    """

    warped: Float[Tensor, "b d"]
    """Squared errors after warping, mean over channels."""
    unwarped: Float[Tensor, "b d"]
    """The same, without warping, at the same pixels."""
    compared: Float[Tensor, "b d"]
    """Pixels that were compared."""
    shown: Float[Tensor, "b d"]
    """Pixels of the targets that show anything, half-transparent or not."""
    similarity: Float[Tensor, "b d"]
    """SSIM of windows."""
    windows: Float[Tensor, "b d"]
    """Windows that count."""
    depth: Float[Tensor, "b d"]
    """Relative differences of camera z."""
    depth_median: Float[Tensor, "b d"]
    """Median (not sum) of these differences; NaN where nothing was compared."""
    texture: Float[Tensor, "b d"]
    """Standard deviation (not sum) of the compared pixels of the targets, mean over channels."""
    perceived: Float[Tensor, "b d"]
    """LPIPS; 0 where it was not asked for."""


def pairs_apart(k: int, distance: int) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Sources and targets of the pairs of views that are `distance` apart, in both directions."""
    first, second = torch.arange(k - distance), torch.arange(distance, k)
    return torch.cat([first, second]), torch.cat([second, first])


def pair_sums(
    image: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "v 1 h0 w0"],
    opacity: Float[Tensor, "v 1 h0 w0"],
    k: int,
    tolerance: float,
    foreground: float,
    perceptual: Perceptual | None = None,
    furthest: int | None = None,
) -> PairSums:
    """Compare the k views of each item with one another.

    Images in [-1, 1]; depth along the rays; `tolerance` and `foreground` are those of
    `ConsistencyConfig`; `furthest` is the largest distance of a pair's views,
    by default all k - 1.
    """
    z = cameras.depth_z(depth)
    surface = on_surface(z, tolerance, image.shape[-1])
    z, opacity = resize_depth_z(z, opacity, image.shape[-1])
    opaque = opacity >= foreground
    views = _Views(image, cameras, z, opacity >= FAINT, opaque & surface)
    columns = []
    for distance in range(1, (furthest or k - 1) + 1):
        first, second = pairs_apart(k, distance)
        at_once = max(1, PIXELS_AT_ONCE // (len(first) * image[0, 0].numel()))
        parts = []
        for offset in torch.split(torch.arange(0, len(image), k), at_once):
            a, b = ((offset[:, None] + side).flatten().to(image.device) for side in (first, second))
            parts.append(_compare(views, a, b, len(offset), tolerance, perceptual))
        columns.append([torch.cat(x) for x in zip(*parts, strict=True)])
    return PairSums(*(torch.stack(x, dim=1) for x in zip(*columns, strict=True)))


class _Views(NamedTuple):
    image: Tensor
    cameras: Cameras
    z: Tensor
    shown: Tensor
    """Opacity from `FAINT`."""
    usable: Tensor
    """Opaque, and not at an edge between two surfaces."""


def _compare(
    views: _Views, a: Tensor, b: Tensor, items: int, tolerance: float, perceptual: Perceptual | None
) -> list[Tensor]:
    """Warp the views `a` into the views `b`, and sum up by item, in the order of `PairSums`."""
    image, cameras, z, shown, usable = views
    result = warp(
        image[a],
        cameras.select(a),
        z[a],
        usable[a],
        cameras.select(b),
        z[b],
        usable[b],
        tolerance,
    )
    valid = result.valid

    def by_item(x: Tensor) -> Tensor:
        return rearrange(x, "(b p) ... -> b (p ...)", b=items)

    def total(x: Tensor) -> Tensor:
        return by_item(x).sum(dim=1)

    similarity, counts = ssim_map(result.image / 2 + 0.5, image[b] / 2 + 0.5, valid)
    unknown = by_item(torch.where(valid, result.depth_error, torch.nan))
    perceived = torch.zeros_like(valid, dtype=image.dtype)
    if perceptual is not None:
        # Where nothing may be compared, both show the target, so that neither adds a difference.
        filled = torch.where(valid, result.image, image[b])
        perceived = perceptual(filled, image[b]) * valid
    return [
        total((result.image - image[b]).square() / 12 * valid),  # / 4 for [0, 1], / 3 channels
        total((image[a] - image[b]).square() / 12 * valid),
        total(valid.float()),
        total(shown[b].float()),
        total(torch.where(counts, similarity, 0.0)),
        total(counts.float()),
        total(result.depth_error),
        unknown.nanmedian(dim=1).values,
        _deviation(image[b] / 2 + 0.5, valid, items),
        total(perceived),
    ]


def _deviation(image: Tensor, valid: Tensor, items: int) -> Tensor:
    """Standard deviation of the valid pixels of each item, mean over channels."""
    colour = rearrange(image, "(b p) c h w -> b c (p h w)", b=items)
    mask = rearrange(valid, "(b p) 1 h w -> b 1 (p h w)", b=items).float()
    num = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    middle = (colour * mask).sum(dim=-1, keepdim=True) / num
    variance = ((colour - middle).square() * mask).sum(dim=-1) / num[..., 0]
    return variance.sqrt().mean(dim=1)

"""Temporal flicker: what changes from frame to frame of a slow orbit, beyond smooth motion."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import FlickerConfig
from lightning_gan3d.metrics.consistency.warp import carry, on_surface, resize_depth_z, warp
from lightning_gan3d.metrics.sources import ViewSource
from lightning_gan3d.metrics.summary import mean_of

KINDS = ("flicker", "flicker_share")
"""What is measured, both shares: of the range of colours, and of the change between frames."""
UNMOVED = 1e-3
"""Mean change between two frames, as a share of the range, below which nothing is seen to move."""


class FlickerSums(NamedTuple):
    """Sums over the frames of each item, of differences of [0, 1] images, mean over channels."""

    bent: Float[Tensor, " b"]
    """|frame - mean of its two warped neighbours|."""
    moved: Float[Tensor, " b"]
    """|next frame - frame before| / 2, unwarped, at the same pixels."""
    compared: Float[Tensor, " b"]
    """Pixels that both neighbours see."""


def flicker_sums(
    image: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "v 1 h0 w0"],
    opacity: Float[Tensor, "v 1 h0 w0"],
    k: int,
    tolerance: float,
    foreground: float,
) -> FlickerSums:
    """Compare each of the k frames of an item with both its neighbours.

    Images in [-1, 1]; depth along the rays. The other two are those of `ConsistencyConfig`.
    """
    z = cameras.depth_z(depth)
    surface = on_surface(z, tolerance, image.shape[-1])
    z, opacity = resize_depth_z(z, opacity, image.shape[-1])
    usable = (opacity >= foreground) & surface
    items = len(image) // k
    inner = torch.arange(1, k - 1, device=image.device)
    start = torch.arange(0, len(image), k, device=image.device)
    middle = (start[:, None] + inner).flatten()

    def seen_from(side: int) -> tuple[Tensor, Tensor]:
        a = middle + side
        found = warp(
            image[a],
            cameras.select(a),
            z[a],
            usable[a],
            cameras.select(middle),
            z[middle],
            usable[middle],
            tolerance,
        )
        return found.image, found.valid

    (before, in_before), (after, in_after) = seen_from(-1), seen_from(1)
    valid = in_before & in_after

    def total(x: Tensor) -> Tensor:
        return rearrange(x, "(b p) ... -> b (p ...)", b=items).sum(dim=1)

    bent = (image[middle] - (before + after) / 2).abs() / 2  # / 2 for [0, 1]
    moved = (image[middle + 1] - image[middle - 1]).abs() / 4
    return FlickerSums(
        total(bent.mean(dim=1, keepdim=True) * valid),
        total(moved.mean(dim=1, keepdim=True) * valid),
        total(valid.float()),
    )


def rows(suffix: str = "") -> list[str]:
    """Names of the measures."""
    return [f"consistency.{kind}{stage}{suffix}" for stage in ("", "_raw") for kind in KINDS]


def measure_flicker(
    source: ViewSource,
    cfg: FlickerConfig,
    tolerance: float,
    foreground: float,
    batch: int = 32,
    suffix: str = "",
) -> list[Metric]:
    """Measure the flicker of slow orbits, before (`_raw`) and after super-resolution.

    A surface point is followed through three frames: its colour in the middle one is compared with
    the mean of the other two. What changes evenly with the angle (a highlight that wanders, a
    texture that slides) cancels; what comes and goes from frame to frame stays.
    """
    k = cfg.frames
    azimuth = (torch.arange(k) - (k - 1) / 2) * cfg.step
    parts: dict[str, list[FlickerSums]] = {"raw": [], "image": []}
    for items in torch.split(torch.arange(cfg.items), max(1, batch // k)):
        base = source.base(items)
        cameras = carry(base, azimuth.to(base.cam2world))
        views = source.views(items, cameras)
        if views.depth is None or views.opacity is None:
            why = "no depth is rendered, so nothing can be warped"
            return [missing(row, why, "share") for row in rows(suffix)]
        for name, image in (("raw", views.image_raw), ("image", views.image)):
            sums = flicker_sums(
                image.clamp(-1, 1).float(),
                cameras,
                views.depth,
                views.opacity,
                k,
                tolerance,
                foreground,
            )
            parts[name].append(FlickerSums(*(x.cpu() for x in sums)))
    result = []
    for words, name, stage in (
        ("images", "image", ""),
        ("renderings before super-resolution", "raw", "_raw"),
    ):
        sums = FlickerSums(*map(torch.cat, zip(*parts[name], strict=True)))
        some = sums.compared > 0
        bent, moved = (x[some] / sums.compared[some] for x in (sums.bent, sums.moved))
        moves = ~(moved < UNMOVED)  # so that NaN stays, to be told of
        note = (
            f"{words}: {k} frames {cfg.step:g} rad apart around the world's y axis; mean absolute "
            "difference of a frame and the mean of its two neighbours, warped into it, where both "
            f"see the point (tolerance {tolerance:g}, opacity >= {foreground:g})"
        )
        plain = int((~moves).sum())
        still = f"; {plain} latents without texture left out" if plain else ""
        row = f"consistency.flicker{stage}{suffix}"
        unseen = "no foreground pixel is seen in three frames"
        undefined = "undefined without texture: nothing is seen to move" if plain else unseen
        ratio = (bent / moved)[moves]
        share = f"{note}, over half the unwarped difference of these neighbours{still}"
        result += [
            mean_of(row, bent, "share", f"{note}, as a share of the range of colours", unseen),
            mean_of(f"consistency.flicker_share{stage}{suffix}", ratio, "share", share, undefined),
        ]
    return result

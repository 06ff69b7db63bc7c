"""Temporal flicker: change between frames of a slow orbit, beyond smooth motion."""

from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.consistency.reprojection import NO_DEPTH, STAGES
from lightning_gan3d.metrics.consistency.warp import Surfaces, surfaces, warp
from lightning_gan3d.metrics.context import EvaluationContext, mean_of

KINDS = ("flicker", "flicker_share")
"""As a share of the range of colours, and of the change between frames."""
STILL = 1e-3
"""Mean change between two frames, as a share of the range, below which motion is invisible."""


class FlickerSums(NamedTuple):
    """Sums over the frames of each item, of differences of [0, 1] images, mean over channels."""

    residual: Float[Tensor, " b"]
    """|frame - mean of its two warped neighbours|."""
    motion: Float[Tensor, " b"]
    """|next frame - previous frame| / 2, unwarped, at the same pixels."""
    compared: Float[Tensor, " b"]
    """Pixels visible in both neighbours."""


def flicker_sums(frames: Surfaces, k: int, tolerance: float) -> FlickerSums:
    """Compare the inner ones of the k frames of each item with both neighbours."""
    image = frames.image
    items = len(image) // k
    inner = torch.arange(1, k - 1, device=image.device)
    start = torch.arange(0, len(image), k, device=image.device)
    middle = (start[:, None] + inner).flatten()
    target = frames.select(middle)
    before = warp(frames.select(middle - 1), target, tolerance)
    after = warp(frames.select(middle + 1), target, tolerance)
    valid = before.valid & after.valid

    def total(x: Tensor) -> Tensor:
        return rearrange(x, "(b p) ... -> b (p ...)", b=items).sum(dim=1).cpu()

    residual = (image[middle] - (before.image + after.image) / 2).abs() / 2  # / 2 for [0, 1]
    motion = (image[middle + 1] - image[middle - 1]).abs() / 4
    return FlickerSums(
        total(residual.mean(dim=1, keepdim=True) * valid),
        total(motion.mean(dim=1, keepdim=True) * valid),
        total(valid.float()),
    )


def measure_flicker(context: EvaluationContext) -> list[Metric]:
    """Measure the flicker of slow orbits, before and after super-resolution.

    A surface point is tracked through three frames: its colour in the middle frame is compared with
    the mean of the other two. Changes that are even in the angle (a moving highlight, a sliding
    texture) cancel; changes from frame to frame remain.
    """
    consistency, source = context.cfg.consistency, context.source
    if consistency is None or consistency.flicker is None:
        return []
    cfg, k = consistency.flicker, consistency.flicker.frames
    if source.fixed_cameras:
        return _missing("stored images come without depth")
    azimuth = (torch.arange(k) - (k - 1) / 2) * cfg.step
    parts: dict[str, list[FlickerSums]] = {"": [], "raw": []}
    for items, cameras in context.arcs(cfg.items, azimuth):
        views = source.views(items, cameras)
        if views.depth is None or views.opacity is None:
            return _missing(NO_DEPTH)
        for stage, image in (("", views.image), ("raw", views.image_raw)):
            frames = surfaces(image.clamp(-1, 1).float(), views, cameras, consistency)
            parts[stage].append(flicker_sums(frames, k, consistency.tolerance))
    metrics = []
    for stage, part in parts.items():
        sums = FlickerSums(*map(torch.cat, zip(*part, strict=True)))
        note = (
            f"{STAGES[stage]}: {k} frames {cfg.step:g} rad apart around the world's y axis; mean "
            "absolute difference of a frame and the mean of its two neighbours, warped into it, at "
            f"points visible in both (tolerance {consistency.tolerance:g}, opacity >= "
            f"{consistency.foreground:g})"
        )
        metrics += [replace(m, stage=stage) for m in _metrics(sums, note)]
    return metrics


def _metrics(sums: FlickerSums, note: str) -> list[Metric]:
    compared = sums.compared > 0
    residual, motion = (x[compared] / sums.compared[compared] for x in sums[:2])
    moves = ~(motion < STILL)  # True for NaN, so that images that are not finite are reported
    plain = int((~moves).sum())
    empty = "no foreground pixel is visible in three frames"
    left_out = f"; {plain} latents without texture left out" if plain else ""
    absolute = f"{note}, as a share of the range of colours"
    relative = f"{note}, over half the unwarped difference of these neighbours{left_out}"
    undefined = "undefined without texture: no visible motion" if plain else empty
    return [
        mean_of("consistency.flicker", residual, "share", absolute, empty=empty),
        mean_of(
            "consistency.flicker_share",
            (residual / motion)[moves],
            "share",
            relative,
            empty=undefined,
        ),
    ]


def _missing(why: str) -> list[Metric]:
    names = [(f"consistency.{kind}", stage) for stage in ("", "raw") for kind in KINDS]
    return [replace(missing(name, why, "share"), stage=stage) for name, stage in names]

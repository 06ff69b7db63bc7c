"""View consistency by reprojection: views of an item, warped into each other by their depth."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.image_similarity import (
    LEAST_SIDE,
    LpipsMap,
    load_lpips,
    psnr,
    ssim_map,
)
from lightning_gan3d.metrics.consistency.warp import FAINT, Surfaces, surfaces, warp
from lightning_gan3d.metrics.context import EvaluationContext, mean_of

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
    texture: Float[Tensor, "b d"]
    """Standard deviation (not sum) of the targets' compared pixels, mean over channels."""
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
        _deviation(image / 2 + 0.5, valid, items),
        total(lpips_map),
    ]


def _deviation(image: Tensor, valid: Tensor, items: int) -> Tensor:
    """Standard deviation of the valid pixels of each item, mean over channels."""
    colour = rearrange(image, "(b p) c h w -> b c (p h w)", b=items)
    mask = rearrange(valid, "(b p) 1 h w -> b 1 (p h w)", b=items).float()
    num = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = (colour * mask).sum(dim=-1, keepdim=True) / num
    variance = ((colour - mean).square() * mask).sum(dim=-1) / num[..., 0]
    return variance.sqrt().mean(dim=1)


KINDS = {
    "psnr": ("dB", "PSNR of a latent's compared pixels, mean over latents"),
    "gain": ("dB", "PSNR minus that without warping, at the same pixels, mean over latents"),
    "ssim": ("", "SSIM (11x11 windows, Gaussian, sigma 1.5) over the compared pixels of each "
             "window, at least half of its weight, mean over latents"),
    "lpips": ("", "LPIPS over the compared pixels, mean over latents"),
    "depth_error": ("share", "mean |z / z' - 1| of a point's camera z and the source's depth, mean "
                    "over latents"),
    "depth_median": ("share", "median |z / z' - 1| of a latent's pixels, mean over latents"),
    "coverage": ("share", f"share of the target pixels of opacity >= {FAINT:g} that are compared, "
                 "mean over latents"),
}  # fmt: skip
"""Unit and definition of each metric, by the last part of its name."""
CURVES = ("psnr", "ssim", "depth_error", "coverage")
"""Metrics that are also computed for each angle between two views of the arc."""
STAGES = {
    "": "images",
    "raw": "renderings before super-resolution",
    "enlarged": "renderings before super-resolution, enlarged bilinearly to the image's size",
}
"""Images that are compared. The metrics depend on the pixel size, so the control experiment for the
final image is `enlarged`, not `raw`."""
NO_DEPTH = "no depth is rendered, so nothing can be warped"


class Row(NamedTuple):
    """One metric of reprojection."""

    stage: str
    kind: str
    at: float | None = None
    """Angle between the views of a pair, for a point of a curve."""
    distance: int = 1
    """Distance of the views of a pair, in steps of the arc."""

    def missing(self, why: str, network: str = "") -> Metric:
        """Return the metric as missing."""
        metric = missing(f"consistency.{self.kind}", why, KINDS[self.kind][0])
        return replace(metric, stage=self.stage, at=self.at, network=network)


def rows(cfg: ConsistencyConfig, curves: bool) -> list[Row]:
    """List the metrics. The control has neither LPIPS, which is costly, nor curves."""
    result = []
    for stage in STAGES:
        kinds = [kind for kind in KINDS if (kind, stage) != ("lpips", "enlarged")]
        result += [Row(stage, kind) for kind in kinds]
        if curves and stage != "enlarged":
            angles = enumerate(cfg.angles, start=1)
            result += [Row(stage, kind, at, d) for d, at in angles for kind in CURVES]
    return result


def measure_consistency(context: EvaluationContext) -> list[Metric]:
    """Measure how well the views of an item agree after warping one into another."""
    cfg, source = context.cfg.consistency, context.source
    if cfg is None:
        return []
    metrics = rows(cfg, context.curves)
    if source.fixed_cameras:
        return [row.missing("stored images come without depth") for row in metrics]
    lpips = load_lpips(cfg.lpips)
    k = 2 * cfg.steps + 1
    azimuth = (torch.arange(k) - cfg.steps) * cfg.angle
    parts: dict[str, list[PairSums]] = {}
    for items, cameras in context.arcs(cfg.items, azimuth):
        views = source.views(items, cameras)
        if views.depth is None or views.opacity is None:
            return [row.missing(NO_DEPTH) for row in metrics]
        for stage, image in images_of(views).items():
            network, furthest = None, k - 1 if context.curves else 1
            if stage == "enlarged":
                furthest = 1
            elif isinstance(lpips, LpipsMap) and image.shape[-1] >= LEAST_SIDE:
                network = lpips
            of_views = surfaces(image, views, cameras, cfg)
            sums = pair_sums(of_views, k, cfg.tolerance, network, furthest)
            parts.setdefault(stage, []).append(sums)
    sums_of = {stage: concatenate(part) for stage, part in parts.items()}
    return [
        _metric(row, sums_of[row.stage], cfg, lpips)
        if row.stage in sums_of
        else row.missing("renderings have the size of the image")
        for row in metrics
    ]


def concatenate(parts: Iterable[PairSums]) -> PairSums:
    """Concatenate sums over items."""
    return PairSums(*map(torch.cat, zip(*parts, strict=True)))


def images_of(views: Images) -> dict[str, Float[Tensor, "v 3 _ _"]]:
    """Return the images to compare, clipped to [-1, 1], by the names of `STAGES`."""
    image, raw = (x.clamp(-1, 1).float() for x in (views.image, views.image_raw))
    images = {"": image, "raw": raw}
    if raw.shape != image.shape:
        size = image.shape[-2:]
        images["enlarged"] = interpolate(raw, size, mode="bilinear", align_corners=False)
    return images


def _values(
    kind: str, s: PairSums, texture: float
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return the values of the items, and a mask of the items that have one."""
    compared = s.compared > 0
    error, unwarped = psnr(s.warped / s.compared), psnr(s.unwarped / s.compared)
    match kind:
        case "psnr":
            return error, compared
        case "gain":  # NaN passes, so that images that are not finite are reported
            return error - unwarped, compared & ~(s.texture < texture)
        case "ssim":
            return s.similarity / s.windows, s.windows > 0
        case "lpips":
            return s.lpips / s.compared, compared
        case "depth_error":
            return s.depth / s.compared, compared
        case "depth_median":
            return s.depth_median, compared
        case _:
            return s.compared / s.visible, s.visible > 0


def _metric(row: Row, sums: PairSums, cfg: ConsistencyConfig, lpips: LpipsMap | str) -> Metric:
    s = PairSums(*(x[:, row.distance - 1] for x in sums))
    values, valid = _values(row.kind, s, cfg.texture)
    unit, definition = KINDS[row.kind]
    angle = cfg.angle if row.at is None else row.at
    note = f"{STAGES[row.stage]}: {definition}; {protocol(cfg, angle)}"
    empty = "no foreground pixel is visible in two views"
    network = ""
    if row.at is None and (num_empty := int((s.compared == 0).sum())):
        note += f"; nothing to compare in {num_empty} of {cfg.items} latents"
    if row.kind == "ssim":
        empty += " inside a window of which half is valid"
    elif row.kind == "gain" and (plain := int((s.compared > 0).sum() - valid.sum())):
        empty = (
            "undefined without texture: the standard deviation of a latent's colours is below "
            f"{cfg.texture:g} of their range"
        )
        note += f"; {plain} latents without texture left out"
    elif row.kind == "lpips":
        if isinstance(lpips, str):
            return row.missing(lpips)
        note, network = f"{note}; {lpips.protocol}", lpips.network
        if bool(s.lpips.isnan().all()) and not bool(s.warped.isnan().all()):
            return row.missing(f"LPIPS needs images of {LEAST_SIDE} pixels or more", network)
    per_item = valid if row.at is None else None
    metric = mean_of(
        f"consistency.{row.kind}",
        values if row.at is None else values[valid],
        unit,
        note,
        per_item,
        empty,
    )
    return replace(metric, stage=row.stage, at=row.at, network=network)


def protocol(cfg: ConsistencyConfig, angle: float) -> str:
    """Description of the comparison of views that are `angle` apart, for the notes."""
    return (
        f"{2 * cfg.steps + 1} views {cfg.angle:g} rad apart around the world's y axis; pairs "
        f"{angle:g} rad apart, both directions; bilinear backward warp by camera z, z-buffer, "
        f"occlusion and depth edges by tolerance {cfg.tolerance:g}, opacity >= "
        f"{cfg.foreground:g}, pixels outside excluded"
    )

"""View consistency by reprojection: views of an item, warped into each other by their depth."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.equal_sharpness import KINDS as EQUAL_SHARPNESS
from lightning_gan3d.metrics.consistency.equal_sharpness import (
    equal_sharpness_metrics,
    reduced_surfaces,
)
from lightning_gan3d.metrics.consistency.image_similarity import (
    LEAST_SIDE,
    LpipsMap,
    load_lpips,
    psnr,
)
from lightning_gan3d.metrics.consistency.pairs import PairSums, concatenate, pair_sums
from lightning_gan3d.metrics.consistency.warp import FAINT, Surfaces, surfaces
from lightning_gan3d.metrics.context import EvaluationContext, mean_of

KINDS = {
    "psnr": ("dB", "PSNR of a latent's compared pixels, mean over latents"),
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
        metric = missing(f"consistency.{self.kind}", why, (KINDS | EQUAL_SHARPNESS)[self.kind][0])
        return replace(metric, stage=self.stage, at=self.at, network=network)


def rows(cfg: ConsistencyConfig, curves: bool) -> list[Row]:
    """List the metrics. The control has neither LPIPS, which is costly, nor curves."""
    result = []
    for stage in STAGES:
        kinds = [
            kind for kind in (*EQUAL_SHARPNESS, *KINDS) if (kind, stage) != ("lpips", "enlarged")
        ]
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
    reduced: dict[str, list[Surfaces]] = {}
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
            reduced.setdefault(stage, []).append(reduced_surfaces(image, views, cameras, cfg))
    sums_of = {stage: concatenate(part) for stage, part in parts.items()}
    equal_of = {
        stage: equal_sharpness_metrics(views, context, k) for stage, views in reduced.items()
    }
    result = []
    for row in metrics:
        if row.stage not in sums_of:
            result.append(row.missing("renderings have the size of the image"))
        elif row.kind in EQUAL_SHARPNESS:
            (metric,) = (m for m in equal_of[row.stage] if m.name == f"consistency.{row.kind}")
            note = f"{STAGES[row.stage]}: {metric.note}"
            result.append(replace(metric, stage=row.stage, note=note))
        else:
            result.append(_metric(row, sums_of[row.stage], cfg, lpips))
    return result


def images_of(views: Images) -> dict[str, Float[Tensor, "v 3 _ _"]]:
    """Return the images to compare, clipped to [-1, 1], by the names of `STAGES`."""
    image, raw = (x.clamp(-1, 1).float() for x in (views.image, views.image_raw))
    images = {"": image, "raw": raw}
    if raw.shape != image.shape:
        size = image.shape[-2:]
        images["enlarged"] = interpolate(raw, size, mode="bilinear", align_corners=False)
    return images


def _values(kind: str, s: PairSums) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return the values of the items, and a mask of the items that have one."""
    compared = s.compared > 0
    match kind:
        case "psnr":
            return psnr(s.warped / s.compared), compared
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
    values, valid = _values(row.kind, s)
    unit, definition = KINDS[row.kind]
    angle = cfg.angle if row.at is None else row.at
    note = f"{STAGES[row.stage]}: {definition}; {protocol(cfg, angle)}"
    empty = "no foreground pixel is visible in two views"
    network = ""
    if row.at is None and (num_empty := int((s.compared == 0).sum())):
        note += f"; nothing to compare in {num_empty} of {cfg.items} latents"
    if row.kind == "ssim":
        empty += " inside a window of which half is valid"
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

"""View consistency by reprojection: views of an item, warped into one another by their depth."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency import flicker
from lightning_gan3d.metrics.consistency.flicker import measure_flicker
from lightning_gan3d.metrics.consistency.lpips_map import LEAST_SIDE, Perceptual, load_lpips
from lightning_gan3d.metrics.consistency.ssim import psnr
from lightning_gan3d.metrics.consistency.view_pairs import PairSums, pair_sums
from lightning_gan3d.metrics.consistency.warp import FAINT, carry
from lightning_gan3d.metrics.sources import ViewSource
from lightning_gan3d.metrics.summary import mean_of

KINDS = {
    "psnr": "dB",
    "gain": "dB",
    "ssim": "",
    "lpips": "",
    "depth_error": "share",
    "depth_median": "share",
    "coverage": "share",
}
"""What is measured on neighbouring views, with its unit."""
CURVES = ("psnr", "ssim", "depth_error", "coverage")
"""Those of them that are also measured at each angle between two views of the arc."""
STAGES = {
    "": "images",
    "_raw": "renderings before super-resolution",
    "_enlarged": "renderings before super-resolution, enlarged bilinearly to the image's size",
}
"""What is measured, by the part of the rows' names. PSNR and its kin depend on the size of a pixel,
so that `_enlarged`, not `_raw`, is what the image is to be compared with."""


def reproject(
    source: ViewSource,
    cfg: ConsistencyConfig,
    batch: int,
    perceptual: Perceptual | None = None,
    furthest: int | None = None,
) -> dict[str, PairSums] | None:
    """Compare the views of all items, by `STAGES`; None where no depth is rendered.

    `_enlarged` has neighbours alone, and is absent where renderings have the image's size.
    """
    k = 2 * cfg.steps + 1
    azimuth = (torch.arange(k) - cfg.steps) * cfg.angle
    parts: dict[str, list[PairSums]] = {}
    for items in torch.split(torch.arange(cfg.items), max(1, batch // k)):
        base = source.base(items)
        cameras = carry(base, azimuth.to(base.cam2world))
        views: Images = source.views(items, cameras)
        if views.depth is None or views.opacity is None:
            return None
        for stage, image in stages_of(views).items():
            seen = perceptual if "lpips" in kinds_of(stage) else None
            usable = seen if image.shape[-1] >= LEAST_SIDE else None
            sums = pair_sums(
                image,
                cameras,
                views.depth,
                views.opacity,
                k,
                cfg.tolerance,
                cfg.foreground,
                usable,
                1 if stage == "_enlarged" else furthest,
            )
            if usable is None:
                sums = sums._replace(perceived=sums.perceived * torch.nan)
            parts.setdefault(stage, []).append(PairSums(*(e.cpu() for e in sums)))
    return {name: PairSums(*map(torch.cat, zip(*p, strict=True))) for name, p in parts.items()}


def stages_of(views: Images) -> dict[str, Float[Tensor, "v 3 _ _"]]:
    """Return what is measured of views, clipped to [-1, 1], by the names of `STAGES`."""
    image, raw = (x.clamp(-1, 1).float() for x in (views.image, views.image_raw))
    found = {"": image, "_raw": raw}
    if raw.shape != image.shape:
        size = image.shape[-2:]
        found["_enlarged"] = interpolate(raw, size, mode="bilinear", align_corners=False)
    return found


def kinds_of(stage: str) -> dict[str, str]:
    """Return what is measured at a stage, with its unit; LPIPS is too costly for a control."""
    return {k: unit for k, unit in KINDS.items() if (k, stage) != ("lpips", "_enlarged")}


def rows(cfg: ConsistencyConfig, stage: str, suffix: str, curves: bool) -> list[tuple[str, str]]:
    """Names of the measures with their units; `stage` is one of `STAGES`."""
    found = [(f"consistency.{kind}{stage}{suffix}", unit) for kind, unit in kinds_of(stage).items()]
    if curves and stage != "_enlarged":
        found += [
            (f"consistency.{kind}{stage}{suffix}@{angle:g}", KINDS[kind])
            for angle in cfg.angles
            for kind in CURVES
        ]
    return found


class Values(NamedTuple):
    """A value of each item, and which items have one."""

    values: Float[Tensor, " b"]
    there: Bool[Tensor, " b"]

    def items(self) -> Float[Tensor, " b"]:
        """The values, NaN where there is none."""
        return self.values.where(self.there, torch.nan)


def values_of(sums: PairSums, distance: int, texture: float) -> dict[str, Values]:
    """Return the values of the items, by kind, at a distance of the pair's views."""
    s = PairSums(*(x[:, distance - 1] for x in sums))
    some = s.compared > 0
    after, before = psnr(s.warped / s.compared), psnr(s.unwarped / s.compared)
    textured = some & ~(s.texture < texture)  # so that NaN stays, to be told of
    return {
        "psnr": Values(after, some),
        "gain": Values(after - before, textured),
        "ssim": Values(s.similarity / s.windows, s.windows > 0),
        "lpips": Values(s.perceived / s.compared, some),
        "depth_error": Values(s.depth / s.compared, some),
        "depth_median": Values(s.depth_median, some),
        "coverage": Values(s.compared / s.shown, s.shown > 0),
    }


def measure_consistency(
    source: ViewSource,
    cfg: ConsistencyConfig,
    batch: int = 32,
    suffix: str = "",
    curves: bool = True,
    load: Callable[[str | None], Perceptual | str] = load_lpips,
) -> list[Metric]:
    """Measure how well views of an item agree once they are warped into one another.

    Each kind is taken at each of `STAGES` on neighbouring views, and where `curves` at each angle.
    `suffix` goes to the end of the metrics' names. `load` returns LPIPS, or why there is none.
    """
    perceptual = load(cfg.lpips)
    network = None if isinstance(perceptual, str) else perceptual
    found = reproject(source, cfg, batch, network, None if curves else 1)
    result = []
    for stage, words in STAGES.items():
        if found is None or stage not in found:
            why = NO_DEPTH if found is None else "renderings have the size of the image"
            result += [missing(row, why, unit) for row, unit in rows(cfg, stage, suffix, curves)]
        else:
            result += _measures(found[stage], cfg, words, stage, suffix, curves, perceptual)
    if cfg.flicker is not None:
        result += measure_flicker(source, cfg.flicker, cfg.tolerance, cfg.foreground, batch, suffix)
    return result


NO_DEPTH = "no depth is rendered, so nothing can be warped"


def measure_ceiling(truth: ViewSource, cfg: ConsistencyConfig, batch: int) -> list[Metric]:
    """Measure the data's own objects, as `*_truth`.

    Without the stage that takes two sizes of images, and without LPIPS where it is not to be had:
    the generator's own rows say why.
    """
    found = measure_consistency(truth, cfg, batch, "_truth")
    return [
        m
        for m in found
        if m.value is not None or not any(x in m.metric for x in ("lpips", "_enlarged"))
    ]


def all_missing(cfg: ConsistencyConfig, why: str, suffix: str) -> list[Metric]:
    """Return what `measure_consistency` without curves measures, as missing."""
    found = [row for stage in STAGES for row in rows(cfg, stage, suffix, False)]
    found += [(row, "share") for row in flicker.rows(suffix)] if cfg.flicker else []
    return [missing(row, why, unit) for row, unit in found]


def _measures(
    sums: PairSums,
    cfg: ConsistencyConfig,
    words: str,
    stage: str,
    suffix: str,
    curves: bool,
    perceptual: Perceptual | str,
) -> list[Metric]:
    near = values_of(sums, 1, cfg.texture)
    kinds = [(k, near[k], cfg.angle) for k in kinds_of(stage)]
    if curves and stage != "_enlarged":
        for distance, angle in enumerate(cfg.angles, start=1):
            far = values_of(sums, distance, cfg.texture)
            kinds += [(k, far[k], angle) for k in CURVES]
    result = []
    for (row, unit), (kind, found, angle) in zip(
        rows(cfg, stage, suffix, curves), kinds, strict=True
    ):
        note = f"{words}: {_WHAT[kind]}; {protocol(cfg, angle)}"
        empty = "no foreground pixel is seen by two views"
        if "@" not in row and (none := int((~near["psnr"].there).sum())):
            note += f"; nothing to compare in {none} of {cfg.items} latents"
        if kind == "ssim":
            empty += " amid a window of which half may be compared"
        elif kind == "gain":
            plain = int(near["psnr"].there.sum() - found.there.sum())
            if plain:
                empty = (
                    "undefined without texture: the colours of a latent deviate by less than "
                    f"{cfg.texture:g} of their range"
                )
                note += f"; {plain} latents without texture left out"
        elif kind == "lpips":
            if isinstance(perceptual, str):
                result.append(missing(row, perceptual, unit))
                continue
            note += f"; {perceptual.protocol}"
            row = row.replace("consistency.lpips", f"consistency.{perceptual.name}")
            if bool(sums.perceived.isnan().all()) and not bool(sums.warped.isnan().all()):
                why = f"LPIPS needs images of {LEAST_SIDE} pixels or more"
                result.append(missing(row, why, unit))
                continue
        kept = None if "@" in row else found.items()
        result.append(mean_of(row, found.values[found.there], unit, note, empty, kept))
    return result


_WHAT = {
    "psnr": "mean over latents of the PSNR over their pixels",
    "gain": "PSNR minus that without warping, at the same pixels, mean over latents",
    "ssim": "SSIM of 11x11 windows (Gaussian, sigma 1.5) over the compared pixels of each, half of "
    "its weight or more, mean over latents",
    "lpips": "LPIPS over the compared pixels, mean over latents",
    "depth_error": "mean |z / z' - 1| of the camera z of a point and what the source sees there, "
    "mean over latents",
    "depth_median": "median |z / z' - 1| of a latent's pixels, mean over latents",
    "coverage": f"share of the targets' pixels of opacity >= {FAINT:g} that are compared, mean "
    "over latents",
}


def protocol(cfg: ConsistencyConfig, angle: float) -> str:
    """The protocol in words, for pairs of views that are `angle` apart."""
    return (
        f"{2 * cfg.steps + 1} views {cfg.angle:g} rad apart around the world's y axis; pairs "
        f"{angle:g} rad apart, both directions; bilinear backward warp by camera z, z-buffer, "
        f"occlusion and edges of depth by tolerance {cfg.tolerance:g}, opacity >= "
        f"{cfg.foreground:g}, pixels outside excluded"
    )

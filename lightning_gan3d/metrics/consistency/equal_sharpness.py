"""Reprojection gain at equal sharpness, with a penalty for hidden pixels.

Only pixels on smooth, opaque surfaces are compared. Geometry that hides pixels, as coarse depth or
half-transparent detail does, gains by it. So of the pixels that known objects would show, the share
that is hidden costs the same share of the gain.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.image_similarity import psnr
from lightning_gan3d.metrics.consistency.pairs import PairSums, pair_sums
from lightning_gan3d.metrics.consistency.reference import reduced, rendered_views
from lightning_gan3d.metrics.consistency.spectrum import match
from lightning_gan3d.metrics.consistency.warp import FAINT, Surfaces, join, surfaces
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext

KINDS = {
    "gain": ("dB", "PSNR of warped minus that of unwarped neighbours, less the hidden share of it"),
    "hidden": ("share", "share of the pixels which known objects would show that cannot be "
               "compared"),
    "ceiling": ("dB", "gain of known objects from the same cameras, as sharp and as contrasty "
                "as the generated views"),
    "deficit": ("dB", "gain below that of known objects of the same sharpness and contrast "
                "(`ceiling`)"),
}  # fmt: skip
"""Unit and definition of each metric, by the last part of its name."""


def reduced_surfaces(
    image: Float[Tensor, "v 3 h w"], views: Images, cameras: Cameras, cfg: ConsistencyConfig
) -> Surfaces:
    """Reduce images and geometry to the pixel scale and depth resolution that all share."""
    return surfaces(reduced(image, cfg.pixels), views, cameras, cfg, cfg.depth_pixels)


def equal_sharpness_metrics(
    parts: Sequence[Surfaces], context: EvaluationContext, k: int
) -> list[Metric]:
    """Return the metrics of one stage from batches of the k views of each item."""
    cfg = context.cfg.consistency
    assert cfg is not None
    views = join(parts)
    size = views.image.shape[-1]
    # Not the first objects: those are evaluated themselves, for the variant `truth`.
    items = torch.arange(cfg.items, 2 * cfg.items)
    known = rendered_views(context, items, views.cameras, size)
    if isinstance(known, str):
        return [missing(f"consistency.{kind}", known, unit) for kind, (unit, _) in KINDS.items()]
    assert known.opacity is not None, "known objects have a mask"
    mask = _by_view((known.opacity >= cfg.foreground).float(), k)
    known_image, image = (_by_view(x.cpu() / 2 + 0.5, k) for x in (known.image, views.image))
    filtered = 2 * match(known_image, image, mask) - 1
    cameras = views.cameras.to("cpu")
    flat = rearrange(filtered, "k b c h w -> (b k) c h w")
    truth = pair_sums(surfaces(flat, known, cameras, cfg, cfg.depth_pixels), k, cfg.tolerance)
    own = pair_sums(views, k, cfg.tolerance)
    protocol = (
        f"{k} views {cfg.angle:g} rad apart around the world's y axis, pairs of neighbours; images "
        f"of {size}, depth of {min(size, cfg.depth_pixels)} pixels; known objects show "
        f"{_shown(truth):.3f} of their visible pixels; tolerance {cfg.tolerance:g}; all latents "
        "together"
    )
    texture = _deviation(views.image / 2 + 0.5, views.opacity >= FAINT, cfg.items).mean()
    why = "" if bool((own.visible > 0).any()) else "no foreground pixel is visible"
    if float(texture) < cfg.texture:
        why = why or (
            "undefined without texture: the mean standard deviation of latents' colours is below "
            f"{cfg.texture:g} of their range"
        )
    if not bool((truth.compared > 0).any()):
        why = "known objects show no pixel from these cameras"
    hidden = max(0.0, 1 - _shown(own) / max(_shown(truth), 1e-6))
    gain, ceiling = _gain(own), _gain(truth)
    gain -= hidden * max(gain, 0.0)
    values = {"gain": gain, "hidden": hidden, "ceiling": ceiling, "deficit": ceiling - gain}
    finite = math.isfinite(gain) and bool((views.z.isfinite() & views.opacity.isfinite()).all())
    why = why or ("" if finite else f"{NOT_FINITE}, or their depth")
    return [
        missing(f"consistency.{kind}", f"{why} ({definition}; {protocol})", unit)
        if why
        else Metric(
            f"consistency.{kind}", values[kind], unit, cfg.items, note=f"{definition}; {protocol}"
        )
        for kind, (unit, definition) in KINDS.items()
    ]


def _shown(sums: PairSums) -> float:
    """Share of the visible pixels that can be compared."""
    return float(sums.compared.sum() / sums.visible.sum())


def _gain(sums: PairSums) -> float:
    """Gain of warping at the compared pixels, in dB."""
    num = sums.compared.sum().clamp(min=1)
    return float(psnr(sums.warped.sum() / num) - psnr(sums.unwarped.sum() / num))


def _deviation(
    image: Float[Tensor, "v c h w"], valid: Bool[Tensor, "v 1 h w"], items: int
) -> Float[Tensor, " b"]:
    """Standard deviation of the valid pixels of each item, mean over channels."""
    colour = rearrange(image, "(b p) c h w -> b c (p h w)", b=items)
    mask = rearrange(valid, "(b p) 1 h w -> b 1 (p h w)", b=items).float()
    num = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = (colour * mask).sum(dim=-1, keepdim=True) / num
    variance = ((colour - mean).square() * mask).sum(dim=-1) / num[..., 0]
    return variance.sqrt().mean(dim=1)


def _by_view(image: Tensor, k: int) -> Tensor:
    return rearrange(image, "(b k) c h w -> k b c h w", k=k)

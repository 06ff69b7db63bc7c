"""View consistency without depth: a field fitted to views of an item must predict other views.

The field (`fitted_field.py`) is the same for every generator: a trilinear grid of density and
colour, composited by the quadrature of NeRF (Mildenhall et al. 2020, eq. 3).
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import RefitConfig
from lightning_gan3d.metrics.consistency.camera_choice import farthest_first, visible_box
from lightning_gan3d.metrics.consistency.fitted_field import fit, predict
from lightning_gan3d.metrics.consistency.image_similarity import WINDOW, psnr, ssim_map
from lightning_gan3d.metrics.consistency.reference import (
    ELSEWHERE,
    reduced,
    rendered_views,
    stored_views,
)
from lightning_gan3d.metrics.consistency.spectrum import match
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.stored_images import StoredImages

KINDS = {
    "psnr": ("dB", "PSNR on held-out views"),
    "psnr_fit": ("dB", "PSNR on fitted views"),
    "gain": ("dB", "PSNR on held-out views minus the nearest fitted one's"),
    "ssim": ("", "SSIM (11x11, sigma 1.5) on held-out views"),
    "ceiling": ("dB", "PSNR on held-out views of known objects, as sharp and as contrasty as the "
                "generated views"),
    "deficit": ("dB", "PSNR on held-out views below that of known objects of equal sharpness and "
                "contrast (`ceiling`)"),
}  # fmt: skip
"""Unit and definition of each metric, by the last part of its name."""
OF_KNOWN = ("ceiling", "deficit")
"""Metrics that need views of known objects. Of images alone: a rendered field is what is fitted, so
that its own rendering agrees better than any photograph."""
STAGES = {"": "images", "raw": "renderings before super-resolution"}
"""Images that are fitted."""
CANDIDATES = 512
"""Training cameras from which the views are selected."""


def measure_refit(context: EvaluationContext) -> list[Metric]:
    """Fit fields to views from training cameras, and compare them with held-out views.

    `psnr`, `ssim`, `psnr_fit` and `gain` reward blur and pale colours: such views agree better. So
    views of known objects are filtered to the same sharpness and contrast and fitted, too. Their
    PSNR is the `ceiling`, and `deficit` is how far the generator is below it.
    """
    cfg = context.cfg.refit
    if cfg is None:
        return []
    draws = Draws(context.seed).scope("refit")
    cameras = _choose_cameras(context, draws)
    if isinstance(cameras, str):
        return [metric for stage in STAGES for metric in _missing(stage, cameras)]
    box = cfg.box or visible_box(cameras)
    if box <= 0:
        return [metric for stage in STAGES for metric in _missing(stage, ELSEWHERE)]
    generated = _views(context, cameras)
    images = generated[""]
    known = _known_views(cameras, images.shape[-1], context)
    if not isinstance(known, str):
        known = known.to(context.device)
    setup = Setup(cameras, box, cfg, draws)
    metrics = refit(images, known, setup)
    if "raw" not in generated:
        return metrics + _missing("raw", "renderings have the size of the image")
    return metrics + refit(generated["raw"], None, setup, "raw")


def _choose_cameras(context: EvaluationContext, draws: Draws) -> Cameras | str:
    """Select cameras of training images: first those of fitted, then those of held-out views."""
    assert context.cfg.refit is not None
    if why := context.without_cameras:
        return why
    source, num = context.source, 2 * context.cfg.refit.views
    candidates = None
    for images in (source, context.multiview):
        if isinstance(images, StoredImages) and candidates is None:
            orbits = images.orbits(num)
            if not isinstance(orbits, str):
                candidates = orbits.cameras
            elif images is source:
                return f"needs {num} views of each item; {orbits}"
    if candidates is None:
        indices = draws.permutation("cameras", len(context.labels))[:CANDIDATES]
        candidates = Cameras.from_label(context.labels[indices])
    order = farthest_first(candidates, num)
    if isinstance(order, str):
        return order
    return candidates.select(torch.cat([order[0::2], order[1::2]])).to(context.device)


def _known_views(
    cameras: Cameras, size: int, context: EvaluationContext
) -> Float[Tensor, "v m 3 h w"] | str:
    """Return views of the data set's own objects, else of procedural figures.

    Not photographs of a turntable: those of COIL-100 are scaled image by image, so that no field
    fits them.
    """
    assert context.cfg.refit is not None
    num_items, v = context.cfg.refit.items, len(cameras.cam2world)
    # Not the first objects: those are evaluated themselves, for the variant `truth`.
    items = torch.arange(num_items, 2 * num_items)
    views = rendered_views(context, items, _for_each(cameras, num_items), size, smooth=True)
    return views if isinstance(views, str) else _as_targets(views.image, size, v)


def _views(context: EvaluationContext, cameras: Cameras) -> dict[str, Float[Tensor, "v m 3 _ _"]]:
    """Return generated views in [0, 1] at the resolution of the refit, by stage."""
    cfg, source, v = context.cfg.refit, context.source, len(cameras.cam2world)
    assert cfg is not None
    items = torch.arange(cfg.items)
    if isinstance(source, StoredImages):
        stored = stored_views(source, items, _for_each(cameras, cfg.items))
        assert not isinstance(stored, str), "the cameras are the source's own"
        return {"": _as_targets(stored, cfg.resolution, v).to(context.device)}
    parts: dict[str, list[Tensor]] = {}
    for some in torch.split(items, max(1, context.cfg.batch // v)):
        images = source.views(some, _for_each(cameras, len(some)))
        stages = {"": images.image}
        if images.image_raw.shape != images.image.shape:
            stages["raw"] = images.image_raw
        for stage, image in stages.items():
            parts.setdefault(stage, []).append(_as_targets(image.float(), cfg.resolution, v))
    return {stage: torch.cat(part, dim=1).to(context.device) for stage, part in parts.items()}


def _for_each(cameras: Cameras, num_items: int) -> Cameras:
    return Cameras(*(repeat(x, "v i j -> (b v) i j", b=num_items) for x in cameras))


def _as_targets(image: Float[Tensor, "bv 3 h w"], size: int, v: int) -> Float[Tensor, "v b 3 _ _"]:
    """Convert views from [-1, 1] to [0, 1]; resize to `size` if they are larger."""
    image = reduced(image, size)
    return rearrange(image.clamp(-1, 1) / 2 + 0.5, "(b v) c h w -> v b c h w", v=v)


def _missing(stage: str, why: str, kinds: Iterable[str] = KINDS) -> list[Metric]:
    return [
        missing(f"refit.{kind}", why, KINDS[kind][0], stage=stage)
        for kind in kinds
        if not stage or kind not in OF_KNOWN
    ]


class Setup(NamedTuple):
    """How fields are fitted and tested."""

    cameras: Cameras
    """First those of fitted, then those of held-out views."""
    box: float
    """Edge of the fitted cube."""
    cfg: RefitConfig
    draws: Draws


class Scores(NamedTuple):
    """Agreement of predicted with actual views, by item."""

    psnr: Float[Tensor, " m"]
    psnr_fit: Float[Tensor, " m"]
    gain: Float[Tensor, " m"]
    ssim: Float[Tensor, " m"]
    """NaN if the views are smaller than a window."""


def refit(
    views: Float[Tensor, "v m 3 h w"],
    known: Float[Tensor, "v k 3 h w"] | str | None,
    setup: Setup,
    stage: str = "",
) -> list[Metric]:
    """Fit fields to generated and filtered known views; return the metrics of one stage.

    `known`: None leaves out the metrics that need them; a text is the reason why they are missing.
    """
    cfg, num_items, size = setup.cfg, views.shape[1], views.shape[-1]
    both = views
    if isinstance(known, Tensor):
        both = torch.cat([views, match(known, views)], dim=1)
    scores = _scores(both, setup)
    own = Scores(*(x[:num_items] for x in scores))
    ceiling = scores.psnr[num_items:]
    # Without texture, any view predicts any other. NaN is not plain, so that images that are not
    # finite are reported.
    deviation = rearrange(views[cfg.views :], "v m c h w -> m c (v h w)").std(dim=-1).mean(dim=-1)
    textured = ~(deviation < cfg.texture)
    protocol = (
        f"grid {cfg.grid}^3 of density and colour in a box of {setup.box:.3g}, {cfg.iterations} "
        f"steps of Adam on {cfg.rays} rays x {cfg.samples} samples, fitted to {cfg.views} views at "
        f"{size}x{size} pixels spread over the cameras, as many held out; all pixels, mean over "
        "latents"
    )
    undefined = (
        "undefined without texture: the standard deviation of a latent's colours is below "
        f"{cfg.texture:g} of their range"
    )

    def mean(kind: str, values: Tensor, valid: Tensor) -> Metric:
        unit, definition = KINDS[kind]
        note = f"{STAGES[stage]}: {definition}: {protocol}"
        if not bool(valid.all()):
            note += f"; {int((~valid).sum())} latents without texture left out"
        return replace(mean_of(f"refit.{kind}", values, unit, note, valid, undefined), stage=stage)

    all_items = torch.ones_like(textured)
    metrics = [
        mean("psnr", own.psnr, all_items),
        mean("psnr_fit", own.psnr_fit, all_items),
        mean("gain", own.gain, textured),
    ]
    if size < WINDOW:
        why = f"{size}x{size} images are below {WINDOW} pixels"
        metrics += _missing(stage, why, ["ssim"])
    else:
        metrics.append(mean("ssim", own.ssim, all_items))
    if not isinstance(known, Tensor):
        return metrics + ([] if known is None else _missing(stage, known, OF_KNOWN))
    return [
        *metrics,
        mean("ceiling", ceiling, torch.ones_like(ceiling, dtype=torch.bool)),
        mean("deficit", ceiling - own.psnr, textured),
    ]


def _scores(images: Float[Tensor, "v m 3 h w"], setup: Setup) -> Scores:
    """Fit a field to the first half of each item's views, and predict the second half."""
    cameras, box, cfg, draws = setup
    size, fit_cameras = images.shape[-1], cameras.select(slice(cfg.views))
    test_cameras = cameras.select(slice(cfg.views, None))
    fitted, held_out = images[: cfg.views], images[cfg.views :]
    fields = fit(fitted, fit_cameras, box, cfg, draws)
    predicted = predict(fields, test_cameras, size, box, cfg.samples)
    psnr_fit = _psnr(predict(fields, fit_cameras, size, box, cfg.samples), fitted)
    psnr_test = _psnr(predicted, held_out)
    cosine = normalize(test_cameras.origins, dim=-1) @ normalize(fit_cameras.origins, dim=-1).mT
    psnr_nearest = _psnr(fitted[cosine.argmax(dim=1)], held_out)
    similarity = torch.full_like(psnr_test, math.nan)
    if size >= WINDOW:
        similarity = _ssim(predicted, held_out)
    return Scores(psnr_test, psnr_fit, psnr_test - psnr_nearest, similarity)


def _psnr(a: Float[Tensor, "v m 3 h w"], b: Float[Tensor, "v m 3 h w"]) -> Float[Tensor, " m"]:
    return psnr((a - b).square().mean(dim=(0, 2, 3, 4)))


def _ssim(a: Float[Tensor, "v m 3 h w"], b: Float[Tensor, "v m 3 h w"]) -> Float[Tensor, " m"]:
    """Mean SSIM over all windows of an item's views."""
    num = a.shape[1]
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    values, _ = ssim_map(a, b, torch.ones_like(a[:, :1], dtype=torch.bool))
    return rearrange(values, "(v m) h w -> m (v h w)", m=num).mean(dim=1)

"""View consistency without depth: a field fitted to views of an item must predict other views.

The field is the same for every generator: a trilinear grid of density and colour, composited by the
quadrature of NeRF (Mildenhall et al. 2020, eq. 3) over a constant colour. It shares no code with
the renderers, so that it cannot share their errors. All items are fitted at once: they have the
same cameras, and so the same rays, sample points and trilinear weights.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag, interpolate, normalize, softplus

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.draws import Draws
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import RefitConfig
from lightning_gan3d.metrics.consistency.camera_choice import farthest_first, visible_box
from lightning_gan3d.metrics.consistency.image_similarity import WINDOW, psnr, ssim_map
from lightning_gan3d.metrics.consistency.reference import (
    ELSEWHERE,
    known_views,
    reduced,
    stored_views,
)
from lightning_gan3d.metrics.consistency.spectrum import match
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.stored_images import StoredImages

LEARNING_RATE = 0.1
"""Step of Adam on the values of the grid; a third of it in the last 30 % of the iterations."""
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
RAYS_AT_ONCE = 2048
"""Rays of the held-out views that are rendered at a time."""
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
    metrics = refit(images, known, cameras, box, cfg, draws)
    if "raw" not in generated:
        return metrics + _missing("raw", "renderings have the size of the image")
    return metrics + refit(generated["raw"], None, cameras, box, cfg, draws, "raw")


def _choose_cameras(context: EvaluationContext, draws: Draws) -> Cameras | str:
    """Select cameras of training images: first those of fitted, then those of held-out views."""
    assert context.cfg.refit is not None
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
    """Return views of the data set's own objects, else of procedural figures."""
    assert context.cfg.refit is not None
    num_items, v = context.cfg.refit.items, len(cameras.cam2world)
    # Not the first objects: those are evaluated themselves, for the variant `truth`.
    items = torch.arange(num_items, 2 * num_items)
    views = known_views(context, items, _for_each(cameras, num_items), size, smooth=True)
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
    cameras: Cameras,
    box: float,
    cfg: RefitConfig,
    draws: Draws,
    stage: str = "",
) -> list[Metric]:
    """Fit fields to generated and filtered known views; return the metrics of one stage.

    `known`: None leaves out the metrics that need them; a text is the reason why they are missing.
    """
    num_items, size = views.shape[1], views.shape[-1]
    both = views
    if isinstance(known, Tensor):
        both = torch.cat([views, match(known, views)], dim=1)
    scores = _scores(both, cameras, box, cfg, draws)
    own = Scores(*(x[:num_items] for x in scores))
    ceiling = scores.psnr[num_items:]
    # Without texture, any view predicts any other. NaN is not plain, so that images that are not
    # finite are reported.
    deviation = rearrange(views[cfg.views :], "v m c h w -> m c (v h w)").std(dim=-1).mean(dim=-1)
    textured = ~(deviation < cfg.texture)
    protocol = (
        f"grid {cfg.grid}^3 of density and colour in a box of {box:.3g}, {cfg.iterations} steps of "
        f"Adam on {cfg.rays} rays x {cfg.samples} samples, fitted to {cfg.views} views at "
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


def _scores(
    images: Float[Tensor, "v m 3 h w"], cameras: Cameras, box: float, cfg: RefitConfig, draws: Draws
) -> Scores:
    """Fit a field to the first half of each item's views, and predict the second half."""
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


class FittedFields(NamedTuple):
    """Fields of m items.

    `values` holds raw density and colour of each grid point; `background` is raw colour.
    """

    values: Float[Tensor, "n 4m"]
    background: Float[Tensor, "3 m"]

    @property
    def side(self) -> int:
        """Points along an edge of the grid."""
        return round(math.cbrt(self.values.shape[0]))


def trilinear(
    points: Float[Tensor, "n 3"], side: int, box: float
) -> tuple[Int64[Tensor, "n 8"], Float[Tensor, "n 8"]]:
    """Return the eight grid points around each point of [-box/2, box/2]^3, and their weights."""
    x = ((points / box + 0.5) * side - 0.5).clamp(0, side - 1)
    low = x.floor().clamp(max=side - 2)
    fraction = x - low
    corner = torch.tensor(
        [[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], device=points.device
    )
    weights = torch.where(corner == 1, fraction[:, None], 1 - fraction[:, None]).prod(dim=-1)
    index = low.long()[:, None] + corner
    return (index[..., 0] * side + index[..., 1]) * side + index[..., 2], weights


def shade(
    fields: FittedFields, rays: Rays, box: float, jitter: Float[Tensor, "r s"]
) -> Float[Tensor, "r 3 m"]:
    """Render all fields along the same rays (one view): colour in [0, 1].

    `jitter` in [0, 1) is the position in a stratum.
    """
    origins, dirs = rays.origins[0], rays.dirs[0]
    ends = torch.stack([(-box / 2 - origins) / dirs, (box / 2 - origins) / dirs])
    near = ends.amin(dim=0).amax(dim=-1).clamp(min=0)
    length = (ends.amax(dim=0).amin(dim=-1) - near).clamp(min=0)  # 0 if the ray misses the box
    num = jitter.shape[1]
    step = length[:, None] / num
    t = near[:, None] + (torch.arange(num, device=step.device) + jitter) * step
    points = rearrange(origins[:, None] + dirs[:, None] * t[..., None], "r s c -> (r s) c")
    index, weights = trilinear(points, fields.side, box)
    values = embedding_bag(index, fields.values, per_sample_weights=weights, mode="sum")
    values = rearrange(values, "(r s) (c m) -> c r s m", s=num, c=4)
    # 10 and -2: start from a thin fog, in which gradients reach every sample.
    tau = 10 * softplus(values[0] - 2) * step[..., None]
    weight = torch.exp(tau - tau.cumsum(dim=1)) * (1 - torch.exp(-tau))
    colour = (weight * torch.sigmoid(values[1:])).sum(dim=2)
    trans = 1 - weight.sum(dim=1)
    return rearrange(colour, "c r m -> r c m") + trans[:, None] * fields.background.sigmoid()


def all_rays(cameras: Cameras, size: int) -> Rays:
    """Return the rays of all cameras as those of one view."""
    return Rays(*(rearrange(x, "v r c -> 1 (v r) c") for x in cameras.rays(size)))


def fit(
    images: Float[Tensor, "v m 3 h w"], cameras: Cameras, box: float, cfg: RefitConfig, draws: Draws
) -> FittedFields:
    """Fit a field to the views of each item, in [0, 1]; view i of every item is from camera i."""
    rays = all_rays(cameras, images.shape[-1])
    target = rearrange(images, "v m c h w -> (v h w) c m")
    m, device = images.shape[1], images.device
    values = torch.zeros((cfg.grid // 2) ** 3, 4 * m, device=device)
    # Start from the mean colour along the borders: from grey, a bright background would be fitted
    # as fog in the box.
    border = torch.cat(
        [images[..., [0, -1], :].flatten(3), images[..., [0, -1]].flatten(3)], dim=-1
    )
    background = rearrange(border.mean(dim=(0, 3)), "m c -> c m").clamp(0.01, 0.99).logit()
    # Half the grid first: it converges from few rays, without floaters.
    for stage in range(2):
        if stage == 1:
            half = cfg.grid // 2
            grid = rearrange(values.detach(), "(a b c) d -> 1 d a b c", a=half, b=half)
            grid = interpolate(grid, (cfg.grid,) * 3, mode="trilinear", align_corners=False)
            values = rearrange(grid, "1 d a b c -> (a b c) d").contiguous()
        fields = FittedFields(values.requires_grad_(), background.detach().requires_grad_())
        optimizer = torch.optim.Adam(fields, lr=LEARNING_RATE, betas=(0.9, 0.99))
        for i in range(stage * cfg.iterations // 2, (stage + 1) * cfg.iterations // 2):
            if i == round(0.7 * cfg.iterations):
                optimizer.param_groups[0]["lr"] = LEARNING_RATE / 3
            step = draws.at(i)
            pixels = step.integers("rays", len(target), (cfg.rays,)).to(device)
            jitter = step.uniform("jitter", (cfg.rays, cfg.samples), device)
            batch = Rays(rays.origins[:, pixels], rays.dirs[:, pixels])
            error = shade(fields, batch, box, jitter) - target[pixels]
            optimizer.zero_grad()
            error.square().sum(dim=(1, 2)).mean().backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        values, background = fields
    return FittedFields(values.detach(), background.detach())


def predict(
    fields: FittedFields, cameras: Cameras, size: int, box: float, samples: int
) -> Float[Tensor, "v m 3 h w"]:
    """Render every item's field from every camera, in [0, 1], sampling the middle of strata."""
    rays = all_rays(cameras, size)
    parts = []
    with torch.no_grad():
        for pixels in torch.split(
            torch.arange(rays.dirs.shape[1], device=rays.dirs.device), RAYS_AT_ONCE
        ):
            batch = Rays(rays.origins[:, pixels], rays.dirs[:, pixels])
            jitter = torch.full((len(pixels), samples), 0.5, device=rays.dirs.device)
            parts.append(shade(fields, batch, box, jitter))
    return rearrange(torch.cat(parts), "(v h w) c m -> v m c h w", h=size, w=size)

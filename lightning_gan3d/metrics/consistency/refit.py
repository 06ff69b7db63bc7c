"""View consistency without depth: a field fitted to views of an item must predict other views.

The field is the same for every generator: a trilinear grid of density and colour, composited by the
quadrature of NeRF (Mildenhall et al. 2020, eq. 3) over a constant colour. It shares no code with
the renderers, so that it cannot share their errors. All items are fitted at once: they have the
same cameras, and so the same rays, sample points and trilinear weights.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag, interpolate, normalize, softplus

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import RefitConfig
from lightning_gan3d.metrics.consistency.image_similarity import WINDOW, psnr, ssim_map
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.stored_images import StoredImages

LEARNING_RATE = 0.1
"""Step of Adam on the values of the grid; a third of it in the last 30 % of the iterations."""
UNITS = {"psnr": "dB", "psnr_fit": "dB", "gain": "dB", "ssim": ""}
"""Unit of each metric, by the last part of its name."""
RAYS_AT_ONCE = 2048
"""Rays of the held-out views that are rendered at a time."""
CANDIDATES = 512
"""Training cameras from which the views are selected."""
SAME_DIRECTION = 0.01
"""Angle at the origin, in radians, within which two cameras count as one view: 0.6 degrees."""


def measure_refit(context: EvaluationContext) -> list[Metric]:
    """Fit fields to views from training cameras, and compare them with held-out views.

    `psnr` and `ssim` are those of the held-out views, `psnr_fit` that of the fitted ones. `gain` is
    the gain in PSNR over the nearest fitted view.
    """
    cfg, source = context.cfg.refit, context.source
    if cfg is None:
        return []
    draws, num = Draws(context.seed).scope("refit"), 2 * cfg.views
    orbits = source.orbits(num) if isinstance(source, StoredImages) else None
    if isinstance(orbits, str):
        return _missing(f"needs {num} views of each item; {orbits}")
    if orbits is not None:
        candidates = orbits.cameras
    else:
        indices = draws.permutation("cameras", len(context.labels))[:CANDIDATES]
        candidates = Cameras.from_label(context.labels[indices])
    order = farthest_first(candidates, num)
    if isinstance(order, str):
        return _missing(order)
    order = torch.cat([order[0::2], order[1::2]])  # fitted, then held out
    cameras = candidates.select(order).to(context.device)
    box = cfg.box or visible_box(cameras)
    if box <= 0:
        return _missing("the cameras do not look at the world's origin; set evaluation.refit.box")
    if isinstance(source, StoredImages) and orbits is not None:
        indices = orbits.images[: cfg.items, order]
        image = to_float(source.images(indices.flatten())).to(context.device)
        parts = [_as_targets(image, cfg.resolution, num)]
    else:
        parts = []
        for items in torch.split(torch.arange(cfg.items), max(1, context.cfg.batch // num)):
            each = Cameras(*(repeat(x, "v i j -> (b v) i j", b=len(items)) for x in cameras))
            image = source.views(items, each).image.float()
            parts.append(_as_targets(image, cfg.resolution, num))
    return refit(torch.cat(parts, dim=1), cameras, box, cfg, draws)


def _as_targets(image: Float[Tensor, "bv 3 h w"], size: int, v: int) -> Float[Tensor, "v b 3 _ _"]:
    """Convert views from [-1, 1] to [0, 1]; resize to `size` if they are larger."""
    if image.shape[-1] > size:
        image = interpolate(image, (size, size), mode="bilinear", antialias=True)
    return rearrange(image.clamp(-1, 1) / 2 + 0.5, "(b v) c h w -> v b c h w", v=v)


def _missing(why: str) -> list[Metric]:
    return [missing(f"refit.{kind}", why, unit) for kind, unit in UNITS.items()]


def refit(
    images: Float[Tensor, "v m 3 h w"], cameras: Cameras, box: float, cfg: RefitConfig, draws: Draws
) -> list[Metric]:
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
    # Without texture, any view predicts any other. NaN is not plain, so that images that are not
    # finite are reported.
    deviation = rearrange(held_out, "v m c h w -> m c (v h w)").std(dim=-1).mean(dim=-1)
    plain = deviation < cfg.texture
    protocol = (
        f"grid {cfg.grid}^3 of density and colour in a box of {box:.3g}, {cfg.iterations} steps of "
        f"Adam on {cfg.rays} rays x {cfg.samples} samples, fitted to {cfg.views} views at "
        f"{size}x{size} pixels spread over the cameras; all pixels, mean over latents"
    )
    left_out = f"; {int(plain.sum())} latents without texture left out" if plain.any() else ""
    undefined = (
        "undefined without texture: the standard deviation of a latent's colours is below "
        f"{cfg.texture:g} of their range"
    )
    notes = {
        "psnr": f"PSNR on {cfg.views} held-out views: {protocol}",
        "psnr_fit": f"PSNR on the {cfg.views} fitted views: {protocol}",
        "gain": f"PSNR on held-out views minus the nearest fitted one's: {protocol}{left_out}",
        "ssim": f"SSIM (11x11, sigma 1.5) on {cfg.views} held-out views: {protocol}",
    }
    values = {"psnr": psnr_test, "psnr_fit": psnr_fit, "gain": psnr_test - psnr_nearest}
    if size >= WINDOW:
        values["ssim"] = _ssim(predicted, held_out)
    metrics = [
        mean_of(
            f"refit.{kind}",
            value,
            UNITS[kind],
            notes[kind],
            ~plain if kind == "gain" else torch.ones_like(plain),
            undefined,
        )
        for kind, value in values.items()
    ]
    if size < WINDOW:
        metrics.append(missing("refit.ssim", f"{size}x{size} images are below {WINDOW} pixels"))
    return metrics


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


def farthest_first(cameras: Cameras, num: int) -> Int64[Tensor, " num"] | str:
    """Select `num` cameras, each farthest in direction (from the origin) from all before it.

    Returns a reason if there are fewer than `num` directions: a held-out view would equal a fitted
    one.
    """
    direction = normalize(cameras.origins, dim=-1)
    selected = [0]
    distance = (direction - direction[0]).norm(dim=-1)
    while len(selected) < num:
        if not float(distance.max()) > SAME_DIRECTION:
            return (
                f"needs cameras in {num} directions from the origin, {SAME_DIRECTION:g} rad apart; "
                f"there are {len(selected)}"
            )
        selected.append(int(distance.argmax()))
        distance = torch.minimum(distance, (direction - direction[selected[-1]]).norm(dim=-1))
    return torch.tensor(selected)


def visible_box(cameras: Cameras) -> float:
    """Edge of the cube around the largest sphere about the origin that is inside every view."""
    k = cameras.intrinsics
    zero = torch.zeros_like(k[:, 0, 0])
    sides = [
        torch.stack([k[:, 0, 0], zero, k[:, 0, 2]], dim=-1),
        torch.stack([-k[:, 0, 0], zero, 1 - k[:, 0, 2]], dim=-1),
        torch.stack([zero, k[:, 1, 1], k[:, 1, 2]], dim=-1),
        torch.stack([zero, -k[:, 1, 1], 1 - k[:, 1, 2]], dim=-1),
    ]
    inward = normalize(torch.stack(sides, dim=1), dim=-1)  # v 4 3: the planes that bound the image
    origin = -(cameras.cam2world[:, :3, :3].mT @ cameras.origins[:, :, None])
    return 2 * float((inward @ origin).min())

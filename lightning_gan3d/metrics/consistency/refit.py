"""View consistency without depth: a field fitted to some views of an item must predict others.

The field is our own and the same for every generator: a grid of density and colour, trilinear,
composited by the quadrature of NeRF (Mildenhall et al. 2020, eq. 3) over a plain colour. It shares
no code with the renderers, so that an error there cannot hide itself. All items are fitted at once:
they are seen from the same cameras, so that rays, sample points and trilinear weights are shared
and only the values differ.
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
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import RefitConfig
from lightning_gan3d.metrics.consistency.ssim import WINDOW, psnr, ssim_map
from lightning_gan3d.metrics.consistency.view_selection import spread_cameras, visible_box
from lightning_gan3d.metrics.sources import ViewSource
from lightning_gan3d.metrics.summary import mean_of

LEARNING_RATE = 0.1
"""Step of Adam on the values of the grid; a third of it in the last 30 % of the iterations."""
KINDS = {"psnr": "dB", "psnr_fit": "dB", "gain": "dB", "ssim": ""}
"""What is measured, with its unit."""
RAYS_AT_ONCE = 2048
"""Rays of the held-out views that are rendered at a time."""


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
    """Rows of the eight grid points around each point of [-box/2, box/2]^3, and their weights."""
    x = ((points / box + 0.5) * side - 0.5).clamp(0, side - 1)
    low = x.floor().clamp(max=side - 2)
    fraction = x - low
    corner = torch.tensor(
        [[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], device=points.device
    )
    weights = torch.where(corner == 1, fraction[:, None], 1 - fraction[:, None]).prod(dim=-1)
    place = low.long()[:, None] + corner
    return (place[..., 0] * side + place[..., 1]) * side + place[..., 2], weights


def shade(
    fields: FittedFields,
    rays: Rays,
    box: float,
    jitter: Float[Tensor, "r s"],
) -> Float[Tensor, "r 3 m"]:
    """Render all fields along the same rays (one view): colour in [0, 1].

    `jitter` in [0, 1) is the place in a stratum.
    """
    origins, dirs = rays.origins[0], rays.dirs[0]
    ends = torch.stack([(-box / 2 - origins) / dirs, (box / 2 - origins) / dirs])
    near = ends.amin(dim=0).amax(dim=-1).clamp(min=0)
    length = (ends.amax(dim=0).amin(dim=-1) - near).clamp(min=0)  # 0 where the ray misses the box
    num = jitter.shape[1]
    step = length[:, None] / num
    t = near[:, None] + (torch.arange(num, device=step.device) + jitter) * step
    points = rearrange(origins[:, None] + dirs[:, None] * t[..., None], "r s c -> (r s) c")
    index, weights = trilinear(points, fields.side, box)
    values = embedding_bag(index, fields.values, per_sample_weights=weights, mode="sum")
    values = rearrange(values, "(r s) (c m) -> c r s m", s=num, c=4)
    # 10 and -2 start from a thin fog, in which gradients reach every sample.
    tau = 10 * softplus(values[0] - 2) * step[..., None]
    share = torch.exp(tau - tau.cumsum(dim=1)) * (1 - torch.exp(-tau))
    colour = (share * torch.sigmoid(values[1:])).sum(dim=2)
    left = 1 - share.sum(dim=1)
    return rearrange(colour, "c r m -> r c m") + left[:, None] * fields.background.sigmoid()


def all_rays(cameras: Cameras, size: int) -> Rays:
    """All rays of all cameras, as those of one view."""
    return Rays(*(rearrange(x, "v r c -> 1 (v r) c") for x in cameras.rays(size)))


def fit(
    images: Float[Tensor, "v m 3 h w"], cameras: Cameras, box: float, cfg: RefitConfig, draws: Draws
) -> FittedFields:
    """Fit a field to the views of each item.

    Images in [0, 1]; view i of every item is from camera i.
    """
    rays = all_rays(cameras, images.shape[-1])
    target = rearrange(images, "v m c h w -> (v h w) c m")
    m, device = images.shape[1], images.device
    values = torch.zeros((cfg.grid // 2) ** 3, 4 * m, device=device)
    # From the mean colour along the borders: from gray, a bright background would be fitted as fog
    # in the box.
    border = torch.cat(
        [images[..., [0, -1], :].flatten(3), images[..., [0, -1]].flatten(3)], dim=-1
    )
    background = rearrange(border.mean(dim=(0, 3)), "m c -> c m").clamp(0.01, 0.99).logit()
    # Half the grid first: it finds the coarse shape from few rays, and leaves no floating specks.
    for stage in range(2):
        if stage == 1:
            grid = rearrange(
                values.detach(), "(a b c) d -> 1 d a b c", a=cfg.grid // 2, b=cfg.grid // 2
            )
            grid = interpolate(grid, (cfg.grid,) * 3, mode="trilinear", align_corners=False)
            values = rearrange(grid, "1 d a b c -> (a b c) d").contiguous()
        fields = FittedFields(values.requires_grad_(), background.detach().requires_grad_())
        optimizer = torch.optim.Adam(fields, lr=LEARNING_RATE, betas=(0.9, 0.99))
        for i in range(stage * cfg.iterations // 2, (stage + 1) * cfg.iterations // 2):
            if i == round(0.7 * cfg.iterations):
                optimizer.param_groups[0]["lr"] = LEARNING_RATE / 3
            step = draws.at(i)
            which = step.integers("rays", len(target), (cfg.rays,)).to(device)
            jitter = step.uniform("jitter", (cfg.rays, cfg.samples), device)
            some = Rays(rays.origins[:, which], rays.dirs[:, which])
            error = shade(fields, some, box, jitter) - target[which]
            optimizer.zero_grad()
            error.square().sum(dim=(1, 2)).mean().backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        values, background = fields
    return FittedFields(values.detach(), background.detach())


def predict(
    fields: FittedFields, cameras: Cameras, size: int, box: float, samples: int
) -> Float[Tensor, "v m 3 h w"]:
    """Render every item's field from every camera, in [0, 1].

    Samples are in the middle of their strata.
    """
    rays = all_rays(cameras, size)
    parts = []
    with torch.no_grad():
        for which in torch.split(
            torch.arange(rays.dirs.shape[1], device=rays.dirs.device), RAYS_AT_ONCE
        ):
            some = Rays(rays.origins[:, which], rays.dirs[:, which])
            jitter = torch.full((len(which), samples), 0.5, device=rays.dirs.device)
            parts.append(shade(fields, some, box, jitter))
    return rearrange(torch.cat(parts), "(v h w) c m -> v m c h w", h=size, w=size)


def errors(
    fields: FittedFields,
    images: Float[Tensor, "v m 3 h w"],
    cameras: Cameras,
    box: float,
    samples: int,
) -> Float[Tensor, " m"]:
    """Mean squared error of each item's field over all pixels of the views."""
    found = predict(fields, cameras, images.shape[-1], box, samples)
    return (found - images).square().mean(dim=(0, 2, 3, 4))


def similarity(
    fields: FittedFields,
    images: Float[Tensor, "v m 3 h w"],
    cameras: Cameras,
    box: float,
    samples: int,
) -> Float[Tensor, " m"]:
    """Mean SSIM of each item's field over all windows of the views; NaN below 11 pixels."""
    found = predict(fields, cameras, images.shape[-1], box, samples)
    a, b = (rearrange(x, "v m c h w -> (v m) c h w") for x in (found, images))
    values, _ = ssim_map(a, b, torch.ones_like(a[:, :1], dtype=torch.bool))
    return rearrange(values, "(v m) h w -> m (v h w)", m=images.shape[1]).mean(dim=1)


def see(
    source: ViewSource, items: Int64[Tensor, " m"], cameras: Cameras, size: int, batch: int
) -> Float[Tensor, "v m 3 h w"]:
    """See every item from every camera, in [0, 1], reduced to `size`."""
    v = len(cameras.cam2world)
    found = []
    for some in torch.split(items, max(1, batch // v)):
        all_views = Cameras(*(repeat(x, "v i j -> (b v) i j", b=len(some)) for x in cameras))
        image = reduced(source.views(some, all_views).image.float(), size)
        found.append(rearrange(image, "(b v) c h w -> v b c h w", v=v))
    return torch.cat(found, dim=1)


def reduced(image: Float[Tensor, "n 3 h w"], size: int) -> Float[Tensor, "n 3 _ _"]:
    """Bring images of [-1, 1] to [0, 1], and to `size` where they are larger."""
    if image.shape[-1] > size:
        image = interpolate(image, (size, size), mode="bilinear", antialias=True)
    return image.clamp(-1, 1) / 2 + 0.5


def measure_refit(
    source: ViewSource,
    labels: Float[Tensor, "n 25"],
    cfg: RefitConfig,
    seed: int = 0,
    batch: int = 32,
    device: torch.device | str = "cpu",
    suffix: str = "",
) -> list[Metric]:
    """Fit fields to views from the training cameras, and measure PSNR on held-out views.

    `psnr` is that of the held-out views, `psnr_fit` that of the fitted ones, and `gain` what the
    field predicts better than the nearest fitted view, shown as it is; `ssim` is that of the
    held-out views. `suffix` goes to the end of these names. All are missing where the training
    cameras stand in too few directions.
    """
    draws = Draws(seed).scope("refit")
    picked = spread_cameras(labels, cfg.views, draws)
    if isinstance(picked, str):
        return without_views(picked, suffix)
    seen, held_out = (c.to(device) for c in picked)
    both = Cameras(*(torch.cat(pair) for pair in zip(seen, held_out, strict=True)))
    box = cfg.box or visible_box(both)
    if box <= 0:
        return without_views(NO_BOX, suffix)
    images = see(source, torch.arange(cfg.items), both, cfg.resolution, batch)
    return refit(images, seen, held_out, box, cfg, draws, suffix)


NO_BOX = "the cameras do not look at the world's origin; set evaluation.refit.box"


def without_views(why: str, suffix: str = "") -> list[Metric]:
    """Return what is measured, as missing."""
    return [missing(f"refit.{kind}{suffix}", why, unit) for kind, unit in KINDS.items()]


def refit(
    images: Float[Tensor, "v m 3 h w"],
    seen: Cameras,
    held_out: Cameras,
    box: float,
    cfg: RefitConfig,
    draws: Draws,
    suffix: str = "",
) -> list[Metric]:
    """Fit a field to the first half of each item's views, and predict the second half."""
    fitted, other = images[: cfg.views], images[cfg.views :]
    fields = fit(fitted, seen, box, cfg, draws)
    psnr_fit = psnr(errors(fields, fitted, seen, box, cfg.samples))
    psnr_held_out = psnr(errors(fields, other, held_out, box, cfg.samples))
    towards = normalize(held_out.origins, dim=-1) @ normalize(seen.origins, dim=-1).mT
    nearest = psnr((fitted[towards.argmax(dim=1)] - other).square().mean(dim=(0, 2, 3, 4)))
    protocol = (
        f"grid {cfg.grid}^3 of density and colour in a box of {box:.3g}, {cfg.iterations} steps "
        f"of Adam on {cfg.rays} "
        f"rays x {cfg.samples} samples, fitted to {cfg.views} views at "
        f"{images.shape[-1]}x{images.shape[-1]} pixels "
        "spread over the cameras; all pixels, mean over latents"
    )
    # One colour is predicted all but perfectly by any view: nothing could be gained.
    deviation = rearrange(other, "v m c h w -> m c (v h w)").std(dim=-1).mean(dim=-1)
    plain = deviation < cfg.texture  # False for NaN, to be told of
    gain = psnr_held_out - nearest
    few = f"; {int(plain.sum())} latents without texture left out" if bool(plain.any()) else ""
    undefined = (
        "undefined without texture: the colours of a latent deviate by less than "
        f"{cfg.texture:g} of their range"
    )
    result = [
        mean_of(
            f"refit.{name}{suffix}",
            values[kept],
            KINDS[name],
            f"{words}: {protocol}{left}",
            undefined,
            values.where(kept, torch.nan),
        )
        for name, words, values, kept, left in (
            ("psnr", f"PSNR on {cfg.views} held-out views", psnr_held_out, plain | True, ""),
            ("psnr_fit", f"PSNR on the {cfg.views} fitted views", psnr_fit, plain | True, ""),
            ("gain", "PSNR on held-out views over the nearest fitted one's", gain, ~plain, few),
        )
    ]
    if images.shape[-1] < WINDOW:
        why = f"images of {images.shape[-1]} pixels hold no window of {WINDOW}"
        return [*result, missing(f"refit.ssim{suffix}", why)]
    alike = similarity(fields, other, held_out, box, cfg.samples)
    words = f"SSIM (11x11, sigma 1.5) on {cfg.views} held-out views"
    return [*result, mean_of(f"refit.ssim{suffix}", alike, "", f"{words}: {protocol}", items=alike)]

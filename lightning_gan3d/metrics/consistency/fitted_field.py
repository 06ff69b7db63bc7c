"""Trilinear grids of density and colour, fitted to views.

They share no code with the renderers under comparison, so that they cannot share their errors. All
items are fitted at once: they have the same cameras, and so the same rays, sample points and
trilinear weights.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag, interpolate, softplus

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.config import RefitConfig

LEARNING_RATE = 0.1
"""Step of Adam on the values of the grid; a third of it in the last 30 % of the iterations."""
RAYS_AT_ONCE = 2048
"""Rays that are rendered at a time for a prediction."""


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
            error.square().sum(dim=(1, 2)).mean().backward()  # type: ignore[no-untyped-call]  # torch
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

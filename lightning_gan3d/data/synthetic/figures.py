"""Bird-like figures made of ellipsoids: procedural ground truth, rendered by ray intersection.

A figure stands upright inside the unit sphere and faces +z, the frontal camera. Its body has any
hue; its head is skin-coloured with a red nose in front. One arm sticks out on its left (+x) at any
angle, and a pack is on its back. The figure is asymmetric and its parts hide one another, so a
wrong pose or a flat shape is obvious.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws

PARTS = ("body", "head", "nose", "arm", "pack")
LIGHT = (0.42, 0.74, 0.53)
"""Direction to the light in the world: above, in front, on the figure's left."""
AMBIENT = 0.55
"""Share of ambient light, so that backs are not black."""
_GROWTH = 1.12
"""Scale at which the largest figures just fit the unit sphere."""
_SUPERSAMPLING = 2
_RAYS_AT_ONCE = 2**17


class Figures(NamedTuple):
    """m figures of p ellipsoids: |axes @ (x - centre)| = 1 on the surface; colours in [0, 1]."""

    centre: Float[Tensor, "m p 3"]
    axes: Float[Tensor, "m p 3 3"]
    colour: Float[Tensor, "m p 3"]

    def select(self, indices: Int[Tensor, " k"]) -> "Figures":
        """Select figures by index."""
        return Figures(self.centre[indices], self.axes[indices], self.colour[indices])


class FigureView(NamedTuple):
    """Views: `image` in [-1, 1], `depth` along the ray (mean of hits), `mask` in [0, 1]."""

    image: Float[Tensor, "v 3 h w"]
    depth: Float[Tensor, "v 1 h w"]
    mask: Float[Tensor, "v 1 h w"]


class _Hits(NamedTuple):
    t: Float[Tensor, "v r"]
    colour: Float[Tensor, "v r 3"]
    hit: Bool[Tensor, "v r"]


def draw_figures(num: int, seed: int) -> Figures:
    """Draw `num` figures; figure i does not depend on `num`."""
    draws = Draws(seed).scope("figures")
    u = torch.stack([draws.at(i).uniform("shape", (24,)) for i in range(num)])

    def between(column: int, low: float, high: float) -> Float[Tensor, " m"]:
        return low + (high - low) * u[:, column]

    def vector(*coordinates: Float[Tensor, " m"]) -> Float[Tensor, "m 3"]:
        return torch.stack(coordinates, -1)

    zero = torch.zeros(num)
    body_size = vector(between(0, 0.30, 0.42), between(1, 0.38, 0.50), between(2, 0.24, 0.36))
    body = vector(zero, torch.full_like(zero, -0.30), zero)
    head_size = between(3, 0.20, 0.27)[:, None] * torch.tensor([0.95, 1.0, 0.95])
    top = body[:, 1] + body_size[:, 1]
    head = vector(between(4, -0.04, 0.04), top + 0.75 * head_size[:, 1], between(5, 0.0, 0.10))
    nose_length, nose_width = between(6, 0.10, 0.17), between(7, 0.070, 0.095)
    nose_size = vector(nose_width, nose_width, nose_length)
    nose = head + vector(zero, -0.1 * head_size[:, 1], head_size[:, 2] + 0.55 * nose_length)
    arm_angle, arm_forward = between(8, -1.0, 1.2), between(9, -0.3, 0.6)
    x, y = arm_angle.cos() * arm_forward.cos(), arm_angle.sin() * arm_forward.cos()
    reach = vector(x, y, arm_forward.sin())
    arm_length, arm_width = between(10, 0.22, 0.30), between(11, 0.085, 0.115)
    shoulder = body + vector(0.82 * body_size[:, 0], 0.45 * body_size[:, 1], zero)
    arm = shoulder + reach * (0.75 * arm_length)[:, None]
    pack_size = vector(between(12, 0.16, 0.26), between(13, 0.20, 0.32), between(14, 0.12, 0.19))
    pack = body + vector(zero, between(15, 0.0, 0.15), -body_size[:, 2] - 0.45 * pack_size[:, 2])
    upright = torch.eye(3).expand(num, 3, 3)
    axes = [
        _scaled(upright, body_size),
        _scaled(upright, head_size),
        _scaled(upright, nose_size),
        _scaled(_frame(reach), vector(arm_length, arm_width, arm_width)),
        _scaled(upright, pack_size),
    ]
    hue, saturation, value = between(16, 0.0, 1.0), between(18, 0.55, 0.85), between(19, 0.70, 0.95)
    colours = [
        _hsv(hue, saturation, value),
        torch.tensor([0.96, 0.76, 0.60]) * between(17, 0.75, 1.0)[:, None],
        torch.tensor([0.88, 0.14, 0.12]).expand(num, 3),
        _hsv(hue + between(20, -0.06, 0.06), saturation, 0.7 * value),
        _hsv(hue + between(21, 0.35, 0.65), between(22, 0.40, 0.75), between(23, 0.45, 0.75)),
    ]
    centres = [body, head, nose, arm, pack]
    return Figures(
        torch.stack(centres, 1) * _GROWTH, torch.stack(axes, 1) / _GROWTH, torch.stack(colours, 1)
    )


def _scaled(rows: Float[Tensor, "m 3 3"], size: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3 3"]:
    """Map an ellipsoid with the half-lengths `size` along `rows` to the unit sphere."""
    return rows / size[:, :, None]


def _frame(first: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3 3"]:
    """Return a rotation whose first row is `first`, a unit vector not along z."""
    second = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand_as(first), first)
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], 1)


def _hsv(
    hue: Float[Tensor, " m"], saturation: Float[Tensor, " m"], value: Float[Tensor, " m"]
) -> Float[Tensor, "m 3"]:
    """Convert HSV to RGB; hue is in turns."""
    sector = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    return value[:, None] * (
        1 - saturation[:, None] * torch.minimum(sector, 4 - sector).clamp(0, 1)
    )


def level_of(figures: Figures, points: Float[Tensor, "m n 3"]) -> Float[Tensor, "m n"]:
    """Maximum over parts of 1 - |axes (x - centre)|^2: positive inside, 0 on the surface.

    Its gradient on the surface is along the normal. It is not a distance.
    """
    offset = rearrange(points, "m n c -> m n 1 c") - figures.centre[:, None]
    local = torch.einsum("mpij,mnpj->mnpi", figures.axes, offset)
    return (1 - local.square().sum(-1)).amax(-1)


def render_figures(
    figures: Figures, cameras: Cameras, resolution: int, background: float = 1.0, far: float = 10.0
) -> FigureView:
    """Render figure i from camera i with 2x2 rays per pixel; the depth of misses is `far`."""
    side = _SUPERSAMPLING * resolution
    views_at_once = max(1, _RAYS_AT_ONCE // side**2)
    parts = []
    for first in range(0, len(cameras.cam2world), views_at_once):
        chunk = torch.arange(first, min(first + views_at_once, len(cameras.cam2world)))
        parts.append(_render(figures.select(chunk), cameras.select(chunk), side, background, far))
    return FigureView(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _render(
    figures: Figures, cameras: Cameras, side: int, background: float, far: float
) -> FigureView:
    rays = cameras.rays(side)
    hits = _nearest(figures, cameras.origins, rays.dirs)
    hit = hits.hit[..., None]
    samples = torch.cat([hits.colour * hit, hits.t[..., None] * hit, hit.float()], -1)
    num, size = _SUPERSAMPLING, side // _SUPERSAMPLING
    mean = reduce(samples, "v (h p w q) c -> v c h w", "mean", p=num, q=num, w=size, h=size)
    colour, t, mask = mean[:, :3], mean[:, 3:4], mean[:, 4:]
    image = 2 * (colour + (1 - mask) * background) - 1
    depth = torch.where(mask > 0, t / mask.clamp(min=1e-6), torch.full_like(t, far))
    return FigureView(image, depth, mask)


def _nearest(
    figures: Figures, origins: Float[Tensor, "v 3"], dirs: Float[Tensor, "v r 3"]
) -> _Hits:
    """Solve |axes (o + t d - centre)|^2 = 1 per ray and part; shade the nearest hit (Lambert)."""
    metric = figures.axes.mT @ figures.axes
    offset = rearrange(origins, "v c -> v 1 c") - figures.centre
    m_offset = torch.einsum("vpij,vpj->vpi", metric, offset)
    x, y, z = dirs.unbind(-1)
    squares = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], dim=1)
    upper = [metric[..., i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    a = torch.stack(upper, dim=-1) @ squares
    b = m_offset @ dirs.mT
    c = (m_offset * offset).sum(-1, keepdim=True) - 1
    root = b * b - a * c
    t = torch.where(root > 0, (-b - root.clamp(min=0).sqrt()) / a, math.inf)
    t, part = torch.where(t > 0, t, math.inf).min(dim=1)
    hit = t < math.inf
    t = torch.where(hit, t, 0.0)
    chosen = rearrange(part, "v r -> v r 1").expand(-1, -1, 3)
    point = rearrange(origins, "v c -> v 1 c") + t[..., None] * dirs
    relative = point - figures.centre.gather(1, chosen)
    rows = metric.flatten(2).gather(1, rearrange(part, "v r -> v r 1").expand(-1, -1, 9))
    normal = torch.einsum("vrij,vrj->vri", rearrange(rows, "v r (i j) -> v r i j", i=3), relative)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    lambert = (normal @ torch.tensor(LIGHT)).clamp(min=0)
    shade = AMBIENT + (1 - AMBIENT) * lambert
    return _Hits(t, figures.colour.gather(1, chosen) * shade[..., None], hit)

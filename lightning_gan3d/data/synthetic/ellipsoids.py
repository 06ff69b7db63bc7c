"""Objects made of ellipsoids, rendered by exact intersection of rays: depth and mask are known."""

import math
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_gan3d.cameras import Cameras

LIGHT = (0.42, 0.74, 0.53)
"""Direction to the light in the world: above, in front, on the objects' left."""
AMBIENT = 0.55
"""Share of ambient light, so that backs are not black."""
SUPERSAMPLING = 2
"""Rays along the side of a pixel."""
_RAYS_AT_ONCE = 2**17


class Ellipsoids(NamedTuple):
    """m objects of p ellipsoids: |axes @ (x - centre)| = 1 on the surface; colours in [0, 1].

    `waves`: a solid texture, the sum of k plane waves; each has a wave vector in cycles per world
    unit, and a phase in turns. It multiplies the colour by 1 + `contrast` * texture, of variance 1.
    """

    centre: Float[Tensor, "m p 3"]
    axes: Float[Tensor, "m p 3 3"]
    colour: Float[Tensor, "m p 3"]
    waves: Float[Tensor, "m k 4"] | None = None
    contrast: float = 0.0

    def select(self, indices: Int[Tensor, " k"]) -> "Ellipsoids":
        """Select objects by index."""
        waves = None if self.waves is None else self.waves[indices]
        parts = self.centre[indices], self.axes[indices], self.colour[indices]
        return Ellipsoids(*parts, waves, self.contrast)

    def textured(self, points: Float[Tensor, "m n 3"]) -> Float[Tensor, "m n 1"] | float:
        """Factor on the colours at points, 0 or more."""
        if self.waves is None:
            return 1.0
        turns = points @ self.waves[..., :3].mT + self.waves[:, None, :, 3]
        texture = (2 * math.pi * turns).cos().sum(-1, keepdim=True)
        # A cosine has the variance 1/2.
        scaled: Tensor = self.contrast * texture * (2 / self.waves.shape[1]) ** 0.5
        return (1 + scaled).clamp(min=0)


class ObjectView(NamedTuple):
    """Views: `image` in [-1, 1], `depth` along the ray (mean of hits), `mask` in [0, 1]."""

    image: Float[Tensor, "v 3 h w"]
    depth: Float[Tensor, "v 1 h w"]
    mask: Float[Tensor, "v 1 h w"]


class Hits(NamedTuple):
    """Nearest surface along rays: distance, shaded colour, and whether there is one (else 0)."""

    t: Float[Tensor, "v r"]
    colour: Float[Tensor, "v r 3"]
    hit: Bool[Tensor, "v r"]


def scaled_axes(rows: Float[Tensor, "m 3 3"], size: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3 3"]:
    """Map an ellipsoid with the half-lengths `size` along `rows` to the unit sphere."""
    return rows / size[:, :, None]


def hsv(
    hue: Float[Tensor, " m"], saturation: Float[Tensor, " m"], value: Float[Tensor, " m"]
) -> Float[Tensor, "m 3"]:
    """Convert HSV to RGB; hue is in turns."""
    sector = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    return value[:, None] * (
        1 - saturation[:, None] * torch.minimum(sector, 4 - sector).clamp(0, 1)
    )


def level_of(objects: Ellipsoids, points: Float[Tensor, "m n 3"]) -> Float[Tensor, "m n"]:
    """Maximum over parts of 1 - |axes (x - centre)|^2: positive inside, 0 on the surface.

    Its gradient on the surface is along the normal. It is not a distance.
    """
    offset = rearrange(points, "m n c -> m n 1 c") - objects.centre[:, None]
    local = torch.einsum("mpij,mnpj->mnpi", objects.axes, offset)
    return (1 - local.square().sum(-1)).amax(-1)


def render_ellipsoids(
    objects: Ellipsoids,
    cameras: Cameras,
    resolution: int,
    background: float = 1.0,
    far: float = 10.0,
) -> ObjectView:
    """Render object i from camera i with 2x2 rays per pixel; the depth of misses is `far`."""
    parts = []
    for chunk in view_chunks(len(cameras.cam2world), resolution):
        hits = nearest_hits(objects.select(chunk), cameras.select(chunk), resolution)
        hit = hits.hit[..., None]
        samples = torch.cat([hits.colour * hit, hits.t[..., None] * hit, hit.float()], -1)
        mean = mean_of_pixels(samples)
        colour, t, mask = mean[:, :3], mean[:, 3:4], mean[:, 4:]
        image = 2 * (colour + (1 - mask) * background) - 1
        parts.append((image, mean_depth(t, mask, far), mask))
    return ObjectView(*(torch.cat(part) for part in zip(*parts, strict=True)))


def view_chunks(num: int, resolution: int) -> list[Int[Tensor, " k"]]:
    """Split the indices of `num` views into chunks whose rays fit in memory."""
    at_once = max(1, _RAYS_AT_ONCE // (SUPERSAMPLING * resolution) ** 2)
    return [torch.arange(i, min(i + at_once, num)) for i in range(0, num, at_once)]


def mean_of_pixels(samples: Float[Tensor, "v r c"]) -> Float[Tensor, "v c h w"]:
    """Average the rays of each pixel of square images."""
    num = SUPERSAMPLING
    size = math.isqrt(samples.shape[1]) // num
    return reduce(samples, "v (h p w q) c -> v c h w", "mean", p=num, q=num, w=size, h=size)


def mean_depth(
    t: Float[Tensor, "v 1 h w"], mask: Float[Tensor, "v 1 h w"], far: float
) -> Float[Tensor, "v 1 h w"]:
    """Depth of the rays that hit: `t` is the mean over all rays, with 0 for misses."""
    return torch.where(mask > 0, t / mask.clamp(min=1e-6), torch.full_like(t, far))


def nearest_hits(
    objects: Ellipsoids,
    cameras: Cameras,
    resolution: int,
    light: tuple[float, float, float] = LIGHT,
) -> Hits:
    """Solve |axes (o + t d - centre)|^2 = 1 per ray and part; shade the nearest hit (Lambert)."""
    origins, dirs = cameras.origins, cameras.rays(SUPERSAMPLING * resolution).dirs
    metric = objects.axes.mT @ objects.axes
    offset = rearrange(origins, "v c -> v 1 c") - objects.centre
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
    relative = point - objects.centre.gather(1, chosen)
    rows = metric.flatten(2).gather(1, rearrange(part, "v r -> v r 1").expand(-1, -1, 9))
    normal = torch.einsum("vrij,vrj->vri", rearrange(rows, "v r (i j) -> v r i j", i=3), relative)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    lambert = (normal @ torch.tensor(light)).clamp(min=0)
    shade = AMBIENT + (1 - AMBIENT) * lambert
    colour = objects.colour.gather(1, chosen) * objects.textured(point)
    return Hits(t, (colour * shade[..., None]).clamp(max=1), hit)

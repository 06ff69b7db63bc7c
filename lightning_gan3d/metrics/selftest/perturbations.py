"""Scenes with known answers, and disturbances with known effects, for the self-test."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.consistency.warp import carry
from lightning_gan3d.metrics.sources import ViewSource

RADIUS, OFFSET = 0.65, 0.3
"""Of the balls, and how far from the origin their centres are: they look alike from nowhere."""
FAR = 4.2
"""Depth of the background behind a ball."""
WAVES = 6
"""Plane waves that make up the texture of a ball."""


@dataclass(frozen=True, eq=False)
class Balls:
    """Balls near the origin with a texture of plane waves, traced exactly: item i is ball i.

    No light and no mixed pixels, so that a point has one colour from everywhere.
    """

    labels: Float[Tensor, "n 25"]
    resolution: int
    seed: int = 0

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return one of the labels' cameras for each item."""
        draws = Draws(self.seed).scope("balls")
        rows = [draws.at(int(i)).integers("label", len(self.labels), (1,)) for i in items]
        return Cameras.from_label(self.labels[torch.cat(rows)])

    def centres(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b 3"]:
        """Return where the balls are, in world units."""
        draws = [Draws(self.seed).scope("balls").at(int(i)) for i in items]
        return OFFSET * torch.stack(
            [normalize(d.normal("centre", (1, 3)), dim=-1)[0] for d in draws]
        )

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Trace the balls."""
        k = len(cameras.cam2world) // len(items)
        rays = cameras.rays(self.resolution)
        draws = [Draws(self.seed).scope("balls").at(int(i)) for i in items]
        origins = rays.origins - self.centres(items)[:, None].repeat_interleave(k, 0)
        along = (origins * rays.dirs).sum(-1)
        root = along.square() - origins.square().sum(-1) + RADIUS**2
        hit = root > 0
        t = -along - root.clamp(min=0).sqrt()
        points = rays.origins + rays.dirs * t[..., None]
        frequency = torch.stack([5 * d.normal("frequency", (WAVES, 3)) for d in draws])
        phase = torch.stack([6.3 * d.uniform("phase", (WAVES, 1)) for d in draws])
        colour = torch.stack([d.normal("colour", (3, WAVES)) for d in draws])
        frequency, phase, colour = (x.repeat_interleave(k, 0) for x in (frequency, phase, colour))
        waves = torch.sin(frequency @ points.mT + phase)  # v w r
        texture = torch.tanh(0.5 * colour @ waves)

        def image(x: Tensor) -> Tensor:
            return rearrange(x, "v c (h w) -> v c h w", h=self.resolution)

        seen = image(torch.where(hit[:, None], texture, 1.0))
        depth = image(torch.where(hit, t, FAR)[:, None])
        return Images(seen, seen, depth, image(hit[:, None].float()))


Change = Callable[[ViewSource, Tensor, Cameras, float], Images]
"""From source, items, cameras and amount to disturbed views; at 0 nothing is changed."""


@dataclass(frozen=True, eq=False)
class Disturbed:
    """Another source, its views changed by an amount."""

    source: ViewSource
    change: Change
    amount: float

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the undisturbed cameras."""
        return self.source.base(items)

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Change the views."""
        return self.change(self.source, items, cameras, self.amount)


def _of_views(cameras: Cameras, purpose: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Draw normal numbers for each view that depend on its camera alone, not on the batch."""
    keys = (cameras.origins * 1e4).round().long()
    key = (keys * torch.tensor([1, 10_007, 100_003])).sum(-1).abs()
    return torch.stack([Draws(11).at(int(i)).normal(purpose, shape) for i in key])


def _recoloured(found: Images, image: Float[Tensor, "v 3 h w"]) -> Images:
    image = image.clamp(-1, 1)
    return found._replace(image=image, image_raw=image)


def scale_depth(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Depth too large by a share."""
    found = source.views(items, cameras)
    assert found.depth is not None  # the scenes of the self-test have one
    return found._replace(depth=found.depth * (1 + amount))


def turn_views(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Each view from a camera turned about the y axis by a normal angle of its own (radians)."""
    angle = amount * _of_views(cameras, "turn", ())
    turned = [carry(cameras.select(slice(i, i + 1)), angle[i : i + 1]) for i in range(len(angle))]
    return source.views(items, Cameras(*(torch.cat(x) for x in zip(*turned, strict=True))))


def slide_texture(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """The image slides over its depth as the camera turns, by image widths a radian."""
    found = source.views(items, cameras)
    k = len(cameras.cam2world) // len(items)
    base = azimuth_of(source.base(items)).repeat_interleave(k)
    angle = azimuth_of(cameras) - base
    angle = torch.atan2(angle.sin(), angle.cos())
    shift = torch.eye(2, 3).repeat(len(angle), 1, 1)
    shift[:, 0, 2] = 2 * amount * angle
    grid = affine_grid(shift, list(found.image.shape), align_corners=False)
    image = grid_sample(found.image, grid, padding_mode="border", align_corners=False)
    return _recoloured(found, image)


def azimuth_of(cameras: Cameras) -> Float[Tensor, " v"]:
    """Angle of the cameras around the world's y axis."""
    return torch.atan2(cameras.origins[:, 0], cameras.origins[:, 2])


def add_noise(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Normal noise, another one in each view, as a share of the range of colours."""
    found = source.views(items, cameras)
    noise = _of_views(cameras, "noise", tuple(found.image.shape[1:]))
    return _recoloured(found, found.image + 2 * amount * noise)


def tint_views(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Each view of an item in a tint of its own."""
    found = source.views(items, cameras)
    assert found.opacity is not None  # as above
    tint = 2 * amount * _of_views(cameras, "tint", (3, 1, 1))
    return _recoloured(found, found.image + tint * (found.opacity > 0))


def swap_items(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Every second view shows the next item instead; nothing at amount 0."""
    k = len(cameras.cam2world) // len(items)
    found = source.views(items, cameras)
    if not amount:
        return found
    other = source.views(items + 1, cameras)
    odd = (torch.arange(len(found.image)) % k % 2 == 1)[:, None, None, None]

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor:
        assert a is not None  # as above
        assert b is not None
        return torch.where(odd, b, a)

    return Images(*(pick(a, b) for a, b in zip(found, other, strict=True)))


def mirror_views(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Every second view is mirrored, image and depth; nothing at amount 0."""
    found = source.views(items, cameras)
    if not amount:
        return found
    k = len(cameras.cam2world) // len(items)
    odd = (torch.arange(len(found.image)) % k % 2 == 1)[:, None, None, None]
    return Images(*(torch.where(odd, x.flip(-1), x) for x in found if x is not None))


def flatten_depth(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Depth moved by a share of the way to a plane that faces the camera: a billboard at 1."""
    found = source.views(items, cameras)
    assert found.depth is not None  # as above
    cosine = cameras.depth_z(torch.ones_like(found.depth))
    middle = cameras.origins.norm(dim=-1)[:, None, None, None]
    flat = middle / cosine
    return found._replace(depth=found.depth.lerp(flat, amount))


def stay_picture(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """The picture from the item's own camera, whatever the camera; nothing at amount 0."""
    if not amount:
        return source.views(items, cameras)
    found = source.views(items, source.base(items))
    k = len(cameras.cam2world) // len(items)
    return Images(*(x.repeat_interleave(k, 0) for x in found if x is not None))


def paint_over(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """One colour everywhere: nothing to be inconsistent; nothing at amount 0."""
    found = source.views(items, cameras)
    return _recoloured(found, found.image.lerp(torch.full_like(found.image, 0.3), amount))

"""Sources of views whose geometry is known: balls and cards, given by formulas."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.sources import ViewSource, Volume, density_occupancy

BOX = 2.0
FAR = 60.0


def ball(origins: Tensor, dirs: Tensor, radius: float) -> Tensor:
    """Distance along rays to a ball about the origin; infinite where it is missed."""
    along = -(origins * dirs).sum(-1)
    # Not |origin|^2 - along^2, whose rounding from far away would show in the depth.
    root = radius**2 - (origins + along[..., None] * dirs).square().sum(-1)
    return torch.where(root > 0, along - root.clamp(min=0).sqrt(), torch.inf)


def card(origins: Tensor, dirs: Tensor, half: float) -> Tensor:
    """Distance along rays to a square in the plane z = 0."""
    t = -origins[..., 2] / dirs[..., 2]
    point = origins + t[..., None] * dirs
    return torch.where((point.abs() <= half).all(-1) & (t > 0), t, torch.inf)


@dataclass
class Shape(ViewSource):
    """One shape for all items, far from the camera, so that rays are almost parallel."""

    trace: Callable[..., Tensor]
    size: float = 0.8
    sigma: Callable[[Tensor], Tensor] | None = None
    """Density at points; None for a surface without a volume."""
    resolution: int = 48
    scale_depth: float = 1.0

    def base(self, items: Tensor) -> Cameras:
        zero = torch.zeros(len(items))
        return Cameras.on_sphere(zero, zero, 50.0, 24.0)

    def views(self, _items: Tensor, cameras: Cameras) -> Images:
        rays = cameras.rays(self.resolution)
        t = self.trace(rays.origins, rays.dirs, self.size)
        hit = t < torch.inf
        point = rays.origins + torch.where(hit, t, 0.0)[..., None] * rays.dirs
        stripes = torch.where(hit[..., None], (20 * point).sin(), 1.0)

        def square(x: Tensor) -> Tensor:
            return x.mT.reshape(len(x), -1, self.resolution, self.resolution)

        depth = square(torch.where(hit, t * self.scale_depth, FAR)[..., None])
        image = square(stripes)
        return Images(image, image, depth, square(hit[..., None].float()))

    def volume(self, _items: Tensor) -> Volume | None:
        if self.sigma is None:
            return None
        return Volume(self.sigma, lambda sigma: density_occupancy(sigma, BOX), BOX)


def soft_ball(radius: float, width: float = 0.05) -> Callable[[Tensor], Tensor]:
    """Density whose occupancy is one half on a ball's surface: ln 2 over 1/32 of the box there."""
    half = 0.6931471805599453 * 32 / BOX

    def sigma(points: Tensor) -> Tensor:
        return half * torch.exp((radius - points.norm(dim=-1)) / width)

    return sigma


def without(source: Shape, change: Callable[[Images], Images]) -> "Shape":
    """The same shape with its views changed."""

    class Changed(Shape):
        def views(self, _items: Tensor, cameras: Cameras) -> Images:
            return change(super().views(_items, cameras))

    return Changed(**{k: getattr(source, k) for k in source.__dataclass_fields__})

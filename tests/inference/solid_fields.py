"""Fields with a known surface and colour."""

from dataclasses import dataclass

import numpy as np
import torch

from lightning_gan3d.contract import DensityConfig, Field, FieldSample, SceneConfig

SCENE = SceneConfig(box=2.0, density=DensityConfig(activation="relu"))


@dataclass(frozen=True, eq=False)
class Ellipsoid(Field):
    """A solid ellipsoid: density `dense` inside, 0 outside; or a smooth one. Colours by place."""

    centre: torch.Tensor  # 1 3
    radii: torch.Tensor  # 1 3
    scene_cfg: SceneConfig = SCENE
    dense: float = 1e4
    smooth: bool = False

    def density(self, points):
        radius = ((points - self.centre) / self.radii).norm(dim=-1, keepdim=True)
        if self.smooth:  # opacity 1/2 of a voxel of 1/32 at the surface
            return 32 * 0.6931 * torch.exp(2 * (1 - radius))
        return torch.where(radius < 1, self.dense, 0.0)

    def __call__(self, points, dirs=None):
        del dirs
        return FieldSample(self.density(points), (points / 2 + 0.5).clamp(0, 1))


@dataclass(frozen=True, eq=False)
class Torus(Field):
    """A solid torus about the y axis."""

    radii: torch.Tensor  # 1 2: of the ring, of the tube
    scene_cfg: SceneConfig = SCENE

    def density(self, points):
        ring, tube = self.radii[0]
        x, y, z = points.unbind(-1)
        off = (torch.hypot(x, z) - ring).square() + y.square()
        return torch.where(off < tube**2, 1e4, 0.0)[..., None]


@dataclass(frozen=True, eq=False)
class Layer(Field):
    """Constant density where z < 0; grey, from 0.2 at the surface and `slope` brighter per unit."""

    dense: torch.Tensor  # 1
    slope: float = 5.0
    scene_cfg: SceneConfig = SCENE

    def __call__(self, points, dirs=None):
        del dirs
        depth = -points[..., 2:]
        return FieldSample(
            torch.where(depth > 0, self.dense, 0.0), (0.2 + self.slope * depth).expand_as(points)
        )


def ellipsoid(centre=(0.1, -0.2, 0.05), radii=(0.6, 0.3, 0.45), **options):
    return Ellipsoid(torch.tensor([centre]), torch.tensor([radii]), **options)


def distance(field, points):
    """Approximate distance of points to the surface, first order in the implicit function."""
    x = (np.asarray(points) - field.centre.numpy()) / field.radii.numpy()
    radius = np.linalg.norm(x, axis=1)
    gradient = np.linalg.norm(x / field.radii.numpy(), axis=1) / radius
    return np.abs(radius - 1) / gradient

"""Scenes of parts: fields that are placed in the world, and their composition.

GIRAFFE (Niemeyer and Geiger 2021) and its successors. Unlike theirs, density scales with 1 / scale:
a resized object keeps its opacity.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.contract import Field, FieldSample, Scene, SceneConfig


def along_y(vectors: Float[Tensor, "b n 3"], angle: Float[Tensor, " b"]) -> Float[Tensor, "b n 3"]:
    """Rotate vectors about the y axis; radians, positive from +z toward +x."""
    x, y, z = vectors.unbind(-1)
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    return torch.stack([c * x + s * z, y, c * z - s * x], dim=-1)


def box_corners(
    scale: Float[Tensor, " b"], rotation: Float[Tensor, " b"], translation: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 8 3"]:
    """World positions of the corners of placed boxes; arguments as in `Placed`."""
    signs = translation.new_tensor(list(product((-1, 1), repeat=3)))
    return along_y(scale[:, None, None] * signs, rotation) + translation[:, None]


@dataclass(frozen=True, eq=False)
class Placed(Scene):
    """A field that is scaled, rotated about its y axis, and moved; empty outside its own box."""

    field: Field
    scale: Float[Tensor, " b"]
    """Half the edge of the placed box, in world units."""
    rotation: Float[Tensor, " b"]
    """Radians, positive from +z toward +x, as the azimuth of cameras."""
    translation: Float[Tensor, "b 3"]
    """World position of the field's centre."""
    code: int = 0
    """Index of the object over all latents, latent * num_objects + object; heads select styles by
    it."""

    @property
    def factor(self) -> Float[Tensor, " b"]:
        """World units per unit of the field."""
        return self.scale * (2 / self.field.box)

    def to_local(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Map world points to those of the field."""
        moved = points - self.translation[:, None]
        return along_y(moved, -self.rotation) / self.factor[:, None, None]

    def local_rays(self, rays: Rays) -> Rays:
        """Map rays to those of the field; distances along them are divided by `factor`."""
        return Rays(self.to_local(rays.origins), along_y(rays.dirs, -self.rotation))

    def sample(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None
    ) -> FieldSample:
        """Density per world unit, zero outside the box, and features at world points."""
        local = self.to_local(points)
        if dirs is not None:
            dirs = along_y(dirs, -self.rotation)
        sigma_raw, feature = self.field(local, dirs)
        return FieldSample(self._world_density(sigma_raw, local), feature)

    def sigma_at(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Density per world unit, zero outside the box."""
        local = self.to_local(points)
        return self._world_density(self.field.density(local), local)

    def _world_density(
        self, sigma_raw: Float[Tensor, "b n 1"], local: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n 1"]:
        inside = local.abs().amax(-1, keepdim=True) <= self.field.box / 2
        return torch.where(inside, self.field.sigma(sigma_raw) / self.factor[:, None, None], 0)

    def is_hit(self, rays: Rays, padding: float = 0.0) -> Bool[Tensor, "b r"]:
        """Whether rays meet the box, enlarged by `padding` of half its edge."""
        local = self.local_rays(rays)
        half = self.field.box / 2 * (1 + padding)
        toward = torch.where(local.dirs.abs() < 1e-12, 1e-12, local.dirs)
        one, two = (-half - local.origins) / toward, (half - local.origins) / toward
        near, far = torch.minimum(one, two).amax(-1), torch.maximum(one, two).amin(-1)
        return (far > near) & (far > 0)

    def corners(self) -> Float[Tensor, "b 8 3"]:
        """World positions of the corners of the box."""
        return box_corners(self.scale, self.rotation, self.translation)

    def box_in(self, cameras: Cameras) -> Float[Tensor, "v 4"]:
        """Bounds of the projected box: left, top, right, bottom, in units of the image size."""
        views = len(cameras.cam2world) // self.batch
        uv, _ = cameras.project(self.corners().repeat_interleave(views, dim=0))
        return torch.cat([uv.amin(dim=1), uv.amax(dim=1)], dim=1)


@dataclass(frozen=True, eq=False)
class Composed(Field):
    """Objects, and a background on a distant sphere. Edits return new scenes.

    As a field, it is the objects alone: densities add, features are weighted by density
    (GIRAFFE, eq. 8). Its density is that per world unit, so `sigma` does not change it.
    """

    objects: tuple[Placed, ...]
    background: Field | None
    """Its features at the far end of each ray, on a sphere; its density is not read. None: the
    renderer's constant."""
    distance: Float[Tensor, " b"]
    """Radius of the sphere of the background about the origin, in world units."""
    scene_cfg: SceneConfig
    activated: ClassVar[bool] = False

    @property
    def needs_dirs(self) -> bool:  # type: ignore[override]  # depends on the parts
        """True if any object needs directions."""
        return any(x.field.needs_dirs for x in self.objects)

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Query density per world unit, and features, of the objects."""
        if not self.objects:
            empty = torch.zeros_like(points[..., :1])
            return FieldSample(empty, empty.expand(-1, -1, self.scene_cfg.feature_dim))
        samples = [x.sample(points, dirs) for x in self.objects]
        sigma = torch.stack([x.sigma_raw for x in samples]).sum(0)
        feature = torch.stack([x.sigma_raw * x.feature for x in samples]).sum(0)
        return FieldSample(sigma, feature / sigma.clamp(min=1e-10))

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Density per world unit of the objects."""
        parts = [x.sigma_at(points) for x in self.objects]
        return torch.stack(parts).sum(0) if parts else torch.zeros_like(points[..., :1])

    def sigma(self, sigma_raw: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return the density; noise may make it negative."""
        return sigma_raw.clamp_min(0)

    def backdrop(self, rays: Rays) -> Float[Tensor, "b r c"] | None:
        """Features of the background behind each ray, in [0, 1]."""
        if self.background is None:
            return None
        middle = -(rays.origins * rays.dirs).sum(-1, keepdim=True)
        nearest = (rays.origins + middle * rays.dirs).square().sum(-1, keepdim=True)
        radius = self.distance[:, None, None]
        half = (radius.square() - nearest).clamp(min=0).sqrt()
        on_sphere = (rays.origins + (middle + half) * rays.dirs) / radius
        points = on_sphere * (self.background.box / 2)
        dirs = rays.dirs if self.background.needs_dirs else None
        return self.background(points, dirs).feature

    def change(
        self,
        index: int,
        move: tuple[float, float, float] = (0.0, 0.0, 0.0),
        turn: float = 0.0,
        resize: float = 1.0,
    ) -> "Composed":
        """Move an object by world units, turn it by radians, resize it by a factor."""
        old = self.objects[index]
        new = replace(
            old,
            scale=old.scale * resize,
            rotation=old.rotation + turn,
            translation=old.translation + old.translation.new_tensor(move),
        )
        return self.exchange(index, new)

    def exchange(self, index: int, new: Placed) -> "Composed":
        """Put another part, perhaps of another scene, in the place of an object."""
        objects = list(self.objects)
        objects[index] = new
        return replace(self, objects=tuple(objects))

    def remove(self, index: int) -> "Composed":
        """Remove an object."""
        objects = list(self.objects)
        del objects[index]
        return replace(self, objects=tuple(objects))

    def add(self, new: Placed) -> "Composed":
        """Add an object."""
        return replace(self, objects=(*self.objects, new))

    def only(self, index: int) -> "Composed":
        """Keep one object, without background."""
        return replace(self, objects=(self.objects[index],), background=None)

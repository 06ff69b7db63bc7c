"""Skipping of rays through empty space, by a coarse occupancy grid of a scene.

Training generates new geometry in every step, so a grid over steps (Instant-NGP, Müller et al.
2022) does not help. A scene that is rendered from many cameras gets its grid once
(`VolumeRenderer.prepare`), from a few hundred thousand queries of the density.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.cameras import Rays
from lightning_gan3d.contract import Field, FieldSample, SceneConfig
from lightning_gan3d.networks.lowering import Lowered
from renderers.ray_marching import RaySums, Request, ends_of_empty
from renderers.sampling import RaySpan

CHUNK = 1 << 16
"""Points per query of the field when the grid is computed."""


@dataclass(frozen=True, eq=False)
class OccupiedField(Field):
    """A field and the occupied cells of its box. Queries return those of the field."""

    field: Field
    occupied: Bool[Tensor, "b cells cells cells"]
    """Cells along z, y and x."""

    @property
    def scene_cfg(self) -> SceneConfig:  # type: ignore[override]  # read only, the field's
        """As the field's."""
        return self.field.scene_cfg

    @property
    def sdf_beta(self) -> Float[Tensor, " b"] | None:  # type: ignore[override]  # read only, the field's
        """As the field's."""
        return self.field.sdf_beta

    @property
    def needs_dirs(self) -> bool:  # type: ignore[override]  # of an instance
        """As the field's."""
        return self.field.needs_dirs

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Query the field."""
        return self.field(points, dirs)

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Query the field's density."""
        return self.field.density(points)

    def sigma(self, sigma_raw: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return the field's density."""
        return self.field.sigma(sigma_raw)

    def backdrop(self, rays: Rays) -> Float[Tensor, "b r c"] | None:
        """Return what is behind the field."""
        return self.field.backdrop(rays)

    def lower(self) -> Lowered:
        """Lower the field."""
        return self.field.lower()

    def hit_by(self, rays: Rays, span: RaySpan) -> Bool[Tensor, "b r"]:
        """Whether rays pass through an occupied cell of their scene, by steps of half a cell."""
        cells = self.occupied.shape[-1]
        step = self.box / cells / 2
        length = float((span.far - span.near).amax())
        hit = torch.zeros_like(span.near[..., 0], dtype=torch.bool)
        flat = self.occupied.flatten(1)
        for i in range(int(length / step) + 2):
            t = torch.minimum(span.near + i * step, span.far)
            points = rays.origins + t * rays.dirs
            cell = ((points / self.box + 0.5) * cells).floor().long()
            inside = ((cell >= 0) & (cell < cells)).all(-1)
            x, y, z = cell.clamp(0, cells - 1).unbind(-1)
            hit |= flat.gather(1, (z * cells + y) * cells + x) & inside
        return hit


@torch.no_grad()
def find_occupied(field: Field, cells: int, opacity: float) -> OccupiedField:
    """Find the cells whose density, across the whole box, would reach `opacity`.

    Density is queried at cell centres and corners. A cell is occupied if one of these, or one of a
    neighbouring cell's, exceeds the threshold; detail finer than a cell can be missed.
    """
    box, b, device = field.box, field.batch, field.tensors()[0].device
    threshold = -torch.log1p(torch.tensor(-opacity)).item() / (box * 3**0.5)
    dense = torch.zeros(b, cells, cells, cells, dtype=torch.bool, device=device)
    for offset, num in ((0.5, cells), (0.0, cells + 1)):
        at = ((torch.arange(num, device=device) + offset) / cells - 0.5) * box
        z, y, x = torch.meshgrid(at, at, at, indexing="ij")
        points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
        above = torch.cat(
            [
                field.sigma(field.density(chunk.expand(b, -1, -1)))[..., 0] > threshold
                for chunk in torch.split(points, CHUNK // b or 1)
            ],
            dim=1,
        )
        grid = rearrange(above, "b (z y x) -> b z y x", z=num, y=num)
        if num > cells:  # a corner belongs to the eight cells around it
            grid = torch.nn.functional.max_pool3d(grid.float(), 2, stride=1) > 0
        dense |= grid
    occupied = torch.nn.functional.max_pool3d(dense.float(), 3, stride=1, padding=1) > 0
    return OccupiedField(field, occupied)


def render_occupied(
    request: Request, field: OccupiedField, render: Callable[[Request], RaySums]
) -> RaySums:
    """Render the rays that hit an occupied cell, scene by scene; the sums of others are zero."""
    hit = field.hit_by(request.rays, request.span)
    shape = request.span.near.shape
    zeros = request.rays.origins.new_zeros
    # EG3D's depth is clamped to the ends of all rays; other rules ignore those of empty rays.
    eg3d = request.options.rules == "eg3d"
    ends = ends_of_empty(request) if eg3d else tuple(request.span)
    feature = zeros(*shape[:2], field.scene_cfg.feature_dim)
    sums = RaySums(feature, zeros(shape), zeros(shape), *(x.clone() for x in ends))
    request = replace(request, field=field.field)
    for i in range(field.batch):
        rays = hit[i].nonzero()[:, 0]
        if not len(rays):
            continue
        scene = slice(i, i + 1)
        for total, x in zip(sums, render(request.select(rays, scene)), strict=True):
            total[scene, rays] = x
    return sums

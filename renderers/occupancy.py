"""Where a scene has anything: a coarse grid of a latent, so that rays through nothing cost little.

In training every latent is new geometry, and a grid kept over steps (Instant-NGP, Müller et al.
2022) would say nothing. Of one scene that is rendered from many cameras, the grid is made once
(`VolumeRenderer.prepare`), from some hundred thousand queries of the density.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.cameras import Rays
from lightning_gan3d.contract import Field, FieldSample, SceneConfig
from lightning_gan3d.networks.lowering import Lowered
from renderers.sampling import Span

CHUNK = 1 << 16
"""Points in a call of the field while the grid is made."""


@dataclass(frozen=True, eq=False)
class OccupiedField(Field):
    """A field, and in which cells of its box there is something. Queried, it is the field."""

    field: Field
    occupied: Bool[Tensor, "b cells cells cells"]
    """Cells along z, y and x."""

    @property
    def scene_cfg(self) -> SceneConfig:  # type: ignore[override]  # read only, the field's
        """As the field's."""
        return self.field.scene_cfg

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

    def lower(self) -> Lowered:
        """Hand over the field."""
        return self.field.lower()

    def meets(self, rays: Rays, part: Span) -> Bool[Tensor, "b r"]:
        """Tell which rays pass through an occupied cell of their scene, by steps of half a cell."""
        cells = self.occupied.shape[-1]
        step = self.box / cells / 2
        length = float((part.far - part.near).amax())
        found = torch.zeros_like(part.near[..., 0], dtype=torch.bool)
        flat = self.occupied.flatten(1)
        for i in range(int(length / step) + 2):
            t = torch.minimum(part.near + i * step, part.far)
            points = rays.origins + t * rays.dirs
            cell = ((points / self.box + 0.5) * cells).floor().long()
            inside = ((cell >= 0) & (cell < cells)).all(-1)
            x, y, z = cell.clamp(0, cells - 1).unbind(-1)
            found |= flat.gather(1, (z * cells + y) * cells + x) & inside
        return found


@torch.no_grad()
def find_occupied(field: Field, cells: int, opacity: float) -> OccupiedField:
    """Find the cells in which density could stop `opacity` of a ray that crosses the whole box.

    Density is asked at the centre of each cell and at its corners. A cell counts if one of these,
    or of a neighbouring cell's, exceeds the threshold; detail finer than a cell can be missed.
    """
    box, b = field.box, field.batch
    example = field.tensors()[0]
    threshold = -torch.log1p(torch.tensor(-opacity)).item() / (box * 3**0.5)
    dense = torch.zeros(b, cells, cells, cells, dtype=torch.bool, device=example.device)
    for offset, num in ((0.5, cells), (0.0, cells + 1)):
        at = ((torch.arange(num, device=example.device) + offset) / cells - 0.5) * box
        z, y, x = torch.meshgrid(at, at, at, indexing="ij")
        points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
        above = torch.cat(
            [
                field.sigma(field.density(some.expand(b, -1, -1)))[..., 0] > threshold
                for some in torch.split(points, CHUNK // b or 1)
            ],
            dim=1,
        )
        grid = rearrange(above, "b (z y x) -> b z y x", z=num, y=num)
        if num > cells:  # a corner belongs to the eight cells around it
            grid = torch.nn.functional.max_pool3d(grid.float(), 2, stride=1) > 0
        dense |= grid
    occupied = torch.nn.functional.max_pool3d(dense.float(), 3, stride=1, padding=1) > 0
    return OccupiedField(field, occupied)

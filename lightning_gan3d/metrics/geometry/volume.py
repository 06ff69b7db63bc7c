"""The volume of an item, where a source has one: what is solid, and which parts hang together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import ndimage
from torch import Tensor

SHARE = 32
"""Solidity is the opacity of a ray through this part of the box: the same scale for all boxes."""
SURFACE = 0.5
"""Solidity of the surface."""
_POINTS_AT_ONCE = 2**15


@dataclass(frozen=True, eq=False)
class Volume:
    """b items that can be queried at points of their box."""

    level: Callable[[Float[Tensor, "b n 3"]], Float[Tensor, "b n"]]
    """What grows into the solid (density, or a level set), differentiable in the points."""
    solidity: Callable[[Tensor], Tensor]
    """From the level to [0, 1], 0.5 on the surface."""
    box: float
    """Edge of the cube about the origin that it spans, in world units."""

    def normals(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Return unit normals, out of the solid; zero where the level does not change."""
        with torch.enable_grad():
            at = points.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.level(at).sum(), at)
        return -torch.nn.functional.normalize(gradient.double(), dim=-1, eps=1e-30).to(points)


@runtime_checkable
class HasVolume(Protocol):
    """A source of views whose items may have a volume."""

    def volume(self, items: Int64[Tensor, " b"]) -> Volume | None:
        """Return the items' volume, or None where there is none: a picture, a surface."""
        ...


def volume_of(source: object, item: int) -> Volume | None:
    """Return the volume of one item, where the source has any."""
    return source.volume(torch.tensor([item])) if isinstance(source, HasVolume) else None


def opaque_part(sigma: Tensor, box: float) -> Tensor:
    """Opacity of a density over a 32nd of the box."""
    return 1 - torch.exp(-sigma * (box / SHARE))


def grid_of(volume: Volume, size: int) -> Float[np.ndarray, "b x y z"]:
    """Return solidity at the centres of size^3 cells, axes x, y, z."""
    centre = ((torch.arange(size) + 0.5) / size - 0.5) * volume.box
    axes = torch.meshgrid(centre, centre, centre, indexing="ij")
    points = torch.stack(axes, dim=-1).view(1, -1, 3)
    with torch.no_grad():
        parts = [
            volume.solidity(volume.level(some)).float().cpu()
            for some in torch.split(points, _POINTS_AT_ONCE, dim=1)
        ]
    values = torch.cat(parts, dim=1)
    return values.view(-1, size, size, size).numpy()


class Pieces(NamedTuple):
    """What hangs together in a grid."""

    num: int
    """Connected components of solid cells."""
    floating: float
    """Share of the solidity of solid cells that is not in the largest component."""
    filled: float
    """Share of cells that are solid."""


def pieces(solidity: Float[np.ndarray, "x y z"]) -> Pieces:
    """Split what is solid into components; cells that touch at a face, edge or corner connect.

    Where nothing is solid, nothing floats.
    """
    solid = solidity >= SURFACE
    labels, num = ndimage.label(solid, structure=np.ones((3, 3, 3)))
    filled = float(solid.mean())
    if num == 0:
        return Pieces(0, 0.0, filled)
    masses = np.bincount(labels[solid], weights=solidity[solid])
    return Pieces(int(num), float(1 - masses.max() / masses.sum()), filled)

"""Occupancy grids of volumes, their connected components, and Chamfer distances of their meshes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from lightning_gan3d.metrics.sources import Volume

if TYPE_CHECKING:
    import trimesh

SURFACE = 0.5
"""Occupancy of the surface."""
_POINTS_AT_ONCE = 2**15


def grid_of(volume: Volume, size: int) -> Float[np.ndarray, "b x y z"]:
    """Return the occupancy at the centres of size^3 cells, axes x, y, z."""
    centre = ((torch.arange(size) + 0.5) / size - 0.5) * volume.box
    axes = torch.meshgrid(centre, centre, centre, indexing="ij")
    points = torch.stack(axes, dim=-1).view(1, -1, 3)
    with torch.no_grad():
        parts = [
            volume.occupancy(volume.level(part)).float().cpu()
            for part in torch.split(points, _POINTS_AT_ONCE, dim=1)
        ]
    return torch.cat(parts, dim=1).view(-1, size, size, size).numpy()


class Pieces(NamedTuple):
    """Connected components of the solid cells of a grid."""

    num: int
    floating: float
    """Share of the solid cells' occupancy outside the largest component."""
    filled: float
    """Share of cells that are solid."""


def pieces(occupancy: Float[np.ndarray, "x y z"]) -> Pieces:
    """Find the components; cells that share a face, edge or corner are connected."""
    solid = occupancy >= SURFACE
    labels, num = ndimage.label(solid, structure=np.ones((3, 3, 3)))
    filled = float(solid.mean())
    if num == 0:
        return Pieces(0, 0.0, filled)
    masses = np.bincount(labels[solid], weights=occupancy[solid])
    return Pieces(int(num), float(1 - masses.max() / masses.sum()), filled)


def mesh_of(occupancy: Float[np.ndarray, "x y z"], box: float) -> "trimesh.Trimesh | None":
    """Return the surface at occupancy 0.5 by marching cubes; None if there is none.

    `occupancy[i, j, k]` is the value at the centre of a cell of a cube of edge `box` about the
    origin. A layer of zeros around the cube closes surfaces that its faces cut. Triangles are
    counter-clockwise from outside.
    """
    import trimesh  # slow: more than a second

    cell = box / len(occupancy)
    padded = np.pad(occupancy, 1)
    if not padded.min() < SURFACE < padded.max():
        return None
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]  # untyped library
        padded, SURFACE, spacing=(cell, cell, cell)
    )
    # The padding starts half a cell outside the cube. skimage's triangles are clockwise.
    vertices = vertices.astype(np.float64) - (box + cell) / 2
    return trimesh.Trimesh(vertices, faces[:, ::-1].astype(np.int64), process=False)


def sample(mesh: "trimesh.Trimesh", num: int, seed: int) -> Float[np.ndarray, "n 3"]:
    """Draw points uniformly by area.

    Not trimesh's sampler: it draws other points, and published values depend on these.
    """
    rng = np.random.default_rng(seed)
    areas = mesh.area_faces
    chosen = rng.choice(len(areas), num, p=areas / areas.sum())
    u, v = rng.random((2, num, 1))
    outside = u + v > 1  # fold the other half of the parallelogram back into the triangle
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    a, b, c = (mesh.vertices[mesh.faces[chosen, i]] for i in range(3))
    points: Float[np.ndarray, "n 3"] = np.asarray(a + u * (b - a) + v * (c - a))
    return points


def chamfer(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]) -> float:
    """Mean of both directions' mean distance to the nearest sample, not squared, in world units.

    Equal surfaces with different samples are about sqrt(area / n) / 2 apart: compare at equal n.
    Distances to samples, not to triangles as by trimesh.proximity, so that either set may be data.
    """
    forward, _ = cKDTree(b).query(a)
    backward, _ = cKDTree(a).query(b)
    return (float(forward.mean()) + float(backward.mean())) / 2

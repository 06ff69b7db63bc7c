"""Surfaces of a scene: from depth maps, and as a mesh of its density."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.sources import Volume

if TYPE_CHECKING:
    import trimesh


JUMP = 0.1
"""Relative difference in depth above which neighbours are on different surfaces."""


class Normals(NamedTuple):
    """World-space unit normals that face the camera, and a mask of the pixels that have one."""

    normals: Float[Tensor, "v 3 h w"]
    valid: Bool[Tensor, "v 1 h w"]


def normals_from_depth(
    depth: Float[Tensor, "v 1 h w"], opaque: Bool[Tensor, "v 1 h w"], cameras: Cameras
) -> Normals:
    """Return normals by central differences of the unprojected points; `depth` along the rays.

    Valid if the pixel and its four neighbours are opaque and no depth jumps between them; never at
    the border.
    """
    size = depth.shape[-1]
    points = rearrange(cameras.unproject(depth), "v (h w) c -> v c h w", h=size)
    right = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    down = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    normals = torch.zeros_like(points)
    # In OpenCV axes x cross y is forward, so this order faces the camera.
    normals[..., 1:-1, 1:-1] = normalize(torch.linalg.cross(down, right, dim=1), dim=1)
    middle = depth[..., 1:-1, 1:-1]
    inner = opaque[..., 1:-1, 1:-1].clone()
    for neighbour, is_opaque in zip(_neighbours(depth), _neighbours(opaque), strict=True):
        inner &= is_opaque & ((neighbour - middle).abs() <= JUMP * middle)
    valid = torch.zeros_like(opaque)
    valid[..., 1:-1, 1:-1] = inner
    return Normals(normals, valid)


def _neighbours(x: Tensor) -> list[Tensor]:
    return [x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]]


def depth_error(
    depth: Float[Tensor, "v 1 h w"],
    truth: Float[Tensor, "v 1 h w"],
    valid: Bool[Tensor, "v 1 h w"],
) -> Float[Tensor, " v"]:
    """Return the mean |error| of each view at valid pixels, in world units; NaN without any.

    No scale or shift is fitted: a depth that is off by a factor is wrong.
    """
    return _mean((depth - truth).abs(), valid)


def normal_error(
    normals: Float[Tensor, "v 3 h w"],
    truth: Float[Tensor, "v 3 h w"],
    valid: Bool[Tensor, "v 1 h w"],
) -> Float[Tensor, " v"]:
    """Return the mean angle in radians between unit normals at valid pixels; NaN without any."""
    # Unlike the arc cosine of the product, atan2 keeps small angles in float32.
    difference, total = (normals - truth).norm(dim=1), (normals + truth).norm(dim=1)
    return _mean((2 * torch.atan2(difference, total))[:, None], valid)


def _mean(x: Float[Tensor, "v 1 h w"], valid: Bool[Tensor, "v 1 h w"]) -> Float[Tensor, " v"]:
    return torch.where(valid, x, 0).flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1)


def extents(points: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """Return the standard deviations along the principal axes, smallest first, in world units."""
    covariance = torch.cov(points.double().mT, correction=0)
    variances: Tensor = torch.linalg.eigvalsh(covariance)
    return variances.clamp(min=0).sqrt().to(points)


def thinness(points: Float[Tensor, "n 3"]) -> float:
    """Return the smallest over the largest extent: 0 for a plane, 1 for a sphere.

    The half of a ball that one distant camera sees has sqrt(2) / 3 = 0.47. NaN below four points,
    if points are not finite, or if all are equal.
    """
    if len(points) < 4 or not bool(points.isfinite().all()):
        return float("nan")
    small, _, large = extents(points).tolist()
    return small / large if large > 1e-9 else float("nan")


SURFACE = 0.5
"""Occupancy of the surface."""
_POINTS_AT_ONCE = 2**15


@torch.no_grad()
def grid_of(volume: Volume, size: int) -> Float[np.ndarray, "x y z"]:
    """Return the occupancy of one item at the centres of size^3 cells.

    Memory: the result, and one layer of it or `_POINTS_AT_ONCE` points.
    """
    centre = ((torch.arange(size) + 0.5) / size - 0.5) * volume.box
    grid = np.empty((size, size, size), np.float32)
    if volume.layers is not None:
        for row, layer in zip(grid, volume.layers((centre, centre, centre)), strict=True):
            row[:] = volume.occupancy(layer).float().cpu().numpy()
        return grid
    flat = grid.reshape(-1)
    for first in range(0, len(flat), _POINTS_AT_ONCE):
        cells = torch.arange(first, min(first + _POINTS_AT_ONCE, len(flat)))
        indices = torch.stack([cells // size**2, cells // size % size, cells % size], dim=-1)
        (occupancy,) = volume.occupancy(volume.level(centre[indices][None])).float().cpu()
        flat[first : first + len(cells)] = occupancy.numpy()
    return grid


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

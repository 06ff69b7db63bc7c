"""Meshes of volumes by marching cubes, and distances between meshes."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes


class Mesh(NamedTuple):
    """Triangles in world units, whose corners turn counter-clockwise as seen from outside."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]


class Samples(NamedTuple):
    """Points of a surface with the unit normals of their triangles."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]


def mesh_of(
    values: Float[np.ndarray, "x y z"], box: float, level: float = 0.5, outside: float = 0.0
) -> Mesh | None:
    """Return the surface where values pass `level`; None where they nowhere do.

    `values[i, j, k]` stands at the centre of a cell of a cube of edge `box` about the origin, axes
    x, y, z; larger values are inside. A layer of `outside` around the cube closes what the cube's
    faces cut off. By marching cubes (Lewiner et al. 2003), which interpolates linearly between
    cells, so that values should be smooth about the level.
    """
    cell = box / len(values)
    padded = np.pad(values, 1, constant_values=outside)
    if not padded.min() < level < padded.max():
        return None
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]  # untyped library
        padded, level, spacing=(cell, cell, cell)
    )
    # The first layer of the padding stands half a cell outside the cube.
    # The library's triangles turn clockwise as seen from where values are small.
    return Mesh(vertices.astype(np.float64) - (box + cell) / 2, faces[:, ::-1].astype(np.int64))


def area_normals(mesh: Mesh) -> Float[np.ndarray, "f 3"]:
    """Return the outward normal of each triangle, as long as its area."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return 0.5 * np.cross(b - a, c - a)


def volume_of(mesh: Mesh) -> float:
    """Return the volume that a closed mesh encloses, by the divergence theorem."""
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    return float((centres * area_normals(mesh)).sum() / 3)


def sample(mesh: Mesh, num: int, seed: int) -> Samples:
    """Draw points uniformly by area."""
    rng = np.random.default_rng(seed)
    normals = area_normals(mesh)
    areas = np.linalg.norm(normals, axis=1)
    chosen = rng.choice(len(areas), num, p=areas / areas.sum())
    u, v = rng.random((2, num, 1))
    over = u + v > 1  # the other half of the parallelogram is folded back into the triangle
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    a, b, c = (mesh.vertices[mesh.faces[chosen, i]] for i in range(3))
    return Samples(a + u * (b - a) + v * (c - a), normals[chosen] / areas[chosen, None])


class SurfaceDistance(NamedTuple):
    """How far two surfaces are apart."""

    chamfer: float
    """Mean of both directions' mean distance to the nearest sample, in world units."""
    first_to_second: float
    """Mean distance from the first surface's samples: what it has too much."""
    second_to_first: float
    """Mean distance from the second surface's samples: what the first lacks."""
    normals: float
    """Mean |cosine| between the normals of nearest samples, both directions: 1 is best."""


def distance(first: Samples, second: Samples) -> SurfaceDistance:
    """Compare two surfaces by their samples.

    Distances are not squared. Nearest are samples, not surfaces, so that equal surfaces with
    different samples come out some sqrt(area / n) / 2 apart: compare at equal n only. Normal
    consistency is that of Occupancy Networks (Mescheder et al. 2019).
    """
    there, to = _nearest(first, second)
    back, of = _nearest(second, first)
    forward, backward = float(there.mean()), float(back.mean())
    cosines = (
        np.abs((first.normals * second.normals[to]).sum(axis=1)).mean(),
        np.abs((second.normals * first.normals[of]).sum(axis=1)).mean(),
    )
    return SurfaceDistance(
        (forward + backward) / 2, forward, backward, float(sum(cosines) / len(cosines))
    )


def _nearest(first: Samples, second: Samples) -> tuple[Any, Any]:
    return cKDTree(second.points).query(first.points)  # type: ignore[no-any-return]  # untyped

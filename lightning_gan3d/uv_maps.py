"""UV maps of meshes: unwrap with xatlas, and find the texels that faces cover."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lightning_gan3d.config import ConfigError


class Atlas(NamedTuple):
    """A mesh cut into charts: corners on a cut have several vertices."""

    origin: Int[np.ndarray, " n"]
    """The vertex of the mesh of each vertex here."""
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "n 2"]
    """In [0, 1], v up."""


class Texels(NamedTuple):
    """The texels that faces cover; row 0 is the image's top, v = 1."""

    row: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    face: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "n 3"]
    """Barycentric coordinates of the texel's centre."""


def unwrap(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], size: int, option: str
) -> Atlas:
    """Cut a mesh into charts for a map of size^2 texels, two texels apart.

    `option`: the setting that needs it, for errors, as `texture=512`.
    """
    try:
        import xatlas
    except ImportError:
        raise ConfigError(
            f"{option}: xatlas is missing; pip install 'lightning-gan3d[mesh]'"
        ) from None
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, 2, True
    atlas.generate(pack_options=packing)
    origin, faces, uv = atlas[0]
    return Atlas(origin, faces.astype(np.int64), uv)


def rasterise(uv: Float[np.ndarray, "n 2"], faces: Int[np.ndarray, "f 3"], size: int) -> Texels:
    """Return the texels whose centres lie in a face in UV space."""
    xy = uv.astype(np.float64) * size
    xy[:, 1] = size - xy[:, 1]
    corners = xy[faces]
    low = np.floor(corners.min(axis=1) - 0.5).astype(np.int64).clip(0, size - 1)
    high = np.ceil(corners.max(axis=1) - 0.5).astype(np.int64).clip(0, size - 1)
    extent = high - low + 1
    count = extent.prod(axis=1)
    parts = []
    # Faces in groups of a million candidate texels: bounds memory.
    group = np.cumsum(count) // 1_000_000
    for g in np.unique(group):
        members = np.flatnonzero(group == g)
        face = np.repeat(members, count[members])
        start = np.repeat(np.cumsum(count[members]) - count[members], count[members])
        within = np.arange(len(face)) - start
        column = low[face, 0] + within % extent[face, 0]
        row = low[face, 1] + within // extent[face, 0]
        a, b, c = (corners[face, i] for i in range(3))
        p = np.stack([column + 0.5, row + 0.5], axis=1)
        area = _cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            wa, wb = _cross(b - p, c - p) / area, _cross(c - p, a - p) / area
            weights = np.stack([wa, wb, 1 - wa - wb], axis=1)
        inside = (weights >= -1e-6).all(axis=1)  # False for NaN, of a face without area
        parts.append((row[inside], column[inside], face[inside], weights[inside]))
    row, column, face, weights = (np.concatenate(x) for x in zip(*parts, strict=True))
    return Texels(row, column, face, weights.astype(np.float32))


def _cross(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    area: np.ndarray = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return area

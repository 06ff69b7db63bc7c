"""UV textures: unwrap a mesh with xatlas and bake colours into an image."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from scipy.ndimage import distance_transform_edt

from lightning_gan3d.config import ConfigError

if TYPE_CHECKING:
    import trimesh

Colours = Callable[[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 3"]]
"""From surface points and outward normals to colours in [0, 1]."""


def bake(surface: "trimesh.Trimesh", size: int, colours: Colours) -> "trimesh.Trimesh":
    """Return the mesh with UV coordinates and a texture of size^2 pixels.

    Texels of no face take the nearest face's colour, so that filtering shows no seams.
    """
    import trimesh
    from trimesh.visual.material import SimpleMaterial

    try:
        import xatlas
    except ImportError:
        raise ConfigError(
            f"texture={size}: xatlas is missing; pip install 'lightning-gan3d[mesh]'"
        ) from None
    vertices = np.asarray(surface.vertices, np.float32)
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, np.asarray(surface.faces, np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, 2, True
    atlas.generate(pack_options=packing)
    origin, faces, uv = atlas[0]
    normals = np.asarray(surface.vertex_normals, np.float32)[origin]
    unwrapped = trimesh.Trimesh(
        vertices[origin], faces.astype(np.int64), vertex_normals=normals, process=False
    )
    texels = rasterise(uv, unwrapped.faces, size)
    corners = unwrapped.faces[texels.face]
    weights = texels.weights[..., None]
    points, across = (
        (np.asarray(x, np.float32)[corners] * weights).sum(axis=1)
        for x in (unwrapped.vertices, normals)
    )
    across /= np.linalg.norm(across, axis=1, keepdims=True).clip(min=1e-9)
    image = np.zeros((size, size, 3), np.float32)
    empty = np.ones((size, size), bool)
    image[texels.row, texels.column] = colours(points, across)
    empty[texels.row, texels.column] = False
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    filled = np.rint(image[tuple(nearest)].clip(0, 1) * 255).astype(np.uint8)
    material = SimpleMaterial(image=Image.fromarray(filled), diffuse=[255, 255, 255, 255])
    unwrapped.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return unwrapped


class Texels(NamedTuple):
    """The texels that faces cover; row 0 is the image's top, v = 1."""

    row: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    face: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "n 3"]
    """Barycentric coordinates of the texel's centre."""


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

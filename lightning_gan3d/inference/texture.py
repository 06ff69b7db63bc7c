"""UV textures: bake colours of a mesh into an image."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy.ndimage import distance_transform_edt

from lightning_gan3d.uv_maps import rasterise, unwrap

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

    vertices = np.asarray(surface.vertices, np.float32)
    origin, faces, uv = unwrap(vertices, np.asarray(surface.faces), size, f"texture={size}")
    normals = np.asarray(surface.vertex_normals, np.float32)[origin]
    unwrapped = trimesh.Trimesh(vertices[origin], faces, vertex_normals=normals, process=False)
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

"""Templates of Gaussians: points on a surface, with their coordinates in a UV map."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError

MIN_SHARE = 1 / 8
"""Smallest share of a map's texels that a mesh must cover."""


class Template(NamedTuple):
    """n points of a surface."""

    positions: Float[Tensor, "n 3"]
    """In world units."""
    uv: Float[Tensor, "n 2"]
    """Where the map is read, in [-1, 1]: u to the right, v down."""
    spacing: Float[Tensor, " n"]
    """Root of the area per point, in world units: about the distance of neighbours."""


def make_template(name: str, side: int, size: float) -> Template:
    """Return the template of side x side points of a map.

    `name`: `sphere`, `hemisphere`, `plane`, or the path of a mesh.
    `size`: radius, or half edge of the plane, in world units.
    """
    uv = texel_centres(side)
    if name == "sphere":
        return Template(size * on_sphere(uv), uv, _even(uv, 4 * math.pi * size**2))
    if name == "hemisphere":
        return Template(size * on_hemisphere(uv), uv, _even(uv, 2 * math.pi * size**2))
    if name == "plane":
        positions = torch.stack([uv[:, 0], -uv[:, 1], torch.zeros(len(uv))], dim=1)
        return Template(size * positions, uv, _even(uv, 4 * size**2))
    return on_mesh(name, side)


def texel_centres(side: int) -> Float[Tensor, "n 2"]:
    """Centres of a map's texels in [-1, 1], row by row from the top."""
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    v, u = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([u, v], dim=-1).view(-1, 2)


def on_sphere(uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Unit vectors of the octahedral map: equal areas of the square are equal on the sphere.

    Clarberg (2008). The middle of the map looks along +z, its right side along +x, its upper side
    along +y; its corners meet at -z.
    """
    u, v = uv[:, 0], -uv[:, 1]
    inside = 1 - (u.abs() + v.abs())
    r = 1 - inside.abs()
    turn = torch.where(r > 0, (v.abs() - u.abs()) / r.clamp_min(1e-12) + 1, 0.0) * (math.pi / 4)
    across = r * (2 - r.square()).clamp_min(0).sqrt()
    x, y = across * turn.cos() * u.sign(), across * turn.sin() * v.sign()
    return torch.stack([x, y, inside.sign() * (1 - r.square())], dim=1)


def on_hemisphere(uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Unit vectors with z >= 0 of the concentric map: areas as those of the square.

    Shirley and Chiu (1997). The middle of the map looks along +z, its right side along +x, its
    upper side along +y.
    """
    # The front half of the octahedral map is a diamond in its square: turn it into the square.
    turned = torch.stack([uv[:, 0] - uv[:, 1], uv[:, 0] + uv[:, 1]], dim=1) / 2
    x, y, z = on_sphere(turned).unbind(dim=1)
    return torch.stack([(x - y) * math.sqrt(0.5), (x + y) * math.sqrt(0.5), z], dim=1)


def on_mesh(path: str, side: int) -> Template:
    """Read a mesh; each texel whose centre lies in a face in UV space is a point of that face.

    A mesh without UV coordinates is unwrapped by xatlas.

    Raises:
        ConfigError: no such file, no mesh, or UV coordinates that cover too little of the map.
    """
    from lightning_gan3d.uv_maps import rasterise

    corners, uv = _read_triangles(path, side)
    texels = rasterise(uv.reshape(-1, 2), np.arange(3 * len(uv)).reshape(-1, 3), side)
    points = (corners[texels.face] * texels.weights[..., None]).sum(axis=1)
    index = texels.row * side + texels.column
    _, first, same = np.unique(index, return_index=True, return_inverse=True)
    # An edge through a texel's centre belongs to two faces, which have the same point there.
    again = np.abs(points - points[first[same]]).max(axis=1) < 1e-4 * np.ptp(corners)
    again[first] = False
    kept = np.flatnonzero(~again)
    kept = kept[index[kept].argsort(kind="stable")]
    points, index, face = points[kept], index[kept], texels.face[kept]
    if len(first) < MIN_SHARE * side**2:
        raise _error(
            path,
            f"{len(first)} of {side}x{side} texels have their centre in a face; use UV coordinates "
            "in [0, 1] that fill more of the map, or a larger side",
        )
    # World units squared per texel; zero for a face that is a line.
    area = _doubled_areas(corners) / _doubled_areas(uv).clip(min=1e-12) / side**2
    area = area.clip(min=1e-4 * np.median(area[face]))[face]
    return Template(
        torch.tensor(points, dtype=torch.float32),
        texel_centres(side)[torch.tensor(index)],
        torch.tensor(np.sqrt(area), dtype=torch.float32),
    )


def _read_triangles(
    path: str, side: int
) -> tuple[Float[np.ndarray, "f 3 3"], Float[np.ndarray, "f 3 2"]]:
    """Return positions and UV coordinates of the corners of a mesh's triangles."""
    import trimesh

    from lightning_gan3d.uv_maps import unwrap

    if not Path(path).is_file():
        raise _error(
            path,
            "no such file; use sphere, hemisphere, plane, or an OBJ, PLY or GLB file. A trained "
            "generator needs the file of its training",
        )
    try:
        mesh = trimesh.load_mesh(path, process=False)
    except Exception as error:  # readers of formats raise errors of any kind
        raise _error(path, f"cannot read it as a mesh: {error}; use OBJ, PLY or GLB") from None
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
    if len(faces) == 0:
        raise _error(path, "it has no faces; use a mesh of triangles")
    uv = getattr(mesh.visual, "uv", None)
    if uv is None:
        atlas = unwrap(vertices, faces, side, f"representation.template={path}")
        vertices, faces, uv = vertices[atlas.origin], atlas.faces, atlas.uv
    return vertices[faces], np.asarray(uv, np.float64)[faces]


def _error(path: str, problem: str) -> ConfigError:
    return ConfigError(f"representation.template={path}: {problem}", field="template")


def _even(uv: Float[Tensor, "n 2"], area: float) -> Float[Tensor, " n"]:
    """Spacing of points that share an area equally."""
    return torch.full((len(uv),), math.sqrt(area / len(uv)))


def _doubled_areas(corners: Float[np.ndarray, "f 3 d"]) -> Float[np.ndarray, " f"]:
    """Twice the areas of triangles in any number of dimensions."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    squared = (a * a).sum(1) * (b * b).sum(1) - (a * b).sum(1) ** 2
    areas: np.ndarray = np.sqrt(squared.clip(min=0))
    return areas

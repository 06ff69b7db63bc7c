"""Shapes: the surface of a field as a mesh with the colours of its radiance field."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from skimage.measure import marching_cubes

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Field
from lightning_gan3d.files import atomic_path, write_json
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.model import Subject, open_model, output_folder, parse_seeds
from lightning_gan3d.inference.progress import track

if TYPE_CHECKING:
    import trimesh

HALF = float(np.log(2))
"""Optical depth at which half of the light is absorbed."""
FINEST = 128
"""From this resolution on, the default level stays the same: finer voxels of the same density are
less opaque, so that a soft surface would shrink and vanish."""
POINTS = 2**18
"""Points per query of the field: bounds memory."""
RAY = (-1.5, 3.0, 24)
"""Ray of a surface colour: begin and end along the inward normal in voxels, and its samples."""


def mesh(reference: str, options: MeshOptions, out: Path | None = None) -> str:
    """Write the shape of each seed as a file; returns a summary."""
    seeds = parse_seeds(options.seeds)
    model = open_model(reference, options)
    if not model.generator.cfg.is_field:
        raise ConfigError(f"{reference}: the representation has no density, so it has no surface")
    out = output_folder([reference], "meshes", out)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in track(seeds, "meshes", len(seeds)):
        styles = model.styles_of(seed, options)
        field = Subject(model, styles, prepare=False).scene
        file = out / f"seed{seed:04d}.{options.format}"
        if options.format == "npy":
            volume = density_volume(field, options.resolution)
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, volume)
            about = {"axes": "x, y, z", "box": model.box, "unit": "density per world unit"}
            write_json(file.with_suffix(".json"), {**about, **asdict(options), "seed": seed})
            lines.append(str(file))
            continue
        surface = mesh_of_field(field, options)
        write_mesh(surface, file)
        lines.append(f"{file}: {len(surface.vertices):,} vertices, {len(surface.faces):,} faces")
    return "\n".join(lines)


def mesh_of_field(field: Field, options: MeshOptions) -> "trimesh.Trimesh":
    """Return the coloured surface of the first scene of a field, in world units, y up."""
    surface = extract_surface(field, options)
    voxel = field.box / options.resolution
    if options.texture:
        from lightning_gan3d.inference.texture import bake

        return bake(surface, options.texture, lambda p, n: surface_colours(field, p, n, voxel))
    colours = surface_colours(field, surface.vertices, surface.vertex_normals, voxel)
    visual: Any = surface.visual
    visual.vertex_colors = to_bytes(colours)
    return surface


def extract_surface(field: Field, options: MeshOptions) -> "trimesh.Trimesh":
    """Return the surface without colours: marching cubes, components, smoothing, decimation.

    By default the surface is where one voxel (of at most `FINEST` per axis) absorbs half of the
    light. Opacity is interpolated, not density: an abrupt rise of density then lies in the middle
    between two samples. Surfaces are closed where the box cuts them.

    Raises ConfigError if no density reaches the level.
    """
    import trimesh  # slow: more than a second

    voxel = field.box / options.resolution
    length = field.box / min(options.resolution, FINEST)
    level = HALF / length if options.level is None else options.level
    volume = density_volume(field, options.resolution, border=1)
    highest = float(volume.max())
    if highest <= level:
        raise ConfigError(
            f"level={level:g}: no surface, the highest density is {highest:g}; choose a lower level"
        )
    opacity = np.negative(
        np.expm1(np.multiply(volume, -length, out=volume), out=volume), out=volume
    )
    vertices, faces, _, _ = marching_cubes(opacity, -float(np.expm1(-level * length)))
    # Sample i of an axis is at its voxel's centre; the border has index 0.
    world = (vertices.astype(np.float64) - 0.5) * voxel - field.box / 2
    surface = trimesh.Trimesh(world, faces[:, ::-1].astype(np.int64), process=False)
    surface = _largest(surface, options.keep)
    if options.smooth:
        trimesh.smoothing.filter_taubin(surface, iterations=options.smooth)
    if options.faces and options.faces < len(surface.faces):
        surface = surface.simplify_quadric_decimation(face_count=options.faces)
    return surface


def _largest(surface: "trimesh.Trimesh", share: float) -> "trimesh.Trimesh":
    """Keep the components with at least `share` of the largest one's area."""
    import trimesh

    labels = trimesh.graph.connected_component_labels(
        surface.face_adjacency, node_count=len(surface.faces)
    )
    areas = np.bincount(labels, weights=surface.area_faces)
    if len(areas) > 1:
        surface.update_faces((areas >= share * areas.max())[labels])
        surface.remove_unreferenced_vertices()
    return surface


@torch.no_grad()
def density_volume(field: Field, resolution: int, border: int = 0) -> Float[np.ndarray, "x y z"]:
    """Density per world unit at the centres of resolution^3 voxels of the box, axes x, y, z.

    `border`: layers of density 0 around the box. Memory: the result, and `POINTS` points.
    """
    device = field.tensors()[0].device
    centre = ((torch.arange(resolution, device=device) + 0.5) / resolution - 0.5) * field.box
    size = resolution + 2 * border
    volume = np.zeros((size, size, size), np.float32)
    inner = slice(border, border + resolution)
    plane = torch.stack(torch.meshgrid(centre, centre, indexing="ij"), dim=-1).view(-1, 2)
    for i, x in enumerate(centre):
        points = torch.cat([x.expand(len(plane), 1), plane], dim=1)
        parts = [
            field.sigma(field.density(part[None]))[0, :, 0] for part in torch.split(points, POINTS)
        ]
        layer = torch.cat(parts).float().view(resolution, resolution)
        volume[border + i, inner, inner] = layer.cpu().numpy()
    return volume


@torch.no_grad()
def surface_colours(
    field: Field,
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    voxel: float,
) -> Float[np.ndarray, "n 3"]:
    """Colours in [0, 1] of surface points as seen along their normals from outside.

    Composited along a short ray through the surface and divided by its opacity: features at the
    surface itself have little weight in a rendering, so nothing trains their colour.
    """
    device = field.tensors()[0].device
    begin, end, samples = RAY
    edges = torch.linspace(begin, end, samples + 1, device=device) * voxel
    t, step = (edges[1:] + edges[:-1]) / 2, (end - begin) * voxel / samples
    parts = []
    for first in range(0, len(points), POINTS // samples):
        some = slice(first, first + POINTS // samples)
        origins, inward = (
            torch.as_tensor(np.asarray(x[some]), dtype=torch.float32, device=device)
            for x in (points, -np.asarray(normals))
        )
        at = (origins[:, None] + t[:, None] * inward[:, None]).view(1, -1, 3)
        dirs = inward[:, None].expand(-1, samples, -1).reshape(1, -1, 3)
        sigma_raw, feature = field(at, dirs)
        alpha = -torch.expm1(-field.sigma(sigma_raw).view(-1, samples) * step)
        before = torch.cumprod(1 - alpha, dim=1).roll(1, dims=1)
        before[:, 0] = 1
        weights = alpha * before + 1e-8  # an empty ray takes the mean
        colour = (weights[..., None] * feature[0, :, :3].view(-1, samples, 3)).sum(dim=1)
        parts.append(colour / weights.sum(dim=1, keepdim=True))
    return np.asarray(torch.cat(parts).float().cpu())


def to_bytes(colours: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    """Convert colours in [0, 1] to 0..255."""
    return np.asarray(np.rint(np.clip(colours, 0, 1) * 255), np.uint8)


def linear(srgb: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Convert sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    high = ((srgb + 0.055) / 1.055) ** 2.4
    return np.asarray(np.where(srgb <= 0.04045, srgb / 12.92, high), srgb.dtype)


def write_mesh(surface: "trimesh.Trimesh", path: Path) -> None:
    """Write OBJ, PLY or GLB, by the path's suffix; an OBJ with texture has two files beside it.

    Vertex colours are sRGB in OBJ and PLY. glTF 2.0 (section 3.9.2) requires linear ones; in eight
    bits dark colours become coarse, so give GLB a texture where that matters.
    """
    files: dict[str, Any] = {}
    surface = surface.copy()
    visual: Any = surface.visual
    if path.suffix == ".glb":
        _make_matte(surface)
        files[path.name] = surface.export(file_type="glb", include_normals=True)
    elif path.suffix == ".obj" and visual.kind == "texture":
        visual.material.name = path.stem
        from trimesh.exchange.obj import export_obj

        text, files = export_obj(
            surface, include_normals=True, return_texture=True, mtl_name=f"{path.stem}.mtl"
        )
        files[path.name] = text
    else:
        options: Any = (
            {"vertex_normal": True} if path.suffix == ".ply" else {"include_normals": True}
        )
        files[path.name] = surface.export(file_type=path.suffix[1:], **options)
    for name, content in files.items():
        with atomic_path(path.with_name(name)) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _make_matte(surface: "trimesh.Trimesh") -> None:
    """Set a rough, non-metallic material, and vertex colours in linear light."""
    from trimesh.visual.material import PBRMaterial

    matte = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    visual: Any = surface.visual
    if visual.kind == "texture":
        visual.material = PBRMaterial(baseColorTexture=visual.material.image, **matte)
        return
    colours = np.asarray(visual.vertex_colors[:, :3], np.float32) / 255
    visual.vertex_colors = to_bytes(linear(colours))

"""Shapes: the surface of a scene as a mesh with the scene's colours."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_gan3d.cameras import Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityScene, Field
from lightning_gan3d.files import atomic_path, write_json
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.model import Subject, open_model, output_folder, parse_seeds
from lightning_gan3d.metrics.geometry.surfaces import grid_of, mesh_of
from lightning_gan3d.metrics.sources import SPLAT_SURFACE, density_of, volume_of
from lightning_gan3d.progress import track
from renderers.backends import choose_backend
from renderers.config import VolumeRendererConfig
from renderers.ray_marching import Jitter, Request
from renderers.sampling import RaySpan
from representations.gaussian_sums import sum_at
from representations.solid import Solid
from representations.splats import Splats

if TYPE_CHECKING:
    import trimesh

HALF = float(np.log(2))
"""Optical depth at which half of the light is absorbed."""
FINEST = 16
"""From this resolution on, the default level stays the same: finer voxels of the same density are
less opaque, so that soft surfaces would shrink. Silhouettes of `pretrained:triplane` overlap with
its renderings by 0.96 (IoU) at 16, 0.85 at 32, 0.26 at 128. EG3D's usual level, 10 in a box of 1,
is near."""
RAYS = 2**14
"""Rays of surface colours at a time: bounds memory."""
RAY = (-1.5, 3.0, 24)
"""Ray of a surface colour: begin and end along the inward normal in voxels, and its samples."""
EMPTY = 1e-6
"""Opacity below which a surface point has the colour at its position, not the mean of its ray."""
TAUBIN = {"lamb": 0.5, "nu": 0.51}
"""Shrinking and growing step of smoothing (Taubin 1995); a larger `nu` grows shapes."""
MATTE = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
"""Material of a GLB; without one, glTF 2.0 takes a metal."""


def mesh(reference: str, options: MeshOptions, out: Path | None = None) -> str:
    """Write the shape of each seed as a file; returns a summary."""
    seeds = parse_seeds(options.seeds)
    model = open_model(reference, options)
    if not model.generator.cfg.has_density:
        raise ConfigError(f"{reference}: the representation has no density, so it has no surface")
    out = output_folder([reference], "meshes", out)
    out.mkdir(parents=True, exist_ok=True)
    lines = [model.summary]
    for seed in track(seeds, "meshes", len(seeds)):
        styles = model.styles_of(seed, options)
        scene = Subject(model, styles, prepare=False).scene
        file = out / f"seed{seed:04d}.{options.format}"
        if options.format == "npy":
            volume = density_volume(scene, options.resolution)
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, volume)
            unit = "sum of opacities" if isinstance(scene, Splats) else "density per world unit"
            about = {"axes": "x, y, z", "box": scene.box, "unit": unit}
            write_json(file.with_suffix(".json"), {**about, **asdict(options), "seed": seed})
            lines.append(str(file))
            continue
        surface = mesh_of_scene(scene, options)
        write_mesh(surface, file)
        lines.append(f"{file}: {len(surface.vertices):,} vertices, {len(surface.faces):,} faces")
    return "\n".join(lines)


def mesh_of_scene(scene: DensityScene, options: MeshOptions) -> "trimesh.Trimesh":
    """Return the coloured surface of one scene, in world units, y up."""
    surface = extract_surface(scene, options)
    voxel = scene.box / options.resolution
    if options.texture:
        from lightning_gan3d.inference.texture import bake

        return bake(surface, options.texture, lambda p, n: surface_colours(scene, p, n, voxel))
    colours = surface_colours(scene, surface.vertices, surface.vertex_normals, voxel)
    visual: Any = surface.visual
    visual.vertex_colors = to_bytes(colours)
    return surface


def extract_surface(scene: DensityScene, options: MeshOptions) -> "trimesh.Trimesh":
    """Return the surface without colours: marching cubes, components, smoothing, decimation.

    By default the surface is where one voxel (of at most `FINEST` per axis) absorbs half of the
    light; that of `sdf` is where the signed distance is 0, that of a solid where the interpolated
    occupancy is 0.5: flat faces of its voxels lie on it; that of Gaussians where their opacities
    sum up to 0.3. The values between samples of a density are interpolated in
    1 - 2^(-sigma / level), not in density: an abrupt rise then lies in the middle between two
    samples, at any level. Surfaces are closed where the box cuts them.

    Raises ConfigError if there is no surface, or if a library for `faces` is missing.
    """
    import trimesh  # slow: more than a second

    length = scene.box / min(options.resolution, FINEST)
    default = SPLAT_SURFACE if isinstance(scene, Splats) else HALF / length
    level = default if options.level is None else options.level
    solid = isinstance(scene, Solid)
    signed = isinstance(scene, Field) and scene.sdf_beta is not None
    if options.level is None and (solid or signed):
        volume = grid_of(volume_of(scene), options.resolution)
        why = "the occupancy is below 0.5" if solid else "the signed distance is positive"
        problem = f"level=null: no surface, {why}; choose a density"
    else:
        volume = density_volume(scene, options.resolution)
        highest = float(volume.max())
        assert np.isfinite(highest), "the density is not finite"
        np.multiply(volume, -1 / level, out=volume)  # in place: 0.5 GiB at 512
        np.subtract(1, np.exp2(volume, out=volume), out=volume)
        problem = f"level={level:g}: no surface, the highest density is {highest:g}; "
        problem += "choose a lower level"
    surface = mesh_of(volume, scene.box)
    if surface is None:
        raise ConfigError(problem)
    surface = _largest(surface, options.keep)
    if options.smooth:  # trimesh counts shrinking and growing as two iterations
        trimesh.smoothing.filter_taubin(surface, **TAUBIN, iterations=2 * options.smooth)
    if options.faces and options.faces < len(surface.faces):
        surface = _simplified(surface, options.faces)
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


def _simplified(surface: "trimesh.Trimesh", faces: int) -> "trimesh.Trimesh":
    """Collapse edges by quadric error (Garland and Heckbert 1997) down to about `faces` faces.

    Not trimesh's wrapper: it merges vertices of equal position afterwards, which opens surfaces.
    """
    import trimesh

    try:
        from fast_simplification import simplify
    except ImportError:
        raise ConfigError(
            f"faces={faces}: fast-simplification is missing; pip install 'lightning-gan3d[mesh]'"
        ) from None
    points, triangles = np.asarray(surface.vertices), np.asarray(surface.faces)
    vertices, kept = simplify(points, triangles, target_count=faces)
    # A collapse can leave two faces back to back: a fin of no volume on an edge of four faces.
    keys = np.sort(kept, axis=1)
    _, group, num = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    simple = trimesh.Trimesh(vertices, kept[num[group.ravel()] == 1], process=False)
    simple.remove_unreferenced_vertices()
    return simple


def density_volume(scene: DensityScene, resolution: int) -> Float[np.ndarray, "x y z"]:
    """Density of one scene at the centres of resolution^3 voxels."""
    assert scene.batch == 1, "a volume is of one scene; select it with Scene.index"
    return grid_of(density_of(scene), resolution)


@torch.no_grad()
def surface_colours(
    scene: DensityScene,
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    voxel: float,
) -> Float[np.ndarray, "n 3"]:
    """Colours in [0, 1] of surface points as seen along their normals from outside."""
    device = scene.tensors()[0].device
    parts = []
    for first in range(0, len(points), RAYS):
        chunk = slice(first, first + RAYS)
        at, inward = (
            torch.as_tensor(np.asarray(x[chunk]), dtype=torch.float32, device=device)[None]
            for x in (points, -np.asarray(normals))
        )
        if isinstance(scene, Splats):
            parts.append(_mean_colours(scene, at))
        else:
            assert isinstance(scene, Field), f"{type(scene).__name__} has no colours at points"
            parts.append(_ray_colours(scene, at, inward, voxel))
    return np.asarray(torch.cat(parts).float().cpu())


def _mean_colours(scene: Splats, at: Float[Tensor, "1 n 3"]) -> Float[Tensor, "n 3"]:
    """Mean of the Gaussians' colours, weighted by their opacities at the points."""
    opacities = scene.opacities[..., None]
    values = torch.cat([opacities * scene.features[..., :3], opacities], dim=-1)
    sums = sum_at(at, scene.gaussians(values))[0]
    return sums[:, :3] / sums[:, 3:].clamp_min(EMPTY)


def _ray_colours(
    field: Field, at: Float[Tensor, "1 n 3"], inward: Float[Tensor, "1 n 3"], voxel: float
) -> Float[Tensor, "n 3"]:
    """Composite along short rays through the surface, and divide by their opacity.

    Features at the surface itself have little weight in a rendering: nothing trains their colour.
    """
    begin, end, samples = RAY
    length = (end - begin) * voxel
    options = VolumeRendererConfig(
        samples, samples_fine=0, bounds="near_far", near=0.0, far=length, outside="field"
    )
    near = torch.zeros_like(at[..., :1])
    rays = Rays(at + begin * voxel * inward, inward)
    request = Request(options, field, rays, RaySpan(near, near + length), Jitter())
    _, render = choose_backend(request)
    sums = render(request)
    colour: Tensor = sums.feature[0, :, :3] / sums.opacity[0].clamp_min(EMPTY)
    empty = sums.opacity[0, :, 0] < EMPTY
    if bool(empty.any()):
        colour[empty] = field(at[:, empty], inward[:, empty]).feature[0, :, :3]
    return colour


def to_bytes(colours: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    """Convert colours in [0, 1] to 0..255."""
    return np.asarray(np.rint(np.clip(colours, 0, 1) * 255), np.uint8)


def linear(srgb: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Convert sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    high = ((srgb + 0.055) / 1.055) ** 2.4
    return np.asarray(np.where(srgb <= 0.04045, srgb / 12.92, high), srgb.dtype)


def write_mesh(surface: "trimesh.Trimesh", path: Path) -> None:
    """Write OBJ, PLY or GLB, by the path's suffix; an OBJ with texture has two files beside it.

    Vertex colours are sRGB in OBJ and PLY, linear in GLB. Normals are the mesh's, weighted by
    angle: a solid's density has no gradient.
    """
    files: dict[str, Any] = {}
    surface = surface.copy()
    visual: Any = surface.visual
    if path.suffix == ".glb":
        files[path.name] = _glb(surface)
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


def _glb(surface: "trimesh.Trimesh") -> bytes:
    """Return glTF 2.0 with a matte material; changes the mesh's visual.

    Vertex colours are linear (glTF 2.0, section 3.9.2) and in float32: trimesh writes bytes, in
    which the 13 darkest values of sRGB become two. The texture stays sRGB.
    """
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import ColorVisuals
    from trimesh.visual.material import PBRMaterial

    visual: Any = surface.visual
    if visual.kind == "texture":
        visual.material = PBRMaterial(baseColorTexture=visual.material.image, **MATTE)
        return bytes(export_glb(surface, include_normals=True))
    srgb = np.asarray(visual.vertex_colors[:, :3], np.float32) / 255
    surface.visual = ColorVisuals()
    surface.vertex_attributes["_LINEAR"] = linear(srgb)

    def rename(tree: dict[str, Any]) -> None:
        primitive = tree["meshes"][0]["primitives"][0]
        primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_LINEAR")
        primitive["material"] = 0
        tree["materials"] = [{"pbrMetallicRoughness": MATTE}]

    return bytes(export_glb(surface, include_normals=True, tree_postprocessor=rename))

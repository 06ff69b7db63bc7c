import json
import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import trimesh
from conftest import KINDS

from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.contract import DensityConfig, Field, FieldSample, SceneConfig
from lightning_gan3d.inference.config import MeshOptions, RenderOptions
from lightning_gan3d.inference.mesh import (
    density_volume,
    extract_surface,
    linear,
    mesh,
    mesh_of_field,
    surface_colours,
    to_bytes,
    write_mesh,
)
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.inference.texture import rasterise

SCENE = SceneConfig(box=2.0, density=DensityConfig(activation="relu"))


@dataclass(frozen=True, eq=False)
class Ellipsoid(Field):
    """A solid ellipsoid: density `dense` inside, 0 outside; or a smooth one. Colours by place."""

    centre: torch.Tensor  # 1 3
    radii: torch.Tensor  # 1 3
    scene_cfg: SceneConfig = SCENE
    dense: float = 1e4
    smooth: bool = False

    def density(self, points):
        radius = ((points - self.centre) / self.radii).norm(dim=-1, keepdim=True)
        if self.smooth:  # opacity 1/2 of a voxel of 1/32 at the surface
            return 32 * 0.6931 * torch.exp(2 * (1 - radius))
        return torch.where(radius < 1, self.dense, 0.0)

    def __call__(self, points, dirs=None):
        del dirs
        return FieldSample(self.density(points), (points / 2 + 0.5).clamp(0, 1))


def ellipsoid(centre=(0.1, -0.2, 0.05), radii=(0.6, 0.3, 0.45), **options):
    return Ellipsoid(torch.tensor([centre]), torch.tensor([radii]), **options)


def distance(field, points):
    """Approximate distance of points to the surface, first order in the implicit function."""
    x = (np.asarray(points) - field.centre.numpy()) / field.radii.numpy()
    radius = np.linalg.norm(x, axis=1)
    gradient = np.linalg.norm(x / field.radii.numpy(), axis=1) / radius
    return np.abs(radius - 1) / gradient


@pytest.mark.parametrize("dense", [40.0, 1e4])
@pytest.mark.parametrize("resolution", [32, 64])
def test_the_surface_of_a_solid_is_within_half_a_voxel(dense, resolution):
    field = ellipsoid(dense=dense * resolution / 32)
    surface = extract_surface(field, MeshOptions(resolution=resolution))
    assert surface.is_watertight
    # A voxel of a weak solid is not opaque, so the half of it lies up to 0.05 voxels further in.
    bound = 0.5 if dense > 1000 else 0.55
    assert distance(field, surface.vertices).max() < bound * 2 / resolution + 1e-6
    volume = 4 / 3 * np.pi * 0.6 * 0.3 * 0.45
    assert surface.volume == pytest.approx(volume, rel=0.03)  # positive: faces point outward
    for axis, (centre, radius) in enumerate(zip((0.1, -0.2, 0.05), (0.6, 0.3, 0.45), strict=True)):
        low, high = surface.bounds[:, axis]
        assert low == pytest.approx(centre - radius, abs=1 / resolution)
        assert high == pytest.approx(centre + radius, abs=1 / resolution)


def test_a_smooth_density_converges():
    field = ellipsoid(smooth=True)
    errors = [
        distance(
            field, extract_surface(field, MeshOptions(resolution=n, level=22.18)).vertices
        ).max()
        for n in (24, 48)
    ]
    assert errors[0] < 0.1 * 2 / 24
    assert errors[1] < errors[0] / 2.5  # second order


def test_the_default_level_does_not_move_fine_surfaces():
    """Half of a voxel of 2 / 128 at the surface: higher resolutions find the same one."""
    field = ellipsoid(smooth=True)
    field = replace(field, scene_cfg=replace(SCENE, density=DensityConfig("relu", scale=2.0)))
    volumes = [extract_surface(field, MeshOptions(resolution=n)).volume for n in (128, 160)]
    assert volumes[1] == pytest.approx(volumes[0], rel=2e-3)


def test_a_surface_is_closed_where_the_box_cuts_it():
    field = ellipsoid(centre=(0.9, 0.0, 0.0), radii=(0.5, 0.5, 0.5))
    surface = extract_surface(field, MeshOptions(resolution=32))
    assert surface.is_watertight
    assert surface.bounds[1, 0] == pytest.approx(1.0, abs=0.5 * 2 / 32)


def test_components_smoothing_and_decimation():
    volume = ellipsoid()

    @dataclass(frozen=True, eq=False)
    class Two(Ellipsoid):
        def density(self, points):
            small = torch.where((points - 0.85).norm(dim=-1, keepdim=True) < 0.1, 1e4, 0.0)
            return torch.maximum(volume.density(points), small)

    field = Two(volume.centre, volume.radii)
    both, one = (extract_surface(field, MeshOptions(resolution=32, keep=k)) for k in (0.01, 0.5))
    assert both.bounds[1].max() == pytest.approx(0.95, abs=0.04)
    assert one.bounds[1].max() < 0.75
    assert one.is_watertight
    smooth = extract_surface(field, MeshOptions(resolution=32, keep=1.0, smooth=10))
    assert smooth.volume == pytest.approx(one.volume, rel=0.02)
    assert np.ptp(smooth.face_adjacency_angles) < np.ptp(one.face_adjacency_angles)
    few = extract_surface(field, MeshOptions(resolution=32, keep=1.0, faces=400))
    assert len(few.faces) == pytest.approx(400, abs=4)
    assert few.volume == pytest.approx(one.volume, rel=0.05)


def test_nothing_above_the_level_is_named():
    with pytest.raises(ConfigError, match=r"level=20000: no surface, the highest density is 10000"):
        extract_surface(ellipsoid(), MeshOptions(resolution=16, level=2e4))


def test_the_density_has_axes_x_y_z():
    volume = density_volume(ellipsoid(), 32)
    x, y, z = ((np.argwhere(volume > 0).mean(0) + 0.5) / 32 - 0.5) * 2
    assert (x, y, z) == pytest.approx((0.1, -0.2, 0.05), abs=0.01)
    assert density_volume(ellipsoid(), 8, border=1).shape == (10, 10, 10)


def test_colours_are_those_seen_from_outside():
    field = ellipsoid()
    surface = mesh_of_field(field, MeshOptions(resolution=64))
    colours = np.asarray(surface.visual.vertex_colors)[:, :3] / 255
    expected = np.asarray(surface.vertices) / 2 + 0.5
    assert np.abs(colours - expected).max() < 2 / 64 + 2 / 255


def test_a_view_dependent_field_is_seen_along_the_normal():
    @dataclass(frozen=True, eq=False)
    class Shiny(Ellipsoid):
        needs_dirs = True

        def __call__(self, points, dirs=None):
            return FieldSample(self.density(points), (0.5 - dirs / 2).clamp(0, 1))

    base = ellipsoid()
    normals = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    points = np.array([[0.7, -0.2, 0.05], [0.1, -0.2, -0.4]])
    colours = surface_colours(Shiny(base.centre, base.radii), points, normals, 2 / 64)
    assert np.allclose(colours, normals / 2 + 0.5, atol=1e-4)


def test_every_texel_in_a_face_is_found_once():
    uv = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]], np.float32)
    texels = rasterise(uv, np.array([[0, 1, 2], [0, 2, 3], [0, 0, 1]]), 40)
    covered = np.zeros((40, 40), int)
    np.add.at(covered, (texels.row, texels.column), 1)
    assert (covered[4:36, 4:36] >= 1).all()
    assert covered.sum() - (covered > 1).sum() == 32 * 32  # twice on the shared edge only
    assert np.allclose(texels.weights.sum(1), 1)
    corner = (texels.row == 35) & (texels.column == 4)  # row 0 is the top: v = 1
    at = (
        uv[np.array([[0, 1, 2], [0, 2, 3]])[texels.face[corner]]]
        * texels.weights[corner][..., None]
    ).sum(1)
    assert np.allclose(at, [4.5 / 40, 4.5 / 40], atol=1e-5)


def test_a_texture_shows_the_colours_of_the_surface():
    pytest.importorskip("xatlas")
    surface = mesh_of_field(ellipsoid(), MeshOptions(resolution=32, texture=256))
    points, faces = trimesh.sample.sample_surface(surface, 500, seed=0)
    bary = trimesh.triangles.points_to_barycentric(surface.triangles[faces], points)
    uv = (surface.visual.uv[surface.faces[faces]] * bary[..., None]).sum(axis=1)
    image = np.asarray(surface.visual.material.image.convert("RGB"))
    row, column = ((1 - uv[:, 1]) * 256).astype(int), (uv[:, 0] * 256).astype(int)
    error = np.abs(image[row.clip(0, 255), column.clip(0, 255)] / 255 - (points / 2 + 0.5))
    assert np.quantile(error, 0.99) < 0.06
    assert np.median(error) < 0.02


def chunks(path):
    """Header and binary chunk of a GLB file."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    start = 20 + size
    assert start % 4 == 0
    binary, kind = struct.unpack("<I4s", data[start : start + 8])
    assert kind == b"BIN\0"
    return json.loads(data[20:start]), data[start + 8 : start + 8 + binary]


TYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def accessor(header, binary, index):
    """Values of an accessor, after the rules of glTF 2.0 on offsets and alignment."""
    item = header["accessors"][index]
    view = header["bufferViews"][item["bufferView"]]
    dtype = np.dtype(TYPES[item["componentType"]])
    offset = view.get("byteOffset", 0) + item.get("byteOffset", 0)
    width = WIDTHS[item["type"]]
    assert offset % max(4, dtype.itemsize) == 0
    assert (width * dtype.itemsize) % 4 == 0 or item["type"] == "SCALAR"
    assert item["count"] * width * dtype.itemsize <= view["byteLength"]
    values = np.frombuffer(binary, dtype, item["count"] * width, offset).reshape(-1, width)
    if "min" in item:
        assert np.allclose(values.min(0), item["min"])
        assert np.allclose(values.max(0), item["max"])
    return values


@pytest.mark.parametrize("texture", [0, 64])
def test_a_glb_follows_the_rules_of_gltf(tmp_path, texture):
    if texture:
        pytest.importorskip("xatlas")
    surface = mesh_of_field(ellipsoid(), MeshOptions(resolution=24, texture=texture))
    write_mesh(surface, tmp_path / "a.glb")
    header, binary = chunks(tmp_path / "a.glb")
    assert header["asset"]["version"] == "2.0"
    (primitive,) = header["meshes"][0]["primitives"]
    assert primitive.get("mode", 4) == 4
    attributes = primitive["attributes"]
    assert "min" in header["accessors"][attributes["POSITION"]]
    positions, normals = (accessor(header, binary, attributes[k]) for k in ("POSITION", "NORMAL"))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    indices = accessor(header, binary, primitive["indices"]).ravel()
    assert indices.max() < len(positions)
    assert len(indices) % 3 == 0
    outward = ((positions - positions.mean(0)) * normals).sum(1)
    assert (outward > 0).mean() > 0.95
    for node in header["nodes"]:
        assert np.allclose(node.get("matrix", np.eye(4).ravel()), np.eye(4).ravel())  # y up, metres
    if texture:
        uv = accessor(header, binary, attributes["TEXCOORD_0"])
        assert uv.min() >= 0 <= 1 - uv.max() + 1e-6
        material = header["materials"][primitive["material"]]["pbrMetallicRoughness"]
        assert material["metallicFactor"] == 0
        assert header["images"][0]["mimeType"] in ("image/png", "image/jpeg")
    else:
        colours = accessor(header, binary, attributes["COLOR_0"])[:, :3] / 255
        srgb = np.asarray(surface.visual.vertex_colors)[:, :3] / 255
        assert np.abs(colours - linear(srgb)).max() < 1 / 255


def test_linear_light():
    assert linear(np.array([0.0, 0.04045, 0.5, 1.0])) == pytest.approx(
        [0, 0.0031308, 0.21404, 1], abs=1e-5
    )
    assert to_bytes(np.array([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("format", ["glb", "obj", "ply"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_each_representation_gives_a_mesh_that_reads_back(exports, tmp_path, kind, format):
    options = MeshOptions(resolution=24, format=format, level=2.0, device="cpu")
    text = mesh(str(exports[kind]), options, tmp_path)
    assert "vertices" in text
    read = trimesh.load(tmp_path / f"seed0000.{format}", force="mesh", process=False)
    model = open_model(exports[kind], RenderOptions(device="cpu"))
    field = Subject(model, model.styles(model.latent(0)), prepare=False).scene
    expected = mesh_of_field(field, options)
    assert np.allclose(read.bounds, expected.bounds, atol=1e-5)
    assert read.volume == pytest.approx(expected.volume, rel=1e-3)
    colours = np.asarray(read.visual.vertex_colors)[:, :3].astype(int)
    own = np.asarray(expected.visual.vertex_colors)[:, :3]
    own = to_bytes(linear(own / 255)) if format == "glb" else own
    assert abs(colours.mean() - own.mean()) < 1.5


def test_an_obj_with_texture_names_its_files(exports, tmp_path):
    pytest.importorskip("xatlas")
    options = MeshOptions(resolution=16, format="obj", texture=32, level=2.0, device="cpu")
    mesh(str(exports["voxel"]), options, tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"seed0000.obj", "seed0000.mtl"}
    assert "mtllib seed0000.mtl" in (tmp_path / "seed0000.obj").read_text()
    picture = (tmp_path / "seed0000.mtl").read_text().partition("map_Kd ")[2].split()[0]
    assert picture in names


def test_the_density_is_stored_with_its_description(exports, tmp_path):
    mesh(str(exports["voxel"]), MeshOptions(resolution=16, format="npy", device="cpu"), tmp_path)
    volume = np.load(tmp_path / "seed0000.npy")
    assert volume.shape == (16, 16, 16)
    about = json.loads((tmp_path / "seed0000.json").read_text())
    assert (about["axes"], about["box"], about["resolution"]) == ("x, y, z", 2.0, 16)


def test_what_has_no_surface_says_so(exports, tmp_path):
    with pytest.raises(ConfigError, match="no density, so it has no surface"):
        mesh(str(exports["image2d"]), MeshOptions(device="cpu"), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="a PLY file has none"):
        build(MeshOptions, {"texture": 64, "format": "ply"})

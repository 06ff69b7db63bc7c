import json
import struct

import numpy as np
import pytest
import trimesh
from scipy.ndimage import map_coordinates
from solid_fields import ellipsoid

from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.inference.config import MeshOptions, RenderOptions
from lightning_gan3d.inference.mesh import linear, mesh, mesh_of_scene, to_bytes, write_mesh
from lightning_gan3d.inference.model import Subject, open_model
from lightning_gan3d.uv_maps import rasterise


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
    surface = mesh_of_scene(ellipsoid(), MeshOptions(resolution=32, texture=256))
    points, faces = trimesh.sample.sample_surface(surface, 500, seed=0)
    bary = trimesh.triangles.points_to_barycentric(surface.triangles[faces], points)
    uv = (surface.visual.uv[surface.faces[faces]] * bary[..., None]).sum(axis=1)
    image = np.asarray(surface.visual.material.image.convert("RGB")) / 255
    place = [(1 - uv[:, 1]) * 256 - 0.5, uv[:, 0] * 256 - 0.5]  # filtered, across borders of charts
    seen = np.stack([map_coordinates(image[..., i], place, order=1) for i in range(3)], axis=1)
    error = np.abs(seen - (points / 2 + 0.5))
    assert error.max() < 0.03
    assert np.median(error) < 0.005


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
    assert np.isfinite(values).all()
    return values


@pytest.mark.parametrize("texture", [0, 64])
def test_a_glb_follows_the_rules_of_gltf(tmp_path, texture):
    if texture:
        pytest.importorskip("xatlas")
    surface = mesh_of_scene(ellipsoid(), MeshOptions(resolution=24, texture=texture))
    write_mesh(surface, tmp_path / "a.glb")
    header, binary = chunks(tmp_path / "a.glb")
    assert header["asset"]["version"] == "2.0"
    (primitive,) = header["meshes"][0]["primitives"]
    assert primitive.get("mode", 4) == 4
    attributes = primitive["attributes"]
    assert "min" in header["accessors"][attributes["POSITION"]]
    positions, normals = (accessor(header, binary, attributes[k]) for k in ("POSITION", "NORMAL"))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=5e-4)  # the validator's bound
    indices = accessor(header, binary, primitive["indices"]).ravel()
    assert indices.max() < len(positions)
    assert len(indices) % 3 == 0
    assert {header["accessors"][i]["count"] for i in attributes.values()} == {len(positions)}
    corners = positions[indices.reshape(-1, 3)].astype(np.float64)
    area = np.linalg.norm(np.cross(*(corners[:, i] - corners[:, 0] for i in (1, 2))), axis=1)
    assert area.min() > 0
    assert [sum(v["byteLength"] for v in header["bufferViews"])] == [len(binary)]
    material = header["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert (material["metallicFactor"], material["roughnessFactor"]) == (0, 1)
    outward = ((positions - positions.mean(0)) * normals).sum(1)
    assert (outward > 0).mean() > 0.95
    for node in header["nodes"]:
        assert np.allclose(node.get("matrix", np.eye(4).ravel()), np.eye(4).ravel())  # y up, metres
    if texture:
        uv = accessor(header, binary, attributes["TEXCOORD_0"])
        assert uv.min() >= 0 <= 1 - uv.max() + 1e-6
        assert material["baseColorTexture"] == {"index": 0}
        assert header["images"][0]["mimeType"] == "image/png"
    else:
        colours = accessor(header, binary, attributes["COLOR_0"])
        srgb = np.asarray(surface.visual.vertex_colors)[:, :3] / 255
        assert colours.shape == srgb.shape
        assert np.abs(colours - linear(srgb)).max() < 1e-6


def test_dark_colours_of_a_glb_stay_apart(tmp_path):
    """In bytes of linear light, the 13 darkest values of sRGB would become two."""
    surface = trimesh.creation.icosphere(subdivisions=1)
    dark = np.arange(len(surface.vertices)) % 13
    surface.visual.vertex_colors = np.repeat(dark[:, None], 3, axis=1).astype(np.uint8)
    write_mesh(surface, tmp_path / "dark.glb")
    header, binary = chunks(tmp_path / "dark.glb")
    index = header["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    assert len(np.unique(accessor(header, binary, index))) == 13
    assert surface.visual.kind == "vertex"  # the mesh itself is unchanged


def test_linear_light():
    assert linear(np.array([0.0, 0.04045, 0.5, 1.0])) == pytest.approx(
        [0, 0.0031308, 0.21404, 1], abs=1e-5
    )
    assert to_bytes(np.array([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("format", ["glb", "obj", "ply"])
@pytest.mark.parametrize("kind", ["triplane", "voxel", "nerf_mlp"])
def test_each_representation_gives_a_mesh_that_reads_back(exports, tmp_path, kind, format):
    options = MeshOptions(resolution=24, format=format, level=2.0, device="cpu")
    text = mesh(str(exports[kind]), options, tmp_path)
    assert "vertices" in text
    scene = trimesh.load_scene(tmp_path / f"seed0000.{format}", process=False)
    (read,) = scene.geometry.values()
    model = open_model(exports[kind], RenderOptions(device="cpu"))
    field = Subject(model, model.styles(model.latent(0)), prepare=False).scene
    expected = mesh_of_scene(field, options)
    assert np.allclose(read.bounds, expected.bounds, atol=1e-5)
    assert read.volume == pytest.approx(expected.volume, rel=1e-3)
    own = np.asarray(expected.visual.vertex_colors)[:, :3] / 255
    if format == "glb":  # beside a material, trimesh reads colours as an attribute
        assert read.visual.vertex_attributes["color"] == pytest.approx(linear(own), abs=1e-5)
    else:
        assert np.asarray(read.visual.vertex_colors)[:, :3] / 255 == pytest.approx(own, abs=5e-3)


def test_an_obj_with_texture_names_its_files(exports, tmp_path):
    pytest.importorskip("xatlas")
    options = MeshOptions(resolution=16, format="obj", texture=32, level=2.0, device="cpu")
    mesh(str(exports["voxel"]), options, tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"seed0000.obj", "seed0000.mtl"}
    assert "mtllib seed0000.mtl" in (tmp_path / "seed0000.obj").read_text()
    picture = (tmp_path / "seed0000.mtl").read_text().partition("map_Kd ")[2].split()[0]
    assert picture == "seed0000.png"
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
    with pytest.raises(ConfigError, match="smooth: format=npy is the density, not a surface"):
        build(MeshOptions, {"smooth": 3, "format": "npy"})

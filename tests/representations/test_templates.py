import math

import numpy as np
import pytest
import torch
import trimesh

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.networks.synthesis import SynthesisConfig
from representations.splats import SplatMap, SplatsConfig
from representations.templates import make_template, on_hemisphere, on_sphere, texel_centres


def test_the_sphere_has_unit_vectors_of_equal_area():
    """Of uniform points in the square, each cap of the sphere gets its share of the area."""
    uv = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    points = on_sphere(uv)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(len(uv)), atol=1e-5, rtol=0)
    axes = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    heights = points @ torch.nn.functional.normalize(axes).T
    for height in (-0.9, -0.5, 0.0, 0.5, 0.9):
        share = (heights > height).float().mean(0)
        torch.testing.assert_close(share, torch.full((20,), (1 - height) / 2), atol=5e-3, rtol=0)


def test_the_middle_of_the_map_is_the_front_and_its_upper_side_is_up():
    uv = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, -1], [0, 1], [1, 1], [-1, 1], [1, -1]])
    back = [0.0, 0, -1]
    expected = [[0.0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], back, back, back]
    torch.testing.assert_close(on_sphere(uv), torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_hemisphere_has_unit_vectors_of_equal_area_in_front():
    """The area in front of a plane z = h is 1 - h; that on one side of a plane along z, half."""
    uv = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    points = on_hemisphere(uv)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(len(uv)), atol=1e-5, rtol=0)
    for height in (0.0, 0.1, 0.5, 0.9):
        assert float((points[:, 2] >= height).float().mean()) == pytest.approx(1 - height, abs=5e-3)
    for angle in torch.linspace(0, 6, 13):
        side = points[:, 0] * angle.cos() + points[:, 1] * angle.sin() > 0
        assert float(side.float().mean()) == pytest.approx(0.5, abs=5e-3)


def test_the_map_of_the_hemisphere_has_the_front_in_its_middle_and_the_axes_of_the_world():
    uv = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [0.5, 0]])
    diagonal, half = 0.5**0.5, [0.4375**0.5, 0.0, 0.75]  # a quarter of the area is inside
    rim = [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [diagonal, diagonal, 0]]
    expected = torch.tensor([[0.0, 0, 1], *rim, half])
    torch.testing.assert_close(on_hemisphere(uv), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [16, 33])
@pytest.mark.parametrize(("name", "share"), [("sphere", 1.0), ("hemisphere", 0.5)])
def test_no_points_of_the_sphere_crowd(name, share, side):
    template = make_template(name, side, 0.7)
    distances = torch.cdist(template.positions, template.positions).fill_diagonal_(9)
    nearest = distances.min(dim=1).values / template.spacing
    assert len(template.positions) == side**2
    assert nearest.min() > 0.5
    assert nearest.max() < 1.2
    area = template.spacing.square().sum()
    assert float(area) == pytest.approx(share * 4 * math.pi * 0.7**2, rel=1e-5)


def test_the_plane_faces_the_front():
    template = make_template("plane", 4, 0.8)
    grid = template.positions.view(4, 4, 3)
    torch.testing.assert_close(grid[0, 0], torch.tensor([-0.6, 0.6, 0.0]))
    torch.testing.assert_close(grid[3, 0], torch.tensor([-0.6, -0.6, 0.0]))
    assert float(template.spacing[0]) == pytest.approx(0.4)


QUAD = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def quad(path, uv, stretch=(1.0, 1.0, 1.0), tilt=0.3):
    """A quad with z = tilt x; its diagonal passes through the centres of texels."""
    vertices = QUAD * stretch + QUAD[:, :1] * [0, 0, tilt]
    visual = trimesh.visual.TextureVisuals(uv=np.array(uv)) if uv is not None else None
    trimesh.Trimesh(vertices, FACES, visual=visual, process=False).export(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_texels_in_the_uv_map_of_a_mesh_are_points_of_its_faces(tmp_path, suffix):
    """The chart fills the left half of the map: x = 2 u, y = v upwards."""
    path = quad(tmp_path / f"quad.{suffix}", [[0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    template = make_template(path, 16, 1.0)
    centres = texel_centres(16).view(16, 16, 2)[:, :8].reshape(-1, 2)
    torch.testing.assert_close(template.uv, centres)
    x, y = centres[:, 0] + 1, (1 - centres[:, 1]) / 2
    expected = torch.stack([x, y, 0.3 * x], dim=1)
    torch.testing.assert_close(template.positions, expected, atol=1e-5, rtol=0)
    area = math.sqrt(1 + 0.3**2)
    torch.testing.assert_close(template.spacing, torch.full((128,), math.sqrt(area / 128)))


def test_the_spacing_follows_the_stretch_of_each_face(tmp_path):
    path = str(tmp_path / "two.obj")
    uv = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0]])
    vertices = np.concatenate([uv, np.zeros((6, 1))], axis=1)
    vertices[3:] *= 2  # the upper right half
    visual = trimesh.visual.TextureVisuals(uv=uv)
    faces = [[0, 1, 2], [3, 4, 5]]
    trimesh.Trimesh(vertices, faces, visual=visual, process=False).export(path)
    template = make_template(path, 16, 1.0)
    right = template.uv[:, 0] - template.uv[:, 1]
    for half, spacing in ((right < -0.1, 1 / 16), (right > 0.1, 1 / 8)):
        assert half.sum() >= 100
        torch.testing.assert_close(template.spacing[half], torch.tensor(spacing).expand(half.sum()))


def test_a_mesh_without_uv_coordinates_is_unwrapped(tmp_path):
    pytest.importorskip("xatlas")
    path = str(tmp_path / "ball.ply")
    trimesh.creation.icosphere(subdivisions=3, radius=0.5).export(path)
    template = make_template(path, 64, 1.0)
    radius = template.positions.norm(dim=1)
    assert len(radius) > 64**2 / 4
    assert radius.min() > 0.49
    assert radius.max() < 0.501
    area = float(template.spacing.square().sum())
    assert area == pytest.approx(math.pi, rel=0.05)
    directions = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    points = 0.5 * torch.nn.functional.normalize(directions)
    assert torch.cdist(points, template.positions).min(dim=1).values.max() < 0.1


def test_meshes_that_cannot_be_templates_are_rejected(tmp_path):
    cloud, text = tmp_path / "cloud.ply", tmp_path / "text.obj"
    trimesh.PointCloud(QUAD).export(cloud)
    text.write_text("no mesh")
    corner = quad(tmp_path / "corner.obj", [[0, 0], [0.2, 0], [0.2, 0.2], [0, 0.2]])
    outside = quad(tmp_path / "outside.obj", [[1.5, 0], [2.5, 0], [2.5, 1], [1.5, 1]])
    for path, message in [
        ("nowhere.obj", "template=nowhere.obj: no such file; use sphere, hemisphere, plane, or an"),
        (cloud, "use a mesh of triangles|cannot read it as a mesh"),
        (text, "use a mesh of triangles|cannot read it as a mesh"),
        (corner, r"9 of 16x16 texels .* use UV coordinates in \[0, 1\] that fill more"),
        (outside, "0 of 16x16 texels"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_template(str(path), 16, 1.0)


def test_gaussians_start_on_a_mesh(tmp_path):
    path = quad(tmp_path / "quad.obj", [[0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    cfg = SplatsConfig(resolution=8, template=path, synthesis=SynthesisConfig(channels=(8, 8)))
    splats = SplatMap(cfg, SceneConfig(box=2.0, feature_dim=3), w_dim=8, resolution=8)
    scene = splats(torch.randn(2, splats.num_ws, 8))
    assert scene.means.shape == (2, 32, 3)
    assert torch.equal(scene.means[0], make_template(path, 8, 1.0).positions)
    with torch.device("meta"):
        SplatMap(cfg, SceneConfig(box=2.0, feature_dim=3), w_dim=8, resolution=8)

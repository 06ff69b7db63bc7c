import math

import numpy as np
import pytest
import trimesh

from lightning_gan3d.metrics.geometry.surfaces import chamfer, mesh_of, sample

BOX = 2.0


def grid_of(function, size):
    centre = ((np.arange(size) + 0.5) / size - 0.5) * BOX
    return function(*np.meshgrid(centre, centre, centre, indexing="ij"))


def ellipsoid(a, b, c, size=48, centre=(0.0, 0.0, 0.0)):
    def inside(x, y, z):
        x, y, z = (v - m for v, m in zip((x, y, z), centre, strict=True))
        return 1.5 - np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)

    return mesh_of(grid_of(inside, size), BOX)


def test_axes_and_places_are_those_of_the_grid():
    mesh = ellipsoid(0.7, 0.5, 0.3, centre=(0.1, -0.2, 0.4))
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    assert np.allclose((low + high) / 2, (0.1, -0.2, 0.4), atol=0.005)
    assert np.allclose((high - low) / 2, (0.7, 0.5, 0.3), atol=0.01)


def test_volume_and_area_of_a_ball_converge_with_the_square_of_the_grid():
    errors = []
    for size in (16, 32, 64):
        mesh = ellipsoid(0.8, 0.8, 0.8, size)
        errors.append(
            (
                abs(mesh.volume / (4 / 3 * math.pi * 0.8**3) - 1),
                abs(mesh.area / (4 * math.pi * 0.8**2) - 1),
            )
        )
    for coarse, fine in ((0, 1), (1, 2)):
        for kind in (0, 1):
            assert 3.0 < errors[coarse][kind] / errors[fine][kind] < 5.5
    assert max(errors[2]) < 2e-3


def test_faces_turn_outward_and_the_mesh_is_closed():
    mesh = ellipsoid(0.8, 0.8, 0.8)
    centres = mesh.vertices[mesh.faces].mean(1)
    outward = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    assert (mesh.face_normals * outward).sum(1).min() > 0.98
    assert mesh.is_watertight
    points = sample(mesh, 500, 0)
    assert np.allclose(np.linalg.norm(points, axis=1), 0.8 * 1.0, atol=0.01)


def test_surfaces_are_closed_at_the_faces_of_the_cube():
    """A full cube is the cube itself, up to half a cell and the rounding of its edges."""
    mesh = mesh_of(np.ones((20, 20, 20)), BOX)
    assert mesh.volume == pytest.approx(BOX**3, rel=0.02)
    assert np.abs(mesh.vertices).max() == pytest.approx(BOX / 2, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_an_empty_grid_has_no_mesh(value):
    assert mesh_of(np.full((8, 8, 8), value), BOX) is None


def test_samples_are_uniform_by_area():
    """A large triangle beside a small one; the mean of each is its centre."""
    corners = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [9, 0, 0], [10, 0, 0], [9, 1, 0.0]])
    triangles = trimesh.Trimesh(corners, np.array([[0, 1, 2], [3, 4, 5]]), process=False)
    points = sample(triangles, 20000, 0)
    large = points[:, 0] < 5
    assert large.mean() == pytest.approx(8 / 8.5, abs=0.01)
    assert np.allclose(points[large].mean(0), (4 / 3, 4 / 3, 0), atol=0.05)
    assert np.array_equal(points, sample(triangles, 20000, 0))


@pytest.mark.parametrize("gap", [0.1, 0.2])
def test_concentric_balls_are_apart_by_the_difference_of_their_radii(gap):
    inner = sample(ellipsoid(0.6, 0.6, 0.6), 20000, 0)
    outer = sample(ellipsoid(0.6 + gap, 0.6 + gap, 0.6 + gap), 20000, 1)
    assert chamfer(inner, outer) == pytest.approx(gap, rel=0.03)
    assert chamfer(inner, outer) == chamfer(outer, inner)


def test_a_surface_that_lacks_a_part_differs_in_one_direction():
    """A ball lacks what the ball with another one beside it has: half of that distance remains."""
    one = sample(ellipsoid(0.3, 0.3, 0.3, centre=(-0.5, 0, 0)), 5000, 0)
    far = sample(ellipsoid(0.3, 0.3, 0.3, centre=(0.5, 0, 0)), 5000, 1)
    nearest = np.linalg.norm(far[:, None, :] - one[None, ::10, :], axis=-1).min(axis=1)
    expected = nearest.mean() / 2 / 2  # half of the samples, and one of two directions
    assert chamfer(one, np.concatenate([one, far])) == pytest.approx(expected, rel=0.03)


def test_equal_surfaces_are_apart_by_the_spacing_of_samples_alone():
    mesh = ellipsoid(0.6, 0.6, 0.6)
    result = []
    for num in (2000, 8000):
        result.append(chamfer(sample(mesh, num, 0), sample(mesh, num, 1)))
        assert result[-1] == pytest.approx(0.5 * math.sqrt(mesh.area / num), rel=0.05)
    assert result[0] / result[1] == pytest.approx(2, rel=0.05)

import math

import numpy as np
import pytest

from lightning_gan3d.metrics.geometry.mesh import (
    Mesh,
    area_normals,
    distance,
    mesh_of,
    sample,
    volume_of,
)

BOX = 2.0


def grid_of(function, size):
    centre = ((np.arange(size) + 0.5) / size - 0.5) * BOX
    return function(*np.meshgrid(centre, centre, centre, indexing="ij"))


def ellipsoid(a, b, c, size=48, centre=(0.0, 0.0, 0.0)):
    def inside(x, y, z):
        x, y, z = (v - m for v, m in zip((x, y, z), centre, strict=True))
        return 1.5 - np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)

    return mesh_of(grid_of(inside, size), BOX)


def area_of(mesh):
    return np.linalg.norm(area_normals(mesh), axis=1).sum()


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
                abs(volume_of(mesh) / (4 / 3 * math.pi * 0.8**3) - 1),
                abs(area_of(mesh) / (4 * math.pi * 0.8**2) - 1),
            )
        )
    for coarse, fine in ((0, 1), (1, 2)):
        for kind in (0, 1):
            assert 3.0 < errors[coarse][kind] / errors[fine][kind] < 5.5
    assert max(errors[2]) < 2e-3


def test_normals_point_outward_and_volume_is_positive():
    mesh = ellipsoid(0.8, 0.8, 0.8)
    centres = mesh.vertices[mesh.faces].mean(1)
    assert ((centres * area_normals(mesh)).sum(1) > 0).all()
    points = sample(mesh, 500, 0)
    outward = points.points / np.linalg.norm(points.points, axis=1, keepdims=True)
    assert (points.normals * outward).sum(1).min() > 0.98
    assert np.allclose(np.linalg.norm(points.normals, axis=1), 1)


def test_what_the_cube_cuts_is_closed():
    """A full cube is the cube itself, up to half a cell and the rounding of its edges."""
    mesh = mesh_of(np.ones((20, 20, 20)), BOX)
    assert volume_of(mesh) == pytest.approx(BOX**3, rel=0.02)
    assert np.abs(mesh.vertices).max() == pytest.approx(BOX / 2, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_where_nothing_passes_the_level_there_is_no_mesh(value):
    assert mesh_of(np.full((8, 8, 8), value), BOX) is None


def test_samples_are_uniform_by_area():
    """A large triangle beside a small one; the mean of each is its centre."""
    corners = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [9, 0, 0], [10, 0, 0], [9, 1, 0.0]])
    points = sample(Mesh(corners, np.array([[0, 1, 2], [3, 4, 5]])), 20000, 0).points
    large = points[:, 0] < 5
    assert large.mean() == pytest.approx(8 / 8.5, abs=0.01)
    assert np.allclose(points[large].mean(0), (4 / 3, 4 / 3, 0), atol=0.05)
    assert np.allclose(points, sample(Mesh(corners, np.array([[0, 1, 2], [3, 4, 5]])), 20000, 0)[0])


@pytest.mark.parametrize("gap", [0.1, 0.2])
def test_concentric_balls_are_apart_by_the_difference_of_their_radii(gap):
    inner = sample(ellipsoid(0.6, 0.6, 0.6), 20000, 0)
    outer = sample(ellipsoid(0.6 + gap, 0.6 + gap, 0.6 + gap), 20000, 1)
    found = distance(inner, outer)
    for value in found[:3]:
        assert value == pytest.approx(gap, rel=0.03)
    assert found.normals > 0.995
    assert found.chamfer == distance(outer, inner).chamfer


def test_a_surface_that_lacks_a_part_differs_one_way_only():
    """A ball alone lacks what a ball with a distant one beside it has."""
    one = sample(ellipsoid(0.3, 0.3, 0.3, centre=(-0.5, 0, 0)), 5000, 0)
    far = sample(ellipsoid(0.3, 0.3, 0.3, centre=(0.5, 0, 0)), 5000, 1)
    both = type(one)(*(np.concatenate(x) for x in zip(one, far, strict=True)))
    found = distance(one, both)
    assert found.first_to_second == 0
    assert found.second_to_first > 0.3


def test_equal_surfaces_are_apart_by_the_spacing_of_samples_alone():
    mesh = ellipsoid(0.6, 0.6, 0.6)
    found = []
    for num in (2000, 8000):
        found.append(distance(sample(mesh, num, 0), sample(mesh, num, 1)).chamfer)
        assert found[-1] == pytest.approx(0.5 * math.sqrt(area_of(mesh) / num), rel=0.05)
    assert found[0] / found[1] == pytest.approx(2, rel=0.05)


def test_normals_tell_a_ball_from_a_cube_of_its_size():
    ball = sample(ellipsoid(0.6, 0.6, 0.6), 8000, 0)

    def inside(x, y, z):
        return 1.5 - np.maximum(np.maximum(abs(x), abs(y)), abs(z)) / 0.5

    cube = sample(mesh_of(grid_of(inside, 48), BOX), 8000, 1)
    again = sample(ellipsoid(0.6, 0.6, 0.6), 8000, 2)
    assert distance(ball, cube).normals < 0.95 < 0.995 < distance(ball, again).normals

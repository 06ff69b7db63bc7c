import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from solid_fields import SCENE, Ellipsoid, Layer, Torus, distance, ellipsoid

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityConfig, FieldSample
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.mesh import (
    density_volume,
    extract_surface,
    mesh_of_scene,
    surface_colours,
)


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


@pytest.mark.parametrize("level", [0.01, 1.0, 100.0, 1000.0])
def test_a_solid_is_within_half_a_voxel_at_any_level(level):
    field = ellipsoid()
    surface = extract_surface(field, MeshOptions(resolution=32, level=level))
    assert distance(field, surface.vertices).max() < 0.5 * 2 / 32 + 1e-6


def test_a_torus_keeps_its_hole():
    surface = extract_surface(Torus(torch.tensor([[0.55, 0.25]])), MeshOptions(resolution=48))
    assert surface.is_watertight
    assert surface.euler_number == 0
    assert surface.volume == pytest.approx(2 * np.pi**2 * 0.55 * 0.25**2, rel=0.02)
    assert surface.extents == pytest.approx([1.6, 0.5, 1.6], abs=2 / 48)


def test_volume_and_area_of_a_smooth_sphere_converge():
    field = ellipsoid(centre=(0.0, 0.0, 0.0), radii=(0.6, 0.6, 0.6), smooth=True)
    errors = []
    for n in (16, 32):
        surface = extract_surface(field, MeshOptions(resolution=n, level=22.18))
        errors.append(
            (
                abs(surface.volume / (4 / 3 * np.pi * 0.6**3) - 1),
                abs(surface.area / (4 * np.pi * 0.6**2) - 1),
            )
        )
    assert max(errors[1]) < 0.01
    assert np.all(np.array(errors[1]) < np.array(errors[0]) / 2.5)  # second order


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
    field = ellipsoid(smooth=True)
    field = replace(field, scene_cfg=replace(SCENE, density=DensityConfig("relu", scale=2.0)))
    volumes = [extract_surface(field, MeshOptions(resolution=n)).volume for n in (64, 80)]
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


@pytest.mark.parametrize("iterations", [1, 2, 10, 50])
def test_smoothing_keeps_the_volume(iterations):
    rough = extract_surface(ellipsoid(), MeshOptions(resolution=32))
    smooth = extract_surface(ellipsoid(), MeshOptions(resolution=32, smooth=iterations))
    assert smooth.volume == pytest.approx(rough.volume, rel=0.01)
    assert smooth.face_adjacency_angles.max() < 0.9 * rough.face_adjacency_angles.max()


@pytest.mark.parametrize("faces", [4000, 1000, 500, 300])
def test_decimation_keeps_a_surface_closed(faces):
    """At 4000 there are faces without area, at 500 a fin: two faces back to back."""
    pytest.importorskip("fast_simplification")
    field = ellipsoid()
    full = extract_surface(field, MeshOptions(resolution=64))
    few = extract_surface(field, MeshOptions(resolution=64, faces=faces))
    assert len(few.faces) == pytest.approx(faces, abs=4)
    assert few.is_watertight
    assert few.volume == pytest.approx(full.volume, rel=0.05)
    assert np.allclose(np.linalg.norm(few.vertex_normals, axis=1), 1)


def test_decimation_names_a_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(ConfigError, match=r"faces=100: fast-simplification is missing; pip"):
        extract_surface(ellipsoid(), MeshOptions(resolution=16, faces=100))


def test_nothing_above_the_level_is_named():
    with pytest.raises(ConfigError, match=r"level=20000: no surface, the highest density is 10000"):
        extract_surface(ellipsoid(), MeshOptions(resolution=16, level=2e4))


def test_the_density_has_axes_x_y_z():
    volume = density_volume(ellipsoid(), 32)
    x, y, z = ((np.argwhere(volume > 0).mean(0) + 0.5) / 32 - 0.5) * 2
    assert (x, y, z) == pytest.approx((0.1, -0.2, 0.05), abs=0.01)


def test_a_volume_is_of_one_scene():
    two = Ellipsoid(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(AssertionError, match=r"one scene; select it with Scene\.index"):
        density_volume(two, 8)


def test_colours_are_those_seen_from_outside():
    field = ellipsoid()
    surface = mesh_of_scene(field, MeshOptions(resolution=64))
    colours = np.asarray(surface.visual.vertex_colors)[:, :3] / 255
    expected = np.asarray(surface.vertices) / 2 + 0.5
    assert np.abs(colours - expected).max() < 2 / 64 + 2 / 255


def test_colours_of_a_haze_are_composited():
    """The mean depth of absorption of a layer of thickness d is 1/s - d / (exp(s d) - 1)."""
    voxel = 2 / 64
    for halves in (1.0, 3.0):  # half-value layers per voxel
        sigma = halves * np.log(2) / voxel
        field = Layer(torch.tensor([sigma], dtype=torch.float32))
        at, normal = np.array([[0.1, 0.3, 0.0]]), np.array([[0.0, 0.0, 1.0]])
        colour = surface_colours(field, at, normal, voxel)
        thick = 3 * voxel
        depth = 1 / sigma - thick / np.expm1(sigma * thick)
        assert colour[0] == pytest.approx([0.2 + 5 * depth] * 3, abs=3e-3)


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


def test_a_density_that_is_not_finite_is_no_surface():
    with pytest.raises(AssertionError, match="not finite"):
        extract_surface(ellipsoid(dense=float("nan")), MeshOptions(resolution=16))

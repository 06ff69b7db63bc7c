"""Meshes of Gaussians: the surface where their opacities sum up to 0.3."""

import json
import math

import numpy as np
import pytest
import torch
from varied_splats import one_splat, random_splats, views

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.mesh import mesh, mesh_of_scene
from lightning_gan3d.metrics.geometry.surfaces import grid_of, pieces
from lightning_gan3d.metrics.sources import SPLAT_SURFACE, volume_of

RADIUS = math.sqrt(2 * math.log(1 / SPLAT_SURFACE))
"""Distance in standard deviations of the surface of an opaque Gaussian from its mean."""


def test_the_surface_of_one_gaussian_is_an_ellipsoid():
    centre, scale = np.array([0.05, -0.1, 0.02]), np.array([0.2, 0.1, 0.15])
    scene = one_splat(centre.tolist(), scale.tolist())
    surface = mesh_of_scene(scene, MeshOptions(resolution=64))
    assert surface.is_watertight
    radius = np.linalg.norm((surface.vertices - centre) / scale, axis=1)
    assert np.abs(radius / RADIUS - 1).max() < 0.02
    assert surface.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3 * scale.prod(), rel=0.02)
    assert np.unique(surface.visual.vertex_colors[:, :3], axis=0).tolist() == [[255, 0, 0]]


def test_its_silhouette_is_where_the_rendering_has_its_opacity():
    scene = one_splat(scale=(0.1, 0.1, 0.1))
    opacity = views(scene, size=200, antialias=False).opacity[0, 0]
    shown = float((opacity >= SPLAT_SURFACE).sum())
    focal, distance = 2.0, 2.0
    assert shown == pytest.approx(math.pi * (RADIUS * 0.1 * focal / distance * 200) ** 2, rel=0.03)


def test_colours_are_those_of_the_gaussians_there():
    red, blue = (
        one_splat((-0.2, 0, 0), colour=(1.0, 0, 0)),
        one_splat((0.2, 0, 0), colour=(0, 0, 1.0)),
    )
    both = type(red)(
        *(torch.cat([getattr(x, name) for x in (red, blue)], dim=1)
          for name in ("means", "scales", "rotations", "opacities", "features")),
        red.scene_cfg,
    )  # fmt: skip
    surface = mesh_of_scene(both, MeshOptions(resolution=32))
    colours = np.asarray(surface.visual.vertex_colors)[:, :3] / 255
    left = surface.vertices[:, 0] < -0.2
    right = surface.vertices[:, 0] > 0.2
    assert np.abs(colours[left] - [1, 0, 0]).max() < 0.02
    assert np.abs(colours[right] - [0, 0, 1]).max() < 0.02


def test_the_volume_has_the_same_surface():
    scene = one_splat(scale=(0.2, 0.2, 0.2))
    volume = volume_of(scene)
    at = torch.tensor([[[RADIUS * 0.2, 0, 0], [0, -RADIUS * 0.2, 0]]])
    assert volume.occupancy(volume.level(at))[0].tolist() == pytest.approx([0.5, 0.5])
    found = pieces(grid_of(volume, 32))
    assert found.num == 1
    assert found.filled == pytest.approx(4 / 3 * math.pi * (RADIUS * 0.2) ** 3, rel=0.05)


def test_transparent_gaussians_have_no_surface_by_default():
    scene = one_splat(opacity=0.25)
    with pytest.raises(
        ConfigError, match=r"level=0\.3: no surface, the highest density is 0\.2\d+"
    ):
        mesh_of_scene(scene, MeshOptions(resolution=16))
    assert mesh_of_scene(scene, MeshOptions(resolution=16, level=0.1)).is_watertight


def test_the_density_file_names_its_unit(exports, tmp_path):
    options = MeshOptions(resolution=16, format="npy", device="cpu")
    mesh(str(exports["splats"]), options, tmp_path)
    assert json.loads((tmp_path / "seed0000.json").read_text())["unit"] == "sum of opacities"
    assert np.load(tmp_path / "seed0000.npy").max() > 0.1


def test_a_texture_of_gaussians():
    pytest.importorskip("xatlas")
    surface = mesh_of_scene(random_splats(), MeshOptions(resolution=24, texture=64))
    assert surface.visual.kind == "texture"

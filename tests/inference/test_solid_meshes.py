"""Meshes of solids: the surface at occupancy 0.5."""

import numpy as np
import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.mesh import mesh_of_scene
from representations.solid import Solid

SCENE = SceneConfig(box=2.0, feature_dim=3)


def solid(occupancy):
    red = torch.tensor([1.0, 0.2, 0.0]).view(1, 3, 1, 1, 1)
    filled = (occupancy > 0).float()[None, None]  # empty voxels are blue
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1, 1)
    return Solid(occupancy[None, None], red * filled + blue * (1 - filled), SCENE)


@pytest.mark.parametrize("resolution", [16, 64])
def test_the_faces_of_a_box_lie_on_those_of_its_voxels(resolution):
    occupancy = torch.zeros(16, 16, 16)
    occupancy[3:11, 4:14, 2:15] = 1  # z, y, x
    surface = mesh_of_scene(solid(occupancy), MeshOptions(resolution=resolution))
    assert surface.is_watertight
    assert surface.euler_number == 2
    np.testing.assert_allclose(surface.bounds[0], np.array([2, 4, 3]) / 8 - 1, atol=1e-5)
    np.testing.assert_allclose(surface.bounds[1], np.array([15, 14, 11]) / 8 - 1, atol=1e-5)
    # Edges are cut: 0.5 x 0.5 / 2 of a voxel at most.
    edges = 4 * (8 + 10 + 13) / 8
    volume = 8 * 10 * 13 / 8**3
    assert volume - edges / 8 / 8**2 < surface.volume < volume
    np.testing.assert_array_equal(
        np.unique(surface.visual.vertex_colors[:, :3], axis=0), [[255, 51, 0]]
    )


def test_the_mesh_of_any_occupancy_is_closed_where_the_box_cuts_it_too():
    noise = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    occupancy = torch.nn.functional.interpolate(noise, scale_factor=2, mode="trilinear")[0, 0]
    surface = mesh_of_scene(solid(occupancy), MeshOptions(resolution=16, keep=0.0))
    assert surface.is_watertight
    assert np.abs(surface.vertices).max() > 1 - 1 / 16
    inside = solid(occupancy).soft_occupancy(torch.tensor(surface.vertices).float()[None])
    within = np.abs(surface.vertices).max(axis=1) < 1 - 1 / 16
    assert (inside[0][torch.from_numpy(within)] - 0.5).abs().max() < 0.1


def test_a_solid_without_a_surface_is_an_error():
    with pytest.raises(ConfigError, match=r"level=null: no surface, the occupancy is below 0\.5"):
        mesh_of_scene(solid(torch.full((8, 8, 8), 0.4)), MeshOptions(resolution=16))
    dense = mesh_of_scene(solid(torch.full((8, 8, 8), 0.4)), MeshOptions(resolution=16, level=1.0))
    assert dense.is_watertight

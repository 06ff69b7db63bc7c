"""Densities of grids against queries by points."""

import pytest
import torch

from lightning_gan3d.contract import DensityConfig, SceneConfig
from lightning_gan3d.networks.decoder import Decoder, DecoderConfig
from renderers import density_grid
from renderers.density_grid import decode_plain, density_layers
from representations.triplane import TriPlaneField
from representations.voxel import VoxelField

AXES = (torch.linspace(-1.3, 1.1, 11), torch.linspace(-0.8, 1.2, 7), torch.linspace(-1.2, 0.9, 70))
"""Unequal, not symmetric, and partly outside the box of edge 2."""


def field_of(kind, activation="softplus", density="softplus"):
    torch.manual_seed(0)
    scene = SceneConfig(
        box=2.0,
        feature_dim=5,
        decoder=DecoderConfig(hidden_dim=24, activation=activation),
        density=DensityConfig(density, prior_strength=3.0),
    )
    decoder = Decoder(scene.decoder, 8, scene.feature_dim)
    beta = torch.tensor([0.1]) if density == "sdf" else None
    if kind == "voxel":
        return VoxelField(torch.randn(1, 8, 6, 9, 5), decoder, scene, beta)
    axes, depth = kind.split()
    return TriPlaneField(torch.randn(1, 3 * int(depth), 8, 16, 12), decoder, scene, axes, beta)


def by_points(field, axes):
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    with torch.no_grad():
        return field.density(points.view(1, -1, 3)).view(points.shape[:3])


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("activation", ["softplus", "lrelu"])
@pytest.mark.parametrize("kind", ["standard 1", "eg3d 1", "standard 3", "voxel"])
def test_a_grid_has_the_density_of_its_points(kind, activation, numba, monkeypatch):
    if numba:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(density_grid, "_decoder", lambda _: (decode_plain, 1))
    field = field_of(kind, activation)
    grid = torch.stack(list(density_layers(field, AXES)))
    expected = by_points(field, AXES)
    assert (grid - expected).abs().max() < 2e-6 * expected.abs().max()


def test_fields_without_kernels_are_queried_by_points(monkeypatch):
    monkeypatch.setattr(density_grid, "POINTS", 100)
    field = field_of("standard 1", density="sdf")
    assert torch.allclose(torch.stack(list(density_layers(field, AXES))), by_points(field, AXES))


def test_a_grid_is_of_one_scene():
    field = field_of("voxel").map(lambda x: x.expand(2, *x.shape[1:]))
    with pytest.raises(AssertionError, match="of one scene"):
        next(density_layers(field, AXES))

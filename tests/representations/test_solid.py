import pytest
import torch

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityConfig, SceneConfig
from lightning_gan3d.generator import GeneratorConfig
from lightning_gan3d.networks.synthesis import Synthesis3dConfig
from renderers.occupancy import find_occupied
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.solid import ABSORBED, Solid, SolidConfig, SolidGrid

SCENE = SceneConfig(box=1.6, feature_dim=3)
FINE = VolumeRendererConfig(samples_coarse=512, samples_fine=0)


def solid(occupancy, colour=None):
    occupancy = occupancy[None, None]
    return Solid(
        occupancy, colour if colour is not None else occupancy.expand(1, 3, 8, 8, 8), SCENE
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_row_of_voxels_passes_the_product_of_their_transmittances(axis):
    occupancy = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(axis))
    # The field fades to zero across the surface of the box; the outer half would be cut.
    occupancy[0] = occupancy[7] = occupancy[:, 0] = occupancy[:, 7] = 0
    occupancy[..., 0] = occupancy[..., 7] = 0
    cells, voxel = [2, 5, 3], SCENE.box / 8  # x, y, z
    origin = (torch.tensor(cells) + 0.5) * voxel - SCENE.box / 2
    origin[axis] = -3.0
    rays = Rays(origin[None, None], torch.eye(3)[axis][None, None])
    index = [cells[2], cells[1], cells[0]]
    row = occupancy[tuple(slice(None) if i == 2 - axis else c for i, c in enumerate(index))]
    out = VolumeRenderer(FINE).render_rays(solid(occupancy), rays)
    expected = 1 - torch.prod(1 - ABSORBED * row)
    torch.testing.assert_close(out.opacity[0, 0, 0], expected, atol=1e-3, rtol=0)


def test_the_gradient_by_the_occupancy_is_finite_and_not_zero_from_0_to_1():
    occupancy = torch.linspace(0, 1, 512).reshape(8, 8, 8).requires_grad_()
    absorption = solid(occupancy).absorption()
    absorption.sum().backward()
    assert occupancy.grad is not None
    assert bool(occupancy.grad.isfinite().all())
    assert occupancy.grad.min() > 0.99 * ABSORBED
    assert float(absorption.detach().max()) == pytest.approx(6.908, abs=1e-2)


def test_empty_voxels_do_not_stain_the_surface():
    filled = torch.zeros(8, 8, 8)
    filled[2:6, 2:6, 2:6] = 1
    colour = torch.stack([filled, 1 - filled, 0 * filled])[None]  # red in green
    out = VolumeRenderer(FINE)(solid(filled, colour), Cameras.orbit(2, 0.4, 3.0, 1.2), 8)
    assert out.opacity[:, 0, 3:5, 3:5].min() > 0.99
    seen = out.feature / 2 + 0.5
    torch.testing.assert_close(seen[:, 0], out.opacity[:, 0], atol=1e-3, rtol=0)
    assert seen[:, 1].max() < 1e-6


def test_a_grid_of_occupied_cells_does_not_change_the_rendering():
    occupancy = (torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.9).float()
    scene, points = solid(occupancy), torch.rand(1, 50, 3) * 1.6 - 0.8
    occupied = find_occupied(scene, 8, 0.01)
    assert torch.equal(occupied.sigma(occupied.density(points)), scene.sigma(scene.density(points)))
    cfg = VolumeRendererConfig(skip_cells=8)
    view = Cameras.orbit(2, 0.4, 3.0, 1.2)
    skipping = VolumeRenderer(cfg)
    plain = VolumeRenderer(VolumeRendererConfig())(scene, view, 8)
    for a, b in zip(skipping(skipping.prepare(scene), view, 8), plain, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


@pytest.mark.parametrize("radius", [0.4, 0.7])
def test_untrained_solids_are_different_balls(radius):
    torch.manual_seed(0)
    scene = SceneConfig(feature_dim=3, density=DensityConfig(prior_radius=radius))
    cfg = SolidConfig(resolution=16, synthesis=Synthesis3dConfig(channels=(32, 16, 8)))
    rep = SolidGrid(cfg, scene=scene, w_dim=32, resolution=64)
    with torch.no_grad():
        out = rep(torch.randn(8, rep.num_ws, 32))
    filled = out.occupancy > 0.5
    share = filled.float().mean(dim=(1, 2, 3, 4))
    radii = 2 * (share * 3 / (4 * torch.pi)) ** (1 / 3)
    assert float(radii.mean()) == pytest.approx(radius, abs=0.1)
    assert radii.min() > 0.15
    assert radii.max() < 1.0
    assert not torch.equal(filled[0], filled[1])
    assert 0 <= out.colour.min() < out.colour.max() <= 1


def test_options_that_a_solid_does_not_have_are_rejected():
    with pytest.raises(ConfigError, match=r"scene\.feature_dim=8: .* use 3"):
        SolidGrid(SolidConfig(), scene=SceneConfig(feature_dim=8), w_dim=8, resolution=8)
    sdf = SceneConfig(feature_dim=3, density=DensityConfig(activation="sdf"))
    with pytest.raises(ConfigError, match=r"activation=sdf: Solid declares no"):
        GeneratorConfig(SolidConfig(), VolumeRendererConfig(), scene=sdf)

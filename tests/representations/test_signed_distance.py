"""`density.activation=sdf`: the density of a signed distance, its start, and who reads it."""

import dataclasses
import json
import math

import pytest
import torch

from lightning_gan3d.cameras import Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.conformance import SCENE
from lightning_gan3d.contract import MIN_BETA, DensityConfig, Field, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.inference.config import MeshOptions
from lightning_gan3d.inference.mesh import density_volume, extract_surface
from lightning_gan3d.metrics.geometry.surfaces import grid_of, pieces
from lightning_gan3d.metrics.sources import volume_of
from lightning_gan3d.networks.lowering import LoweredGrid, NotLowered
from lightning_gan3d.networks.synthesis import Synthesis3dConfig, SynthesisConfig
from lightning_gan3d.registry import module_of
from lightning_gan3d.training.losses import eikonal
from renderers.occupancy import find_occupied
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.nerf_mlp import NerfMlpConfig
from representations.triplane import TriPlaneConfig
from representations.voxel import VoxelConfig

WIDTHS = SynthesisConfig(channels=(8, 8))
CONFIGS = {
    "triplane": TriPlaneConfig(resolution=8, channels=4, synthesis=WIDTHS),
    "voxel": VoxelConfig(resolution=8, channels=4, synthesis=Synthesis3dConfig(channels=(8, 8))),
    "film_siren": NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0),
    "view_dirs": NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0, view_dirs=True),
}
BOX, RADIUS = 1.5, 0.45
"""Edge of the box; 0.6 of half of it."""


def build(name, num=2, beta=0.1, activation="sdf"):
    torch.manual_seed(0)
    cfg = CONFIGS[name]
    # `scale` and `prior_strength` are of other activations.
    density = DensityConfig(activation, scale=7.0, prior_strength=3.0, sdf_beta=beta)
    scene = dataclasses.replace(SCENE, box=BOX, density=density)
    rep = module_of("representations", cfg)(cfg, scene=scene, w_dim=16, resolution=8)
    return rep, rep(torch.randn(num, rep.num_ws, 16))


def distance_of(points):
    return points.double().norm(dim=-1, keepdim=True) - RADIUS


@pytest.mark.parametrize("beta", [0.1, 0.003])
def test_density_is_the_scaled_sigmoid_of_the_distance(beta):
    _, field = build("voxel", beta=beta)
    d = torch.linspace(-0.05, 0.05, 2 * 21).view(2, 21)
    expected = 1 / (beta * (1 + torch.exp(d.double() / beta)))
    for shaped in (d, d[..., None], d[:, None]):
        sigma = field.sigma(shaped).double()
        torch.testing.assert_close(sigma, expected.view(shaped.shape), rtol=2e-4, atol=1e-6)


def test_optical_depth_through_a_plane_is_that_of_the_closed_form():
    """From d = -a to b: softplus(a / beta) - softplus(-b / beta)."""
    _, field = build("voxel", num=1, beta=0.02)
    d = torch.linspace(-0.05, 0.3, 20_001, dtype=torch.float64)
    field = field.to(dtype=torch.float64)
    integral = torch.trapezoid(field.sigma(d[None])[0].detach(), d)
    softplus = torch.nn.functional.softplus
    expected = softplus(torch.tensor(2.5)) - softplus(torch.tensor(-15.0))
    assert float(integral) == pytest.approx(float(expected), rel=1e-5)


def test_gradient_by_beta_equals_finite_differences():
    rep, _ = build("voxel")
    rep = rep.double()
    points = torch.rand(2, 50, 3, dtype=torch.float64) * 2 - 1
    ws = torch.randn(2, rep.num_ws, 16, dtype=torch.float64)

    def loss():
        field = rep(ws).to(dtype=torch.float64)
        return field.sigma(field.density(points)).square().mean()

    loss().backward()
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            rep.log_beta += step
            values.append(float(loss()))
            rep.log_beta -= step
    # full_precision stores grids in float32, but beta is exact.
    assert float(rep.log_beta.grad) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_beta_starts_as_configured_is_bounded_and_shared():
    rep, field = build("triplane", num=3, beta=0.05)
    torch.testing.assert_close(field.sdf_beta, torch.full((3,), 0.05))
    assert field.tensors()[-1] is field.sdf_beta
    assert field.index(slice(1, 3)).sdf_beta.shape == (2,)
    assert not field.detach().sdf_beta.requires_grad
    with torch.no_grad():
        rep.log_beta.fill_(-1000.0)
    dense = rep(torch.randn(1, rep.num_ws, 16))
    assert dense.sigma(torch.tensor([[-0.1]])).item() == pytest.approx(1 / MIN_BETA, rel=1e-4)
    assert "log_beta" in rep.state_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_starts_as_the_sphere(name):
    rep, field = build(name)
    points = torch.rand(2, 200, 3) * 2 - 1
    dirs = torch.nn.functional.normalize(points, dim=-1)
    for raw in (field.density(points), field(points, dirs).sigma_raw):
        torch.testing.assert_close(raw.double(), distance_of(points), atol=1e-5, rtol=0)
    assert field.sigma(field.density(torch.zeros(2, 1, 3))).min() > 5  # dense inside
    plain = dataclasses.replace(field.scene_cfg, density=DensityConfig("sdf"))
    without_strength = dataclasses.replace(field, scene_cfg=plain)
    torch.testing.assert_close(without_strength.prior(points), field.prior(points))
    # It learns: a step of descent on opacity blurs the surface and moves the distance.
    optimizer = torch.optim.Adam(rep.parameters(), lr=1e-2)
    before = field.sdf_beta.detach().clone()
    view = VolumeRenderer(VolumeRendererConfig(samples_coarse=8, samples_fine=8))
    origins = torch.tensor([0.2, 0.1, 3.0]).expand(2, 5, 3)
    rays = Rays(origins, torch.tensor([0.0, 0.0, -1.0]).expand(2, 5, 3))
    view.render_rays(field, rays, Draws(0)).opacity.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in rep.parameters())
    optimizer.step()
    after = rep(torch.randn(2, rep.num_ws, 16))
    assert (after.sdf_beta > before).all()
    assert (after.density(points).double() - distance_of(points)).abs().mean() > 1e-3


def test_other_weights_are_those_of_other_densities():
    sdf, softplus = (build("voxel", activation=a)[0].state_dict() for a in ("sdf", "softplus"))
    assert set(sdf) - set(softplus) == {"log_beta"}
    assert [k for k in softplus if not torch.equal(sdf[k], softplus[k])] == ["decoder.net.2.weight"]
    rows = sdf["decoder.net.2.weight"], softplus["decoder.net.2.weight"]
    assert torch.equal(rows[0][1:], rows[1][1:])


@pytest.mark.parametrize("skip_cells", [0, 16])
@pytest.mark.parametrize("name", ["triplane", "film_siren"])
def test_rendered_depth_is_where_the_ray_meets_the_sphere(name, skip_cells):
    _, field = build(name, num=2, beta=2e-3)
    offset = torch.tensor([0.0, 0.15, 0.3])
    origins = torch.stack([offset, torch.zeros(3), torch.full((3,), 3.0)], dim=-1).expand(2, 3, 3)
    rays = Rays(origins, torch.tensor([0.0, 0.0, -1.0]).expand(2, 3, 3))
    options = VolumeRendererConfig(samples_coarse=96, samples_fine=192, skip_cells=skip_cells)
    renderer = VolumeRenderer(options)
    with torch.no_grad():
        out = renderer.render_rays(renderer.prepare(field), rays)
    expected = (3 - (RADIUS**2 - offset**2).sqrt())[None, :, None].expand(2, -1, -1)
    torch.testing.assert_close(out.depth, expected, atol=0.01, rtol=0)
    assert (out.opacity > 0.999).all()
    assert "sdf" in renderer.backend.reason or name == "film_siren"


def test_noise_and_recomputation_keep_the_gradient_of_beta():
    options = dict(samples_coarse=6, samples_fine=6, density_noise=0.01, chunk=12)
    rays = Rays(*(torch.tensor([x]).expand(2, 4, 3) for x in ([0.1, 0, 3.0], [0, 0, -1.0])))
    gradients = []
    for recompute in (False, True):
        rep, field = build("voxel")
        renderer = VolumeRenderer(VolumeRendererConfig(**options, recompute=recompute))
        renderer.render_rays(field, rays, Draws(1)).depth.sum().backward()
        gradients.append(rep.log_beta.grad)
    assert gradients[0].abs() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["triplane", "voxel"])
def test_kernels_reject_a_signed_distance_by_name(name):
    assert isinstance(build(name, activation="softplus")[1].lower(), LoweredGrid)
    low = build(name)[1].lower()
    assert isinstance(low, NotLowered)
    assert "density.activation=sdf" in low.reason
    _, field = build(name)
    renderer = VolumeRenderer(VolumeRendererConfig(path="numba"))
    rays = Rays(*(torch.tensor([x]).expand(2, 1, 3) for x in ([0.1, 0, 3.0], [0, 0, -1.0])))
    with pytest.raises(ConfigError, match=r"path=numba: density\.activation=sdf"):
        renderer.render_rays(field, rays)


def test_occupied_cells_are_those_inside_and_at_the_surface():
    _, field = build("voxel", num=2, beta=0.002)
    prepared = find_occupied(field, 16, 0.01)
    centre = ((torch.arange(16) + 0.5) / 16 - 0.5) * BOX
    radius = torch.cartesian_prod(centre, centre, centre).norm(dim=-1).view(16, 16, 16)
    assert prepared.occupied[:, radius < RADIUS].all()
    assert not prepared.occupied[:, radius > RADIUS + 0.36].any()
    assert prepared.sdf_beta is field.sdf_beta


@pytest.mark.parametrize("beta", [0.1, 0.002])
def test_the_first_mesh_is_the_sphere_whatever_beta_is(beta):
    _, field = build("triplane", num=1, beta=beta)
    surface = extract_surface(field, MeshOptions(resolution=32))
    radii = (surface.vertices**2).sum(axis=1) ** 0.5
    assert abs(radii - RADIUS).max() < 0.005
    assert surface.is_watertight
    assert surface.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.01)
    # A given level is a density: nine tenths of the highest are beta log 9 inside.
    inner = extract_surface(field, MeshOptions(resolution=64, level=0.9 / beta))
    radius = (inner.volume / (4 / 3 * math.pi)) ** (1 / 3)
    assert radius == pytest.approx(RADIUS - beta * math.log(9), abs=0.5 * BOX / 64)
    innermost = 3**0.5 * BOX / 16 - RADIUS
    highest = 1 / (beta * (1 + math.exp(innermost / beta)))
    assert density_volume(field, 8).max() == pytest.approx(highest, rel=1e-3)


def test_a_distance_without_a_surface_is_named():
    _, field = build("voxel", num=1)
    density = dataclasses.replace(field.scene_cfg.density, prior_radius=0.001)
    field = dataclasses.replace(field, scene_cfg=dataclasses.replace(SCENE, density=density))
    with pytest.raises(ConfigError, match="the signed distance is positive"):
        extract_surface(field, MeshOptions(resolution=16))


def test_metrics_of_geometry_read_the_side_of_the_surface():
    _, field = build("voxel", num=1)
    volume = volume_of(field)
    part = pieces(grid_of(volume, 32))
    assert part.num == 1
    assert part.filled == pytest.approx(4 / 3 * math.pi * RADIUS**3 / BOX**3, rel=0.02)
    points = torch.rand(1, 20, 3) - 0.5
    outward = torch.nn.functional.normalize(points, dim=-1)
    torch.testing.assert_close(volume.normals(points), outward, atol=1e-4, rtol=0)


def test_the_eikonal_term_is_zero_at_the_start_and_counts_slopes():
    _, field = build("triplane")
    points = torch.rand(2, 50, 3) * 2 - 1
    assert eikonal(field, points) < 1e-6

    @dataclasses.dataclass(frozen=True, eq=False)
    class Steep(type(field)):
        def density(self, points):
            return 3 * field.density(points)

    steep = Steep(field.planes, field.decoder, field.scene_cfg, sdf_beta=field.sdf_beta)
    assert float(eikonal(steep, points).detach()) == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("name", ["triplane", "voxel", "film_siren"])
def test_descent_on_the_eikonal_term_lowers_it(name):
    rep, _ = build(name)
    head = rep.net.to_sigma if name == "film_siren" else rep.decoder.head
    with torch.no_grad():
        head.weight[0].normal_()
    points, ws = torch.rand(2, 50, 3) * 2 - 1, torch.randn(2, rep.num_ws, 16)
    before = eikonal(rep(ws), points)
    before.backward()
    gradients = [(p, p.grad) for p in rep.parameters() if p.grad is not None]
    norm = torch.stack([g.square().sum() for _, g in gradients]).sum()
    step = 1e-3 * float(before.detach() / norm)  # lowers the term by a thousandth, to first order
    with torch.no_grad():
        for p, gradient in gradients:
            p -= step * gradient
    after = eikonal(rep(ws), points)
    assert float((before - after).detach() / before.detach()) == pytest.approx(1e-3, rel=0.05)


def test_hashes_of_other_densities_do_not_change(monkeypatch):
    monkeypatch.setattr("lightning_gan3d.config.digest", json.dumps)

    def density(*overrides):
        tree = json.loads(load_experiment("demo/voxel", overrides).hash)
        return tree["generator"]["scene"]["density"]

    assert sorted(density()) == ["activation", "prior_radius", "prior_strength", "scale"]
    sdf = "generator.scene.density.activation=sdf"
    assert density(sdf, "generator.scene.density.sdf_beta=0.5") != density(sdf)


def test_invalid_betas_and_fields_without_beta_are_rejected(monkeypatch):
    sdf = "generator.scene.density.activation=sdf"
    with pytest.raises(ConfigError, match=r"density\.sdf_beta=0"):
        load_experiment("demo/voxel", [sdf, "generator.scene.density.sdf_beta=0"])
    load_experiment("demo/image2d", [sdf])  # no density to read it

    @dataclasses.dataclass(frozen=True, eq=False)
    class OldField(Field):
        scene_cfg: SceneConfig

    monkeypatch.setattr("representations.voxel.Voxel.scene_type", OldField)
    with pytest.raises(ConfigError, match=r"OldField declares no `sdf_beta`.*use softplus"):
        load_experiment("demo/voxel", [sdf])
    load_experiment("demo/voxel")

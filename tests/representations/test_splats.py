import dataclasses
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.conformance import check_scene
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.networks.synthesis import SynthesisConfig
from renderers.splat import SplatRenderer, SplatRendererConfig
from renderers.volume import VolumeRendererConfig
from representations.splats import LARGEST, SplatMap, SplatsConfig, quaternions

SMALL = SplatsConfig(resolution=8, synthesis=SynthesisConfig(channels=(16, 16)))
SCENE = SceneConfig(box=2.0, feature_dim=3)
PLAIN = SplatRenderer(SplatRendererConfig(path="plain"))


def make(cfg=SMALL, scene=SCENE, seed=0):
    torch.manual_seed(seed)
    splats = SplatMap(cfg, scene=scene, w_dim=16, resolution=16)
    return splats, torch.randn(2, splats.num_ws, 16)


def with_map(splats, raw):
    """Let the network generate a constant map of these raw values."""
    splats.synthesis.forward = lambda ws, *_: raw[None, :, None, None].expand(len(ws), -1, 8, 8)
    return splats(torch.zeros(1, splats.num_ws, 16))


@pytest.mark.parametrize(
    ("cfg", "scene"),
    [
        (SMALL, SCENE),
        (dataclasses.replace(SMALL, harmonics=1), SceneConfig(box=2.0, feature_dim=5)),
        (dataclasses.replace(SMALL, side=12, template="plane"), SCENE),
    ],
)
def test_splats_meet_the_contract(cfg, scene):
    check_scene(cfg, PLAIN, scene)


def test_gradients_reach_every_weight_once_offsets_have_started():
    splats, ws = make(dataclasses.replace(SMALL, harmonics=1))
    torch.nn.init.normal_(splats.to_offset.weight)
    scene = splats(ws)
    out = PLAIN(scene, Cameras.orbit(2, 0.3, 3.2, 1.5), 16)
    weights = torch.randn(out.feature.shape)
    (out.feature * weights).sum().backward()
    for name, parameter in splats.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_raw_values_of_zero_are_round_gaussians_of_the_spacing_on_the_template():
    splats, _ = make()
    scene = with_map(splats, torch.zeros(13))
    assert torch.equal(scene.means[0], splats.positions)
    spacing = 0.6 * math.sqrt(4 * math.pi) / 8
    close = torch.full((1, 64, 3), math.exp(LARGEST - math.log1p(math.exp(LARGEST))) * spacing)
    torch.testing.assert_close(scene.scales, close)
    torch.testing.assert_close(scene.rotations[0, 0], torch.tensor([1.0, 0, 0, 0]))
    assert bool((scene.opacities == 0.5).all())
    assert bool((scene.features == 0.5).all())


@pytest.mark.parametrize(("raw", "expected"), [(-9.0, -9.0), (30.0, LARGEST)])
def test_scales_fall_without_bound_and_grow_to_a_limit(raw, expected):
    splats, _ = make()
    values = torch.zeros(13)
    values[3:6] = raw
    factor = with_map(splats, values).scales.log() - splats.start
    torch.testing.assert_close(factor, torch.full_like(factor, expected), atol=1e-3, rtol=0)


def test_offsets_opacities_and_colours_have_the_limits_of_gghead():
    splats, _ = make()
    torch.nn.init.eye_(splats.to_offset.weight)
    for raw in (-50.0, 50.0):
        scene = with_map(splats, torch.full((13,), raw))
        offset = scene.means[0] - splats.positions
        torch.testing.assert_close(offset, torch.full_like(offset, math.copysign(0.5, raw)))
        assert bool((scene.opacities == (raw > 0)).all())
        assert bool((scene.features == (raw > 0)).all())


def test_quaternions_are_those_of_the_axis_and_finite_at_zero():
    turns = torch.tensor([[0.0, 0, 0], [0, 0, math.pi / 2], [0, -math.pi, 0], [1e-7, 0, 0]])
    turns.requires_grad_()
    result = quaternions(turns)
    half = math.sqrt(0.5)
    expected = torch.tensor([[1.0, 0, 0, 0], [half, 0, 0, half], [0, 0, -1, 0], [1, 5e-8, 0, 0]])
    torch.testing.assert_close(result.detach(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.norm(dim=1), torch.ones(4))
    result[:, 1:].sum().backward()
    assert bool(turns.grad.isfinite().all())
    torch.testing.assert_close(turns.grad[0], torch.full((3,), 0.5))


def test_harmonics_of_degree_1_change_the_colours_with_the_direction_alone():
    splats, ws = make(dataclasses.replace(SMALL, harmonics=1), SceneConfig(box=2.0, feature_dim=5))
    scene = splats(ws[:1])
    assert scene.harmonics.shape == (1, 64, 3, 3)
    assert scene.harmonics.abs().max() <= math.sqrt(math.pi)
    constant = dataclasses.replace(scene, harmonics=None)
    cameras = Cameras.orbit(1, 0.0, 3.2, 1.5)
    lit, plain = (PLAIN(x, cameras, 16) for x in (scene, constant))
    assert torch.equal(lit.opacity, plain.opacity)
    assert torch.equal(lit.feature[:, 3:], plain.feature[:, 3:])
    assert (lit.feature[:, :3] - plain.feature[:, :3]).abs().mean() > 0.01


def styles(splats, num, seed):
    torch.manual_seed(seed)
    w = torch.nn.functional.normalize(torch.randn(num, 1, 16), dim=-1) * 4
    return w.expand(-1, splats.num_ws, -1)


def near_the_centre(cameras, resolution, radius):
    """Pixels whose ray passes the origin within a radius."""
    rays = cameras.rays(resolution)
    nearest = torch.linalg.cross(rays.origins, rays.dirs).norm(dim=-1)
    return (nearest < radius).view(len(nearest), 1, resolution, resolution)


def test_untrained_splats_cover_the_template():
    """32 x 32 Gaussians: the mean opacity in the silhouette of the sphere is 0.99, or 0.9 and more
    with the random scales and opacities of an untrained network."""
    channels = SynthesisConfig(channels=(32, 32, 32, 32))
    splats, _ = make(SplatsConfig(resolution=32, synthesis=channels))
    cameras = Cameras.orbit(8, 1.5, 3.2, 1.5)
    ball = near_the_centre(cameras, 32, 0.5)
    with torch.no_grad():
        opacity = PLAIN(splats(styles(splats, 8, 0)), cameras, 32).opacity
        assert opacity[ball].mean() > 0.9
        even = with_map(splats, torch.zeros(13)).map(lambda x: x.expand(8, *x.shape[1:]))
        opacity = PLAIN(even, cameras, 32).opacity
    assert opacity[ball].mean() > 0.97
    outside = ~near_the_centre(cameras, 32, 0.9)
    assert opacity[outside].max() < 0.01


def test_twice_the_side_is_nearly_the_same_picture():
    coarse, _ = make(dataclasses.replace(SMALL, side=32))
    fine, _ = make(dataclasses.replace(SMALL, side=64))
    fine.load_state_dict(coarse.state_dict())
    cameras, ws = Cameras.orbit(4, 0.5, 3.2, 1.5), styles(coarse, 4, 1)
    with torch.no_grad():
        first, second = (PLAIN(x(ws), cameras, 32).feature for x in (coarse, fine))
    assert fine.start[0] - coarse.start[0] == pytest.approx(-math.log(2), abs=1e-6)
    others = (first - first.roll(1, dims=0)).abs().mean()
    assert (first - second).abs().mean() < others / 3


def test_super_resolution_gets_more_features_than_colours():
    torch.manual_seed(0)
    config = load_experiment(
        "demo/splats",
        [
            "generator.scene.feature_dim=8",
            "generator.superresolution={factor: 2, channels: [8, 8]}",
        ],
    ).generator
    generator = Generator(config, 64)
    z, cameras = torch.randn(2, 64), Cameras.orbit(2, 0.3, 3.2, 1.5)
    images = generator(z, cameras.to_label())
    assert images.image.shape == (2, 3, 64, 64)
    assert images.image_raw.shape == (2, 3, 32, 32)


def test_a_volume_renderer_is_rejected():
    with pytest.raises(ConfigError, match=r"kind=volume renders Field scenes, but .*Splats"):
        GeneratorConfig(SMALL, VolumeRendererConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["loss.density_reg=0.25"], "density_reg=0.25: this representation has no density field"),
        (["loss.terms=[{kind: eikonal, weight: 1}]"], "eikonal: .* no density field; remove"),
        (["loss.terms=[{kind: undecided, weight: 1}]"], "undecided: the scenes are no solids"),
        (["generator.representation.resolution=48"], "resolution=48"),
    ],
)
def test_options_of_fields_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment("demo/splats", options)

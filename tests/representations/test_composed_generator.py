"""Generators of scenes of parts, their codes and placements."""

import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.inference.styles import style_levels
from lightning_gan3d.networks.mapping import MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolutionConfig
from lightning_gan3d.networks.synthesis import SynthesisConfig
from renderers.composed import ComposedRendererConfig
from representations.composition import ComposedConfig, PlacementConfig, uniform
from representations.image2d import Image2dConfig
from representations.nerf_mlp import NerfMlpConfig
from representations.triplane import TriPlaneConfig

MLP = NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0)
PLANES = TriPlaneConfig(resolution=8, channels=4, synthesis=SynthesisConfig(channels=(8, 8)))


def make(z_dim=35, **options):
    options = {"object": PLANES, "background": MLP, "num_objects": 2, "shape_share": 0.5} | options
    cfg = GeneratorConfig(
        ComposedConfig(**options),
        ComposedRendererConfig(samples_coarse=4),
        z_dim=z_dim,
        w_dim=12,
        mapping=MappingConfig(condition="none"),
        scene=SceneConfig(box=2.0, feature_dim=3),
        superresolution=SuperResolutionConfig(factor=1),
    )
    torch.manual_seed(0)
    return Generator(cfg, 8).eval()


def latent(num=2, z_dim=35):
    return torch.randn(num, z_dim, generator=torch.Generator().manual_seed(3))


LABEL = torch.zeros(2, 25)


def test_placements_are_uniform_in_their_ranges():
    cfg = PlacementConfig(scale=(0.2, 0.4), rotation=(0.0, 1.0), y=(0.3, 0.3))
    normal = torch.randn(20_000, 7, generator=torch.Generator().manual_seed(0))
    numbers = uniform(normal, cfg.ranges)
    for column, (low, high) in zip(
        numbers.mT, ((0.2, 0.4), (0.0, 1.0), (-0.25, 0.25), (0.3, 0.3), (-0.25, 0.25)), strict=True
    ):
        assert low - 1e-6 <= float(column.min())
        assert float(column.max()) <= high + 1e-6
        assert float(column.mean()) == pytest.approx(
            (low + high) / 2, abs=0.01 * (high - low) + 1e-6
        )
        assert float(column.std()) == pytest.approx((high - low) / math.sqrt(12), abs=0.005)
    with pytest.raises(
        ConfigError, match=r"placement.x=\[0.5, 0.1\]: write the lower number first"
    ):
        PlacementConfig(x=(0.5, 0.1))


def test_each_code_changes_its_own_styles_only():
    generator = make()
    codes = generator.representation.codes
    assert [c.name for c in codes] == [
        *("object0.placement", "object0.shape", "object0.appearance"),
        *("object1.placement", "object1.shape", "object1.appearance"),
        "background",
    ]
    z = latent()
    ws = generator.mapping(z, LABEL)
    first = 0
    for i, code in enumerate(codes):
        changed = z.clone()
        changed[:, 5 * i : 5 * i + 5] += 0.5
        rows = (generator.mapping(changed, LABEL) != ws).any(dim=0).any(dim=1)
        assert rows.nonzero().flatten().tolist() == list(range(first, first + code.num_ws))
        first += code.num_ws


def test_objects_share_one_network_and_placements_are_not_mapped():
    generator = make()
    z = latent()
    z[:, 15:30] = z[:, :15]  # the second object gets the codes of the first
    one, two = generator.scene(generator.mapping(z, LABEL)).objects
    for a, b in zip(one.tensors(), two.tensors(), strict=True):
        assert torch.equal(a, b)
    expected = uniform(z[:, :5], generator.cfg.representation.placement.ranges)
    assert torch.equal(one.scale, expected[:, 0])


def test_truncation_pulls_placements_to_the_middle_of_their_ranges():
    generator = make()
    scene = generator.scene(generator.mapping(latent(), LABEL, 0.0))
    assert torch.allclose(scene.objects[0].scale, torch.tensor(0.525).expand(2))
    assert torch.allclose(scene.objects[0].rotation, torch.zeros(2), atol=1e-6)


def test_the_mean_style_follows_its_code():
    generator = make()
    ws = generator.mapping(latent(64), torch.zeros(64, 25))
    mapping = generator.mapping
    for _ in range(4000):
        mapping.update_w_avg(mapping.mean_style(ws).view_as(mapping.w_avg))
    means = ws.mean(0)
    assert torch.allclose(mapping.w_avg[1], means[1], atol=1e-3)
    assert not bool(mapping.w_avg[0].any())  # a placement is not mapped


def test_a_generator_of_parts_makes_images_with_one_mask_per_object():
    cameras = Cameras.orbit(4, 0.2, 3.2, 1.4)
    images = make().views(latent(), LABEL, cameras)
    assert images.image.shape == (4, 3, 8, 8)
    assert images.mask.shape == (4, 2, 8, 8)
    assert torch.allclose(images.mask.sum(1, keepdim=True), images.opacity, atol=1e-5)


def test_style_ranges_edits_and_inversion_need_one_code():
    with pytest.raises(ConfigError, match=r"a range of style vectors needs one code .*object0"):
        style_levels(make().representation)


def test_impossible_parts_are_rejected():
    with pytest.raises(ConfigError, match="z_dim=36: use a multiple of 7"):
        make(z_dim=36)
    with pytest.raises(ConfigError, match="z_dim=28: each of 7 codes needs 5 numbers; use 35"):
        make(z_dim=28)
    with pytest.raises(ConfigError, match="kind=image2d is no part of a scene"):
        make(background=Image2dConfig(synthesis=SynthesisConfig(channels=(8, 8))))

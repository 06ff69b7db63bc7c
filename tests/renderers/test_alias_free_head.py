"""The head of StyleGAN3 layers: alignment, equivariance, and its place in a generator."""

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.images import Rendering
from lightning_gan3d.networks.mapping import MappingConfig
from renderers.alias_free_head import AliasFreeConfig, AliasFreeHead
from renderers.config import VolumeRendererConfig
from representations.nerf_mlp import NerfMlpConfig

WS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def make(resolution=64, factor=4, **options):
    torch.manual_seed(0)
    cfg = AliasFreeConfig(**{"factor": factor, "channel_max": 12} | options)
    return AliasFreeHead(cfg, SceneConfig(feature_dim=6), 8, resolution, ())


def waves(size, shift=0.0):
    """A smooth rendering (2, 6, size, size), shifted to the right by texels."""
    x, y = (torch.arange(size) + 0.5 - shift) / size, (torch.arange(size) + 0.5) / size
    phase = torch.arange(12.0).view(2, 6, 1, 1)
    return 0.8 * torch.sin(2 * torch.pi * (3 * x + 2 * y[:, None]) + phase)


def images(head, feature):
    with torch.no_grad():
        return head(Rendering(feature, None, None), WS)


def test_sizes_follow_the_rates():
    assert make(256).layers.names == [
        "L0_148_12",
        "L1_276_12",
        "L2_276_12",
        "L3_256_12",
        "L4_256_3",
    ]
    assert make(64, 2, num_layers=2).layers.names == ["L0_84_12", "L1_64_12", "L2_64_3"]


@pytest.mark.parametrize(("factor", "size"), [(2, 32), (4, 16), (8, 8)])
def test_a_constant_rendering_gives_a_constant_image(factor, size):
    head = make(64, factor)
    feature = torch.linspace(-0.9, 0.9, 12).view(2, 6, 1, 1).expand(2, 6, size, size)
    image, raw, _ = images(head, feature)
    assert image.shape == (2, 3, 64, 64)
    assert torch.equal(raw, feature[:, :3])
    torch.testing.assert_close(image, image[..., :1, :1].expand_as(image), atol=1e-5, rtol=0)
    assert (image[..., 0, 0] - raw[..., 0, 0]).abs().max() > 1e-3


def test_colours_are_upsampled_to_the_same_place():
    head = make(128, 4)
    head.layers.L4_128_3.weight.data.zero_()
    image = images(head, waves(32)).image
    assert (image - waves(128)[:, :3])[..., 32:-32, 32:-32].abs().max() < 0.01


def test_the_image_moves_with_the_rendering():
    head = make(128, 4, num_layers=3)
    still, moved = (images(head, waves(32, shift)).image for shift in (0.0, 0.5))
    a, b = still[..., 32:-32, 32:-32], moved[..., 32:-32, 34:-30]
    assert 10 * torch.log10(4 * a.var() / (a - b).square().mean()) > 40
    assert (still - moved)[..., 32:-32, 32:-32].abs().max() > 0.05


def test_a_rendering_of_another_size_is_resized_first():
    head = make(64, 4)
    image, raw, _ = images(head, waves(32))
    assert raw.shape == (2, 3, 32, 32)
    assert image.shape == (2, 3, 64, 64)


def test_the_head_of_a_generator_gets_all_gradients():
    cfg = GeneratorConfig(
        NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0),
        VolumeRendererConfig(samples_coarse=4),
        z_dim=8,
        w_dim=8,
        mapping=MappingConfig(condition="none"),
        scene=SceneConfig(box=2.0, feature_dim=6),
        head=AliasFreeConfig(factor=2, channel_max=8, num_layers=2),
    )
    torch.manual_seed(0)
    generator = Generator(cfg, 32)
    out = generator(torch.randn(2, 8), torch.zeros(2, 25), Cameras.orbit(2, 0.2, 3.2, 1.4))
    assert out.image.shape == (2, 3, 32, 32)
    assert out.image_raw.shape == (2, 3, 16, 16)
    out.image.square().mean().backward()
    for name, p in generator.superresolution.named_parameters():
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("resolution", "message"),
    [(48, "resolution=48"), (2, "at least 8: the rendering needs 2"), (4, "resolution=4: use a")],
)
def test_impossible_sizes_are_rejected(resolution, message):
    with pytest.raises(ConfigError, match=message):
        make(resolution)

"""ProGAN's networks, and networks in a fade: sizes, definitions, both ends of a fade."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gan3d.config import ConfigError
from lightning_gan3d.images import Images, at_level
from lightning_gan3d.networks.discriminator import Discriminator, DiscriminatorConfig
from lightning_gan3d.networks.layers import normalize_second_moment
from lightning_gan3d.networks.mapping import Mapping, MappingConfig
from lightning_gan3d.networks.progan import Progan2d
from lightning_gan3d.networks.resample import upsample
from lightning_gan3d.networks.synthesis import (
    ChannelsConfig,
    Synthesis2d,
    Synthesis3d,
    Synthesis3dConfig,
    SynthesisConfig,
)

CHANNELS = (8, 6, 5)
ALMOST = 1e-6


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def progan():
    return Progan2d(ChannelsConfig(channels=CHANNELS), 7, 16)


def discriminator(architecture, levels=(4, 8)):
    options = DiscriminatorConfig(
        channels=CHANNELS, dual=False, conditioning="none", architecture=architecture
    )
    return Discriminator(options, 16, 0, levels)


def logits(network, image, lod):
    network.lod = lod
    return network(Images(image, image), torch.zeros(len(image), 25))


def test_networks_for_1024_pixels_have_the_published_sizes():
    """23.1 M each: Karras et al. 2018, table 2."""
    widths = {"channel_base": 16384, "channel_max": 512}
    options = DiscriminatorConfig(**widths, dual=False, conditioning="none", architecture="progan")
    with torch.device("meta"):
        networks = (
            Progan2d(ChannelsConfig(**widths), 512, 1024),
            Discriminator(options, 1024, 0, [4, 8, 16, 32, 64, 128, 256, 512]),
        )
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert [round(size / 1e6, 1) for size in sizes] == [23.1, 23.1]
    blocks = [networks[0].get_submodule(f"b{2**k}") for k in range(2, 11)]
    widths = [block.conv1.weight.shape[0] for block in blocks]
    assert widths == [512, 512, 512, 512, 256, 128, 64, 32, 16]


def test_pixel_norm_gives_each_pixel_a_unit_mean_square():
    x = torch.randn(2, 6, 3, 3) * 5
    y = normalize_second_moment(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(2, 3, 3))
    torch.testing.assert_close(y * (x.square().mean(1, keepdim=True) + 1e-8).sqrt(), x)


def test_the_generator_matches_its_definition():
    network, z = progan(), torch.randn(3, 7)
    for p in network.parameters():
        nn.init.normal_(p)

    def conv(x, layer):
        gain = (2 / layer.weight[0].numel()) ** 0.5
        y = F.conv2d(x, layer.weight * gain, layer.bias * 2**0.5, padding=1)
        y = F.leaky_relu(y, 0.2)
        return y / (y.square().mean(1, keepdim=True) + 1e-8).sqrt()

    b = network.b4
    x = (F.linear(z, b.dense) * (2**0.5 / 4 / 7**0.5)).view(3, 8, 4, 4) + b.bias.view(8, 1, 1)
    x = F.leaky_relu(x, 0.2)
    x = conv(x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt(), b.conv1)
    for b in (network.b8, network.b16):
        x = conv(conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), b.conv0), b.conv1)
    weight, bias = b.torgb.weight / 5**0.5, b.torgb.bias
    expected = torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]
    torch.testing.assert_close(network(z[:, None]), expected, atol=1e-4, rtol=1e-4)


def test_without_layers_the_style_is_the_normalised_latent():
    z = torch.randn(2, 8)
    ws = Mapping(MappingConfig(num_layers=0, condition="none"), 8, 8, 1)(z, torch.zeros(2, 25))
    torch.testing.assert_close(ws[:, 0], normalize_second_moment(z))
    with pytest.raises(ConfigError, match="w_dim="):
        Mapping(MappingConfig(num_layers=0, condition="none"), 8, 16, 1)
    with pytest.raises(ConfigError, match="use 1 or more"):
        MappingConfig(num_layers=0)


@pytest.mark.parametrize("lod", [0, 1])
@pytest.mark.parametrize("kind", ["progan", "2d", "3d"])
def test_a_fade_of_a_generator_starts_with_the_old_level_enlarged(kind, lod):
    network, enlarge = {
        "progan": (progan(), lambda x: F.interpolate(x, scale_factor=2)),
        "2d": (Synthesis2d(SynthesisConfig(channels=CHANNELS), 7, 16, 3), upsample),
        "3d": (Synthesis3d(Synthesis3dConfig(channels=CHANNELS), 7, 16, 3), upsample),
    }[kind]
    ws = torch.randn(2, network.num_ws, 7)
    old, new = network(ws, lod=lod + 1.0), network(ws, lod=float(lod))
    assert new.shape[-1] == 2 * old.shape[-1] == 16 >> lod
    start, middle = network(ws, lod=lod + 1 - ALMOST), network(ws, lod=lod + 0.25)
    torch.testing.assert_close(start, enlarge(old), atol=1e-4, rtol=0)
    torch.testing.assert_close(middle, enlarge(old).lerp(new, 0.75), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(ws, lod=lod + ALMOST), new, atol=1e-4, rtol=0)
    assert torch.equal(network(ws, lod=0.0), network(ws))


def test_a_grid_of_fewer_levels_stays_at_its_first_block():
    network = Synthesis3d(Synthesis3dConfig(channels=(4, 4)), 7, 8, 3)
    ws = torch.randn(1, network.num_ws, 7)
    assert torch.equal(network(ws, lod=2.5), network(ws, lod=1.0))


@pytest.mark.parametrize("lod", [0, 1])
@pytest.mark.parametrize("architecture", ["residual", "progan"])
def test_a_fade_of_a_discriminator_starts_with_the_old_level(architecture, lod):
    network, image = discriminator(architecture), torch.randn(4, 3, 16 >> lod, 16 >> lod)
    old = logits(network, F.avg_pool2d(image, 2), lod + 1.0)
    start = logits(network, image, lod + 1 - ALMOST)
    torch.testing.assert_close(start, old, atol=1e-4, rtol=0)
    new = logits(network, image, float(lod))
    assert (new - old).abs().min() > 1e-4
    torch.testing.assert_close(logits(network, image, lod + ALMOST), new, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["residual", "progan"])
def test_at_full_size_a_growing_discriminator_is_one_that_does_not_grow(architecture):
    grows = discriminator(architecture)
    torch.manual_seed(0)
    plain, image = discriminator(architecture, ()), torch.randn(4, 3, 16, 16)
    more = grows.state_dict().keys() - plain.state_dict().keys()
    assert more == {f"fromrgb.{r}.{p}" for r in (4, 8) for p in ("weight", "bias")}
    for name, value in plain.state_dict().items():
        assert torch.equal(value, grows.state_dict()[name])
    assert torch.equal(logits(grows, image, 0.0), logits(plain, image, 0.0))


def test_progans_block_is_two_convolutions_and_a_mean():
    block, x = discriminator("progan").b8, torch.randn(2, 6, 8, 8)
    y = F.conv2d(x, block.conv0.weight / 54**0.5, padding=1)
    y = F.conv2d(F.leaky_relu(y, 0.2) * 2**0.5, block.conv1.weight / 54**0.5, padding=1)
    torch.testing.assert_close(block(x), F.avg_pool2d(F.leaky_relu(y, 0.2) * 2**0.5, 2))


@pytest.mark.parametrize("lod", [2.0, 1.5, 1.0, 0.5, 0.0])
def test_blocks_of_other_levels_have_no_gradient(lod):
    networks = progan(), discriminator("progan")
    logits(networks[1], networks[0](torch.randn(4, 1, 7), lod=lod), lod).sum().backward()
    used = {
        name
        for network in networks
        for name, p in network.named_parameters()
        if p.grad is not None and name.split(".")[0] != "b4"
    }
    top, fading = 16 >> int(lod), lod % 1 > 0
    blocks = {name.split(".")[0] for name in used} - {"fromrgb"}
    assert blocks == {f"b{r}" for r in (8, 16) if r <= top}
    heads = {int(name.split(".")[1]) for name in used if name.startswith("fromrgb.")}
    assert heads == ({top} - {16}) | ({top // 2} if fading else set())


def test_reals_fade_from_means_of_pixels():
    image = torch.randn(2, 3, 8, 8)
    low = at_level(image, 4)
    torch.testing.assert_close(low[:, :, 1, 2], image[:, :, 2:4, 4:6].mean((2, 3)))
    torch.testing.assert_close(
        at_level(image, 8, 1e-9), low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    assert at_level(image, 8) is image
    # What a network of the old level sees does not change in a fade.
    torch.testing.assert_close(at_level(at_level(image, 8, 0.3), 4), low)


@pytest.mark.parametrize("lod", [1.0, 1.5, 2.0])
def test_a_discriminator_reduces_images_of_full_size_to_its_level(lod):
    network, image = discriminator("progan"), torch.randn(2, 3, 16, 16)
    low = F.avg_pool2d(image, 2 ** int(lod))
    assert torch.equal(logits(network, image, lod), logits(network, low, lod))

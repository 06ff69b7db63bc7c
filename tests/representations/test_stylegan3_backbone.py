"""StyleGAN3 as the network of pictures and planes."""

import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.networks.stylegan3 import StyleGAN3Config, StyleGAN3Synthesis
from lightning_gan3d.networks.synthesis import Synthesis2d, SynthesisConfig
from representations.image2d import Image2d, Image2dConfig
from representations.triplane import TriPlane, TriPlaneConfig

SMALL = StyleGAN3Config(num_layers=4, channel_base=256, channel_max=8)
WS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


def picture(network="stylegan3-t", **options):
    torch.manual_seed(0)
    cfg = Image2dConfig(network=network, stylegan3=SMALL, **options)
    return Image2d(cfg, SceneConfig(), 8, 32)


@torch.no_grad()
def test_a_picture_has_the_networks_image():
    net = picture()
    assert isinstance(net.synthesis, StyleGAN3Synthesis)
    assert net.num_ws == 6
    assert torch.equal(net(WS).image, net.synthesis(WS))
    bounded = picture(output="sigmoid")(WS).image
    torch.testing.assert_close(bounded, net.synthesis(WS).sigmoid() * 2 - 1)
    kernel = picture("stylegan3-r").synthesis.L0_36_8.weight.shape
    assert kernel == (8, 8, 1, 1)


@torch.no_grad()
def test_planes_do_not_turn_with_the_style_of_the_input():
    torch.manual_seed(0)
    cfg = TriPlaneConfig(resolution=32, channels=4, network="stylegan3-t", stylegan3=SMALL)
    net = TriPlane(cfg, SceneConfig(feature_dim=3), 8, 32)
    planes = net(WS).planes
    assert planes.shape == (2, 3, 4, 32, 32)
    ws = WS.clone()
    ws[:, 0] += 1
    assert torch.equal(net(ws).planes, planes)
    assert not torch.equal(net(WS + 1).planes, planes)
    assert not any("input.affine" in name for name in net.state_dict())


def test_stylegan2_stays_the_default():
    torch.manual_seed(0)
    widths = SynthesisConfig(channels=(8, 8, 8, 8))
    net = Image2d(Image2dConfig(synthesis=widths), SceneConfig(), 8, 32)
    torch.manual_seed(0)
    other = Synthesis2d(widths, 8, 32, 3)
    state = net.state_dict()
    assert list(state) == [f"synthesis.{name}" for name in other.state_dict()]
    assert all(torch.equal(state[f"synthesis.{k}"], x) for k, x in other.state_dict().items())


@pytest.mark.parametrize("preset", ["demo/image2d", "demo/triplane", "family/small_giraffe"])
def test_earlier_runs_keep_their_hash(preset):
    known = {
        "demo/image2d": "dc00c6ae",
        "demo/triplane": "6cca5b6f",
        "family/small_giraffe": "7225c299",
    }
    assert load_experiment(preset).hash == known[preset]
    planes = "{kind: triplane, resolution: 16, channels: 4, synthesis: {channels: [8, 8, 8]}}"
    if preset == "family/small_giraffe":
        parts = load_experiment(preset, [f"generator.representation.object={planes}"])
        assert parts.hash == "a6657d76"


@pytest.mark.parametrize(
    ("preset", "override", "message"),
    [
        ("image2d", "stylegan3.num_layers=6", "network=stylegan2 does not read it"),
        ("triplane", "stylegan3.num_layers=6", "network=stylegan2 does not read it"),
        ("image2d", "network=stylegan4", "stylegan4"),
    ],
)
def test_options_without_effect_are_rejected(preset, override, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(preset, [f"generator.representation.{override}"])


def test_planes_too_small_for_the_input_are_rejected():
    with pytest.raises(ConfigError, match="resolution=4: use a power of two of 8"):
        TriPlaneConfig(resolution=4, network="stylegan3-t")

import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.networks.resample import upsample
from lightning_gan3d.networks.synthesis import (
    Synthesis2d,
    Synthesis3d,
    Synthesis3dConfig,
    SynthesisConfig,
)


def make(dims, resolution=16, out_channels=5, **options):
    torch.manual_seed(0)
    options = {"channels": (8, 6, 4)} | options
    if dims == 2:
        return Synthesis2d(SynthesisConfig(**options), 10, resolution, out_channels)
    return Synthesis3d(Synthesis3dConfig(**options), 10, resolution, out_channels)


def test_names_and_styles_of_eg3ds_backbone():
    net = Synthesis2d(SynthesisConfig(channel_base=2048, channel_max=32), 512, 256, 96)
    assert net.num_ws == 14
    state = net.state_dict()
    names = {"b4.const"}
    for r in (4, 8, 16, 32, 64, 128, 256):
        for conv in ["conv1"] if r == 4 else ["conv0", "conv1"]:
            names |= {
                f"b{r}.{conv}.{p}" for p in ("weight", "bias", "noise_strength", "noise_const")
            }
            names |= {f"b{r}.{conv}.affine.weight", f"b{r}.{conv}.affine.bias"}
        names |= {f"b{r}.torgb.{p}" for p in ("weight", "bias", "affine.weight", "affine.bias")}
    assert set(state) == names
    widths = [state[f"b{r}.conv1.weight"].shape[0] for r in (4, 64, 128, 256)]
    assert widths == [32, 32, 16, 8]
    assert state["b256.conv0.weight"].shape == (8, 16, 3, 3)
    assert state["b256.conv0.affine.weight"].shape == (16, 512)
    assert state["b256.torgb.weight"].shape == (96, 8, 1, 1)
    assert state["b64.conv0.noise_const"].shape == (64, 64)


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_and_number_of_styles(dims):
    net = make(dims)
    assert net.num_ws == 6
    out = net(torch.randn(3, 6, 10))
    assert out.shape == (3, 5, *[16] * dims)
    assert 0.1 < out.std() < 10


@pytest.mark.parametrize("dims", [2, 3])
def test_each_style_affects_its_layers(dims):
    net, ws = make(dims), torch.randn(2, 6, 10)
    calls = {}

    def remember(name):
        return lambda _module, args, _out: calls.update({name: args[1]})

    for r in (4, 8, 16):
        block = getattr(net, f"b{r}")
        for name in ("conv0", "conv1", "torgb"):
            if hasattr(block, name):
                getattr(block, name).register_forward_hook(remember(f"{r}.{name}"))
    net(ws)
    order = {
        name: next(i for i in range(6) if torch.equal(w, ws[:, i])) for name, w in calls.items()
    }
    assert order == {
        **{"4.conv1": 0, "4.torgb": 1},
        **{"8.conv0": 1, "8.conv1": 2, "8.torgb": 3},
        **{"16.conv0": 3, "16.conv1": 4, "16.torgb": 5},
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_outputs_of_all_resolutions_add_up(dims):
    net, ws = make(dims, use_noise=False), torch.randn(2, 6, 10)
    x, a = net.b4(None, None, ws[:, 0:2])
    x, b = net.b8(x, None, ws[:, 1:4])
    _, c = net.b16(x, None, ws[:, 3:6])
    torch.testing.assert_close(net(ws), upsample(upsample(a) + b) + c)


@pytest.mark.parametrize("dims", [2, 3])
def test_noise_is_keyed_by_layer_and_step(dims):
    net, ws, draws = make(dims), torch.randn(2, 6, 10), Draws(seed=3)
    torch.testing.assert_close(net(ws, "none"), net(ws, "const"))
    for name, p in net.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
    random = net(ws, "random", draws)
    torch.testing.assert_close(net(ws, "random", draws), random)
    assert not torch.allclose(net(ws, "random", draws.at(1)), random)
    assert not torch.allclose(net(ws, "none"), net(ws, "const"))
    captured = []
    for block in (net.b8.conv0, net.b8.conv1):
        block.register_forward_hook(
            lambda _m, args, _o: captured.append(args[3].normal("noise", (4,)))
        )
    net(ws, "random", draws)
    assert not torch.equal(captured[0], captured[1])


def test_options_have_effect():
    ws = 50 * torch.randn(2, 6, 10)
    clamped = make(2, conv_clamp=0.1)(ws)
    assert clamped.abs().max() <= 0.3 + 1e-6 < make(2)(ws).abs().max()
    assert not any("noise" in k for k in make(2, use_noise=False).state_dict())
    assert not any("noise" in k for k in make(3, use_noise=False).state_dict())
    for dims in (2, 3):
        net = make(dims, channels=None, channel_base=64, channel_max=12)
        assert [net.b4.const.shape[0], net.b16.conv1.bias.shape[0]] == [12, 4]


def test_sample_does_not_depend_on_its_batch():
    net, ws = make(2), torch.randn(4, 6, 10)
    torch.testing.assert_close(net(ws)[2:3], net(ws[2:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_blocks_compute_in_their_precision_and_add_up_in_full(dims, precision):
    net, ws = make(dims, channels=(16, 16, 16)), torch.randn(4, 6, 10)
    x, rgb = torch.randn(4, 16, *[4] * dims), torch.randn(4, 5, *[4] * dims)
    exact = net(ws)
    set_precision(net, precision)
    low = net(ws)
    features, out = net.b8(x, rgb, ws[:, 1:4])
    _, without = net.b8(x, 0 * rgb, ws[:, 1:4])
    assert features.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert low.dtype == torch.float32
    error = (low - exact).std() / low.std()
    assert 1e-5 < error < {"bf16": 0.03, "fp16": 0.004}[precision]
    torch.testing.assert_close(out - without, upsample(rgb), atol=1e-5, rtol=0)
    set_precision(net, "fp32")
    assert torch.equal(net(ws), exact)


def test_autocast_has_no_effect():
    net, ws = make(2), torch.randn(4, 6, 10)
    with torch.autocast("cpu", torch.bfloat16):
        actual = net(ws)
    torch.testing.assert_close(actual, net(ws))


def test_float16_survives_large_weights_and_styles():
    net, ws = make(2, channels=(16, 16, 16)), torch.randn(4, 6, 10)
    net.b8.conv0.affine.weight.data *= 1e4
    net.b8.conv1.weight.data *= 1e4
    exact = net(ws)
    set_precision(net, "fp16")
    torch.testing.assert_close(net(ws), exact, atol=0.02 * exact.std().item(), rtol=0.02)


@pytest.mark.parametrize(
    ("options", "resolution", "message"),
    [
        ({"channels": (8, 6)}, 16, "needs 3 numbers, one for each of 4, 8, 16"),
        ({}, 12, "power of two"),
        ({}, 2, "power of two"),
        ({"channels": ()}, 16, "channels"),
    ],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_resolutions_and_numbers_of_channels_are_checked(dims, options, resolution, message):
    with pytest.raises(ConfigError, match=message):
        make(dims, resolution, **options)

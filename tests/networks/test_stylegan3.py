"""StyleGAN3's tables, filters, equivariance and running magnitudes."""

import math

import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.cost import count_flops, to_meta
from lightning_gan3d.networks.band_limits import Signal, StyleGAN3Config, layer_signals, lowpass
from lightning_gan3d.networks.precision import set_precision
from lightning_gan3d.networks.stylegan3 import (
    AliasFreeLayer,
    FourierInput,
    InputMagnitudes,
    StyleGAN3Synthesis,
)

TABLES = {
    (256, 16384): "36·512 36·512 36·512 52·512 52·512 84·512 84·512 148·362 148·256 148·181 276·128"
    " 276·91 276·64 256·64 256",
    (512, 32768): "36·512 36·512 52·512 52·512 84·512 84·512 148·512 148·483 276·323 276·215"
    " 532·144 532·96 532·64 512·64 512",
    (1024, 32768): "36·512 36·512 52·512 52·512 84·512 148·512 148·512 276·323 276·203 532·128"
    " 1044·81 1044·51 1044·32 1024·32 1024",
}


def small(variant="t", resolution=32, out_channels=3, **options):
    torch.manual_seed(0)
    options = {"num_layers": 6, "channel_base": 512, "channel_max": 16} | options
    return StyleGAN3Synthesis(StyleGAN3Config(**options), variant, 8, resolution, out_channels)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("resolution", "base"), TABLES)
def test_sizes_and_channels_of_the_published_networks(resolution, base):
    signals = layer_signals(StyleGAN3Config(channel_base=base), resolution)
    table = [f"{s.size}·{s.channels}" for s in signals]
    assert [*table[:-1], table[-1].split("·")[0]] == TABLES[resolution, base].split()


def test_names_and_rates_of_layers():
    with torch.device("meta"):
        net = StyleGAN3Synthesis(StyleGAN3Config(channel_base=16384), "t", 512, 256, 3)
    assert net.num_ws == 16
    assert net.names[0] == "L0_36_512"
    assert net.names[-2:] == ["L13_256_64", "L14_256_3"]
    layers = [getattr(net, name) for name in net.names[:-1]]
    rates = {layer.rates["padding"]: layer.activation for layer in layers}
    assert list(rates) == [(9, 8), (-6, -9), (-11, -12)]
    same, doubling, last = rates.values()
    assert (same.up, same.down, len(same.up_filter), len(same.down_filter)) == (2, 2, 12, 12)
    assert (doubling.up, doubling.down, len(doubling.up_filter), len(doubling.down_filter)) == (
        4,
        2,
        24,
        12,
    )
    assert (last.up, last.down, len(last.up_filter), len(last.down_filter)) == (2, 2, 12, 12)
    state = net.state_dict()
    own = {"weight", "bias", "affine.weight", "affine.bias", "magnitude_ema"}
    assert {k.removeprefix("L14_256_3.") for k in state if k.startswith("L14_")} == own
    own |= {"up_filter", "down_filter"}
    assert {k.removeprefix("L3_52_512.") for k in state if k.startswith("L3_")} == own
    own = {"weight", "affine.weight", "affine.bias", "transform", "freqs", "phases"}
    assert {k.removeprefix("input.") for k in state if k.startswith("input.")} == own
    assert state["L7_148_362.weight"].shape == (362, 512, 3, 3)
    with torch.device("meta"):
        net = StyleGAN3Synthesis(StyleGAN3Config(), "r", 8, 256, 3)
    state = net.state_dict()
    assert {len(v.shape) for k, v in state.items() if "up_filter" in k} == {1}
    critical = [k for k, v in state.items() if "down_filter" in k and v.ndim == 1]
    assert [k.split("_")[0] for k in critical] == ["L12", "L13"]
    assert state["L0_36_512.weight"].shape == (512, 512, 1, 1)


@pytest.mark.parametrize("radial", [False, True])
def test_filters_pass_the_band_and_stop_beyond_the_transition(radial):
    signal, rate = Signal(16, 36, 8, 4.0, 3.0), 32
    kernel = lowpass(24, signal, rate, radial)  # 70 dB by Kaiser's formula
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))
    torch.testing.assert_close(kernel, kernel.flip(0))
    if radial:
        torch.testing.assert_close(kernel, kernel.mT)
    n = 256
    response = torch.fft.rfft(kernel, n) if not radial else torch.fft.rfft(kernel.sum(0), n)
    response, frequency = response.abs(), torch.arange(n // 2 + 1) * rate / n
    assert response[frequency <= 1].min() > 0.99
    assert response[frequency >= 7].max() < 10 ** (-60 / 20)
    # A circle's edge is not straight: less than half on average.
    assert abs(response[frequency == 4] - 0.5) < (0.06 if radial else 0.02)
    if radial:  # the diagonal has the same response as the axis
        both = torch.fft.fft2(kernel, s=(n, n)).abs()
        i = torch.arange(20, n // 2, 10)
        along, across = (
            both[i, 0],
            both[(i / math.sqrt(2)).round().int(), (i / 2**0.5).round().int()],
        )
        assert (along - across).abs().max() < 0.03


def test_canvases_of_the_input_show_waves_at_their_places():
    torch.manual_seed(0)
    signal = Signal(16, 36, 4, 2.0, 6.0)
    net = FourierInput(signal, 8)
    assert net.freqs.norm(dim=1).max() <= 2
    net.weight.data = 2 * torch.eye(4)  # divided by the root of 4
    net.affine.weight.data = numbers(4, 8)
    w = numbers(1, 8)
    net.transform[:2, 2] = torch.tensor([0.3, -0.2])
    y = net(w)
    t = net.affine(w)[0]
    t = t / t[:2].norm()
    row, column = 5, 30
    point = torch.tensor([(column - 17.5) / 16, (row - 17.5) / 16]) + net.transform[:2, 2]
    point = torch.stack(
        [
            t[0] * (point[0] - t[2]) - t[1] * (point[1] - t[3]),
            t[1] * (point[0] - t[2]) + t[0] * (point[1] - t[3]),
        ]
    )
    expected = torch.sin(2 * torch.pi * (net.freqs @ point + net.phases))
    torch.testing.assert_close(y[0, :, row, column], expected, atol=1e-5, rtol=0)


def test_frequencies_of_the_input_are_uniform_in_a_disc():
    torch.manual_seed(0)
    radius = FourierInput(Signal(16, 36, 4000, 2.0, 6.0), 1).freqs.norm(dim=1) / 2
    share = torch.tensor([(radius < r).float().mean() for r in (0.25, 0.5, 0.75)])
    torch.testing.assert_close(share, torch.tensor([1, 4, 9]) / 16, atol=0.025, rtol=0)


def psnr(a, b):
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def shifted(net, ws, pixels):
    """Image, and image of the picture shifted to the right, brought back, without borders."""
    base = net(ws)
    net.transform[0, 2] = -pixels / base.shape[-1]
    moved = net(ws)
    net.transform[0, 2] = 0
    scale = 1 / base.std()
    return scale * base[..., 6:-6, 6 : -6 - pixels], scale * moved[..., 6:-6, 6 + pixels : -6]


@torch.no_grad()
def test_images_move_with_the_input_and_stick_without_filters():
    net, ws = small(), numbers(2, 8, 8)
    good = psnr(*shifted(net, ws, 3))
    assert good > 40
    for name in net.names[:-1]:  # nearest neighbour, twice, instead of the filters
        layer = getattr(net, name)
        taps = torch.zeros_like(layer.up_filter)
        middle, n = len(taps) // 2, layer.rates["up"]
        taps[middle - n // 2 : middle + n // 2] = 1 / n
        layer.up_filter.copy_(taps)
        taps = torch.zeros_like(layer.down_filter)
        taps[len(taps) // 2 - 1 : len(taps) // 2 + 1] = 0.5
        layer.down_filter.copy_(taps)
    assert psnr(*shifted(net, ws, 3)) < good - 12


@torch.no_grad()
def test_a_layer_moves_what_its_input_moves():
    torch.manual_seed(0)
    before, after = Signal(16, 36, 8, 2.0, 6.0), Signal(32, 52, 8, 4.0, 12.0)
    layer = AliasFreeLayer(StyleGAN3Config(), "t", 8, before, after)
    layer.bias.data = 0.5 * numbers(8)
    waves, w = FourierInput(before._replace(channels=8), 8), numbers(1, 8)
    still = layer(waves(w), w)
    waves.transform[:2, 2] = torch.tensor([-3, 5]) / 32  # by 1.5 and -2.5 texels of the input
    moved = layer(waves(w), w)
    scale = 1 / still.std()
    a, b = still[..., 16:-10, 8:-12], moved[..., 11:-15, 11:-9]
    assert psnr(scale * a, scale * b) > 40


@torch.no_grad()
@pytest.mark.parametrize("variant", ["t", "r"])
def test_only_configuration_r_is_equivariant_to_rotation(variant):
    net, ws = small(variant), numbers(2, 8, 8)
    base = net(ws)
    # The inverse map of a rotation by a quarter, from x to y.
    net.transform[:2, :2] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    turned = net(ws).rot90(1, (2, 3))
    difference = (turned - base).abs().max() / base.std()
    assert difference < 1e-3 if variant == "r" else difference > 0.1


@pytest.mark.parametrize("variant", ["t", "r"])
def test_outputs_and_gradients_are_sound(variant):
    net, ws = small(variant), numbers(2, 8, 8)
    image = net(ws)
    assert image.shape == (2, 3, 32, 32)
    assert 0.03 < image.std() < 1
    torch.testing.assert_close(net(ws[1:]), image[1:], atol=1e-5, rtol=1e-4)
    assert torch.equal(small(variant)(ws), image)
    image.square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().max() > 0, name


def test_styles_scale_the_input_of_their_layer_only():
    net, ws = small(), numbers(1, 8, 8)
    calls = []
    for name in net.names:
        getattr(net, name).register_forward_hook(lambda _m, args, _o: calls.append(args[1]))
    net(ws)
    assert all(torch.equal(w, ws[:, i + 1]) for i, w in enumerate(calls))
    assert len(calls) == 7


@torch.no_grad()
def test_the_running_magnitude_scales_the_input():
    net, ws, x = small(), numbers(2, 8, 8), numbers(2, 16, 36, 36)
    for name, size in (("L0_36_16", 36), ("L6_32_3", 32)):
        layer, inputs = getattr(net, name), x[..., :size, :size]
        half = layer(inputs / 2, ws[:, 1])
        layer.magnitude_ema.fill_(4)
        torch.testing.assert_close(layer(inputs, ws[:, 1]), half)


def test_the_clamp_and_the_output_scale_have_an_effect():
    ws = numbers(1, 8, 8)
    assert small(conv_clamp=1e-3)(ws).abs().max() < 1e-3
    torch.testing.assert_close(small(output_scale=0.5)(ws), 2 * small()(ws))


def test_16_bit_layers_return_nearly_the_same_image():
    net, ws = small(channel_base=2048), numbers(2, 8, 8)
    exact = net(ws)
    set_precision(net, "bf16")
    low = net(ws)
    assert low.dtype == torch.float32
    assert 1e-4 < (low - exact).std() / exact.std() < 0.05


def test_costs_are_counted():
    net = small()
    flops = count_flops(lambda: to_meta(net)(torch.zeros(1, 8, 8, device="meta")))
    convs = sum(2 * (getattr(net, n).weight.numel()) for n in net.names)
    assert flops["Global"] > 36**2 * convs


@pytest.mark.parametrize(
    ("options", "resolution", "message"),
    [
        ({}, 48, r"resolution=48: use a power of two of 8 or more, e\.g\. 64"),
        ({}, 4, "resolution=4"),
        ({"num_critical": 6}, 32, "num_critical=6: use less than num_layers=6"),
        ({"first_stopband": 2.0}, 32, r"first_cutoff=2\.0: use less than first_stopband"),
    ],
)
def test_impossible_networks_are_rejected(options, resolution, message):
    with pytest.raises(ConfigError, match=message):
        small(resolution=resolution, **options)


def test_magnitudes_follow_the_inputs_of_recorded_forwards():
    net, ws = small(), numbers(4, 8, 8)
    magnitudes, healthy = InputMagnitudes(net), torch.tensor(True)
    with magnitudes.recorded() as squares:
        before = net(ws)
    with magnitudes.recorded() as halves:
        net(ws[:2])
        net(ws[2:])
    assert len(squares) == len(net.names)
    torch.testing.assert_close(torch.cat(halves), torch.cat(squares))
    magnitudes.update(torch.cat(squares), 20_000, torch.tensor(False))
    assert torch.equal(net(ws), before)
    frozen = getattr(net, net.names[1])
    frozen.requires_grad_(False)
    magnitudes.update(torch.cat(squares), 20_000, healthy)
    emas = torch.stack([getattr(net, name).magnitude_ema for name in net.names])
    expected = (1 + torch.cat(squares)) / 2
    expected[1] = 1
    torch.testing.assert_close(emas, expected)
    assert not torch.equal(net(ws), before)
    net(ws)
    assert torch.equal(torch.stack([getattr(net, n).magnitude_ema for n in net.names]), emas)

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.convolution import Affine, convolve, demodulation, modulated_layer
from lightning_gan3d.networks.layers import (
    Conv2dLayer,
    FullyConnected,
    LayerOptions,
    SynthesisLayer,
    ToRGB,
    normalize_second_moment,
)
from lightning_gan3d.networks.resample import fir

CONV = {2: F.conv2d, 3: F.conv3d}


def zeros_between(x):
    for axis in range(2, x.ndim):
        x = torch.stack([x, torch.zeros_like(x)], dim=axis + 1).flatten(axis, axis + 1)
    return x


def slow_up(x, weight):
    """Zeros between the samples, a true 3-tap convolution, the filter: by definition."""
    dims = x.ndim - 2
    wide = F.pad(zeros_between(x), [4] * 2 * dims)
    y = CONV[dims](wide, weight.flip(*range(2, 2 + dims)))
    y = fir(y, 0, gain=2.0)
    keep = [slice(1, 1 + 2 * n) for n in x.shape[2:]]
    return y[(..., *keep)]


def test_fully_connected_is_equalised():
    layer = FullyConnected(200, 300, activation="lrelu", lr_mul=0.01, bias_init=0.5)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.05)
    x = torch.randn(64, 200)
    weight, bias = layer.weight * 0.01 / math.sqrt(200), layer.bias * 0.01
    torch.testing.assert_close(bias, torch.full_like(bias, 0.5))
    torch.testing.assert_close(layer(x), F.leaky_relu(x @ weight.T + bias, 0.2) * math.sqrt(2))
    torch.testing.assert_close(layer(x.reshape(4, 16, 200)), layer(x).reshape(4, 16, 300))
    linear = FullyConnected(200, 300)
    assert linear(x).std().item() == pytest.approx(1, rel=0.05)


def test_learning_rate_multiplier_slows_the_effective_weight():
    moved = []
    for lr_mul in (1.0, 0.1):
        torch.manual_seed(0)
        layer = FullyConnected(8, 4, lr_mul=lr_mul)
        x, before = torch.randn(16, 8), layer.weight.detach() * layer.weight_gain
        layer(x).square().sum().backward()
        layer.weight.data -= 0.01 * layer.weight.grad.sign()  # as Adam steps
        moved.append((layer.weight.detach() * layer.weight_gain - before).abs().mean().item())
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=1e-3)


def test_activation_keeps_variance():
    x = torch.randn(4, 32, 16, 16)
    y = Conv2dLayer(32, 64, 3)(x)[..., 1:-1, 1:-1]
    assert y.square().mean().item() == pytest.approx(1.04, abs=0.15)


def test_normalisation_divides_by_the_root_mean_square():
    x = torch.randn(5, 64) * torch.rand(5, 1) * 100
    y = normalize_second_moment(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(5))
    torch.testing.assert_close(y, x / x.square().mean(1, keepdim=True).sqrt())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("widths", [(16, 32), (5, 3)])
def test_convolve_matches_definition(dims, widths):
    i, o = widths
    x = torch.randn(2, i, *[6] * dims, dtype=torch.float64)
    w = torch.randn(o, i, *[3] * dims, dtype=torch.float64)
    bias = torch.randn(o, dtype=torch.float64)
    conv = CONV[dims]
    torch.testing.assert_close(convolve(x, w, bias), conv(x, w, bias, padding=1))
    torch.testing.assert_close(convolve(x, w, up=2), slow_up(x, w))
    torch.testing.assert_close(convolve(x, w, bias, down=2), conv(fir(x, 2), w, bias, stride=2))
    point = w[(..., *[slice(0, 1)] * dims)]
    torch.testing.assert_close(convolve(x, point, down=2), conv(fir(x, 1), point, stride=2))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("change", [{"up": 2}, {"down": 2}])
def test_resampling_convolutions_are_centred(kernel, change):
    if kernel == 1 and "up" in change:
        pytest.skip("no layer upsamples with a 1x1 kernel")
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    w = torch.randn(3, 2, kernel, kernel, dtype=torch.float64)
    mirrored = convolve(x.flip(2, 3), w.flip(2, 3), **change)
    torch.testing.assert_close(mirrored.flip(2, 3), convolve(x, w, **change))


def test_resampling_convolutions_are_equivariant_to_translation():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 6:9, 5:8] = torch.randn(3, 3)
    w = torch.randn(1, 1, 3, 3)
    up, down = convolve(x, w, up=2), convolve(x, w, down=2)
    moved = x.roll((2, 4), (2, 3))
    torch.testing.assert_close(convolve(moved, w, up=2), up.roll((4, 8), (2, 3)))
    torch.testing.assert_close(convolve(moved, w, down=2), down.roll((1, 2), (2, 3)))


def modulated(x, weight, style, up):
    """The layer without noise and bias."""
    scale = demodulation(weight, style)
    affine = Affine(scale, scale.new_zeros(()).expand(len(weight)))
    return modulated_layer(x, weight, style, affine, up, None)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("up", [1, 2])
def test_modulation_equals_one_weight_per_sample(dims, up):
    x = torch.randn(3, 4, *[4] * dims, dtype=torch.float64)
    weight = torch.randn(5, 4, *[3] * dims, dtype=torch.float64)
    style = torch.randn(3, 4, dtype=torch.float64) + 1
    y = modulated(x, weight, style, up)
    for k in range(3):
        own = weight * style[k].reshape(1, -1, *[1] * dims)
        own = own / (own.flatten(1).square().sum(1) + 1e-8).sqrt().reshape(-1, *[1] * (dims + 1))
        one = slow_up(x[k : k + 1], own) if up == 2 else CONV[dims](x[k : k + 1], own, padding=1)
        torch.testing.assert_close(y[k : k + 1], F.leaky_relu(one, 0.2))


def test_demodulation_gives_unit_variance_for_any_style():
    x = torch.randn(4, 16, 32, 32)
    style = torch.tensor([0.01, 1.0, 30.0, -5.0])[:, None] * (torch.rand(4, 16) + 0.5)
    y = modulated(x, torch.randn(8, 16, 3, 3), style, 1)
    y = torch.where(y < 0, y / 0.2, y)
    inner = y[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner.std(dim=(1, 2, 3)), torch.ones(4), atol=0.1, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_synthesis_layer_is_convolution_noise_bias_activation(dims):
    layer = SynthesisLayer(4, 6, 8, LayerOptions(8, dims), up=2).double()
    layer.bias.data.normal_()
    layer.noise_strength.data.fill_(0.7)
    x = torch.randn(2, 4, *[4] * dims, dtype=torch.float64)
    w = torch.randn(2, 8, dtype=torch.float64)
    style, shape = layer.affine(w), (-1, *[1] * dims)
    y = convolve(x * style.reshape(2, *shape), layer.weight, up=2)
    y = (
        y * demodulation(layer.weight, style).reshape(2, *shape)
        + layer.noise_const * 0.7
        + layer.bias.reshape(shape)
    )
    torch.testing.assert_close(layer(x, w), F.leaky_relu(y, 0.2) * math.sqrt(2))


def test_noise_modes():
    layer = SynthesisLayer(4, 6, 4, LayerOptions(8))
    x, w, draws = torch.randn(2, 4, 4, 4), torch.randn(2, 8), Draws(seed=1)
    torch.testing.assert_close(layer(x, w, "const"), layer(x, w, "none"))  # starts without noise
    layer.noise_strength.data.fill_(1.0)
    assert not torch.equal(layer(x, w, "const"), layer(x, w, "none"))
    random = layer(x, w, "random", draws)
    torch.testing.assert_close(layer(x, w, "random", draws), random)
    assert not torch.equal(layer(x, w, "random", draws.at(1)), random)
    same = layer(x[:1].repeat(2, 1, 1, 1), w[:1].repeat(2, 1), "random", draws)
    assert not torch.equal(same[0], same[1])  # each sample has its own noise
    with pytest.raises(ValueError, match="needs draws"):
        layer(x, w, "random")
    without = SynthesisLayer(4, 6, 4, LayerOptions(8, use_noise=False))
    assert "noise_const" not in without.state_dict()


def test_clamps_limit_activations():
    x, w = 100 * torch.randn(2, 4, 8, 8), torch.randn(2, 8)
    options = LayerOptions(8, conv_clamp=0.5)
    for layer in (SynthesisLayer(4, 6, 8, options), ToRGB(4, 3, options)):
        assert layer(x, w).abs().max().item() == pytest.approx(0.5)
    residual = Conv2dLayer(4, 4, 3, residual=True, conv_clamp=0.5)
    # The discriminator's clamp follows the gain of its residual branches.
    assert residual(x).abs().max().item() == pytest.approx(0.5 * math.sqrt(0.5))


def test_to_rgb_is_not_demodulated():
    layer = ToRGB(16, 3, LayerOptions(8))
    layer.bias.data.normal_()
    x, w = torch.randn(2, 16, 4, 4), torch.randn(2, 8)
    scaled = x * (layer.affine(w) / 4)[:, :, None, None]
    torch.testing.assert_close(layer(x, w), F.conv2d(scaled, layer.weight, layer.bias))
    volume = ToRGB(16, 3, LayerOptions(8, dims=3))
    assert volume(torch.randn(2, 16, 4, 4, 4), w).shape == (2, 3, 4, 4, 4)


def test_conv_layer_is_equalised_and_scaled():
    layer = Conv2dLayer(8, 6, 3, residual=True)
    layer.bias.data.normal_()
    x = torch.randn(2, 8, 8, 8)
    y = convolve(x, layer.weight / math.sqrt(8 * 9), layer.bias, down=2)
    torch.testing.assert_close(layer(x), F.leaky_relu(y, 0.2) * math.sqrt(2) * math.sqrt(0.5))

"""The decoder on rows of gathered features, forward and backward: hidden units, density, colour.

Rows come in blocks of ROWS; matrices are padded with zeros to whole vectors. `s` in the formulas is
the sigmoid of a feature, before it is widened to s * 1.002 - 0.001: the ray's sums account for it.
"""

from typing import Any

from lightning_gan3d.simd import (
    ROWS,
    WIDTH,
    exp,
    helper,
    leaky_relu,
    matmul,
    sigmoid,
    simd,
    softplus,
)
from lightning_gan3d.simd.vector import (
    Int,
    Registers,
    broadcast,
    constant,
    fma,
    join,
    load,
    load_float,
    loop,
    select,
    split,
    store,
    store_float,
    total,
)
from renderers.fused.cpu.workspace import Buffers, Decoder, HiddenLayer, OutLayer

VECTOR = 4 * WIDTH
"""Bytes."""
SLOPE = 0.2
"""Of the leaky ReLU."""
BLOCKS = [range(i, i + 4) for i in range(0, ROWS, 4)]
"""Rows whose exponentials are interleaved."""


def _make_activate(activation: str) -> Any:
    @simd
    def activate(hidden: Int, density: Int, vectors: Int, sigma: Int) -> None:
        """Activate hidden units, and add their part of the raw density."""
        row = vectors * VECTOR
        dots = Registers([constant(hidden, 0.0)] * ROWS)
        with loop(vectors) as j:
            weight = load(density + j * VECTOR)
            for block in BLOCKS:
                addresses = [hidden + row * i + j * VECTOR for i in block]
                x = join([load(at) for at in addresses])
                y = softplus(x) if activation == "softplus" else leaky_relu(x, SLOPE)
                for i, at, part in zip(block, addresses, split(y), strict=True):
                    store(part, at)
                    dots[i] = fma(weight, part, dots[i])
        for i in range(ROWS):
            at = sigma + 4 * i
            store_float(load_float(at) + total(dots[i]), at)

    return activate


def _make_activate_backward(activation: str) -> Any:
    @simd
    def activate_backward(
        hidden: Int, d_hidden: Int, d_sigma: Int, density: Int, vectors: Int, d_bias: Int
    ) -> None:
        """From d_hidden = d_out W2^T: add the density's part, and multiply by the slope."""
        row = vectors * VECTOR
        factors = [broadcast(d_sigma + 4 * i) for i in range(ROWS)]
        with loop(vectors) as j:
            column = j * VECTOR
            bias = d_bias + column
            weight, bias_sum, density_sum = load(density + column), load(bias), load(bias + row)
            for block in BLOCKS:
                units = [load(hidden + row * i + column) for i in block]
                joined = join(units)
                if activation == "softplus":
                    slope = 1.0 - exp(-joined)  # sigmoid(x) = 1 - exp(-softplus(x))
                else:
                    slope = select(joined > 0.0, joined * 0.0 + 1.0, SLOPE)
                for i, y, part in zip(block, units, split(slope), strict=True):
                    at = d_hidden + row * i + column
                    x = fma(factors[i], weight, load(at)) * part
                    store(x, at)
                    density_sum = fma(factors[i], y, density_sum)
                    bias_sum = bias_sum + x
            store(density_sum, bias + row)
            store(bias_sum, bias)

    return activate_backward


_activate_softplus, _activate_lrelu = _make_activate("softplus"), _make_activate("lrelu")
_activate_softplus_backward = _make_activate_backward("softplus")
_activate_lrelu_backward = _make_activate_backward("lrelu")


@simd
def _accumulate(out: Int, omega: Int, vectors: Int, feature_sum: Int) -> None:
    row = vectors * VECTOR
    factors = [broadcast(omega + 4 * i) for i in range(ROWS)]
    with loop(vectors) as j:
        sums = load(feature_sum + j * VECTOR)
        for block in BLOCKS:
            s = sigmoid(join([load(out + row * i + j * VECTOR) for i in block]))
            for i, part in zip(block, split(s), strict=True):
                sums = fma(factors[i], part, sums)
        store(sums, feature_sum + j * VECTOR)


@simd
def _weight_gradients(out: Int, gradient: Int, vectors: Int, q: Int) -> None:
    """Replace features by s; q is the product of s with the gradient of the ray."""
    row = vectors * VECTOR
    dots = Registers([constant(out, 0.0)] * ROWS)
    with loop(vectors) as j:
        g = load(gradient + j * VECTOR)
        for block in BLOCKS:
            addresses = [out + row * i + j * VECTOR for i in block]
            s = sigmoid(join([load(at) for at in addresses]))
            for i, at, part in zip(block, addresses, split(s), strict=True):
                store(part, at)
                dots[i] = fma(g, part, dots[i])
    for i in range(ROWS):
        store_float(total(dots[i]), q + 4 * i)


@simd
def _out_backward(out: Int, omega: Int, gradient: Int, vectors: Int, d_bias: Int) -> None:
    """Replace s by the gradient before the sigmoid, omega g s (1 - s)."""
    row = vectors * VECTOR
    factors = [broadcast(omega + 4 * i) for i in range(ROWS)]
    with loop(vectors) as j:
        g, bias_sum = load(gradient + j * VECTOR), load(d_bias + j * VECTOR)
        for i in range(ROWS):
            at = out + row * i + j * VECTOR
            s = load(at)
            x = factors[i] * g * (s - s * s)
            store(x, at)
            bias_sum = bias_sum + x
        store(bias_sum, d_bias + j * VECTOR)


@helper
def hidden_forward(
    buffers: Buffers, first: int, number: int, layer: HiddenLayer, sigma: int
) -> None:
    """Compute hidden units of samples from `first` on; add their terms to the raw density."""
    width, row, vectors = 4 * layer.channels, 4 * layer.units, layer.units // WIDTH
    w, b, inner = layer.weight, layer.bias, layer.channels
    features, hidden = buffers.features + width * first, buffers.hidden + row * first
    for m in range(0, number, ROWS):
        y = hidden + row * m
        matmul(features + width * m, width, 4, w, row, inner, b, 0, y, row, ROWS, vectors)
        if layer.softplus:
            _activate_softplus(y, layer.density, vectors, sigma + 4 * m)
        else:
            _activate_lrelu(y, layer.density, vectors, sigma + 4 * m)


@helper
def accumulate_features(
    buffers: Buffers, number: int, layer: OutLayer, omega: int, feature_sum: int
) -> None:
    """Add sum_i omega_i s_i to the vectors `feature_sum`; `buffers.out` holds one block."""
    width, row, vectors = 4 * layer.units, 4 * layer.features, layer.features // WIDTH
    w, b, y = layer.weight, layer.bias, buffers.out
    for m in range(0, number, ROWS):
        x = buffers.hidden + width * m
        matmul(x, width, 4, w, row, layer.units, b, 0, y, row, ROWS, vectors)
        _accumulate(y, omega + 4 * m, vectors, feature_sum)


@helper
def weight_gradients(
    buffers: Buffers, number: int, layer: OutLayer, d_feature: int, q: int
) -> None:
    """Compute s into `buffers.out`, and its products `q` with the gradient `d_feature`."""
    width, row, vectors = 4 * layer.units, 4 * layer.features, layer.features // WIDTH
    w, b = layer.weight, layer.bias
    for m in range(0, number, ROWS):
        x, y = buffers.hidden + width * m, buffers.out + row * m
        matmul(x, width, 4, w, row, layer.units, b, 0, y, row, ROWS, vectors)
        _weight_gradients(y, d_feature, vectors, q + 4 * m)


@helper
def out_backward(
    out: int, number: int, features: int, omega: int, d_feature: int, d_bias: int
) -> None:
    """Replace s by the gradient of the features before the sigmoid; add to that of the bias."""
    for m in range(0, number, ROWS):
        _out_backward(out + 4 * features * m, omega + 4 * m, d_feature, features // WIDTH, d_bias)


@helper
def hidden_backward(buffers: Buffers, number: int, w: Decoder, d_sigma: int, d_bias: int) -> None:
    """Compute the gradient before the hidden activation; add to those of bias and density.

    The gradient of the density's weights follows that of the bias.
    """
    features, row, vectors = w.out.features, 4 * w.out.units, w.out.units // WIDTH
    width = 4 * features
    for m in range(0, number, ROWS):
        x, y, d_y = buffers.out + width * m, buffers.hidden + row * m, buffers.d_hidden + row * m
        matmul(x, width, 4, w.out_t, row, features, w.zeros, 0, d_y, row, ROWS, vectors)
        if w.hidden.softplus:
            _activate_softplus_backward(y, d_y, d_sigma + 4 * m, w.hidden.density, vectors, d_bias)
        else:
            _activate_lrelu_backward(y, d_y, d_sigma + 4 * m, w.hidden.density, vectors, d_bias)


@helper
def add_out_gradient(buffers: Buffers, number: int, layer: OutLayer, target: int) -> None:
    """Add hidden^T d_features to the gradient of the output weights."""
    x, y, row, units = buffers.hidden, buffers.out, 4 * layer.features, layer.units
    vectors = layer.features // WIDTH
    matmul(x, 4, 4 * units, y, row, number, target, row, target, row, units, vectors)


@helper
def add_hidden_gradient(buffers: Buffers, number: int, layer: HiddenLayer, target: int) -> None:
    """Add features^T d_units to the gradient of the hidden weights."""
    x, y, row, channels = buffers.features, buffers.d_hidden, 4 * layer.units, layer.channels
    vectors = layer.units // WIDTH
    matmul(x, 4, 4 * channels, y, row, number, target, row, target, row, channels, vectors)


@helper
def feature_gradient(buffers: Buffers, number: int, w: Decoder, target: int) -> None:
    """Compute the gradient of the gathered features, d_units W1, into rows of `target`."""
    x, units, row = buffers.d_hidden, w.hidden.units, 4 * w.hidden.channels
    vectors = w.hidden.channels // WIDTH
    matmul(x, 4 * units, 4, w.hidden_t, row, units, w.zeros, 0, target, row, number, vectors)

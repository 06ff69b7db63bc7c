"""The decoder on rows of gathered features, forward and backward: hidden units, density, colour.

Rows come in blocks of ROWS; matrices are padded with zeros to whole vectors. `s` is the sigmoid of
a feature before it is widened to s * 1.002 - 0.001, which the ray's sums take into account.
"""

from typing import Any

from lightning_gan3d.simd import (
    ROWS,
    WIDTH,
    Int,
    Registers,
    broadcast,
    constant,
    exp,
    fma,
    helper,
    join,
    leaky_relu,
    load,
    load_float,
    loop,
    matmul,
    select,
    sigmoid,
    simd,
    softplus,
    split,
    store,
    store_float,
    total,
)

VECTOR = 4 * WIDTH
"""Bytes."""
SLOPE = 0.2
"""Of the leaky ReLU."""
BLOCKS = [range(i, i + 4) for i in range(0, ROWS, 4)]
"""Rows whose exponentials are computed in step."""


def _make_activate(activation: str) -> Any:
    @simd
    def activate(hidden: Int, row: Int, density: Int, vectors: Int, sigma: Int) -> None:
        dots = Registers([constant(hidden, 0.0)] * ROWS)
        with loop(vectors) as j:
            weight = load(density + j * VECTOR)
            for block in BLOCKS:
                places = [hidden + row * i + j * VECTOR for i in block]
                x = join([load(at) for at in places])
                y = softplus(x) if activation == "softplus" else leaky_relu(x, SLOPE)
                for i, at, part in zip(block, places, split(y), strict=True):
                    store(part, at)
                    dots[i] = fma(weight, part, dots[i])
        for i in range(ROWS):
            at = sigma + 4 * i
            store_float(load_float(at) + total(dots[i]), at)

    return activate


def _make_backward(activation: str) -> Any:
    @simd
    def backward(
        hidden: Int,
        d_hidden: Int,
        row: Int,
        d_sigma: Int,
        density: Int,
        vectors: Int,
        d_density: Int,
        d_bias: Int,
    ) -> None:
        """From d_hidden = dO W2^T: add the density's part, and pass the activation."""
        factors = [broadcast(d_sigma + 4 * i) for i in range(ROWS)]
        with loop(vectors) as j:
            column = j * VECTOR
            weight, for_density = load(density + column), load(d_density + column)
            for_bias = load(d_bias + column)
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
                    for_density = fma(factors[i], y, for_density)
                    for_bias = for_bias + x
            store(for_density, d_density + column)
            store(for_bias, d_bias + column)

    return backward


_activate_softplus, _activate_lrelu = _make_activate("softplus"), _make_activate("lrelu")
_backward_softplus, _backward_lrelu = _make_backward("softplus"), _make_backward("lrelu")


@simd
def _blend(out: Int, row: Int, omega: Int, vectors: Int, into: Int) -> None:
    factors = [broadcast(omega + 4 * i) for i in range(ROWS)]
    with loop(vectors) as j:
        sums = load(into + j * VECTOR)
        for block in BLOCKS:
            s = sigmoid(join([load(out + row * i + j * VECTOR) for i in block]))
            for i, part in zip(block, split(s), strict=True):
                sums = fma(factors[i], part, sums)
        store(sums, into + j * VECTOR)


@simd
def _project(out: Int, row: Int, gradient: Int, vectors: Int, q: Int) -> None:
    """Replace features by their sigmoid; q is its product with the gradient of the ray."""
    dots = Registers([constant(out, 0.0)] * ROWS)
    with loop(vectors) as j:
        g = load(gradient + j * VECTOR)
        for block in BLOCKS:
            places = [out + row * i + j * VECTOR for i in block]
            s = sigmoid(join([load(at) for at in places]))
            for i, at, part in zip(block, places, split(s), strict=True):
                store(part, at)
                dots[i] = fma(g, part, dots[i])
    for i in range(ROWS):
        store_float(total(dots[i]), q + 4 * i)


@simd
def _unblend(out: Int, row: Int, omega: Int, gradient: Int, vectors: Int, d_bias: Int) -> None:
    """Replace s by the gradient before the sigmoid, omega g s (1 - s)."""
    factors = [broadcast(omega + 4 * i) for i in range(ROWS)]
    with loop(vectors) as j:
        g, for_bias = load(gradient + j * VECTOR), load(d_bias + j * VECTOR)
        for i in range(ROWS):
            at = out + row * i + j * VECTOR
            s = load(at)
            x = factors[i] * g * (s - s * s)
            store(x, at)
            for_bias = for_bias + x
        store(for_bias, d_bias + j * VECTOR)


@helper
def hide(
    features: int,
    channels: int,
    weight: int,
    bias: int,
    density: int,
    softplus_hidden: bool,
    hidden: int,
    vectors: int,
    rows: int,
    sigma: int,
) -> None:
    """Compute hidden units of `rows` rows, and add their share to the raw density `sigma`.

    `channels` and `vectors` (of hidden units) are padded sizes: floats, and vectors.
    """
    row = VECTOR * vectors
    for m in range(0, rows, ROWS):
        at = hidden + row * m
        source = features + 4 * channels * m
        matmul(source, 4 * channels, 4, weight, row, channels, bias, 0, at, row, ROWS, vectors)
        if softplus_hidden:
            _activate_softplus(at, row, density, vectors, sigma + 4 * m)
        else:
            _activate_lrelu(at, row, density, vectors, sigma + 4 * m)


@helper
def blend(
    hidden: int,
    units: int,
    weight: int,
    bias: int,
    out: int,
    vectors: int,
    rows: int,
    omega: int,
    into: int,
) -> None:
    """Add sum_i omega_i s_i of `rows` rows to the vectors `into`; `out` holds one block."""
    row = VECTOR * vectors
    for m in range(0, rows, ROWS):
        source = hidden + 4 * units * m
        matmul(source, 4 * units, 4, weight, row, units, bias, 0, out, row, ROWS, vectors)
        _blend(out, row, omega + 4 * m, vectors, into)


@helper
def project(
    hidden: int,
    units: int,
    weight: int,
    bias: int,
    out: int,
    vectors: int,
    rows: int,
    gradient: int,
    q: int,
) -> None:
    """Compute s of `rows` rows into `out`, and their products q with the ray's gradient."""
    row = VECTOR * vectors
    for m in range(0, rows, ROWS):
        source, at = hidden + 4 * units * m, out + row * m
        matmul(source, 4 * units, 4, weight, row, units, bias, 0, at, row, ROWS, vectors)
        _project(at, row, gradient, vectors, q + 4 * m)


@helper
def unblend(out: int, vectors: int, rows: int, omega: int, gradient: int, d_bias: int) -> None:
    """Replace s of `rows` rows by the gradient of the features before the sigmoid."""
    row = VECTOR * vectors
    for m in range(0, rows, ROWS):
        _unblend(out + row * m, row, omega + 4 * m, gradient, vectors, d_bias)


@helper
def unhide(
    d_out: int,
    features: int,
    weight_t: int,
    zeros: int,
    hidden: int,
    d_hidden: int,
    vectors: int,
    rows: int,
    d_sigma: int,
    density: int,
    softplus_hidden: bool,
    d_density: int,
    d_bias: int,
) -> None:
    """Compute the gradient before the hidden activation; add to those of density and bias.

    `features` is their padded number; `weight_t` the output weight, a row per feature.
    """
    row = VECTOR * vectors
    for m in range(0, rows, ROWS):
        source, y, at = d_out + 4 * features * m, hidden + row * m, d_hidden + row * m
        matmul(source, 4 * features, 4, weight_t, row, features, zeros, 0, at, row, ROWS, vectors)
        if softplus_hidden:
            _backward_softplus(y, at, row, d_sigma + 4 * m, density, vectors, d_density, d_bias)
        else:
            _backward_lrelu(y, at, row, d_sigma + 4 * m, density, vectors, d_density, d_bias)

"""The layers of a NeRF MLP on rows of points, forward and backward: products, sines, heads.

A row holds the units of one point. Rows come in multiples of FEW_ROWS; columns are padded with
zeros to whole vectors. Inputs are stored one row per input, as they are computed.
"""

from typing import NamedTuple

from lightning_gan3d.simd import WIDTH, helper, matmul, sigmoid, simd, sine, sine_cosine
from lightning_gan3d.simd.vector import (
    Float,
    Int,
    Registers,
    broadcast,
    constant,
    fma,
    join,
    load,
    load_float,
    loop,
    maximum,
    select,
    split,
    store,
    store_float,
    total,
)

VECTOR = 4 * WIDTH
"""Bytes."""
TOGETHER = 4
"""Vectors whose sines are interleaved."""
PI = 3.1415927410125732


class Network(NamedTuple):
    """Addresses of the weights of one scene, (inputs, units) each, and sizes in floats, padded.

    `_t`: transposed, for gradients.
    """

    first: int
    hidden: int
    biases: int
    dirs: int
    """Weights of the direction in the last layer, (3, units)."""
    density: int
    out: int
    out_bias: int
    hidden_t: int
    out_t: int
    zeros: int
    inputs: int
    octaves: int
    layers: int
    """After layer 0; the last one is of features only."""
    units: int
    channels: int
    """Features of a pixel, not padded."""
    columns: int
    """The same, padded."""
    sine: bool
    """Activation; else ReLU."""
    has_dirs: bool


class NetworkGradient(NamedTuple):
    """Addresses of the gradients of a network."""

    first: int
    hidden: int
    biases: int
    dirs: int
    density: int
    out: int
    out_bias: int


class Activations(NamedTuple):
    """Addresses of rows of points."""

    inputs: int
    input_row: int
    """Bytes from one input to the next."""
    units: int
    """Of the layers below the last one: all of them for a gradient, else two in turn."""
    slopes: int
    """Derivatives of sines at all layers; only for a gradient."""
    level: int
    """Bytes from layer to layer."""
    levels: int
    """Layers in `units`, before the hidden one."""
    hidden: int
    """Units that density and features share."""
    last: int
    """Units of the last layer."""
    out: int
    """Features before the sigmoid, or their gradient."""
    d_units: int
    d_below: int
    sigma: int
    """Raw density without its bias, or its gradient, one float per point."""


@simd
def _position(ray: Int, t: Int, inputs: Int, row: Int, per_half_box: Float) -> None:
    """Write positions of WIDTH samples at `t` as the first three inputs."""
    at, scale = load(t), per_half_box.splat()
    for a in range(3):
        x = fma(broadcast(ray + 12 + 4 * a), at, broadcast(ray + 4 * a)) * scale
        store(x, inputs + row * a)


@simd
def _encode(inputs: Int, row: Int, octaves: Int) -> None:
    """Write sines, then cosines, of the positions of WIDTH samples; axes outermost."""
    for a in range(3):
        angle = Registers([load(inputs + row * a) * PI])
        sines = inputs + row * (octaves * a + 3)
        cosines = sines + row * (octaves * 3)
        with loop(octaves) as k:
            sin, cos = sine_cosine(angle[0])
            store(sin, sines + row * k)
            store(cos, cosines + row * k)
            angle[0] = angle[0] * 2.0


@simd
def _sine(units: Int, count: Int) -> None:
    """Replace `count` times TOGETHER vectors by their sines."""
    with loop(count) as i:
        at = [units + i * (TOGETHER * VECTOR) + VECTOR * j for j in range(TOGETHER)]
        for place, part in zip(at, split(sine(join([load(x) for x in at]))), strict=True):
            store(part, place)


@simd
def _sine_and_slope(units: Int, slopes: Int, count: Int) -> None:
    """The same; store the cosines too."""
    with loop(count) as i:
        at = [i * (TOGETHER * VECTOR) + VECTOR * j for j in range(TOGETHER)]
        sin, cos = sine_cosine(join([load(units + x) for x in at]))
        for place, s, c in zip(at, split(sin), split(cos), strict=True):
            store(s, units + place)
            store(c, slopes + place)


@simd
def _relu(units: Int, count: Int) -> None:
    with loop(count) as i:
        for j in range(TOGETHER):
            at = units + i * (TOGETHER * VECTOR) + VECTOR * j
            store(maximum(load(at), 0.0), at)


@simd
def _density(hidden: Int, weight: Int, vectors: Int, rows: Int, sigma: Int) -> None:
    """Raw density of each row."""
    with loop(rows) as i:
        units, dot = hidden + i * vectors * VECTOR, Registers([constant(hidden, 0.0)])
        with loop(vectors) as j:
            dot[0] = fma(load(units + j * VECTOR), load(weight + j * VECTOR), dot[0])
        store_float(total(dot[0]), sigma + i * 4)


@simd
def _density_backward(
    hidden: Int, weight: Int, vectors: Int, rows: Int, d_sigma: Int, d_hidden: Int, d_weight: Int
) -> None:
    """Add the density's part to the gradient of the hidden units, and to that of its weights."""
    with loop(vectors) as j:
        w, d_w = load(weight + j * VECTOR), Registers([load(d_weight + j * VECTOR)])
        with loop(rows) as i:
            at, d = (i * vectors + j) * VECTOR, broadcast(d_sigma + i * 4)
            store(fma(d, w, load(d_hidden + at)), d_hidden + at)
            d_w[0] = fma(d, load(hidden + at), d_w[0])
        store(d_w[0], d_weight + j * VECTOR)


def _multiply(d_units: Int, vectors: Int, rows: Int, d_bias: Int, times: Int, sine: bool) -> None:
    with loop(vectors) as j:
        d_b = Registers([load(d_bias + j * VECTOR)])
        with loop(rows) as i:
            at = (i * vectors + j) * VECTOR
            d, x = load(d_units + at), load(times + at)
            d = d * x if sine else select(x > 0.0, d, 0.0)
            store(d, d_units + at)
            d_b[0] = d_b[0] + d
        store(d_b[0], d_bias + j * VECTOR)


@simd
def _multiply_by_slope(d_units: Int, vectors: Int, rows: Int, d_bias: Int, slopes: Int) -> None:
    """Multiply by the slopes of a sine; add the rows to the gradient of the bias."""
    _multiply(d_units, vectors, rows, d_bias, slopes, True)


@simd
def _multiply_by_step(d_units: Int, vectors: Int, rows: Int, d_bias: Int, units: Int) -> None:
    """The same for a ReLU, whose slope follows from its result."""
    _multiply(d_units, vectors, rows, d_bias, units, False)


@simd
def _fill_rows(rows: Int, vectors: Int, bias: Int, dirs: Int, ray: Int, target: Int) -> None:
    """Write bias + W_d d, the last layer's constant of a ray, to rows."""
    width = vectors * VECTOR
    with loop(vectors) as j:
        x = load(bias + j * VECTOR)
        for a in range(3):
            x = fma(load(dirs + width * a + j * VECTOR), broadcast(ray + 12 + 4 * a), x)
        with loop(rows) as i:
            store(x, target + width * i + j * VECTOR)


@simd
def _add_dirs(vectors: Int, d_bias: Int, ray: Int, d_dirs: Int) -> None:
    """Add d_bias d^T to the gradient of W_d."""
    width = vectors * VECTOR
    with loop(vectors) as j:
        d = load(d_bias + j * VECTOR)
        for a in range(3):
            at = d_dirs + width * a + j * VECTOR
            store(fma(d, broadcast(ray + 12 + 4 * a), load(at)), at)


@simd
def sum_features(out: Int, omega: Int, vectors: Int, rows: Int, feature_sum: Int) -> None:
    """Add omega_i sigmoid(out_i) of a ray's rows to `feature_sum`."""
    with loop(vectors) as j:
        sums = Registers([load(feature_sum + j * VECTOR)])
        with loop(rows) as i:
            s = sigmoid(load(out + (i * vectors + j) * VECTOR))
            sums[0] = fma(broadcast(omega + i * 4), s, sums[0])
        store(sums[0], feature_sum + j * VECTOR)


@simd
def features_backward(
    out: Int, omega: Int, gradient: Int, vectors: Int, rows: Int, q: Int, d_bias: Int
) -> None:
    """Replace out_i by its gradient; q_i = sigmoid(out_i) g is that of omega_i."""
    with loop(rows) as i:
        factor, dot = broadcast(omega + i * 4), Registers([constant(out, 0.0)])
        with loop(vectors) as j:
            at, g = out + (i * vectors + j) * VECTOR, load(gradient + j * VECTOR)
            s = sigmoid(load(at))
            d = factor * g * (s - s * s)
            dot[0] = fma(g, s, dot[0])
            store(d, at)
            store(load(d_bias + j * VECTOR) + d, d_bias + j * VECTOR)
        store_float(total(dot[0]), q + i * 4)


@simd
def copy_floats(source: Int, target: Int, count: Int) -> None:
    """Copy floats one by one."""
    with loop(count) as i:
        store_float(load_float(source + i * 4), target + i * 4)


@simd
def add_vectors(source: Int, target: Int, vectors: Int) -> None:
    """Add vectors of floats to others."""
    with loop(vectors) as i:
        at = target + i * VECTOR
        store(load(at) + load(source + i * VECTOR), at)


@simd
def _zero_column(inputs: Int, row: Int, count: Int) -> None:
    """Zero WIDTH columns of all inputs."""
    with loop(count) as i:
        store(constant(inputs, 0.0), inputs + row * i)


@helper
def place_points(
    network: Network, ray: int, t: int, number: int, per_half_box: float, a: Activations, first: int
) -> None:
    """Write the inputs of a ray's samples into columns from `first` on, and WIDTH beyond."""
    for i in range(0, number, WIDTH):
        inputs = a.inputs + 4 * (first + i)
        _position(ray, t + 4 * i, inputs, a.input_row, per_half_box)
        if network.octaves > 0:
            _encode(inputs, a.input_row, network.octaves)


@helper
def end_points(network: Network, a: Activations, first: int) -> None:
    """Zero the columns from `first` on that fill the last block."""
    _zero_column(a.inputs + 4 * first, a.input_row, network.inputs)


@helper
def _level(a: Activations, i: int, layers: int) -> int:
    """Address of the units of layer i below the last."""
    return a.hidden if i == layers - 1 else a.units + a.level * (i % a.levels)


@helper
def _activate(network: Network, units: int, slopes: int, rows: int, differentiable: bool) -> None:
    count = rows * network.units // (WIDTH * TOGETHER)
    if not network.sine:
        _relu(units, count)
    elif differentiable:
        _sine_and_slope(units, slopes, count)
    else:
        _sine(units, count)


@helper
def hidden_forward(
    network: Network, a: Activations, first: int, rows: int, differentiable: bool
) -> None:
    """Compute the hidden units and raw density of points from `first` on."""
    row, vectors = 4 * network.units, network.units // WIDTH
    inputs, offset = a.inputs + 4 * first, row * first
    for i in range(network.layers):
        y = _level(a, i, network.layers) + offset
        bias = network.biases + row * i
        if i == 0:
            w, step, number = network.first, a.input_row, network.inputs
            matmul(inputs, 4, step, w, row, number, bias, 0, y, row, rows, vectors)
        else:
            x = _level(a, i - 1, network.layers) + offset
            w = network.hidden + row * network.units * (i - 1)
            matmul(x, row, 4, w, row, network.units, bias, 0, y, row, rows, vectors)
        _activate(network, y, a.slopes + a.level * i + offset, rows, differentiable)
    _density(a.hidden + offset, network.density, vectors, rows, a.sigma + 4 * first)


@helper
def start_last(network: Network, a: Activations, ray: int, first: int, number: int) -> None:
    """Write the constant of the last layer into the rows of a ray."""
    row, vectors = 4 * network.units, network.units // WIDTH
    bias = network.biases + row * network.layers
    _fill_rows(number, vectors, bias, network.dirs, ray, a.last + row * first)


@helper
def features_forward(network: Network, a: Activations, rows: int, differentiable: bool) -> None:
    """Compute features before the sigmoid, of all rows."""
    units, row, vectors = network.units, 4 * network.units, network.units // WIDTH
    last = network.layers - 1
    w, bias = network.hidden + row * units * last, network.biases + row * (last + 1)
    start, step = (a.last, row) if network.has_dirs else (bias, 0)
    matmul(a.hidden, row, 4, w, row, units, start, step, a.last, row, rows, vectors)
    _activate(network, a.last, a.slopes + a.level * network.layers, rows, differentiable)
    width, columns = 4 * network.columns, network.columns // WIDTH
    bias = network.out_bias
    matmul(a.last, row, 4, network.out, width, units, bias, 0, a.out, width, rows, columns)


@helper
def out_backward(network: Network, a: Activations, rows: int, d: NetworkGradient) -> None:
    """From the gradient in `out`, compute that of the last layer's units, in `d_units`."""
    units, row, vectors = network.units, 4 * network.units, network.units // WIDTH
    width, columns = 4 * network.columns, network.columns // WIDTH
    channels, zeros = network.channels, network.zeros
    matmul(a.last, 4, row, a.out, width, rows, d.out, width, d.out, width, units, columns)
    matmul(a.out, width, 4, network.out_t, row, channels, zeros, 0, a.d_units, row, rows, vectors)


@helper
def _through_activation(
    network: Network, a: Activations, layer: int, units: int, first: int, number: int, bias: int
) -> None:
    """Take the gradient of rows from `first` on through the activation of a layer."""
    row, vectors = 4 * network.units, network.units // WIDTH
    d_units = a.d_units + row * first
    if network.sine:
        slopes = a.slopes + a.level * layer + row * first
        _multiply_by_slope(d_units, vectors, number, bias, slopes)
    else:
        _multiply_by_step(d_units, vectors, number, bias, units + row * first)


@helper
def last_backward(
    network: Network, a: Activations, ray: int, first: int, number: int, d: NetworkGradient
) -> None:
    """Take the rows of a ray through the last activation; add to the gradients of its constant."""
    row, vectors = 4 * network.units, network.units // WIDTH
    if not network.has_dirs:
        bias = d.biases + row * network.layers
        _through_activation(network, a, network.layers, a.last, first, number, bias)
        return
    # The rows of `d_below` are free here.
    copy_floats(network.zeros, a.d_below, network.units)
    _through_activation(network, a, network.layers, a.last, first, number, a.d_below)
    _add_dirs(vectors, a.d_below, ray, d.dirs)
    add_vectors(a.d_below, d.biases + row * network.layers, vectors)


@helper
def hidden_backward(network: Network, a: Activations, rows: int, d: NetworkGradient) -> None:
    """Add the gradients of all layers, from those of the last layer's inner values, `d_units`."""
    units, row, vectors = network.units, 4 * network.units, network.units // WIDTH
    matrix, d_y, d_x = row * units, a.d_units, a.d_below
    for k in range(network.layers):
        i = network.layers - 1 - k  # units of layer i are the input of layer i + 1
        x = _level(a, i, network.layers)
        d_w = d.hidden + matrix * i
        matmul(x, 4, row, d_y, row, rows, d_w, row, d_w, row, units, vectors)
        w = network.hidden_t + matrix * i
        matmul(d_y, row, 4, w, row, units, network.zeros, 0, d_x, row, rows, vectors)
        if k == 0:
            _density_backward(x, network.density, vectors, rows, a.sigma, d_x, d.density)
        bias = d.biases + row * i
        if network.sine:
            _multiply_by_slope(d_x, vectors, rows, bias, a.slopes + a.level * i)
        else:
            _multiply_by_step(d_x, vectors, rows, bias, x)
        d_x, d_y = d_y, d_x
    x, step, d_w, number = a.inputs, a.input_row, d.first, network.inputs
    matmul(x, step, 4, d_y, row, rows, d_w, row, d_w, row, number, vectors)

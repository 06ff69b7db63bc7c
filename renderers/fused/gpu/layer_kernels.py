"""Triton: layers of an MLP on a chunk of points, their gradients, and those of the weights.

A layer is y = a(W x + b), with other weights for each scene. Tables of points are row-major
(scenes, points, row): a row may be longer than the units in it. A program computes a tile of the
result; tiles of the same points are neighbours, so that these are read from memory once.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl

from renderers.fused.gpu.decode_kernels import gradient_product, product


class Tiling(NamedTuple):
    """Compile-time constants: a tile of the result, and terms that are summed at a time."""

    rows: int
    columns: int
    depth: int
    precision: str
    """Of operands: `exact`: float32; `fp32`: as three of tf32; `tf32`; `fp16`."""


class Table(NamedTuple):
    """Values at the points of each scene, as rows; a row may be longer than the values in it."""

    data: Any
    points: Any
    """Of a scene."""
    row: Any


class Layer(NamedTuple):
    """Weight (scenes, outputs, inputs) and bias (scenes, outputs), or partial gradients of them."""

    weight: Any
    bias: Any
    inputs: Any
    outputs: Any


@triton.jit
@no_type_check
def polynomial(x, terms):
    """Sum of terms[i] x^i, of five terms."""
    total = terms[4] * x + terms[3]
    for i in tl.static_range(3):
        total = total * x + terms[2 - i]
    return total


@triton.jit
@no_type_check
def reduced(x):
    """Return x - n pi in [-pi/2, pi/2], error 1e-7 for |x| < 1e4, and (-1)^n."""
    n = tl.floor(x * 0.3183098861837907 + 0.5)
    # Three terms of pi, the first two of few digits: their multiples are exact.
    r = ((x - n * 3.140625) - n * 9.67502593994140625e-4) - n * 1.509957990978376e-7
    return r, 1 - 2 * (n - 2 * tl.floor(n * 0.5))


@triton.jit
@no_type_check
def sine(r):
    """Sine with error 2e-7; libdevice's has a branch for large arguments in each element."""
    s = r * r
    terms = -0.166666666, 0.00833333133, -0.000198408945, 2.75266393e-06, -2.39095975e-08
    return r + r * s * polynomial(s, terms)


@triton.jit
@no_type_check
def cosine(r):
    """Cosine with error 2e-7."""
    s = r * r
    terms = -0.499999995, 0.0416666407, -0.00138884035, 2.47618862e-05, -2.60771053e-07
    return 1 + s * polynomial(s, terms)


@triton.jit
@no_type_check
def tile_of(num_rows, num_columns, TILING: tl.constexpr):
    """Rows and columns of a program's tile of a matrix, and the index of the matrix."""
    pid = tl.program_id(0)
    across = tl.cdiv(num_columns, TILING.columns)
    down = tl.cdiv(num_rows, TILING.rows)
    m = pid // across % down * TILING.rows + tl.arange(0, TILING.rows)
    n = pid % across * TILING.columns + tl.arange(0, TILING.columns)
    return m, n, pid // across // down


@triton.jit
@no_type_check
def tile_product(a, b, num, strides, TILING: tl.constexpr):
    """Sum a[m, k] b[k, n] over k < num.

    `a`, `b`: address, indices m or n, whether they exist. `strides`: of m in a; of k and n in b.
    """
    a, m, m_ok = a
    b, n, n_ok = b
    total = tl.zeros((TILING.rows, TILING.columns), tl.float32)
    for first in range(0, num, TILING.depth):
        k = first + tl.arange(0, TILING.depth)
        at = m[:, None] * strides[0] + k[None, :]
        x = tl.load(a + at, mask=m_ok[:, None] & (k < num)[None, :], other=0.0)
        at = k[:, None] * strides[1] + n[None, :] * strides[2]
        w = tl.load(b + at, mask=(k < num)[:, None] & n_ok[None, :], other=0.0)
        total += layer_product(x, w, TILING.precision)
    return total


@triton.jit
@no_type_check
def layer_product(a, b, PRECISION: tl.constexpr):
    """A matrix product with float32 sums; in `fp32` on tensor cores, unlike `product`."""
    if PRECISION == "exact":
        return product(a, b, "fp32")
    elif PRECISION == "fp16":
        return product(a, b, "fp16")
    else:
        return gradient_product(a.to(tl.float32), b.to(tl.float32), PRECISION)


@triton.jit
@no_type_check
def layer_kernel(x, layer, y, slopes, ACTIVATION: tl.constexpr, TILING: tl.constexpr):
    """Units of a layer, and the derivatives of its sines.

    `slopes.data`: None, or the derivatives. `slopes.row`: outputs after these stay linear.
    """
    m, n, scene = tile_of(x.points, layer.outputs, TILING)
    m_ok, n_ok = m < x.points, n < layer.outputs
    point = scene * x.points + m
    weight = layer.weight + scene * layer.inputs * layer.outputs
    strides = (x.row, 1, layer.inputs)
    u = tile_product((x.data, point, m_ok), (weight, n, n_ok), layer.inputs, strides, TILING)
    u += tl.load(layer.bias + scene * layer.outputs + n, mask=n_ok, other=0.0)[None, :]
    if ACTIVATION == "sine":
        r, sign = reduced(u)
        value = sign * sine(r)
    elif ACTIVATION == "relu":
        value = tl.where(u < 0, 0.0, u)  # NaN stays
    else:
        value = tl.sigmoid(u)
    value = tl.where((n < slopes.row)[None, :], value, u)
    at = y.data + point[:, None] * y.row + n[None, :]
    tl.store(at, value, mask=m_ok[:, None] & n_ok[None, :])
    if slopes.data is not None:
        at = slopes.data + point[:, None] * slopes.row + n[None, :]
        tl.store(at, sign * cosine(r), mask=m_ok[:, None] & (n < slopes.row)[None, :])


@triton.jit
@no_type_check
def layer_backward_kernel(d_y, layer, slopes, d_x, units, RELU: tl.constexpr, TILING: tl.constexpr):
    """Gradients of the arguments of the layer below; RELU: its units stand for their slopes."""
    m, n, scene = tile_of(d_y.points, units, TILING)
    m_ok, n_ok = m < d_y.points, n < units
    point = scene * d_y.points + m
    weight = layer.weight + scene * layer.inputs * layer.outputs
    strides = (d_y.row, layer.inputs, 1)
    a, b = (d_y.data, point, m_ok), (weight, n, n_ok)
    total = tile_product(a, b, layer.outputs, strides, TILING)
    mask = m_ok[:, None] & n_ok[None, :]
    at = slopes.data + point[:, None] * slopes.row + n[None, :]
    slope = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        slope = tl.where(slope > 0, 1.0, 0.0)
    tl.store(d_x.data + point[:, None] * d_x.row + n[None, :], total * slope, mask=mask)


@triton.jit
@no_type_check
def weight_gradient_kernel(d_y, x, gradient, scenes, splits, TILING: tl.constexpr):
    """Add the gradients of weight and bias by each split of the points to its partial sum."""
    n, k, part = tile_of(gradient.outputs, gradient.inputs, TILING)
    n_ok, k_ok = n < gradient.outputs, k < gradient.inputs
    scene, each = part % scenes, tl.cdiv(x.points, splits)
    begin = part // scenes * each
    end = min(begin + each, x.points)
    total = tl.zeros((TILING.rows, TILING.columns), tl.float32)
    bias = tl.zeros((TILING.rows,), tl.float32)
    for first in range(begin, end, TILING.depth):
        m = first + tl.arange(0, TILING.depth)
        ok, point = (m < end)[:, None], (scene * x.points + m)[:, None]
        slope = tl.load(d_y.data + point * d_y.row + n[None, :], mask=ok & n_ok[None, :], other=0.0)
        below = tl.load(x.data + point * x.row + k[None, :], mask=ok & k_ok[None, :], other=0.0)
        total += layer_product(tl.trans(slope), below, TILING.precision)
        bias += tl.sum(slope, 0)
    at = gradient.weight + (part * gradient.outputs + n)[:, None] * gradient.inputs + k[None, :]
    mask = n_ok[:, None] & k_ok[None, :]
    tl.store(at, tl.load(at, mask=mask, other=0.0) + total, mask=mask)
    if tl.program_id(0) % tl.cdiv(gradient.inputs, TILING.columns) == 0:
        bias_at = gradient.bias + part * gradient.outputs + n
        tl.store(bias_at, tl.load(bias_at, mask=n_ok, other=0.0) + bias, mask=n_ok)

"""Triton: query of a lowered grid at points: gather, decoder, and their gradients.

A block holds one sample of each of 64 neighbouring rays: their points lie close together, so that
texels are read from memory once, then from cache. Features and hidden units stay in registers and
shared memory. Channels, hidden units and features are padded with zeros to a power of two of at
least 16, the smallest product of tensor cores.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl


class GridShape(NamedTuple):
    """Compile-time constants of the grids."""

    channels: int
    padded: int
    """Channels, padded."""
    grids: int
    axes: int
    """World axes: two bits for each axis of each grid."""
    shape: tuple[int, int, int]
    """Depth (1: a plane, whose third axis is not read), height and width."""


class NetShape(NamedTuple):
    """Compile-time constants of the decoder."""

    hidden: int
    padded_hidden: int
    features: int
    padded_features: int
    activation: str
    precision: str
    """Operands of products: `fp32`, `tf32` or `fp16`."""


class Tile(NamedTuple):
    """Rays of a block: a square of an image that is `width` pixels wide; 0: consecutive rays."""

    rows: int
    columns: int
    width: int


class Shape(NamedTuple):
    """Compile-time constants of a kernel over points."""

    grid: GridShape
    net: NetShape
    tile: Tile
    noise: bool = False
    """These three are for `sigma_kernel`: whether there are noise and prior."""
    prior: bool = False
    masked: bool = False
    """Whether the raw density outside the box is -inf, which absorbs nothing."""


class Scene(NamedTuple):
    """Grids and rays; tables of samples are (scenes, rays, samples)."""

    texels: Any
    origins: Any
    dirs: Any
    t: Any
    scale: Any
    """From world units to [-1, 1] in the box."""
    num_rays: Any
    """Per scene."""
    samples: Any


class Decoder(NamedTuple):
    """Weights of the decoder; row 0 of `w2` and `b2` gives the raw density."""

    w1: Any
    b1: Any
    w2: Any
    b2: Any


@triton.jit
@no_type_check
def rays_of(tile, num_rays, TILE: tl.constexpr):
    """Indices of the rays of a tile, and whether they exist."""
    lane = tl.arange(0, TILE.rows * TILE.columns)
    if TILE.width > 0:
        row = tile // (TILE.width // TILE.columns) * TILE.rows + lane // TILE.columns
        column = tile % (TILE.width // TILE.columns) * TILE.columns + lane % TILE.columns
        ray = row * TILE.width + column
    else:
        ray = tile * (TILE.rows * TILE.columns) + lane
    return ray, ray < num_rays


@triton.jit
@no_type_check
def point_of(scene, ray, sample, ok):
    """Points of one sample of each ray, in [-1, 1] inside the box."""
    t = tl.load(scene.t + (ray * scene.samples + sample), mask=ok, other=0.0)
    x = tl.load(scene.origins + ray * 3, mask=ok, other=0.0)
    y = tl.load(scene.origins + ray * 3 + 1, mask=ok, other=0.0)
    z = tl.load(scene.origins + ray * 3 + 2, mask=ok, other=0.0)
    x += t * tl.load(scene.dirs + ray * 3, mask=ok, other=0.0)
    y += t * tl.load(scene.dirs + ray * 3 + 1, mask=ok, other=0.0)
    z += t * tl.load(scene.dirs + ray * 3 + 2, mask=ok, other=0.0)
    return x * scene.scale, y * scene.scale, z * scene.scale


@triton.jit
@no_type_check
def along(point, AXIS: tl.constexpr, SIZE: tl.constexpr):
    """Lower neighbour, and weight of the upper one, on an axis of SIZE texels."""
    x, y, z = point
    texel = ((x if AXIS == 0 else (y if AXIS == 1 else z)) + 1) * (0.5 * SIZE) - 0.5
    first = tl.floor(texel)
    return first.to(tl.int32), texel - first


@triton.jit
@no_type_check
def neighbours(point, G: tl.constexpr, GRID: tl.constexpr):
    """`along` the width, height and depth of grid G (a plane has no depth: its height again).

    `point` is in [-1, 1] inside the grids.
    """
    i, a = along(point, (GRID.axes >> (6 * G)) & 3, GRID.shape[2])
    j, b = along(point, (GRID.axes >> (6 * G + 2)) & 3, GRID.shape[1])
    m, c = j, b
    if GRID.shape[0] > 1:
        m, c = along(point, (GRID.axes >> (6 * G + 4)) & 3, GRID.shape[0])
    return (i, j, m), (a, b, c)


@triton.jit
@no_type_check
def corner(first, share, ok, G: tl.constexpr, K: tl.constexpr, GRID: tl.constexpr):
    """Row of corner K of grid G in the table of texels, its weight, and whether it exists."""
    i, j, m = first
    a, b, c = share
    i += K & 1
    j += (K >> 1) & 1
    row = (G * GRID.shape[0] * GRID.shape[1] + j) * GRID.shape[2] + i
    weight = (a if K & 1 else 1 - a) * (b if K & 2 else 1 - b)
    exists = ok & (i >= 0) & (i < GRID.shape[2]) & (j >= 0) & (j < GRID.shape[1])
    if GRID.shape[0] > 1:
        m += K >> 2
        row += m * (GRID.shape[1] * GRID.shape[2])
        weight *= c if K & 4 else 1 - c
        exists &= (m >= 0) & (m < GRID.shape[0])
    return row, weight, exists


@triton.jit
@no_type_check
def gather(texels, point, ok, GRID: tl.constexpr):
    """Mean feature over the grids: a block of points times padded channels, in float32."""
    c = tl.arange(0, GRID.padded)
    total = tl.zeros((point[0].shape[0], GRID.padded), tl.float32)
    for g in tl.static_range(GRID.grids):
        first, share = neighbours(point, g, GRID)
        for k in tl.static_range(8 if GRID.shape[0] > 1 else 4):
            row, weight, exists = corner(first, share, ok, g, k, GRID)
            mask = exists[:, None] & (c < GRID.channels)[None, :]
            at = texels + (row * GRID.channels)[:, None] + c[None, :]
            texel = tl.load(at, mask=mask, other=0.0)
            total += weight[:, None] * texel.to(tl.float32)
    return total * (1.0 / GRID.grids)


@triton.jit
@no_type_check
def scatter(gradient, slope, point, ok, GRID: tl.constexpr):
    """Add the gradient of a block of features to the texels that they were gathered from."""
    c = tl.arange(0, GRID.padded)
    slope *= 1.0 / GRID.grids
    for g in tl.static_range(GRID.grids):
        first, share = neighbours(point, g, GRID)
        for k in tl.static_range(8 if GRID.shape[0] > 1 else 4):
            row, weight, exists = corner(first, share, ok, g, k, GRID)
            mask = exists[:, None] & (c < GRID.channels)[None, :]
            at = gradient + (row * GRID.channels)[:, None] + c[None, :]
            tl.atomic_add(at, weight[:, None] * slope, mask=mask, sem="relaxed")


@triton.jit
@no_type_check
def matrix_t(
    weight,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED_ROWS: tl.constexpr,
    PADDED_COLUMNS: tl.constexpr,
):
    """The transpose of a matrix, padded."""
    r = tl.arange(0, PADDED_ROWS)
    c = tl.arange(0, PADDED_COLUMNS)
    at, mask = c[:, None] + (r * COLUMNS)[None, :], (c < COLUMNS)[:, None] & (r < ROWS)[None, :]
    return tl.load(weight + at, mask=mask, other=0.0)


@triton.jit
@no_type_check
def vector(weight, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """A vector, padded."""
    i = tl.arange(0, PADDED)
    return tl.load(weight + i, mask=i < SIZE, other=0.0)


@triton.jit
@no_type_check
def hidden_weight_t(w1, GRID: tl.constexpr, NET: tl.constexpr):
    """W1^T, (channels, hidden units), padded."""
    return matrix_t(w1, NET.hidden, GRID.channels, NET.padded_hidden, GRID.padded)


@triton.jit
@no_type_check
def out_weight_t(w2, NET: tl.constexpr):
    """Rows of W2 that make features, transposed: (hidden units, features), padded."""
    at = w2 + NET.hidden
    return matrix_t(at, NET.features, NET.hidden, NET.padded_features, NET.padded_hidden)


@triton.jit
@no_type_check
def product(a, b, PRECISION: tl.constexpr):
    """A matrix product with float32 sums."""
    if PRECISION == "fp16":
        return tl.dot(a.to(tl.float16), b.to(tl.float16))
    elif PRECISION == "tf32":
        return tl.dot(a, b, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision="ieee")


@triton.jit
@no_type_check
def gradient_product(a, b, PRECISION: tl.constexpr):
    """As `product`, for gradients.

    They can underflow float16, which becomes tf32; float32 becomes three products of tf32, since
    products outside the tensor cores need more registers than there are.
    """
    if PRECISION == "fp32":
        return tl.dot(a, b, input_precision="tf32x3")
    else:  # without else, Triton compiles both returns
        return tl.dot(a, b, input_precision="tf32")


@triton.jit
@no_type_check
def activate(x, ACTIVATION: tl.constexpr):
    """Hidden units."""
    if ACTIVATION == "softplus":
        return tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))
    else:
        return tl.where(x > 0, x, 0.2 * x)


@triton.jit
@no_type_check
def activation_slope(y, ACTIVATION: tl.constexpr):
    """Derivative of `activate`, from its result `y`."""
    if ACTIVATION == "softplus":
        return 1 - tl.exp(-y)
    else:  # as above
        return tl.where(y > 0, 1.0, 0.2)

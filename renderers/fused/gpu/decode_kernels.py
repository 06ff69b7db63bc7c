"""Triton: what a point of a lowered grid holds: gather, decoder, and their gradients.

A block is 64 rays at one sample of each: their points lie close together, so that corners are read
once from memory and then from cache. Features and hidden units live in registers and shared memory.
Sizes that are no power of two are padded: channels, hidden units and features to at least 16, which
is the least that tensor cores multiply, with zeros that add nothing.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def rays_of(tile, num_rays, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """Rays of a tile: rows and columns of an image that is WIDTH pixels wide, or consecutive."""
    lane = tl.arange(0, TILE[0] * TILE[1])
    if WIDTH > 0:
        row = tile // (WIDTH // TILE[1]) * TILE[0] + lane // TILE[1]
        ray = row * WIDTH + tile % (WIDTH // TILE[1]) * TILE[1] + lane % TILE[1]
    else:
        ray = tile * (TILE[0] * TILE[1]) + lane
    return ray, ray < num_rays


@triton.jit
@no_type_check
def points_of(origins, dirs, ray, t, ok):
    """World points at distance `t` along the rays."""
    x = tl.load(origins + ray * 3, mask=ok, other=0.0)
    y = tl.load(origins + ray * 3 + 1, mask=ok, other=0.0)
    z = tl.load(origins + ray * 3 + 2, mask=ok, other=0.0)
    x += t * tl.load(dirs + ray * 3, mask=ok, other=0.0)
    y += t * tl.load(dirs + ray * 3 + 1, mask=ok, other=0.0)
    z += t * tl.load(dirs + ray * 3 + 2, mask=ok, other=0.0)
    return x, y, z


@triton.jit
@no_type_check
def along(x, y, z, AXIS: tl.constexpr, SIZE: tl.constexpr):
    """On an axis of SIZE texels, the world's AXIS: lower neighbour, and share of the upper one."""
    texel = ((x if AXIS == 0 else (y if AXIS == 1 else z)) + 1) * (0.5 * SIZE) - 0.5
    first = tl.floor(texel)
    return first.to(tl.int32), texel - first


@triton.jit
@no_type_check
def neighbours(x, y, z, G: tl.constexpr, AXES: tl.constexpr, SHAPE: tl.constexpr):
    """Of grid G, `along` its width, its height and its depth (a plane has none: its height).

    `x`, `y`, `z` are in [-1, 1] within the grids. AXES holds two bits for each axis of each grid.
    SHAPE: texels across (1: a plane, whose third axis is not read), down, and along.
    """
    i, a = along(x, y, z, (AXES >> (6 * G)) & 3, SHAPE[2])
    j, b = along(x, y, z, (AXES >> (6 * G + 2)) & 3, SHAPE[1])
    m, c = j, b
    if SHAPE[0] > 1:
        m, c = along(x, y, z, (AXES >> (6 * G + 4)) & 3, SHAPE[0])
    return i, j, m, a, b, c


@triton.jit
@no_type_check
def corner(i, j, m, a, b, c, ok, G: tl.constexpr, K: tl.constexpr, SHAPE: tl.constexpr):
    """Row of corner K of grid G in the table of texels, its weight, and whether it exists."""
    i += K & 1
    j += (K >> 1) & 1
    row = (G * SHAPE[0] * SHAPE[1] + j) * SHAPE[2] + i
    weight = (a if K & 1 else 1 - a) * (b if K & 2 else 1 - b)
    exists = ok & (i >= 0) & (i < SHAPE[2]) & (j >= 0) & (j < SHAPE[1])
    if SHAPE[0] > 1:
        m += K >> 2
        row += m * (SHAPE[1] * SHAPE[2])
        weight *= c if K & 4 else 1 - c
        exists &= (m >= 0) & (m < SHAPE[0])
    return row, weight, exists


@triton.jit
@no_type_check
def gather(
    texels,
    x,
    y,
    z,
    ok,
    C: tl.constexpr,
    CP: tl.constexpr,
    GRIDS: tl.constexpr,
    AXES: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Mean feature over the grids: a block of points times CP channels, in float32."""
    c = tl.arange(0, CP)
    total = tl.zeros((x.shape[0], CP), tl.float32)
    for g in tl.static_range(GRIDS):
        i, j, m, a, b, r = neighbours(x, y, z, g, AXES, SHAPE)
        for k in tl.static_range(8 if SHAPE[0] > 1 else 4):
            row, weight, exists = corner(i, j, m, a, b, r, ok, g, k, SHAPE)
            mask = exists[:, None] & (c < C)[None, :]
            texel = tl.load(texels + (row * C)[:, None] + c[None, :], mask=mask, other=0.0)
            total += weight[:, None] * texel.to(tl.float32)
    return total * (1.0 / GRIDS)


@triton.jit
@no_type_check
def scatter(
    gradient,
    slope,
    x,
    y,
    z,
    ok,
    C: tl.constexpr,
    CP: tl.constexpr,
    GRIDS: tl.constexpr,
    AXES: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Add the gradient of a block of features to the texels that they were gathered from."""
    c = tl.arange(0, CP)
    slope *= 1.0 / GRIDS
    for g in tl.static_range(GRIDS):
        i, j, m, a, b, r = neighbours(x, y, z, g, AXES, SHAPE)
        for k in tl.static_range(8 if SHAPE[0] > 1 else 4):
            row, weight, exists = corner(i, j, m, a, b, r, ok, g, k, SHAPE)
            mask = exists[:, None] & (c < C)[None, :]
            at = gradient + (row * C)[:, None] + c[None, :]
            tl.atomic_add(at, weight[:, None] * slope, mask=mask, sem="relaxed")


@triton.jit
@no_type_check
def matrix(
    weight,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RP: tl.constexpr,
    CP: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """A padded matrix; its transpose, (CP, RP), where asked."""
    r = tl.arange(0, RP)
    c = tl.arange(0, CP)
    if TRANSPOSED:
        at, mask = c[:, None] + (r * COLUMNS)[None, :], (c < COLUMNS)[:, None] & (r < ROWS)[None, :]
    else:
        at, mask = (r * COLUMNS)[:, None] + c[None, :], (r < ROWS)[:, None] & (c < COLUMNS)[None, :]
    return tl.load(weight + at, mask=mask, other=0.0)


@triton.jit
@no_type_check
def vector(weight, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """A padded vector."""
    i = tl.arange(0, PADDED)
    return tl.load(weight + i, mask=i < SIZE, other=0.0)


@triton.jit
@no_type_check
def product(a, b, MULTIPLY: tl.constexpr):
    """A matrix product with float32 sums; MULTIPLY says what is multiplied."""
    if MULTIPLY == "fp16":
        return tl.dot(a.to(tl.float16), b.to(tl.float16))
    elif MULTIPLY == "tf32":
        return tl.dot(a, b, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision="ieee")


@triton.jit
@no_type_check
def gradient_product(a, b, MULTIPLY: tl.constexpr):
    """As `product`, for gradients.

    They may be smaller than float16 reaches, so that becomes tf32; and float32, whose products
    outside the tensor cores need more registers than there are, three products of tf32.
    """
    if MULTIPLY == "fp32":
        return tl.dot(a, b, input_precision="tf32x3")
    else:  # Triton compiles both returns where no else stands
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
    """Derivative of `activate` where it is `y`: so that its argument need not be kept."""
    if ACTIVATION == "softplus":
        return 1 - tl.exp(-y)
    else:  # Triton compiles both returns where no else stands
        return tl.where(y > 0, 1.0, 0.2)

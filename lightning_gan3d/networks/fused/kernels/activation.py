"""Kernels of what follows a convolution on a CPU: scale, noise, bias, activation, clamp.

Forward and backward, in one pass each over rows of pixels as `rows` has them.
"""

from typing import Any

from lightning_gan3d.networks.fused.kernels.rows import BFLOAT16, BYTES, FLOAT32, Kind, read
from lightning_gan3d.simd import (
    Float,
    Int,
    Vec,
    absolute,
    constant,
    entry,
    fma,
    leaky_relu,
    load,
    load_float,
    loop,
    maximum,
    minimum,
    select,
    simd,
    store,
)

SLOPE = 0.2
PIXELS = 8
"""Pixels whose sums stay in registers."""


def activated(x: Vec, clamp: Float) -> Vec:
    """Emit leaky_relu(x), clamped to +-`clamp`."""
    bound = clamp.splat()
    return minimum(maximum(leaky_relu(x, SLOPE), -bound), bound)


def _make_activate(kind: Kind) -> Any:
    @simd
    def pixel(
        x: Int, out: Int, scale: Int, shift: Int, noise: Float, clamp: Float, vectors: Int
    ) -> None:
        with loop(vectors) as k:
            added = load(shift + k * BYTES) + noise.splat()
            y = fma(kind.load(x + k * kind.size), load(scale + k * BYTES), added)
            kind.store(activated(y, clamp), out + k * kind.size)

    return pixel


_activate_32, _activate_16 = _make_activate(FLOAT32), _make_activate(BFLOAT16)


@entry
def activate(
    half: bool,
    x: int,
    out: int,
    scale: int,
    shift: int,
    noise: int,
    noise_step: int,
    strength: int,
    clamp: float,
    vectors: int,
    pixels: int,
) -> None:
    """Write leaky_relu(x scale + shift + strength noise), clamped, of consecutive pixels.

    `scale`, `shift`: one float32 a channel. `noise`: one every `noise_step` bytes.
    """
    size = vectors * (BYTES // 2 if half else BYTES)
    factor = read(strength)
    for p in range(pixels):
        added = factor * read(noise + noise_step * p)
        if half:
            _activate_16(x + size * p, out + size * p, scale, shift, added, clamp, vectors)
        else:
            _activate_32(x + size * p, out + size * p, scale, shift, added, clamp, vectors)


def _make_slope(kind: Kind, pixels: int) -> Any:
    @simd
    def step(
        grad: Int,
        out: Int,
        grad_x: Int,
        scale: Int,
        noise: Int,
        noise_step: Int,
        sums: Int,
        clamp: Float,
        vectors: Int,
    ) -> None:
        bound = clamp.splat()
        added = [load_float(noise + noise_step * p).splat() for p in range(pixels)]
        with loop(vectors) as k:
            at, here, row = k * BYTES, k * kind.size, vectors * kind.size
            factor = load(scale + at)
            by_out = load(sums + at)
            alone = load(sums + vectors * BYTES + at)
            by_noise = load(sums + vectors * (2 * BYTES) + at)
            for p in range(pixels):
                y, g = kind.load(out + here + row * p), kind.load(grad + here + row * p)
                g = select(bound <= absolute(y), constant(grad, 0.0), g)
                by_out = fma(g, y, by_out)
                g = select(y > 0.0, g, g * SLOPE)
                alone = alone + g
                by_noise = fma(g, added[p], by_noise)
                kind.store(g * factor, grad_x + here + row * p)
            store(by_out, sums + at)
            store(alone, sums + vectors * BYTES + at)
            store(by_noise, sums + vectors * (2 * BYTES) + at)

    return step


_slope_32, _slope_16 = _make_slope(FLOAT32, PIXELS), _make_slope(BFLOAT16, PIXELS)
_slope_32_1, _slope_16_1 = _make_slope(FLOAT32, 1), _make_slope(BFLOAT16, 1)


@entry
def activate_backward(
    half: bool,
    grad: int,
    out: int,
    grad_x: int,
    scale: int,
    noise: int,
    noise_step: int,
    sums: int,
    clamp: float,
    vectors: int,
    pixels: int,
) -> None:
    """Write the gradient of `activate` to its `x`, and add to `sums`, three rows of float32.

    With h the gradient before the activation, the rows are the sums over pixels of: the gradient
    times `out`, which is h times what the activation was given; h; h times the noise.
    """
    size = vectors * (BYTES // 2 if half else BYTES)
    whole = pixels - pixels % PIXELS
    for p in range(0, whole, PIXELS):
        a, b, c, n = grad + size * p, out + size * p, grad_x + size * p, noise + noise_step * p
        if half:
            _slope_16(a, b, c, scale, n, noise_step, sums, clamp, vectors)
        else:
            _slope_32(a, b, c, scale, n, noise_step, sums, clamp, vectors)
    for p in range(whole, pixels):
        a, b, c, n = grad + size * p, out + size * p, grad_x + size * p, noise + noise_step * p
        if half:
            _slope_16_1(a, b, c, scale, n, noise_step, sums, clamp, vectors)
        else:
            _slope_32_1(a, b, c, scale, n, noise_step, sums, clamp, vectors)


def _make_product(kind: Kind, pixels: int) -> Any:
    @simd
    def step(grad: Int, x: Int, scale: Int, sums: Int, vectors: Int) -> None:
        with loop(vectors) as k:
            at, here, row = k * BYTES, k * kind.size, vectors * kind.size
            factor, found = load(scale + at), load(sums + at)
            for p in range(pixels):
                g = kind.load(grad + here + row * p)
                found = fma(g, kind.load(x + here + row * p), found)
                kind.store(g * factor, grad + here + row * p)
            store(found, sums + at)

    return step


_product_32, _product_16 = _make_product(FLOAT32, PIXELS), _make_product(BFLOAT16, PIXELS)
_product_32_1, _product_16_1 = _make_product(FLOAT32, 1), _make_product(BFLOAT16, 1)


@entry
def modulate_backward(
    half: bool, grad: int, x: int, scale: int, sums: int, vectors: int, pixels: int
) -> None:
    """Add grad x to `sums`, one float32 a channel; then multiply `grad` by `scale`, in place."""
    size = vectors * (BYTES // 2 if half else BYTES)
    whole = pixels - pixels % PIXELS
    for p in range(0, whole, PIXELS):
        if half:
            _product_16(grad + size * p, x + size * p, scale, sums, vectors)
        else:
            _product_32(grad + size * p, x + size * p, scale, sums, vectors)
    for p in range(whole, pixels):
        if half:
            _product_16_1(grad + size * p, x + size * p, scale, sums, vectors)
        else:
            _product_32_1(grad + size * p, x + size * p, scale, sums, vectors)

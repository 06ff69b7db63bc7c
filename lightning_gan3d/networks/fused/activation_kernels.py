"""CPU kernels after a convolution: scale, noise, bias, activation, clamp.

Forward and backward, in one pass each; after upsampling, the FIR filter is part of the pass.
Formats, addresses and counts are those of `fir_kernels`.
"""

from typing import Annotated, Any, NamedTuple

import numpy as np

from lightning_gan3d.networks.fused.fir_kernels import (
    BYTES,
    Format,
    Rows,
    Taps,
    TwoTaps,
    clear,
    filter_columns,
    filtered,
    per_format,
    read,
)
from lightning_gan3d.simd import entry, leaky_relu
from lightning_gan3d.simd.vector import (
    Float,
    Int,
    Vec,
    absolute,
    constant,
    fma,
    load,
    load_float,
    loop,
    maximum,
    minimum,
    select,
    store,
)

SLOPE = 0.2
PIXELS = 8
"""Pixels whose sums stay in registers."""


class Factors(NamedTuple):
    """Addresses of scale and shift, one float32 per channel."""

    scale: Any
    shift: Any


class Ends(NamedTuple):
    """The noise of a pixel, and the bound of the clamp."""

    noise: Any
    clamp: Any


class Gradients(NamedTuple):
    """Addresses of the gradient, the activated image, and the gradient of the input."""

    grad: Any
    out: Any
    grad_x: Any


class Pixels(NamedTuple):
    """Addresses of the four pixels under the filter, and of the result."""

    a: Any
    b: Any
    c: Any
    d: Any
    out: Any


class Steps(NamedTuple):
    """Address of the noise of the first pixel, and the bytes to the next."""

    at: Any
    step: Any


ScaleShift = Annotated[Factors, Int]
NoiseClamp = Annotated[Ends, Float]


def activated(x: Vec, clamp: Float) -> Vec:
    """Emit leaky_relu(x), clamped to +-`clamp`."""
    bound = clamp.splat()
    return minimum(maximum(leaky_relu(x, SLOPE), -bound), bound)


@per_format
def _activate(
    form: Format, x: Int, out: Int, factors: ScaleShift, ends: NoiseClamp, vectors: Int
) -> None:
    with loop(vectors) as k:
        added = load(factors.shift + k * BYTES) + ends.noise.splat()
        y = fma(form.load(x + k * form.size), load(factors.scale + k * BYTES), added)
        form.store(activated(y, ends.clamp), out + k * form.size)


@entry
def activate(
    half: bool,
    images: tuple[int, int],
    factors: tuple[int, int],
    noise: tuple[int, int, int],
    clamp: float,
    size: tuple[int, int],
) -> None:
    """Write leaky_relu(x scale + shift + strength noise), clamped, of consecutive pixels.

    Args:
        half: activations are bfloat16.
        images: addresses of x and the result, which may be equal.
        factors: addresses of scale and shift, one float32 per channel.
        noise: address, bytes from pixel to pixel, and address of the strength.
        clamp: bound of the magnitude; may be infinite.
        size: vectors of a pixel, number of pixels.
    """
    x, out = images
    at, step, strength = noise
    vectors, pixels = size
    affine = Factors(factors[0], factors[1])
    row = vectors * (BYTES // 2 if half else BYTES)
    factor = read(strength)
    for p in range(pixels):
        ends = Ends(factor * read(at + step * p), np.float32(clamp))
        _activate(half, x + row * p, out + row * p, affine, ends, vectors)


def _make_slope(pixels: int) -> Any:
    @per_format
    def step(
        form: Format,
        images: Annotated[Gradients, Int],
        scale: Int,
        noise: Annotated[Steps, Int],
        sums: Int,
        clamp: Float,
        vectors: Int,
    ) -> None:
        bound = clamp.splat()
        added = [load_float(noise.at + noise.step * p).splat() for p in range(pixels)]
        with loop(vectors) as k:
            at, here, row = k * BYTES, k * form.size, vectors * form.size
            factor = load(scale + at)
            by_out = load(sums + at)
            total = load(sums + vectors * BYTES + at)
            by_noise = load(sums + vectors * (2 * BYTES) + at)
            for p in range(pixels):
                y = form.load(images.out + here + row * p)
                g = form.load(images.grad + here + row * p)
                g = select(bound <= absolute(y), constant(scale, 0.0), g)
                by_out = fma(g, y, by_out)
                g = select(y > 0.0, g, g * SLOPE)
                total = total + g
                by_noise = fma(g, added[p], by_noise)
                form.store(g * factor, images.grad_x + here + row * p)
            store(by_out, sums + at)
            store(total, sums + vectors * BYTES + at)
            store(by_noise, sums + vectors * (2 * BYTES) + at)

    return step


_slopes, _slope = _make_slope(PIXELS), _make_slope(1)


@entry
def activate_backward(
    half: bool,
    images: tuple[int, int, int],
    noise: tuple[int, int],
    per_channel: tuple[int, int],
    clamp: float,
    size: tuple[int, int],
) -> None:
    """Write the gradient of `activate` to its `x`, and add to three rows of sums.

    With h the gradient before the activation, the rows are the sums over pixels of: the gradient
    times `out`, which is h times the input of the activation; h; h times the noise.

    Args:
        half: activations are bfloat16.
        images: addresses of the gradient, of `out`, the result of `activate`, and of the gradient
            to write.
        noise: address, and bytes from pixel to pixel.
        per_channel: addresses of scale and sums, in float32.
        clamp: as `activate`.
        size: vectors of a pixel, number of pixels.
    """
    grad, out, grad_x = images
    scale, sums = per_channel
    vectors, pixels = size
    at, step = noise
    bound = np.float32(clamp)
    row = vectors * (BYTES // 2 if half else BYTES)
    whole = pixels - pixels % PIXELS
    for p in range(0, whole, PIXELS):
        here = Gradients(grad + row * p, out + row * p, grad_x + row * p)
        added = Steps(at + step * p, step)
        _slopes(half, here, scale, added, sums, bound, vectors)
    for p in range(whole, pixels):
        here = Gradients(grad + row * p, out + row * p, grad_x + row * p)
        added = Steps(at + step * p, step)
        _slope(half, here, scale, added, sums, bound, vectors)


def _make_product(pixels: int) -> Any:
    @per_format
    def step(form: Format, grad: Int, x: Int, scale: Int, sums: Int, vectors: Int) -> None:
        with loop(vectors) as k:
            at, here, row = k * BYTES, k * form.size, vectors * form.size
            factor, total = load(scale + at), load(sums + at)
            for p in range(pixels):
                g = form.load(grad + here + row * p)
                total = fma(g, form.load(x + here + row * p), total)
                form.store(g * factor, grad + here + row * p)
            store(total, sums + at)

    return step


_products, _product = _make_product(PIXELS), _make_product(1)


@entry
def modulate_backward(
    half: bool, images: tuple[int, int], scale: int, sums: int, size: tuple[int, int]
) -> None:
    """Add grad x to `sums`, one float32 per channel; then multiply `grad` by `scale`, in place.

    `images`: addresses of grad and x. `size`: vectors of a pixel, number of pixels.
    """
    grad, x = images
    vectors, pixels = size
    row = vectors * (BYTES // 2 if half else BYTES)
    whole = pixels - pixels % PIXELS
    for p in range(0, whole, PIXELS):
        _products(half, grad + row * p, x + row * p, scale, sums, vectors)
    for p in range(whole, pixels):
        _product(half, grad + row * p, x + row * p, scale, sums, vectors)


@per_format
def _finish(
    form: Format,
    images: Annotated[Pixels, Int],
    factors: ScaleShift,
    ends: NoiseClamp,
    taps: TwoTaps,
    vectors: Int,
) -> None:
    """Filter four pixels of a row and activate the result."""
    pixels = images.a, images.b, images.c, images.d
    with loop(vectors) as k:
        at = k * BYTES
        y = filtered([load(x + at) for x in pixels], taps)
        added = load(factors.shift + at) + ends.noise.splat()
        y = fma(y, load(factors.scale + at), added)
        form.store(activated(y, ends.clamp), images.out + k * form.size)


@entry
def filter_and_activate(
    half: bool,
    images: tuple[int, int, int, int, int],
    buffers: tuple[int, int],
    added: tuple[int, int, int, int, int],
    bounds: tuple[float, float, float],
    shape: tuple[int, int, int, int, int],
) -> None:
    """Filter a transposed convolution's result, given by its four phases, and activate it.

    The result of the convolution has (2 height + 1) x (2 width + 1) pixels; the output has twice
    height and width.

    Args:
        half: activations are bfloat16.
        images: addresses of the pixels of even rows and columns, of even rows and odd columns, of
            odd rows and even columns, of odd rows and columns; of the output.
        buffers: 2 width + 3 pixels of float32, and a row of zeros.
        added: factors and noise of `activate`.
        bounds: the clamp, the outer and the inner tap.
        shape: vectors of a pixel, height, width, and the first input row and the end: output rows
            2 first to 2 end are written.
    """
    ee, eo, oe, oo, out = images
    scratch, zeros = buffers
    factors = Factors(added[0], added[1])
    noise, noise_step, strength = added[2:]
    taps = Taps(np.float32(bounds[1]), np.float32(bounds[2]))
    clamp = np.float32(bounds[0])
    vectors, height, width, first, last = shape
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    long, short = size * (width + 1), size * width
    even, odd = scratch, scratch + pixel * (width + 1)  # odd columns lie between two zeros
    clear(odd, vectors)
    clear(odd + pixel * (width + 1), vectors)
    factor = read(strength)
    for i in range(first, last):
        above_e = oe + long * (i - 1) if i > 0 else zeros
        above_o = oo + short * (i - 1) if i > 0 else zeros
        below_e = oe + long * (i + 1) if i + 1 < height else zeros
        below_o = oo + short * (i + 1) if i + 1 < height else zeros
        e0, e1, e2 = ee + long * i, oe + long * i, ee + long * (i + 1)
        o0, o1, o2 = eo + short * i, oo + short * i, eo + short * (i + 1)
        for lower in range(2):
            evens, odds = Rows(above_e, e0, e1, e2), Rows(above_o, o0, o1, o2)
            if lower:
                evens, odds = Rows(e0, e1, e2, below_e), Rows(o0, o1, o2, below_o)
            filter_columns(half, evens, even, taps, vectors * (width + 1))
            filter_columns(half, odds, odd + pixel, taps, vectors * width)
            start = 2 * width * (2 * i + lower)
            for j in range(width):
                a, b = odd + pixel * j, even + pixel * j
                c, d, e = a + pixel, b + pixel, a + 2 * pixel
                to, at = out + size * (start + 2 * j), noise + noise_step * (start + 2 * j)
                left = Ends(factor * read(at), clamp)
                right = Ends(factor * read(at + noise_step), clamp)
                _finish(half, Pixels(a, b, c, d, to), factors, left, taps, vectors)
                _finish(half, Pixels(b, c, d, e, to + size), factors, right, taps, vectors)

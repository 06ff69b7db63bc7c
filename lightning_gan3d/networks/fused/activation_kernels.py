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
    rows_of,
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
    noise: tuple[int, int, int, int],
    clamp: float,
    shape: tuple[int, int, int],
    tasks: tuple[int, int],
) -> None:
    """Write leaky_relu(x scale + shift + strength noise), clamped, of a range of tasks.

    Args:
        half: activations are bfloat16.
        images: addresses of x and the result, which may be equal.
        factors: addresses of scale and shift, one float32 per channel.
        noise: address, bytes from pixel to pixel and from sample to sample, and address of the
            strength.
        clamp: bound of the magnitude; may be infinite.
        shape: vectors of a pixel, height, width.
        tasks: the first one, and the end.
    """
    x, out = images
    at, step, per_sample, strength = noise
    vectors, height, width = shape
    row = vectors * (BYTES // 2 if half else BYTES)
    factor = read(strength)
    for task in range(tasks[0], tasks[1]):
        n, first, end = rows_of(task, height)
        affine = Factors(factors[0] + n * vectors * BYTES, factors[1])
        before = n * height * width
        for p in range(first * width, end * width):
            ends = Ends(factor * read(at + n * per_sample + step * p), np.float32(clamp))
            here = row * (before + p)
            _activate(half, x + here, out + here, affine, ends, vectors)


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
    noise: tuple[int, int, int],
    per_channel: tuple[int, int],
    clamp: float,
    shape: tuple[int, int, int],
    tasks: tuple[int, int],
) -> None:
    """Write the gradient of `activate` to its `x`, and add to three rows of sums of each task.

    With h the gradient before the activation, the rows are the sums over pixels of: the gradient
    times `out`, which is h times the input of the activation; h; h times the noise.

    Args:
        half: activations are bfloat16.
        images: addresses of the gradient, of `out`, the result of `activate`, and of the gradient
            to write.
        noise: address, and bytes from pixel to pixel and from sample to sample.
        per_channel: addresses of scale and sums, in float32.
        clamp: as `activate`.
        shape: as `activate`.
        tasks: as `activate`.
    """
    grad, out, grad_x = images
    vectors, height, width = shape
    bound = np.float32(clamp)
    row, channels = vectors * (BYTES // 2 if half else BYTES), vectors * BYTES
    for task in range(tasks[0], tasks[1]):
        n, first, end = rows_of(task, height)
        at, step = noise[0] + n * noise[2], noise[1]
        scale, sums = per_channel[0] + n * channels, per_channel[1] + 3 * task * channels
        before, start, stop = row * n * height * width, first * width, end * width
        whole = stop - (stop - start) % PIXELS
        for p in range(start, whole, PIXELS):
            i = before + row * p
            added = Steps(at + step * p, step)
            here = Gradients(grad + i, out + i, grad_x + i)
            _slopes(half, here, scale, added, sums, bound, vectors)
        for p in range(whole, stop):
            i = before + row * p
            added = Steps(at + step * p, step)
            here = Gradients(grad + i, out + i, grad_x + i)
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
    half: bool,
    images: tuple[int, int],
    per_channel: tuple[int, int],
    shape: tuple[int, int, int],
    tasks: tuple[int, int],
) -> None:
    """Add grad x to the sums of each task; then multiply `grad` by the scale, in place.

    `images`: addresses of grad and x. The others are those of `activate_backward`; a task has one
    row of sums.
    """
    grad, x = images
    vectors, height, width = shape
    row, channels = vectors * (BYTES // 2 if half else BYTES), vectors * BYTES
    for task in range(tasks[0], tasks[1]):
        n, first, end = rows_of(task, height)
        scale, sums = per_channel[0] + n * channels, per_channel[1] + task * channels
        before, start, stop = row * n * height * width, first * width, end * width
        whole = stop - (stop - start) % PIXELS
        for p in range(start, whole, PIXELS):
            i = before + row * p
            _products(half, grad + i, x + i, scale, sums, vectors)
        for p in range(whole, stop):
            i = before + row * p
            _product(half, grad + i, x + i, scale, sums, vectors)


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
    factors: tuple[int, int],
    noise: tuple[int, int, int, int],
    bounds: tuple[float, float, float],
    shape: tuple[int, int, int],
    tasks: tuple[int, int],
) -> None:
    """Filter a transposed convolution's result, given by its four phases, and activate it.

    The result of the convolution has (2 height + 1) x (2 width + 1) pixels; the output has twice
    height and width.

    Args:
        half: activations are bfloat16.
        images: addresses of the pixels of even rows and columns, of even rows and odd columns, of
            odd rows and even columns, of odd rows and columns; of the output.
        buffers: 2 width + 3 pixels of float32, and a row of zeros.
        factors: as `activate`.
        noise: as `activate`.
        bounds: the clamp, the outer and the inner tap.
        shape: vectors of a pixel, height and width of an input.
        tasks: the first one, and the end; of input rows: each gives two rows of the output.
    """
    scratch, zeros = buffers
    at_noise, noise_step, per_sample, strength = noise
    taps = Taps(np.float32(bounds[1]), np.float32(bounds[2]))
    clamp = np.float32(bounds[0])
    vectors, height, width = shape
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    long, short = size * (width + 1), size * width
    even, odd = scratch, scratch + pixel * (width + 1)  # odd columns lie between two zeros
    clear(odd, vectors)
    clear(odd + pixel * (width + 1), vectors)
    factor = read(strength)
    for task in range(tasks[0], tasks[1]):
        n, first, last = rows_of(task, height)
        affine = Factors(factors[0] + n * pixel, factors[1])
        ee, eo = images[0] + n * long * (height + 1), images[1] + n * short * (height + 1)
        oe, oo = images[2] + n * long * height, images[3] + n * short * height
        out, noises = images[4] + n * 4 * short * height, at_noise + n * per_sample
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
                    to, at = out + size * (start + 2 * j), noises + noise_step * (start + 2 * j)
                    left = Ends(factor * read(at), clamp)
                    right = Ends(factor * read(at + noise_step), clamp)
                    _finish(half, Pixels(a, b, c, d, to), affine, left, taps, vectors)
                    _finish(half, Pixels(b, c, d, e, to + size), affine, right, taps, vectors)

"""Kernels of the synthesis layers on a CPU: rows of pixels with their channels innermost.

Activations are float32 or bfloat16 (`half`), computed with in float32. Channels come in whole
vectors. The FIR filter is [1, 3, 3, 1] / 8 times a gain, first down the rows into a scratch row of
float32 that stays in cache, then along it. Addresses are in bytes, counts in elements.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lightning_gan3d.simd import (
    WIDTH,
    Float,
    Int,
    Vec,
    absolute,
    constant,
    entry,
    fma,
    leaky_relu,
    load,
    load_bfloat16,
    load_float,
    loop,
    maximum,
    minimum,
    select,
    simd,
    store,
    store_bfloat16,
)

SLOPE = 0.2
PIXELS = 8
"""Pixels whose sums stay in registers."""
BYTES = 4 * WIDTH


class Kind(NamedTuple):
    """How a vector of numbers lies in memory."""

    size: int
    """Bytes of a vector."""
    load: Callable[[Int], Vec]
    store: Callable[[Vec, Int], None]


FLOAT32 = Kind(BYTES, load, store)
BFLOAT16 = Kind(BYTES // 2, load_bfloat16, store_bfloat16)


@simd
def read(at: Int) -> Float:
    """Read one float32."""
    return load_float(at)


def _activated(x: Vec, clamp: Float) -> Vec:
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
            kind.store(_activated(y, clamp), out + k * kind.size)

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


def _filtered(taps: list[Vec], outer: Float, inner: Float) -> Vec:
    a, b, c, d = taps
    return fma(a + d, outer.splat(), (b + c) * inner.splat())


def _make_column(kind: Kind) -> Any:
    @simd
    def column(
        a: Int, b: Int, c: Int, d: Int, out: Int, outer: Float, inner: Float, vectors: Int
    ) -> None:
        with loop(vectors) as k:
            rows = [kind.load(x + k * kind.size) for x in (a, b, c, d)]
            store(_filtered(rows, outer, inner), out + k * BYTES)

    return column


_column_32, _column_16 = _make_column(FLOAT32), _make_column(BFLOAT16)


def _make_row(kind: Kind) -> Any:
    @simd
    def row(row: Int, step: Int, out: Int, outer: Float, inner: Float, vectors: Int) -> None:
        with loop(vectors) as k:
            taps = [load(row + k * BYTES + step * i) for i in range(4)]
            kind.store(_filtered(taps, outer, inner), out + k * kind.size)

    return row


_row_32, _row_16 = _make_row(FLOAT32), _make_row(BFLOAT16)


@simd
def clear(at: Int, vectors: Int) -> None:
    """Write zeros."""
    with loop(vectors) as k:
        store(constant(at, 0.0), at + k * BYTES)


@entry
def fir_rows(
    half: bool,
    x: int,
    out: int,
    scratch: int,
    zeros: int,
    outer: float,
    inner: float,
    vectors: int,
    height: int,
    width: int,
    pad: int,
    stride: int,
    first: int,
    last: int,
) -> None:
    """Write rows `first` to `last` of an image of height x width, padded by zeros and filtered.

    `outer`, `inner`: the taps. `stride` 2 keeps every second pixel of every second row. `scratch`
    holds width + 2 pad pixels of float32, `zeros` a row of zeros.
    """
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    out_width = (width + 2 * pad - 4) // stride + 1
    clear(scratch, vectors * pad)
    clear(scratch + pixel * (width + pad), vectors * pad)
    for i in range(first, last):
        top = stride * i - pad
        a = x + size * width * top if 0 <= top < height else zeros
        b = x + size * width * (top + 1) if 0 <= top + 1 < height else zeros
        c = x + size * width * (top + 2) if 0 <= top + 2 < height else zeros
        d = x + size * width * (top + 3) if 0 <= top + 3 < height else zeros
        within, row = scratch + pixel * pad, out + size * out_width * i
        if half:
            _column_16(a, b, c, d, within, outer, inner, vectors * width)
        else:
            _column_32(a, b, c, d, within, outer, inner, vectors * width)
        if stride == 1:
            if half:
                _row_16(scratch, pixel, row, outer, inner, vectors * out_width)
            else:
                _row_32(scratch, pixel, row, outer, inner, vectors * out_width)
        else:
            for j in range(out_width):
                if half:
                    _row_16(scratch + 2 * pixel * j, pixel, row + size * j, outer, inner, vectors)
                else:
                    _row_32(scratch + 2 * pixel * j, pixel, row + size * j, outer, inner, vectors)


def _make_mix(kind: Kind) -> Any:
    @simd
    def mix(far: Int, near: Int, out: Int, outer: Float, inner: Float, vectors: Int) -> None:
        with loop(vectors) as k:
            a, b = kind.load(far + k * kind.size), kind.load(near + k * kind.size)
            store(fma(a, outer.splat(), b * inner.splat()), out + k * BYTES)

    return mix


_mix_32, _mix_16 = _make_mix(FLOAT32), _make_mix(BFLOAT16)


def _make_spread(kind: Kind) -> Any:
    @simd
    def spread(row: Int, out: Int, outer: Float, inner: Float, vectors: Int) -> None:
        with loop(vectors) as k:
            before, here, after = (load(row + k * BYTES + vectors * (BYTES * i)) for i in range(3))
            middle = here * inner.splat()
            kind.store(fma(before, outer.splat(), middle), out + k * kind.size)
            at = out + k * kind.size + vectors * kind.size
            kind.store(fma(after, outer.splat(), middle), at)

    return spread


_spread_32, _spread_16 = _make_spread(FLOAT32), _make_spread(BFLOAT16)


def _make_plus(kind: Kind) -> Any:
    @simd
    def plus(x: Int, out: Int, vectors: Int) -> None:
        with loop(vectors) as k:
            at = out + k * BYTES
            store(load(at) + kind.load(x + k * kind.size), at)

    return plus


_plus_32, _plus_16 = _make_plus(FLOAT32), _make_plus(BFLOAT16)


@entry
def double_rows(
    half: bool,
    x: int,
    out: int,
    added: int,
    added_half: bool,
    scratch: int,
    zeros: int,
    outer: float,
    inner: float,
    vectors: int,
    height: int,
    width: int,
    first: int,
    last: int,
) -> None:
    """Write the rows that rows `first` to `last` of an image become when it is doubled.

    The adjoint of `fir_rows` with pad 1 and stride 2. `scratch` holds width + 2 pixels of float32.
    `added`: an image of the doubled size to add where all else is float32, or 0.
    """
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    clear(scratch, vectors)
    clear(scratch + pixel * (width + 1), vectors)
    for i in range(first, last):
        near = x + size * width * i
        for lower in range(2):
            other = i + 1 if lower else i - 1
            far = x + size * width * other if 0 <= other < height else zeros
            row = out + size * 2 * width * (2 * i + lower)
            if half:
                _mix_16(far, near, scratch + pixel, outer, inner, vectors * width)
            else:
                _mix_32(far, near, scratch + pixel, outer, inner, vectors * width)
            for j in range(width):
                at, to = scratch + pixel * j, row + 2 * size * j
                if half:
                    _spread_16(at, to, outer, inner, vectors)
                else:
                    _spread_32(at, to, outer, inner, vectors)
            if added:
                start = vectors * 2 * width * (2 * i + lower)
                if added_half:
                    _plus_16(added + BYTES // 2 * start, row, vectors * 2 * width)
                else:
                    _plus_32(added + BYTES * start, row, vectors * 2 * width)


def _make_finish(kind: Kind) -> Any:
    @simd
    def finish(
        a: Int,
        b: Int,
        c: Int,
        d: Int,
        out: Int,
        scale: Int,
        shift: Int,
        noise: Float,
        clamp: Float,
        outer: Float,
        inner: Float,
        vectors: Int,
    ) -> None:
        with loop(vectors) as k:
            at = k * BYTES
            y = _filtered([load(x + at) for x in (a, b, c, d)], outer, inner)
            y = fma(y, load(scale + at), load(shift + at) + noise.splat())
            kind.store(_activated(y, clamp), out + k * kind.size)

    return finish


_finish_32, _finish_16 = _make_finish(FLOAT32), _make_finish(BFLOAT16)


@entry
def merge_rows(
    half: bool,
    ee: int,
    eo: int,
    oe: int,
    oo: int,
    out: int,
    scratch: int,
    zeros: int,
    scale: int,
    shift: int,
    noise: int,
    noise_step: int,
    strength: int,
    clamp: float,
    outer: float,
    inner: float,
    vectors: int,
    side: int,
    width: int,
    first: int,
    last: int,
) -> None:
    """Filter a transposed convolution's result, given by its four phases, and activate it.

    Of (2 side + 1) x (2 width + 1) pixels: `ee` those of even rows and columns, `eo` of even rows
    and odd columns, and so on. Written are output rows 2 first to 2 last, of 2 side x 2 width.
    `scratch` holds 2 width + 3 pixels of float32. The rest is as in `activate`.
    """
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
        below_e = oe + long * (i + 1) if i + 1 < side else zeros
        below_o = oo + short * (i + 1) if i + 1 < side else zeros
        e0, e1, e2 = ee + long * i, oe + long * i, ee + long * (i + 1)
        o0, o1, o2 = eo + short * i, oo + short * i, eo + short * (i + 1)
        for lower in range(2):
            many, few = vectors * (width + 1), vectors * width
            if lower:
                if half:
                    _column_16(e0, e1, e2, below_e, even, outer, inner, many)
                    _column_16(o0, o1, o2, below_o, odd + pixel, outer, inner, few)
                else:
                    _column_32(e0, e1, e2, below_e, even, outer, inner, many)
                    _column_32(o0, o1, o2, below_o, odd + pixel, outer, inner, few)
            elif half:
                _column_16(above_e, e0, e1, e2, even, outer, inner, many)
                _column_16(above_o, o0, o1, o2, odd + pixel, outer, inner, few)
            else:
                _column_32(above_e, e0, e1, e2, even, outer, inner, many)
                _column_32(above_o, o0, o1, o2, odd + pixel, outer, inner, few)
            start = 2 * width * (2 * i + lower)
            for j in range(width):
                a, b = odd + pixel * j, even + pixel * j
                c, d, e = a + pixel, b + pixel, a + 2 * pixel
                to = out + size * (start + 2 * j)
                n0 = factor * read(noise + noise_step * (start + 2 * j))
                n1 = factor * read(noise + noise_step * (start + 2 * j + 1))
                if half:
                    _finish_16(a, b, c, d, to, scale, shift, n0, clamp, outer, inner, vectors)
                    to += size
                    _finish_16(b, c, d, e, to, scale, shift, n1, clamp, outer, inner, vectors)
                else:
                    _finish_32(a, b, c, d, to, scale, shift, n0, clamp, outer, inner, vectors)
                    to += size
                    _finish_32(b, c, d, e, to, scale, shift, n1, clamp, outer, inner, vectors)

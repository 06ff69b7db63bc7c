"""Kernels of the FIR filter on a CPU: images to be filtered, and to be doubled by its adjoint.

The filter is [1, 3, 3, 1] / 8 times a gain, first down the rows into a scratch row of float32 that
stays in cache, then along it. Rows of pixels are as `rows` has them.
"""

from typing import Any

from lightning_gan3d.networks.fused.kernels.rows import BFLOAT16, BYTES, FLOAT32, Kind
from lightning_gan3d.simd import Float, Int, Vec, constant, entry, fma, load, loop, simd, store


def filtered(taps: list[Vec], outer: Float, inner: Float) -> Vec:
    """Emit the filter of four taps."""
    a, b, c, d = taps
    return fma(a + d, outer.splat(), (b + c) * inner.splat())


def _make_column(kind: Kind) -> Any:
    @simd
    def column(
        a: Int, b: Int, c: Int, d: Int, out: Int, outer: Float, inner: Float, vectors: Int
    ) -> None:
        with loop(vectors) as k:
            rows = [kind.load(x + k * kind.size) for x in (a, b, c, d)]
            store(filtered(rows, outer, inner), out + k * BYTES)

    return column


column_32, column_16 = _make_column(FLOAT32), _make_column(BFLOAT16)


def _make_row(kind: Kind) -> Any:
    @simd
    def row(row: Int, step: Int, out: Int, outer: Float, inner: Float, vectors: Int) -> None:
        with loop(vectors) as k:
            taps = [load(row + k * BYTES + step * i) for i in range(4)]
            kind.store(filtered(taps, outer, inner), out + k * kind.size)

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
            column_16(a, b, c, d, within, outer, inner, vectors * width)
        else:
            column_32(a, b, c, d, within, outer, inner, vectors * width)
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

"""CPU kernels of the FIR filter [1, 3, 3, 1] / 8: filter an image, and its adjoint, doubling.

Pixels have their channels innermost, in whole vectors. Activations are float32 or bfloat16
(`half`), computed in float32. Addresses are in bytes, counts in elements. Rows are filtered first,
into a scratch row of float32 that stays in cache, then columns.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from lightning_gan3d.simd import WIDTH, entry, helper, simd
from lightning_gan3d.simd.vector import (
    Float,
    Int,
    Vec,
    branch,
    constant,
    fma,
    load,
    load_bfloat16,
    load_float,
    loop,
    store,
    store_bfloat16,
)

BYTES = 4 * WIDTH
"""Of a vector of float32."""
ROWS = 16
"""Rows of a task. Sums over tasks do not depend on the number of threads."""


class Format(NamedTuple):
    """A vector of activations in memory."""

    size: int
    """In bytes."""
    load: Callable[[Int], Vec]
    store: Callable[[Vec, Int], None]


FLOAT32 = Format(BYTES, load, store)
BFLOAT16 = Format(BYTES // 2, load_bfloat16, store_bfloat16)


def per_format(emit: Callable[..., None]) -> Any:
    """Make emit(form, ...) a SIMD function of (half, ...), for both formats."""

    def emit_both(half: Int, *args: Any) -> None:
        branch(half, lambda: emit(BFLOAT16, *args), lambda: emit(FLOAT32, *args))

    kinds = inspect.get_annotations(emit)
    del kinds["form"]
    emit_both.__annotations__ = {"half": Int, **kinds}
    emit_both.__name__ = emit.__name__
    return simd(emit_both)


class Rows(NamedTuple):
    """Addresses of the four rows, or pixels, under the filter."""

    a: Any
    b: Any
    c: Any
    d: Any


class Taps(NamedTuple):
    """Weights of the filter, times a gain: the two outer taps, and the two inner ones."""

    outer: Any
    inner: Any


FourRows = Annotated[Rows, Int]
TwoTaps = Annotated[Taps, Float]


@helper
def rows_of(task: int, height: int) -> tuple[int, int, int]:
    """Return the sample of a task, its first row, and the end."""
    parts = (height + ROWS - 1) // ROWS
    sample = task // parts
    first = (task - sample * parts) * ROWS
    return sample, first, min(height, first + ROWS)


@simd
def read(at: Int) -> Float:
    """Read one float32."""
    return load_float(at)


@simd
def clear(at: Int, vectors: Int) -> None:
    """Write zeros."""
    with loop(vectors) as k:
        store(constant(at, 0.0), at + k * BYTES)


def filtered(values: list[Vec], taps: Taps) -> Vec:
    """Emit the filter of four values."""
    a, b, c, d = values
    return fma(a + d, taps.outer.splat(), (b + c) * taps.inner.splat())


@per_format
def filter_columns(form: Format, rows: FourRows, out: Int, taps: TwoTaps, vectors: Int) -> None:
    """Filter four rows of an image into a row of float32."""
    with loop(vectors) as k:
        values = [form.load(x + k * form.size) for x in rows]
        store(filtered(values, taps), out + k * BYTES)


@per_format
def _filter_row(form: Format, row: Int, step: Int, out: Int, taps: TwoTaps, vectors: Int) -> None:
    with loop(vectors) as k:
        values = [load(row + k * BYTES + step * i) for i in range(4)]
        form.store(filtered(values, taps), out + k * form.size)


@entry
def fir_rows(
    half: bool,
    images: tuple[int, int],
    buffers: tuple[int, int],
    weights: tuple[float, float],
    shape: tuple[int, int, int, int, int],
    tasks: tuple[int, int],
) -> None:
    """Filter images, padded by zeros; write the rows of a range of tasks.

    Args:
        half: activations are bfloat16.
        images: addresses of the input and the result.
        buffers: width + 2 pad pixels of float32, and a row of zeros.
        weights: the outer and inner tap.
        shape: vectors of a pixel, height, width, padding, stride (2: every second pixel and row).
        tasks: the first one, and the end; of rows of the result.
    """
    x, out = images
    scratch, zeros = buffers
    vectors, height, width, pad, stride = shape
    taps = Taps(np.float32(weights[0]), np.float32(weights[1]))
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    out_width = (width + 2 * pad - 4) // stride + 1
    clear(scratch, vectors * pad)
    clear(scratch + pixel * (width + pad), vectors * pad)
    out_height = (height + 2 * pad - 4) // stride + 1
    for task in range(tasks[0], tasks[1]):
        n, start, end = rows_of(task, out_height)
        image, result = x + size * width * height * n, out + size * out_width * out_height * n
        for i in range(start, end):
            top = stride * i - pad
            a = image + size * width * top if 0 <= top < height else zeros
            b = image + size * width * (top + 1) if 0 <= top + 1 < height else zeros
            c = image + size * width * (top + 2) if 0 <= top + 2 < height else zeros
            d = image + size * width * (top + 3) if 0 <= top + 3 < height else zeros
            within, row = scratch + pixel * pad, result + size * out_width * i
            filter_columns(half, Rows(a, b, c, d), within, taps, vectors * width)
            if stride == 1:
                _filter_row(half, scratch, pixel, row, taps, vectors * out_width)
            else:
                for j in range(out_width):
                    _filter_row(half, scratch + 2 * pixel * j, pixel, row + size * j, taps, vectors)


@per_format
def _mix(form: Format, far: Int, near: Int, out: Int, taps: TwoTaps, vectors: Int) -> None:
    with loop(vectors) as k:
        a, b = form.load(far + k * form.size), form.load(near + k * form.size)
        store(fma(a, taps.outer.splat(), b * taps.inner.splat()), out + k * BYTES)


@per_format
def _spread(form: Format, row: Int, out: Int, taps: TwoTaps, vectors: Int) -> None:
    with loop(vectors) as k:
        before, here, after = (load(row + k * BYTES + vectors * (BYTES * i)) for i in range(3))
        middle = here * taps.inner.splat()
        form.store(fma(before, taps.outer.splat(), middle), out + k * form.size)
        at = out + k * form.size + vectors * form.size
        form.store(fma(after, taps.outer.splat(), middle), at)


@per_format
def _add(form: Format, x: Int, out: Int, vectors: Int) -> None:
    with loop(vectors) as k:
        at = out + k * BYTES
        store(load(at) + form.load(x + k * form.size), at)


@entry
def double_rows(
    halves: tuple[bool, bool],
    images: tuple[int, int, int],
    buffers: tuple[int, int],
    weights: tuple[float, float],
    shape: tuple[int, int, int],
    tasks: tuple[int, int],
) -> None:
    """Double images: the adjoint of `fir_rows` with padding 1 and stride 2.

    Args:
        halves: input and result are bfloat16; `added` is.
        images: addresses of the input, the result, and `added`: an image to add to a result in
            float32, or 0.
        buffers: width + 2 pixels of float32, and a row of zeros.
        weights: the outer and inner tap.
        shape: vectors of a pixel, height and width of the input.
        tasks: the first one, and the end; of rows of the input.
    """
    half, added_half = halves
    x, out, added = images
    scratch, zeros = buffers
    vectors, height, width = shape
    taps = Taps(np.float32(weights[0]), np.float32(weights[1]))
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    clear(scratch, vectors)
    clear(scratch + pixel * (width + 1), vectors)
    for task in range(tasks[0], tasks[1]):
        n, start_row, end = rows_of(task, height)
        image, result = x + size * width * height * n, out + size * 4 * width * height * n
        for i in range(start_row, end):
            near = image + size * width * i
            for lower in range(2):
                other = i + 1 if lower else i - 1
                far = image + size * width * other if 0 <= other < height else zeros
                row = result + size * 2 * width * (2 * i + lower)
                _mix(half, far, near, scratch + pixel, taps, vectors * width)
                for j in range(width):
                    _spread(half, scratch + pixel * j, row + 2 * size * j, taps, vectors)
                if added:
                    start = vectors * 2 * width * (2 * height * n + 2 * i + lower)
                    at = added + (BYTES // 2 if added_half else BYTES) * start
                    _add(added_half, at, row, vectors * 2 * width)

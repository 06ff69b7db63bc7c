"""CPU kernel of StyleGAN3's filtered leaky ReLU: upsample, activate, downsample, row by row.

Images are float32 with their columns innermost; torch convolves them as fast as channels
innermost, and differentiates by weights two to six times as fast. A vector holds WIDTH channels of
a pixel: squares are transposed where they are read and written. Only the rows under the filters are
kept, in rings. Addresses and steps are in bytes.
"""

from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_gan3d.networks.fused.filtered import ACTIVATE, KEEP, Images, Sizes, Slopes
from lightning_gan3d.networks.fused.fir_kernels import BYTES, read
from lightning_gan3d.simd import WIDTH, entry, helper, simd
from lightning_gan3d.simd.processor import MANY_REGISTERS
from lightning_gan3d.simd.vector import (
    MASK_BYTES,
    Float,
    Int,
    Registers,
    absolute,
    broadcast,
    constant,
    fma,
    load,
    load_float,
    load_long,
    load_mask,
    loop,
    maximum,
    minimum,
    select,
    store,
    store_float,
    store_mask,
    transposed,
)

BLOCK = 16 if MANY_REGISTERS else 8
"""Pixels whose sums stay in registers."""
CODE = 2 * MASK_BYTES
"""Bytes of a vector's two masks: which samples are positive, and which are clamped."""


class Side(NamedTuple):
    """A resampling: of the image to the high rate, or of that to the result."""

    weights: Any
    """Address of float32: (taps) or, radial, (taps, taps); upsampling: of each phase."""
    factor: Any
    taps: Any
    """Upsampling: of a phase."""
    offset: Any
    """Sample of the high rate at which the window of pixel 0 ends (up) or begins (down)."""
    radial: Any


class Part(NamedTuple):
    """The part of the result to compute: columns, and blocks of WIDTH channels."""

    begin: Any
    end: Any
    block: Any
    end_block: Any


class Fir(NamedTuple):
    """A filter of rows of vectors."""

    rows: Any
    """Address of the addresses of the rows."""
    start: Any
    """Offset of the first window in a row, in bytes."""
    num_rows: Any
    weights: Any
    taps: Any
    """Weights of a row."""
    stride: Any
    """Step from window to window."""
    out: Any
    out_step: Any


Activation = Annotated[Slopes, Float]


def _make_fir(pixels: int) -> Any:
    def step(f: Annotated[Fir, Int]) -> None:
        sums = Registers([constant(f.rows, 0.0)] * pixels)
        with loop(f.num_rows) as i:
            row, weights = load_long(f.rows + i * 8) + f.start, f.weights + i * f.taps * 4
            with loop(f.taps) as k:
                weight, at = broadcast(weights + k * 4), row + k * BYTES
                for p in range(pixels):
                    sums[p] = fma(weight, load(at + f.stride * p), sums[p])
        for p in range(pixels):
            store(sums[p], f.out + f.out_step * p)

    return simd(step)


_windows, _window = _make_fir(BLOCK), _make_fir(1)


@helper
def _filter(f: Fir, count: int) -> None:
    """Filter `count` windows; the last block overlaps the one before."""
    size = BLOCK if count >= BLOCK else 1
    for p in range(0, count, size):
        q = min(p, count - size)
        at, out = f.start + f.stride * q, f.out + f.out_step * q
        block = Fir(f.rows, at, f.num_rows, f.weights, f.taps, f.stride, out, f.out_step)
        if size == 1:
            _window(block)
        else:
            _windows(block)


def _make_activate(keep: bool) -> Any:
    def step(at: Int, codes: Int, count: Int, a: Activation) -> None:
        bound = a.clamp.splat()
        with loop(count) as k:
            x = load(at + k * BYTES)
            y = x * select(x > 0.0, a.positive.splat(), a.negative.splat())
            if keep:
                store_mask(x > 0.0, codes + k * CODE)
                store_mask(bound <= absolute(y), codes + k * CODE + MASK_BYTES)
            store(minimum(maximum(y, -bound), bound), at + k * BYTES)

    return simd(step)


_activate, _activate_and_keep = _make_activate(False), _make_activate(True)


@simd
def _multiply(at: Int, codes: Int, count: Int, a: Activation) -> None:
    with loop(count) as k:
        positive, clamped = (load_mask(codes + k * CODE + i * MASK_BYTES) for i in range(2))
        slope = select(positive, a.positive.splat(), a.negative.splat())
        slope = select(clamped, constant(at, 0.0), slope)
        store(load(at + k * BYTES) * slope, at + k * BYTES)


@simd
def _read_square(channels: Int, start: Int, bias: Int, out: Int) -> None:
    rows = [load(load_long(channels + 8 * k) + start) for k in range(WIDTH)]
    for p, x in enumerate(transposed(rows)):
        store(x + load(bias), out + BYTES * p)


@simd
def _write_square(x: Int, channels: Int, start: Int) -> None:
    for k, row in enumerate(transposed([load(x + BYTES * p) for p in range(WIDTH)])):
        store(row, load_long(channels + 8 * k) + start)


@simd
def _move(x: Int, added: Float, out: Int) -> None:
    store_float(load_float(x) + added, out)


@helper
def _read_row(channels: NDArray[np.int64], start: int, bias: int, out: int, count: int) -> None:
    """Read `count` pixels of a row of each channel, and add the bias."""
    if count < WIDTH:
        for k in range(WIDTH):
            added = read(bias + 4 * k)
            for p in range(count):
                _move(channels[k] + start + 4 * p, added, out + BYTES * p + 4 * k)
        return
    for p in range(0, count, WIDTH):
        q = min(p, count - WIDTH)
        _read_square(channels.ctypes.data, start + 4 * q, bias, out + BYTES * q)


@helper
def _write_row(x: int, channels: NDArray[np.int64], start: int, count: int) -> None:
    if count < WIDTH:
        for k in range(WIDTH):
            for p in range(count):
                _move(x + BYTES * p + 4 * k, np.float32(0), channels[k] + start + 4 * p)
        return
    for p in range(0, count, WIDTH):
        q = min(p, count - WIDTH)
        _write_square(x + BYTES * q, channels.ctypes.data, start + 4 * q)


@helper
def _first(n: int, side: Side) -> int:
    """Return the first pixel in the window of sample n."""
    pixel: int = -((side.offset - n) // side.factor)
    return pixel


@helper
def _upsample(f: Fir, up: Side, samples: tuple[int, int], first: int) -> None:
    """Filter the rows `f` to a range of samples of a row; their pixels begin with `first`."""
    start, end = samples
    size = 4 * f.num_rows * f.taps
    for n in range(start, min(end, start + up.factor)):
        pixel = _first(n, up)
        weights = f.weights + size * (up.factor * pixel + up.offset - n)
        at, out = BYTES * (pixel - first), f.out + BYTES * (n - start)
        phase = Fir(f.rows, at, f.num_rows, weights, f.taps, BYTES, out, BYTES * up.factor)
        _filter(phase, (end - n + up.factor - 1) // up.factor)


@entry
def filter_strip(
    sides: tuple[Side, Side],
    images: Images,
    extent: tuple[Sizes, Part],
    activation: tuple[int, float, float, float],
    buffers: tuple[NDArray[np.int64], int, int],
) -> None:
    """Upsample, activate and downsample some channels of an image, for a strip of the result.

    Args:
        sides: upsampling and downsampling.
        images: addresses; images are (channels, height, width), the bias is padded to whole
            vectors, and bits are masks of CODE bytes, (blocks, height, width) at the high rate.
        extent: sizes, and the part to compute.
        activation: mode, and the fields of `Slopes`.
        buffers: three rows of at least WIDTH numbers, and as many as taps; zeros, in rows of
            pixels, four and one for each tap of both sides; and the pixels of a row.
    """
    (up, down), (e, part) = sides, extent
    tables, scratch, pitch = buffers
    sources, targets, rows = tables[0], tables[1], tables[2]
    table, mode = np.int64(rows.ctypes.data), activation[0]
    slopes = Slopes(np.float32(activation[1]), np.float32(activation[2]), np.float32(activation[3]))
    pitch, columns = BYTES * pitch, part.end - part.begin
    zeros, row_x = scratch, scratch + pitch
    row_high, result = scratch + 2 * pitch, scratch + 3 * pitch
    ring_up, ring_down = scratch + 4 * pitch, scratch + (4 + up.taps) * pitch
    left = down.factor * part.begin + down.offset
    right = left + down.factor * (columns - 1) + down.taps
    # Samples beyond the image at the high rate, and pixels beyond the image, stay zero.
    start, end = max(left, 0), min(right, e.high_width)
    high_height = e.high_height if start < end else 0
    first = _first(start, up)
    pixel = max(first, 0)
    pixels = min(_first(end - 1, up) + up.taps, e.width) - pixel
    # A radial filter of rows covers columns, too.
    across = up.taps if up.radial else 1
    taps, step = (down.taps, BYTES * down.factor) if down.radial else (1, BYTES)
    for block in range(part.block, part.end_block):
        for k in range(WIDTH):
            channel = min(block * WIDTH + k, e.channels - 1)
            sources[k] = images.x + 4 * e.height * e.width * channel
            targets[k] = images.out + 4 * e.out_height * e.out_width * channel
        codes = images.bits + CODE * (block * e.high_height * e.high_width + start)
        following = 0  # the next row of the image to read
        for m in range(down.offset, down.offset + down.factor * (e.out_height - 1) + down.taps):
            slot = ring_down + pitch * (m % down.taps)
            if 0 <= m < high_height:
                top = _first(m, up)
                for y in range(max(following, top), min(top + up.taps, e.height)):
                    to = ring_up + pitch * (y % up.taps)
                    x = to if up.radial else row_x
                    at, here = 4 * (e.width * y + pixel), x + BYTES * (pixel - first)
                    _read_row(sources, at, images.bias + BYTES * block, here, pixels)
                    if not up.radial:
                        rows[0] = row_x
                        f = Fir(table, 0, 1, up.weights, up.taps, BYTES, to, BYTES)
                        _upsample(f, up, (start, end), first)
                following = max(following, top + up.taps)
                for k in range(up.taps):
                    inside = 0 <= top + k < e.height
                    rows[k] = ring_up + pitch * ((top + k) % up.taps) if inside else zeros
                high = slot if down.radial else row_high
                at, here = high + BYTES * (start - left), codes + CODE * e.high_width * m
                size = 4 * up.taps * across * (up.factor if up.radial else 1)
                weights = up.weights + size * (up.factor * top + up.offset - m)
                f = Fir(table, 0, up.taps, weights, across, BYTES, at, BYTES)
                if up.radial:
                    _upsample(f, up, (start, end), first)
                else:
                    _filter(f, end - start)
                if mode == ACTIVATE:
                    _activate(at, here, end - start, slopes)
                elif mode == KEEP:
                    _activate_and_keep(at, here, end - start, slopes)
                else:
                    _multiply(at, here, end - start, slopes)
                if not down.radial:
                    rows[0] = high
                    stride = BYTES * down.factor
                    _filter(Fir(table, 0, 1, down.weights, down.taps, stride, slot, BYTES), columns)
            row, rest = divmod(m - down.offset - down.taps + 1, down.factor)
            if row >= 0 and rest == 0:
                for k in range(down.taps):
                    y = m - down.taps + 1 + k
                    rows[k] = ring_down + pitch * (y % down.taps) if 0 <= y < high_height else zeros
                _filter(Fir(table, 0, down.taps, down.weights, taps, step, result, BYTES), columns)
                _write_row(result, targets, 4 * (e.out_width * row + part.begin), columns)

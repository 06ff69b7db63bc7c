"""StyleGAN3's filtered leaky ReLU on a GPU, in Triton: a tile of a channel is a few small products.

Resampling an axis is a product with a banded matrix, made of the taps. A radial filter is the sum
over its rows of separable ones: of the unit impulse at the row, and the row.
"""

import os
from functools import partial
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor, cuda

from lightning_gan3d.networks.filtered_lrelu import FilteredActivation, plain
from lightning_gan3d.networks.fused.filtered import FilteredLReLU, Images, Kernel, Pass, Sizes

TILE, HIGH = tl.constexpr(16), tl.constexpr(64)
"""Edges of a tile: of the result, at most, and at the high rate."""

TOLERANCE = 0.02
"""Error of the self-check over the largest magnitude; a sample near 0 may change its slope."""


class Filter(NamedTuple):
    """A sum of separable filters, each (terms, taps), and the offset of its windows."""

    rows: Any
    columns: Any
    offset: Any


class Shape(NamedTuple):
    """Compile-time constants: mode, edges of a tile, and of both filters: rate, terms, taps."""

    mode: int
    used: int
    """Pixels of the result that a tile computes."""
    pixels: int
    """Edge of the block of the image, padded."""
    up: tuple[int, int, int]
    down: tuple[int, int, int]


@triton.jit
@no_type_check
def band(taps, tap, NUM: tl.constexpr):
    """Entries of a matrix by the tap of each; 0 where there is none."""
    return tl.load(taps + tap, mask=(tap >= 0) & (tap < NUM), other=0.0)


@triton.jit
@no_type_check
def filtered_kernel(images, filters, extent, slopes, SHAPE: tl.constexpr):
    """Upsample, activate and downsample a tile of a channel."""
    UP: tl.constexpr = SHAPE.up[0]
    DOWN: tl.constexpr = SHAPE.down[0]
    up, down = filters
    sizes, tiles_y, tiles_x = extent
    plane = (tl.program_id(0) // (tiles_y * tiles_x)).to(tl.int64)
    tile = tl.program_id(0) % (tiles_y * tiles_x)
    tile_y, tile_x = tile // tiles_x, tile % tiles_x
    near = tl.arange(0, HIGH)
    m = tile_y * SHAPE.used * DOWN + down.offset + near
    n = tile_x * SHAPE.used * DOWN + down.offset + near
    # Floor division: C's rounds negative numbers up.
    shift = 1 << 20
    top = (tl.min(m) - up.offset + UP * shift + UP - 1) // UP - shift
    left = (tl.min(n) - up.offset + UP * shift + UP - 1) // UP - shift
    i = top + tl.arange(0, SHAPE.pixels)
    k = left + tl.arange(0, SHAPE.pixels)
    inside = (i >= 0) & (i < sizes.height)
    inside = inside[:, None] & ((k >= 0) & (k < sizes.width))[None, :]
    at = images.x + plane * sizes.height * sizes.width + i[:, None] * sizes.width + k[None, :]
    bias = tl.load(images.bias + plane % sizes.channels)
    x = tl.where(inside, tl.load(at, mask=inside, other=0.0) + bias, 0.0)
    high = tl.zeros((HIGH, HIGH), tl.float32)
    for r in range(SHAPE.up[1]):
        columns = UP * k[:, None] - n[None, :] + up.offset
        columns = band(up.columns + r * SHAPE.up[2], columns, SHAPE.up[2])
        rows = UP * i[None, :] - m[:, None] + up.offset
        rows = band(up.rows + r * SHAPE.up[2], rows, SHAPE.up[2])
        wide = tl.dot(x, columns, input_precision="ieee")
        high += tl.dot(rows, wide, input_precision="ieee")
    valid = ((m >= 0) & (m < sizes.high_height))[:, None]
    valid = valid & ((n >= 0) & (n < sizes.high_width))[None, :]
    pitch = (sizes.high_width + 3) // 4
    bits = images.bits + (plane * sizes.high_height + m[:, None]) * pitch
    if SHAPE.mode == 2:
        code = tl.load(bits + n[None, :] // 4, mask=valid, other=0).to(tl.int32)
        code = code >> (2 * (n[None, :] % 4))
        slope = tl.where((code & 1) > 0, slopes.positive, slopes.negative)
        high = tl.where(valid & ((code & 2) == 0), high * slope, 0.0)
    else:
        positive = high > 0
        high = high * tl.where(positive, slopes.positive, slopes.negative)
        clamped = tl.abs(high) >= slopes.clamp
        if SHAPE.mode == 1:
            code = positive.to(tl.int32) + 2 * clamped.to(tl.int32)
            code = tl.reshape(code, (HIGH, HIGH // 4, 4)) << (2 * tl.arange(0, 4))[None, None, :]
            byte = tl.arange(0, HIGH // 4)
            # A tile stores its own samples; others reach beyond its block of the image.
            own = SHAPE.used * DOWN
            last_row = tl.where(tile_y == tiles_y - 1, HIGH, own)
            last_byte = tl.where(tile_x == tiles_x - 1, HIGH, own) // 4
            mine = ((near < last_row) & (m < sizes.high_height))[:, None]
            mine = mine & (byte < last_byte)[None, :]
            byte += tile_x * own // 4
            mine = mine & (byte < pitch)[None, :]
            tl.store(bits + byte[None, :], tl.sum(code, 2).to(tl.uint8), mask=mine)
        high = tl.where(clamped, tl.where(high > 0, slopes.clamp, -slopes.clamp), high)
        high = tl.where(valid, high, 0.0)
    y = tile_y * SHAPE.used + tl.arange(0, TILE)
    z = tile_x * SHAPE.used + tl.arange(0, TILE)
    out = tl.zeros((TILE, TILE), tl.float32)
    for r in range(SHAPE.down[1]):
        columns = n[:, None] - DOWN * z[None, :] - down.offset
        columns = band(down.columns + r * SHAPE.down[2], columns, SHAPE.down[2])
        rows = m[None, :] - DOWN * y[:, None] - down.offset
        rows = band(down.rows + r * SHAPE.down[2], rows, SHAPE.down[2])
        low = tl.dot(rows, high, input_precision="ieee")
        out += tl.dot(low, columns, input_precision="ieee")
    used = tl.arange(0, TILE) < SHAPE.used
    ok = (used & (y < sizes.out_height))[:, None] & (used & (z < sizes.out_width))[None, :]
    at = images.out + plane * sizes.out_height * sizes.out_width
    tl.store(at + y[:, None] * sizes.out_width + z[None, :], out, mask=ok)


def _filter(taps: Tensor, offset: int) -> Filter:
    if taps.ndim == 1:
        return Filter(taps[None], taps[None], offset)
    return Filter(torch.eye(len(taps), device=taps.device, dtype=taps.dtype), taps, offset)


def _new_bits(x: Tensor, p: Pass) -> Tensor:
    size = *x.shape[:2], p.high[0], triton.cdiv(p.high[1], 4)
    return x.new_empty(size, dtype=torch.uint8)


def _used(taps: int, rate: int) -> int:
    """Pixels of the result that a tile computes: bits of four samples share a byte."""
    used: int = min(TILE.value, (HIGH.value - taps) // rate + 1) // 4 * 4
    return used


def unsupported(a: FilteredActivation) -> str:
    """Return why the kernel cannot run these filters, or an empty text."""
    # The backward pass downsamples by the filter of upsampling.
    if min(map(_used, a.taps, (a.up, a.down))) >= 4:
        return ""
    up, down = a.taps
    return f"filters of {up} taps up by {a.up}, {down} down by {a.down} exceed the kernel's tile"


def _run(p: Pass, mode: int, images: Images) -> None:
    v, c, h, w = images.x.shape
    up, down = _filter(p.up, p.offsets[0]), _filter(p.down, p.offsets[1])
    used = _used(len(p.down), p.rates[1])
    high = p.rates[1] * (used - 1) + len(p.down)
    pixels = max(16, triton.next_power_of_2(-(-high // p.rates[0]) + -(-len(p.up) // p.rates[0])))
    tiles = [triton.cdiv(n, used) for n in p.out]
    taps = (p.rates[0], *up.rows.shape), (p.rates[1], *down.rows.shape)
    extent = Sizes(c, h, w, *p.high, *p.out), *tiles
    constants = {"SHAPE": Shape(mode, used, pixels, *taps), "num_warps": 8}
    with torch.cuda.device_of(images.x):  # type: ignore[no-untyped-call]  # for Triton
        grid = (v * c * tiles[0] * tiles[1],)
        filtered_kernel[grid](images, (up, down), extent, p.slopes, **constants)


_faults: dict[torch.device, str] = {}


def find_fault(device: torch.device) -> str:
    """Compare the kernel with plain torch, once per device; return its fault, or an empty text."""
    # A CUDA graph that is being recorded allows no comparison.
    capturing = cuda.is_initialized() and cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]  # torch's
    if device not in _faults and not capturing:
        _faults[device] = _compare(device)
    return _faults.get(device, "")


@torch.inference_mode(False)
@torch.enable_grad()
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
def _compare(device: torch.device) -> str:
    options: Any = {"dtype": torch.float32, "device": device}
    short, long = (torch.linspace(1, 2, n, **options) / n for n in (12, 24))
    radial = short.outer(short.flip(0))
    noise = torch.Generator("cpu").manual_seed(0)
    image = torch.randn(2, 2, 17, 20, generator=noise, dtype=torch.float32, device="cpu").to(device)
    for up, down, rate in ((short, short, 2), (long, short, 4), (short, radial, 2)):
        activation = FilteredActivation(up, down, rate, 2, (3, 2), clamp=1.0)
        results = []
        for run in (partial(FilteredLReLU.apply, KERNEL, activation, True), None):
            x, bias = image.clone().requires_grad_(), image[0, :, 0, 0].clone().requires_grad_()
            try:
                y = plain(x, bias, activation) if run is None else run(x, bias)
                ramp = torch.linspace(0.5, 1.5, y.numel(), **options).view_as(y)
                results.append([y.detach(), *torch.autograd.grad(y, (x, bias), ramp)])
            except Exception as error:  # of the compiler, the driver or the kernel: any type
                text = " ".join(str(error).split())[:300]
                return f"self-check raised {type(error).__name__}: {text}"
        for name, a, b in zip(
            ("values", "gradient", "gradient of the bias"), *results, strict=True
        ):
            off = float(((a - b).abs().max() / b.abs().max()).nan_to_num(torch.inf))
            if not off <= TOLERANCE:
                return f"self-check: {name} off by {100 * off:.3g} %"
    return ""


_NAME = "interpreted" if os.environ.get("TRITON_INTERPRET") == "1" else triton.__version__
KERNEL = Kernel(f"triton, {_NAME}", _new_bits, _run)

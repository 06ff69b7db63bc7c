"""The grids of a scene: their memory, the texels around a point, reads, and sums of gradients.

A grid is a row of a table of int64, see `TABLE`. Texels are rows of contiguous channels. Offsets
count elements: a scene can have 2^31 of them.
"""

from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.simd import WIDTH, helper, simd
from lightning_gan3d.simd.vector import (
    Int,
    Registers,
    Vec,
    broadcast,
    constant,
    floor,
    fma,
    load,
    load_bfloat16,
    load_int,
    load_long,
    loop,
    minimum,
    round_down,
    select,
    store,
    when_within,
)
from renderers.fused.cpu.workspace import PER_BOX, PER_GRIDS, Grids, padded

TABLE = ("axis_w", "axis_h", "axis_d", "w", "h", "d", "stride_w", "stride_h", "stride_d", "base")
"""Per grid: the world axes along its sides, its sides, and their strides, in elements."""
ROW = 8 * len(TABLE)
"""Bytes of a row of the table."""
DTYPES = (torch.float32, torch.bfloat16)
MAX_ELEMENTS = 2**31
"""Of a scene: int32 offsets."""


class Texels(NamedTuple):
    """Grids in memory."""

    values: Float[Tensor, "p d h w c"]
    table: np.ndarray
    """A row per grid: see `TABLE`."""
    ranges: np.ndarray
    """First and last + 1 offset of each grid."""

    @property
    def grids(self) -> Grids:
        """Addresses for kernels."""
        bfloat16 = self.values.dtype == torch.bfloat16
        return Grids(self.values.data_ptr(), bfloat16, self.table.ctypes.data)


def in_place(grids: Float[Tensor, "p d h w c"]) -> bool:
    """Whether kernels can read these grids without a copy."""
    whole = grids.shape[-1] == padded(grids.shape[-1])
    extent = 1 + sum((n - 1) * s for n, s in zip(grids.shape, grids.stride(), strict=True))
    return whole and grids.stride(-1) == 1 and grids.dtype in DTYPES and extent <= MAX_ELEMENTS


def too_large(grids: Float[Tensor, "b p d h w c"]) -> bool:
    """Whether offsets cannot count the elements of a (copied) scene."""
    return padded(grids.shape[-1]) * grids[0, ..., 0].numel() > MAX_ELEMENTS


def describe(values: Float[Tensor, "p d h w c"], axes: tuple[tuple[int, int, int], ...]) -> Texels:
    """Describe grids that can be read in place."""
    grids, *sides, _ = values.shape
    step, *strides, _ = values.stride()
    d, h, w = sides
    sd, sh, sw = strides
    rows = [[*axes[p], w, h, d, sw, sh, sd, p * step] for p in range(grids)]
    assert len(rows[0]) == len(TABLE)
    reach = 1 + sum((n - 1) * s for n, s in zip(sides, strides, strict=True))
    ranges = [[p * step, p * step + reach] for p in range(grids)]
    return Texels(values, np.array(rows, np.int64), np.array(ranges, np.int64))


def zeros(grids: Float[Tensor, "p d h w c"], dtype: torch.dtype) -> Float[Tensor, "p d h w k"]:
    """Allocate such grids with contiguous channels, in whole vectors."""
    shape = *grids.shape[:-1], padded(grids.shape[-1])
    return torch.zeros(shape, dtype=dtype, device="cpu")


def transcribe(source: Float[Tensor, "p d h w c"], target: Float[Tensor, "p d h w c"]) -> None:
    """Copy grids between memory orders.

    If one has its channels innermost and the other outermost, as matrices: torch transposes these
    in blocks, about four times faster than it permutes, if the target is contiguous.
    """
    for a, b in zip(source, target, strict=True):
        if a.stride(-1) == b.stride(-1) or not (_is_matrix(a) and _is_matrix(b)):
            b.copy_(a)
            continue
        from_rows, to_rows = (rearrange(x, "d h w c -> (d h w) c") for x in (a, b))
        if to_rows.stride(-1) == 1:
            to_rows.copy_(from_rows)
        else:
            to_rows.T.copy_(from_rows.T)


def _is_matrix(x: Float[Tensor, "d h w c"]) -> bool:
    """Whether the three sides flatten to one without a copy."""
    _, h, w, _ = x.shape
    sd, sh, sw, _ = x.stride()
    return sh == w * sw and (sd == h * sh or x.shape[0] == 1)


def readable(grids: Float[Tensor, "p d h w c"], axes: tuple[tuple[int, int, int], ...]) -> Texels:
    """Describe the grids of a scene, copied if kernels cannot read them in place."""
    if in_place(grids):
        return describe(grids, axes)
    whole = grids.shape[-1] == padded(grids.shape[-1])
    dtype = grids.dtype
    copy = torch.empty(grids.shape, dtype=dtype, device="cpu") if whole else zeros(grids, dtype)
    transcribe(grids, copy[..., : grids.shape[-1]])
    return describe(copy, axes)


def _entry(table: Int, name: str) -> Int:
    return load_long(table + 8 * TABLE.index(name))


def _taps(ray: Int, t: Vec, table: Int, side: str) -> list[tuple[Vec, Vec]]:
    """Offset and weight of the two texels around W points, along one side of a grid.

    Texel centres lie at half-integers (`align_corners=False`); outside, the weight is 0.
    """
    axis = ray + 4 * _entry(table, f"axis_{side}")
    x = fma(broadcast(axis + 12), t, broadcast(axis))
    size = _entry(table, side).splat()
    sizes = size.to_floats()
    u = fma(x, sizes * broadcast(ray + 4 * PER_BOX), sizes * 0.5 - 0.5)
    low = floor(u)
    share = u - low
    # NaN reads texel -2, which is outside: its conversion to int must stay defined.
    whole = minimum(select(low > -2.0, low, -2.0), sizes + 1.0)
    first = round_down(whole)
    stride = _entry(table, f"stride_{side}").splat()
    taps = []
    for i, weight in ((first, 1.0 - share), (first + 1, share)):
        inside = i.below(size)
        taps.append((select(inside, i, 0) * stride, select(inside, weight, 0.0)))
    return taps


def _emit_corners(sides: str, ray: Int, t: Int, table: Int, corners: Int, row: Int) -> None:
    products = [(_entry(table, "base").splat(), broadcast(ray + 4 * PER_GRIDS))]
    for side in sides:
        taps = _taps(ray, load(t), table, side)
        products = [(o + o2, w * w2) for o, w in products for o2, w2 in taps]
    for k, (offset, weight) in enumerate(products):
        store(offset, corners + row * (2 * k))
        store(weight, corners + row * (2 * k + 1))


@simd
def _plane_corners(ray: Int, t: Int, table: Int, corners: Int, row: Int) -> None:
    _emit_corners("hw", ray, t, table, corners, row)


@simd
def _volume_corners(ray: Int, t: Int, table: Int, corners: Int, row: Int) -> None:
    _emit_corners("dhw", ray, t, table, corners, row)


class Corners(NamedTuple):
    """Corners of samples: per corner a row of int32 offsets and a row of weights."""

    address: int
    row: int
    """Bytes between rows."""
    number: int
    """4 for a plane, 8 for a volume; in `gather`, of all grids."""


@helper
def find_corners(ray: int, t: int, number: int, table: int, corners: Corners) -> None:
    """Find the corners of `number` samples in one grid. Writes whole vectors.

    Addresses of the ray's floats (RAY), of the samples' distances, of the grid's row of the table.
    """
    for i in range(0, 4 * number, 4 * WIDTH):
        if corners.number == 4:
            _plane_corners(ray, t + i, table, corners.address + i, corners.row)
        else:
            _volume_corners(ray, t + i, table, corners.address + i, corners.row)


def _make_gather(vectors: int, bfloat16: bool) -> Any:
    size = 2 if bfloat16 else 4

    @simd
    def gather(base: Int, corners: Int, row: Int, quads: Int, out: Int) -> None:
        sums = Registers([constant(base, 0.0)] * vectors)
        with loop(quads) as quad:
            for i in range(4):
                corner = corners + row * (quad * 8 + 2 * i)
                texel = base + load_int(corner) * size
                weight = broadcast(corner + row)
                for j in range(vectors):
                    at = texel + size * WIDTH * j
                    value = load_bfloat16(at) if bfloat16 else load(at)
                    sums[j] = fma(weight, value, sums[j])
        for j in range(vectors):
            store(sums[j], out + 4 * WIDTH * j)

    return gather


_gather_one, _gather_two = _make_gather(1, False), _make_gather(2, False)
_gather_one_bfloat16, _gather_two_bfloat16 = _make_gather(1, True), _make_gather(2, True)


@helper
def gather(grids: Grids, corners: Corners, number: int, channels: int, out: int) -> None:
    """Sum the weighted texels of `number` samples into rows of `channels` floats."""
    quads, vectors = corners.number // 4, channels // WIDTH
    pairs = vectors // 2
    size = 2 if grids.bfloat16 else 4
    for m in range(number):
        at, row = corners.address + 4 * m, out + 4 * channels * m
        for j in range(pairs):
            c = 2 * WIDTH * j
            if grids.bfloat16:
                _gather_two_bfloat16(grids.base + size * c, at, corners.row, quads, row + 4 * c)
            else:
                _gather_two(grids.base + size * c, at, corners.row, quads, row + 4 * c)
        if vectors > 2 * pairs:
            c = 2 * WIDTH * pairs
            if grids.bfloat16:
                _gather_one_bfloat16(grids.base + size * c, at, corners.row, quads, row + 4 * c)
            else:
                _gather_one(grids.base + size * c, at, corners.row, quads, row + 4 * c)


class Band(NamedTuple):
    """A part of one grid's gradient that one task adds to."""

    target: Any
    """Address of the gradient's first texel."""
    table: Any
    """Address of the grid's row, by the strides of the gradient."""
    low: Any
    high: Any
    """Offsets in [low, high)."""


def _make_scatter(vectors: int) -> Any:
    @simd
    def scatter(
        band: Annotated[Band, Int], corners: Int, row: Int, number: Int, column: Int, gradient: Int
    ) -> None:
        base = band.target + column
        rows = [load(gradient + column + 4 * WIDTH * j) for j in range(vectors)]
        with loop(number) as k:
            corner = corners + row * (k * 2)
            offset = load_int(corner)
            with when_within(offset, band.low, band.high):
                weight = broadcast(corner + row)
                for j in range(vectors):
                    at = base + offset * 4 + 4 * WIDTH * j
                    store(fma(weight, rows[j], load(at)), at)

    return scatter


_scatter_one, _scatter_two = _make_scatter(1), _make_scatter(2)


@helper
def scatter(band: Band, corners: Corners, number: int, channels: int, gradient: int) -> None:
    """Add `number` rows of gradients, weighted, to the texels of a band."""
    vectors, n = channels // WIDTH, corners.number
    pairs = vectors // 2
    for m in range(number):
        at, row = corners.address + 4 * m, gradient + 4 * channels * m
        for j in range(pairs):
            c = 8 * WIDTH * j
            _scatter_two(band, at, corners.row, n, c, row)
        if vectors > 2 * pairs:
            c = 8 * WIDTH * pairs
            _scatter_one(band, at, corners.row, n, c, row)

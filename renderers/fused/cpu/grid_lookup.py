"""Which texels a point reads and with what weights; read there, and add gradients there.

A grid is a row of a table of int64: see `TABLE`. Texels are rows of contiguous channels; their
offsets count elements, so that a scene of 2^31 elements can be addressed.
"""

from typing import Any

from lightning_gan3d.simd import (
    WIDTH,
    Float,
    Int,
    Registers,
    Vec,
    broadcast,
    constant,
    floor,
    fma,
    helper,
    load,
    load_bfloat16,
    load_int,
    load_long,
    loop,
    minimum,
    round_down,
    select,
    simd,
    store,
    when_within,
)

TABLE = ("axis_w", "axis_h", "axis_d", "w", "h", "d", "stride_w", "stride_h", "stride_d", "base")
"""Of a grid: the world axes along its sides, its sides, and what they step, in elements."""
RAY = 6
"""Floats of a ray: origin, direction."""


def _entry(table: Int, name: str) -> Int:
    return load_long(table + 8 * TABLE.index(name))


def _taps(ray: Int, t: Vec, table: Int, side: str, per_box: Float) -> list[tuple[Vec, Vec]]:
    """Return offset and weight of the two texels around W points, along one side of a grid.

    Texel centres lie at half-integers (`align_corners=False`); outside, the weight is 0.
    """
    axis = ray + 4 * _entry(table, f"axis_{side}")
    x = fma(broadcast(axis + 12), t, broadcast(axis))
    size = _entry(table, side).splat()
    sizes = size.to_floats()
    u = fma(x, sizes * per_box.splat(), sizes * 0.5 - 0.5)
    low = floor(u)
    share = u - low
    # What is not a number reads texel -2, which is outside: conversion must stay defined.
    whole = minimum(select(low > -2.0, low, -2.0), sizes + 1.0)
    first = round_down(whole)
    stride = _entry(table, f"stride_{side}").splat()
    taps = []
    for i, weight in ((first, 1.0 - share), (first + 1, share)):
        inside = i.below(size)
        taps.append((select(inside, i, 0) * stride, select(inside, weight, 0.0)))
    return taps


def _emit_corners(
    sides: str,
    ray: Int,
    t: Int,
    table: Int,
    per_box: Float,
    share: Float,
    offsets: Int,
    weights: Int,
    stride: Int,
) -> None:
    corners = [(_entry(table, "base").splat(), share.splat())]
    for side in sides:
        taps = _taps(ray, load(t), table, side, per_box)
        corners = [(o + o2, w * w2) for o, w in corners for o2, w2 in taps]
    for k, (offset, weight) in enumerate(corners):
        store(offset, offsets + stride * k)
        store(weight, weights + stride * k)


@simd
def _plane_corners(
    ray: Int,
    t: Int,
    table: Int,
    per_box: Float,
    share: Float,
    offsets: Int,
    weights: Int,
    stride: Int,
) -> None:
    _emit_corners("hw", ray, t, table, per_box, share, offsets, weights, stride)


@simd
def _volume_corners(
    ray: Int,
    t: Int,
    table: Int,
    per_box: Float,
    share: Float,
    offsets: Int,
    weights: Int,
    stride: Int,
) -> None:
    _emit_corners("dhw", ray, t, table, per_box, share, offsets, weights, stride)


@helper
def find_corners(
    ray: int,
    t: int,
    samples: int,
    table: int,
    corners: int,
    per_box: float,
    share: float,
    offsets: int,
    weights: int,
    stride: int,
) -> None:
    """Find the 4 (plane) or 8 (volume) `corners` of `samples` points of a ray, in one grid.

    Address of: the ray's RAY floats, distances, the grid's row of the table, int32 offsets and
    float weights. `stride`: bytes from corner to corner. `per_box` is 1 / box, `share` scales all
    weights. Writes whole vectors.
    """
    for i in range(0, 4 * samples, 4 * WIDTH):
        if corners == 4:
            _plane_corners(ray, t + i, table, per_box, share, offsets + i, weights + i, stride)
        else:
            _volume_corners(ray, t + i, table, per_box, share, offsets + i, weights + i, stride)


def _make_gather(vectors: int, half: bool) -> Any:
    size = 2 if half else 4

    @simd
    def gather(base: Int, offsets: Int, weights: Int, stride: Int, quads: Int, out: Int) -> None:
        sums = Registers([constant(base, 0.0)] * vectors)
        with loop(quads) as quad:
            for i in range(4):
                corner = stride * (quad * 4 + i)
                row = base + load_int(offsets + corner) * size
                weight = broadcast(weights + corner)
                for j in range(vectors):
                    at = row + size * WIDTH * j
                    texel = load_bfloat16(at) if half else load(at)
                    sums[j] = fma(weight, texel, sums[j])
        for j in range(vectors):
            store(sums[j], out + 4 * WIDTH * j)

    return gather


_gather_one, _gather_two = _make_gather(1, False), _make_gather(2, False)
_gather_one_half, _gather_two_half = _make_gather(1, True), _make_gather(2, True)


@helper
def gather(
    base: int,
    half: bool,
    offsets: int,
    weights: int,
    stride: int,
    corners: int,
    samples: int,
    vectors: int,
    out: int,
) -> None:
    """Sum the weighted texels of `samples` points into rows of `vectors` vectors.

    `base` is the address of the scene's first texel, of bfloat16 where `half`.
    """
    quads = corners // 4
    pairs = vectors // 2
    size = 2 if half else 4
    for m in range(samples):
        o, w = offsets + 4 * m, weights + 4 * m
        row = out + 4 * WIDTH * vectors * m
        for j in range(pairs):
            c = 2 * WIDTH * j
            if half:
                _gather_two_half(base + size * c, o, w, stride, quads, row + 4 * c)
            else:
                _gather_two(base + size * c, o, w, stride, quads, row + 4 * c)
        if vectors > 2 * pairs:
            c = 2 * WIDTH * pairs
            if half:
                _gather_one_half(base + size * c, o, w, stride, quads, row + 4 * c)
            else:
                _gather_one(base + size * c, o, w, stride, quads, row + 4 * c)


def _make_scatter(vectors: int) -> Any:
    @simd
    def scatter(
        base: Int,
        offsets: Int,
        weights: Int,
        stride: Int,
        corners: Int,
        low: Int,
        high: Int,
        gradient: Int,
    ) -> None:
        rows = [load(gradient + 4 * WIDTH * j) for j in range(vectors)]
        with loop(corners) as k:
            offset = load_int(offsets + stride * k)
            with when_within(offset, low, high):
                weight = broadcast(weights + stride * k)
                for j in range(vectors):
                    at = base + offset * 4 + 4 * WIDTH * j
                    store(fma(weight, rows[j], load(at)), at)

    return scatter


_scatter_one, _scatter_two = _make_scatter(1), _make_scatter(2)


@helper
def scatter(
    base: int,
    offsets: int,
    weights: int,
    stride: int,
    corners: int,
    low: int,
    high: int,
    samples: int,
    vectors: int,
    gradient: int,
) -> None:
    """Add rows of gradients, weighted, to the float32 texels with offsets in [low, high)."""
    pairs = vectors // 2
    for m in range(samples):
        o, w = offsets + 4 * m, weights + 4 * m
        row = gradient + 4 * WIDTH * vectors * m
        for j in range(pairs):
            c = 8 * WIDTH * j
            _scatter_two(base + c, o, w, stride, corners, low, high, row + c)
        if vectors > 2 * pairs:
            c = 8 * WIDTH * pairs
            _scatter_one(base + c, o, w, stride, corners, low, high, row + c)

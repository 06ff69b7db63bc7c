"""Vectors of 16 floats for any `WIDTH`: the pixels of a 4 x 4 block, and loops over set bits."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _untyped

from lightning_gan3d.simd.processor import WIDTH
from lightning_gan3d.simd.vector import (
    F32,
    I32,
    I64,
    Float,
    Int,
    Vec,
    broadcast,
    join,
    load,
    maximum,
    minimum,
    split,
    store,
)

cgutils: Any = _untyped
LANES = 16
"""Floats of a wide vector."""
_PARTS = LANES // WIDTH
_FLOATS = ir.VectorType(F32, LANES)


def wide(x: Vec) -> Vec:
    """Repeat a vector that has the same value in every lane."""
    return join([x] * _PARTS)


def wide_numbers(near: Int | Float | Vec, numbers: Sequence[float | int]) -> Vec:
    """Return 16 constants, in the kernel of `near`."""
    return Vec(near.builder, ir.Constant(_FLOATS, [float(x) for x in numbers]))


def zeros(near: Int | Float | Vec) -> Vec:
    """Return 16 zeros, in the kernel of `near`."""
    return wide_numbers(near, [0.0] * LANES)


def clamp(x: Vec, low: Vec, high: Vec) -> Vec:
    """Clamp to [low, high]; NaN in `x` stays."""
    return maximum(minimum(x, high), low)


def load_wide(at: Int) -> Vec:
    """Load 16 float32."""
    return join([load(at + 4 * WIDTH * i) for i in range(_PARTS)])


def store_wide(x: Vec, at: Int) -> None:
    """Store 16 float32."""
    for i, part in enumerate(split(x)):
        store(part, at + 4 * WIDTH * i)


def broadcast_wide(at: Int) -> Vec:
    """Load one float32 into 16 lanes."""
    return wide(broadcast(at))


def lane_sums(vectors: Sequence[Vec]) -> Vec:
    """Return the sum of the lanes of vector i in lane i, for at most 16 wide vectors."""
    builder = vectors[0].builder
    zeros = ir.Constant(_FLOATS, [0.0] * LANES)
    values = [x.value for x in vectors] + [zeros] * (LANES - len(vectors))
    length = LANES
    while length > 1:
        # Each vector consists of parts of `length` lanes; add the halves of each part.
        starts = [
            i for part in range(0, 2 * LANES, length) for i in range(part, part + length // 2)
        ]
        first, second = (
            ir.Constant(ir.VectorType(I32, LANES), [i + shift for i in starts])
            for shift in (0, length // 2)
        )
        values = [
            builder.fadd(builder.shuffle_vector(a, b, first), builder.shuffle_vector(a, b, second))
            for a, b in zip(values[::2], values[1::2], strict=True)
        ]
        length //= 2
    return Vec(builder, values[0])


def mask_bits(mask: Vec) -> Int:
    """Return a mask of 16 lanes as an integer; lane 0 is the lowest bit."""
    bits = mask.builder.bitcast(mask.value, ir.IntType(LANES))
    return Int(mask.builder, mask.builder.zext(bits, I64))


def any_lane(mask: Vec) -> Int:
    """Return 1 if the mask of 16 lanes is true anywhere, else 0."""
    zero = ir.Constant(I64, 0)
    some = mask.builder.icmp_unsigned("!=", mask_bits(mask).value, zero)
    return Int(mask.builder, mask.builder.zext(some, I64))


@contextlib.contextmanager
def each_bit(bits: Int) -> Iterator[Int]:
    """Emit a loop over the places of the set bits, the lowest first."""
    builder = bits.builder
    left = cgutils.alloca_once_value(builder, bits.value)
    head, body, end = (builder.append_basic_block(f"bits.{x}") for x in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    rest = builder.load(left)
    builder.cbranch(builder.icmp_unsigned("!=", rest, ir.Constant(I64, 0)), body, end)
    builder.position_at_end(body)
    lowest = builder.cttz(rest, ir.Constant(ir.IntType(1), 1))
    builder.store(builder.and_(rest, builder.sub(rest, ir.Constant(I64, 1))), left)
    yield Int(builder, lowest)
    builder.branch(head)
    builder.position_at_end(end)

"""Values in registers of a kernel under compilation, and instructions on them.

Each operation appends LLVM instructions to the kernel; nothing is computed here. `Int` is a 64-bit
address (in bytes) or count, `Float` one float32, `Vec` WIDTH of float32 or of int32.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

from llvmlite import ir
from numba.core import cgutils as _untyped

from lightning_gan3d.simd.processor import FEATURES, WIDTH

cgutils: Any = _untyped
F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(F32, WIDTH), ir.VectorType(I32, WIDTH)
HALVES = ir.VectorType(ir.IntType(16), WIDTH)
MASK_BYTES = max(1, WIDTH // 8)
"""Of a stored mask."""


class _Value:
    """An LLVM value and the builder of its kernel."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value


class Int(_Value):
    """A 64-bit integer: an address in bytes, or a count."""

    def _other(self, other: Union["Int", int]) -> Any:
        return other.value if isinstance(other, Int) else ir.Constant(I64, other)

    def __add__(self, other: Union["Int", int]) -> "Int":
        return Int(self.builder, self.builder.add(self.value, self._other(other)))

    def __mul__(self, other: Union["Int", int]) -> "Int":
        return Int(self.builder, self.builder.mul(self.value, self._other(other)))

    __radd__, __rmul__ = __add__, __mul__

    def splat(self) -> "Vec":
        """Repeat in every lane, truncated to int32."""
        undefined = ir.Constant(INTS, ir.Undefined)
        small = self.builder.trunc(self.value, I32)
        one = self.builder.insert_element(undefined, small, ir.Constant(I32, 0))
        lanes = ir.Constant(INTS, [0] * WIDTH)
        return Vec(self.builder, self.builder.shuffle_vector(one, undefined, lanes))

    def pointer(self, kind: Any) -> Any:
        """Cast the address to a pointer to an LLVM type."""
        return self.builder.inttoptr(self.value, kind.as_pointer())


class Float(_Value):
    """One float32."""

    def __add__(self, other: "Float") -> "Float":
        return Float(self.builder, self.builder.fadd(self.value, other.value))

    def splat(self) -> "Vec":
        """Repeat in every lane."""
        undefined = ir.Constant(FLOATS, ir.Undefined)
        one = self.builder.insert_element(undefined, self.value, ir.Constant(I32, 0))
        lanes = ir.Constant(INTS, [0] * WIDTH)
        return Vec(self.builder, self.builder.shuffle_vector(one, undefined, lanes))


class Vec(_Value):
    """WIDTH float32 or int32, or more (`join`); other operands may be numbers.

    Comparisons return masks, false for NaN. `>>` fills with zeros.
    """

    @property
    def is_float(self) -> bool:
        """Whether the lanes are float32."""
        return bool(self.value.type.element == F32)

    @property
    def lanes(self) -> int:
        """Number of values."""
        return int(self.value.type.count)

    def like(self, other: Union["Vec", float, int]) -> Any:
        """Return the LLVM value of `other`; numbers are repeated in every lane."""
        if isinstance(other, Vec):
            return other.value
        number = float(other) if self.is_float else int(other)
        return ir.Constant(self.value.type, [number] * self.lanes)

    def _do(self, name: str, other: Union["Vec", float, int]) -> "Vec":
        instruction = getattr(self.builder, f"f{name}" if self.is_float else name)
        return Vec(self.builder, instruction(self.value, self.like(other)))

    def __add__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._do("add", other)

    def __sub__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._do("sub", other)

    def __mul__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._do("mul", other)

    def __truediv__(self, other: Union["Vec", float, int]) -> "Vec":
        return Vec(self.builder, self.builder.fdiv(self.value, self.like(other)))

    def __rsub__(self, other: float | int) -> "Vec":
        return Vec(self.builder, self.like(other)) - self

    def __rtruediv__(self, other: float | int) -> "Vec":
        return Vec(self.builder, self.like(other)) / self

    def __neg__(self) -> "Vec":
        return Vec(self.builder, self.builder.fneg(self.value)) if self.is_float else 0 - self

    __radd__, __rmul__ = __add__, __mul__

    def __lshift__(self, bits: int) -> "Vec":
        return Vec(self.builder, self.builder.shl(self.value, self.like(bits)))

    def __rshift__(self, bits: int) -> "Vec":
        return Vec(self.builder, self.builder.lshr(self.value, self.like(bits)))

    def __and__(self, other: Union["Vec", int]) -> "Vec":
        return Vec(self.builder, self.builder.and_(self.value, self.like(other)))

    def _compare(self, sign: str, other: Union["Vec", float, int]) -> "Vec":
        compare = self.builder.fcmp_ordered if self.is_float else self.builder.icmp_signed
        return Vec(self.builder, compare(sign, self.value, self.like(other)))

    def __lt__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._compare("<", other)

    def __le__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._compare("<=", other)

    def __gt__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._compare(">", other)

    def __ge__(self, other: Union["Vec", float, int]) -> "Vec":
        return self._compare(">=", other)

    def below(self, other: Union["Vec", int]) -> "Vec":
        """Return the mask of int32 lanes in [0, other)."""
        compare = self.builder.icmp_unsigned
        return Vec(self.builder, compare("<", self.value, self.like(other)))

    def to_floats(self) -> "Vec":
        """Convert int32 to float32."""
        return Vec(self.builder, self.builder.sitofp(self.value, ir.VectorType(F32, self.lanes)))

    def as_ints(self) -> "Vec":
        """Reinterpret float32 as int32, or convert a mask to 0 and -1."""
        kind = ir.VectorType(I32, self.lanes)
        convert = self.builder.bitcast if self.is_float else self.builder.sext
        return Vec(self.builder, convert(self.value, kind))

    def as_floats(self) -> "Vec":
        """Reinterpret int32 as float32."""
        return Vec(self.builder, self.builder.bitcast(self.value, ir.VectorType(F32, self.lanes)))


def join(parts: Sequence[Vec]) -> Vec:
    """Join 2, 4, 8... vectors into one, to compute with them in parallel.

    A processor looks ahead by about a hundred instructions, that is, three exponentials.
    """
    vectors = list(parts)
    while len(vectors) > 1:
        lanes = ir.Constant(
            ir.VectorType(I32, 2 * vectors[0].lanes), list(range(2 * vectors[0].lanes))
        )
        vectors = [
            Vec(a.builder, a.builder.shuffle_vector(a.value, b.value, lanes))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def split(x: Vec) -> list[Vec]:
    """Invert `join`."""
    undefined = ir.Constant(x.value.type, ir.Undefined)
    starts = range(0, x.lanes, WIDTH)
    parts = (ir.Constant(INTS, list(range(i, i + WIDTH))) for i in starts)
    return [Vec(x.builder, x.builder.shuffle_vector(x.value, undefined, part)) for part in parts]


def transposed(rows: Sequence[Vec]) -> list[Vec]:
    """Transpose a square of WIDTH vectors, by log2(WIDTH) perfect shuffles."""
    vectors, half = list(rows), WIDTH // 2
    zipped = [k // 2 + k % 2 * WIDTH for k in range(WIDTH)]
    orders = [ir.Constant(INTS, [start + k for k in zipped]) for start in (0, half)]
    for _ in range(WIDTH.bit_length() - 1):
        vectors = [
            Vec(a.builder, a.builder.shuffle_vector(a.value, b.value, order))
            for a, b in zip(vectors[:half], vectors[half:], strict=True)
            for order in orders
        ]
    return vectors


def constant(near: Int | Float | Vec, number: float | int) -> Vec:
    """Repeat a number in every lane, in the kernel of `near`."""
    return Vec(near.builder, ir.Constant(FLOATS, [float(number)] * WIDTH))


def lanes(near: Int | Float | Vec) -> Vec:
    """Return the int32 0, 1, ..., WIDTH - 1."""
    return Vec(near.builder, ir.Constant(INTS, list(range(WIDTH))))


def load(at: Int) -> Vec:
    """Load WIDTH float32."""
    return Vec(at.builder, at.builder.load(at.pointer(FLOATS), align=4))


def load_ints(at: Int) -> Vec:
    """Load WIDTH int32."""
    return Vec(at.builder, at.builder.load(at.pointer(INTS), align=4))


def load_bfloat16(at: Int) -> Vec:
    """Load WIDTH bfloat16 as float32: their bits are its upper half."""
    half = at.builder.load(at.pointer(HALVES), align=2)
    return (Vec(at.builder, at.builder.zext(half, INTS)) << 16).as_floats()


def load_float(at: Int) -> Float:
    """Load one float32."""
    return Float(at.builder, at.builder.load(at.pointer(F32), align=4))


def load_int(at: Int) -> Int:
    """Load one int32."""
    small = at.builder.load(at.pointer(I32), align=4)
    return Int(at.builder, at.builder.sext(small, I64))


def load_long(at: Int) -> Int:
    """Load one int64."""
    return Int(at.builder, at.builder.load(at.pointer(I64), align=8))


def broadcast(at: Int) -> Vec:
    """Load one float32 into every lane."""
    return load_float(at).splat()


def store(x: Vec, at: Int) -> None:
    """Store WIDTH float32 or int32."""
    at.builder.store(x.value, at.pointer(x.value.type), align=4)


def store_bfloat16(x: Vec, at: Int) -> None:
    """Store WIDTH float32 as bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = x.as_ints()
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    number = Vec(x.builder, x.builder.fcmp_ordered("==", x.value, x.value))
    result = select(number, rounded, Vec(x.builder, rounded.like(0x7FC0)))
    at.builder.store(at.builder.trunc(result.value, HALVES), at.pointer(HALVES), align=2)


def store_mask(mask: Vec, at: Int) -> None:
    """Store a mask of WIDTH lanes, one bit each, in MASK_BYTES."""
    bits = at.builder.bitcast(mask.value, ir.IntType(WIDTH))
    kind = ir.IntType(8 * MASK_BYTES)
    bits = bits if WIDTH >= 8 else at.builder.zext(bits, kind)
    at.builder.store(bits, at.pointer(kind), align=1)


def load_mask(at: Int) -> Vec:
    """Load a mask that `store_mask` has stored."""
    bits = at.builder.load(at.pointer(ir.IntType(8 * MASK_BYTES)), align=1)
    bits = bits if WIDTH >= 8 else at.builder.trunc(bits, ir.IntType(WIDTH))
    return Vec(at.builder, at.builder.bitcast(bits, ir.VectorType(ir.IntType(1), WIDTH)))


def store_float(x: Float, at: Int) -> None:
    """Store one float32."""
    at.builder.store(x.value, at.pointer(F32), align=4)


def _intrinsic(name: str, *args: Vec) -> Vec:
    builder, kind = args[0].builder, args[0].value.type
    of = ir.FunctionType(kind, [kind] * len(args))
    function = cgutils.get_or_insert_function(
        builder.module, of, f"llvm.{name}.v{args[0].lanes}f32"
    )
    return Vec(builder, builder.call(function, [x.value for x in args]))


def fma(a: Vec, b: Vec | float | int, c: Vec | float | int) -> Vec:
    """Return a b + c, rounded once."""
    return _intrinsic("fma", a, Vec(a.builder, a.like(b)), Vec(a.builder, a.like(c)))


def floor(x: Vec) -> Vec:
    """Round down, in float32."""
    return _intrinsic("floor", x)


def absolute(x: Vec) -> Vec:
    """Return the magnitude."""
    return _intrinsic("fabs", x)


def square_root(x: Vec) -> Vec:
    """Return the square root."""
    return _intrinsic("sqrt", x)


def reciprocal(x: Vec) -> Vec:
    """Return 1 / x with relative error 1.2e-7, if 1 / x is normal and finite.

    With AVX-512 by an estimate of 14 bits and a Newton step: a division costs as much as ten other
    instructions.
    """
    if not (WIDTH == 16 and FEATURES.get("avx512f")):
        return 1.0 / x
    builder = x.builder
    bits = ir.IntType(16)
    of = ir.FunctionType(FLOATS, [FLOATS, FLOATS, bits])
    estimate = cgutils.get_or_insert_function(builder.module, of, "llvm.x86.avx512.rcp14.ps.512")
    zeros, mask = ir.Constant(FLOATS, [0.0] * WIDTH), ir.Constant(bits, -1)
    parts = [Vec(builder, builder.call(estimate, [y.value, zeros, mask])) for y in split(x)]
    r = join(parts)
    return fma(r, fma(-x, r, 1.0), r)


def round_down(x: Vec) -> Vec:
    """Truncate float32 to int32; values must fit."""
    return Vec(x.builder, x.builder.fptosi(x.value, INTS))


def select(mask: Vec, yes: Vec, no: Vec | float | int) -> Vec:
    """Choose lane by lane."""
    return Vec(yes.builder, yes.builder.select(mask.value, yes.value, yes.like(no)))


def maximum(x: Vec, bound: Vec | float | int) -> Vec:
    """Return the larger; NaN in `x` stays."""
    return select(x < bound, Vec(x.builder, x.like(bound)), x)


def minimum(x: Vec, bound: Vec | float | int) -> Vec:
    """Return the smaller; NaN in `x` stays."""
    return select(x > bound, Vec(x.builder, x.like(bound)), x)


def total(x: Vec) -> Float:
    """Sum the lanes, by halves."""
    builder, value, lanes = x.builder, x.value, x.lanes
    while lanes > 1:
        lanes //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        kind = ir.VectorType(I32, lanes)
        low = ir.Constant(kind, list(range(lanes)))
        high = ir.Constant(kind, list(range(lanes, 2 * lanes)))
        value = builder.fadd(
            builder.shuffle_vector(value, undefined, low),
            builder.shuffle_vector(value, undefined, high),
        )
    return Float(builder, builder.extract_element(value, ir.Constant(I32, 0)))


@contextlib.contextmanager
def loop(count: Int) -> Iterator[Int]:
    """Emit a loop over 0, ..., count - 1; `Registers` keep values between iterations."""
    with cgutils.for_range(count.builder, count.value, intp=I64) as inner:
        yield Int(count.builder, inner.index)


def branch(condition: Int, yes: Callable[[], None], no: Callable[[], None]) -> None:
    """Emit code that runs `yes` if the condition is not 0, else `no`."""
    builder = condition.builder
    true = builder.icmp_signed("!=", condition.value, ir.Constant(I64, 0))
    with builder.if_else(true) as (then, otherwise):
        with then:
            yes()
        with otherwise:
            no()


@contextlib.contextmanager
def when_within(x: Int, low: Int, high: Int) -> Iterator[None]:
    """Emit code that runs only if low <= x < high."""
    builder = x.builder
    above = builder.icmp_signed(">=", x.value, low.value)
    below = builder.icmp_signed("<", x.value, high.value)
    with builder.if_then(builder.and_(above, below)):
        yield


class Registers:
    """Vectors that a loop changes, in registers."""

    def __init__(self, values: Sequence[Vec]) -> None:
        self._builder = values[0].builder
        self._places = [cgutils.alloca_once(self._builder, x.value.type) for x in values]
        for i, x in enumerate(values):
            self[i] = x

    def __getitem__(self, i: int) -> Vec:
        return Vec(self._builder, self._builder.load(self._places[i]))

    def __setitem__(self, i: int, value: Vec) -> None:
        self._builder.store(value.value, self._places[i])

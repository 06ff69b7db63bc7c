"""Explicit SIMD on a CPU without a C++ compiler: vectors of W floats for kernels that numba makes.

A kernel is a numba function (`@entry`, `@helper`) that loops; what it does with vectors stands in
functions marked `@simd`, which emit LLVM instructions when the kernel is compiled:

    @simd
    def scale(x: Int, y: Int, factor: Float) -> None:     # addresses, and a number
        store(load(x) * factor.splat(), y)

    @entry
    def scale_all(x: FloatArray, y: FloatArray, factor: float) -> None:
        for i in range(0, x.size, WIDTH):                 # sizes padded to WIDTH
            scale(x.ctypes.data + 4 * i, y.ctypes.data + 4 * i, factor)

Nothing checks an address: what is read and written is padded by the caller. Needs the extra
`numba`; importing any module of this package raises an `ImportError` without it.
"""

try:
    import numba as _numba  # noqa: F401  # asked for here, so that its absence is said in words
except ImportError as error:
    raise ImportError("numba is missing: pip install 'lightning-gan3d[numba]'") from error

from lightning_gan3d.simd.compile import entry, helper
from lightning_gan3d.simd.intrinsic import simd
from lightning_gan3d.simd.maths import exp, expm1, leaky_relu, sigmoid, softplus
from lightning_gan3d.simd.matmul import ROWS, matmul
from lightning_gan3d.simd.target import WIDTH, describe
from lightning_gan3d.simd.threads import num_workers, run
from lightning_gan3d.simd.vector import (
    Float,
    Int,
    Registers,
    Vec,
    absolute,
    broadcast,
    constant,
    floor,
    fma,
    join,
    lanes,
    load,
    load_bfloat16,
    load_float,
    load_int,
    load_ints,
    load_long,
    loop,
    maximum,
    minimum,
    round_down,
    select,
    split,
    square_root,
    store,
    store_bfloat16,
    store_float,
    total,
    when_within,
)

__all__ = [
    "ROWS",
    "WIDTH",
    "Float",
    "Int",
    "Registers",
    "Vec",
    "absolute",
    "broadcast",
    "constant",
    "describe",
    "entry",
    "exp",
    "expm1",
    "floor",
    "fma",
    "helper",
    "join",
    "lanes",
    "leaky_relu",
    "load",
    "load_bfloat16",
    "load_float",
    "load_int",
    "load_ints",
    "load_long",
    "loop",
    "matmul",
    "maximum",
    "minimum",
    "num_workers",
    "round_down",
    "run",
    "select",
    "sigmoid",
    "simd",
    "softplus",
    "split",
    "square_root",
    "store",
    "store_bfloat16",
    "store_float",
    "total",
    "when_within",
]

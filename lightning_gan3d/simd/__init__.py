"""Explicit SIMD on a CPU without a C++ compiler: vectors of `WIDTH` floats in numba kernels.

A kernel is a numba function (`@entry`, `@helper`) that loops. It computes with vectors in functions
marked `@simd`, which emit LLVM instructions when the kernel is compiled:

    @simd
    def scale(x: Int, y: Int, factor: Float) -> None:     # addresses, and a number
        store(load(x) * factor.splat(), y)

    @entry
    def scale_all(x: FloatArray, y: FloatArray, factor: float) -> None:
        for i in range(0, x.size, WIDTH):                 # sizes padded to WIDTH
            scale(x.ctypes.data + 4 * i, y.ctypes.data + 4 * i, factor)

Addresses are not checked: callers pad inputs and outputs to whole vectors. Needs the extra `numba`;
without it, importing any module of this package raises an `ImportError`.
"""

try:
    import numba as _numba  # noqa: F401  # for the message below
except ImportError as error:
    raise ImportError("numba is missing: pip install 'lightning-gan3d[numba]'") from error

from lightning_gan3d.simd.cpu_features import WIDTH, describe
from lightning_gan3d.simd.decorators import entry, helper, simd
from lightning_gan3d.simd.elementary_functions import exp, expm1, leaky_relu, sigmoid, softplus
from lightning_gan3d.simd.matmul import ROWS, Product, matmul
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
    "Product",
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

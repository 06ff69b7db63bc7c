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

from lightning_gan3d.simd.cpu_features import WIDTH as WIDTH
from lightning_gan3d.simd.cpu_features import describe as describe
from lightning_gan3d.simd.decorators import entry as entry
from lightning_gan3d.simd.decorators import helper as helper
from lightning_gan3d.simd.decorators import simd as simd
from lightning_gan3d.simd.elementary_functions import exp as exp
from lightning_gan3d.simd.elementary_functions import expm1 as expm1
from lightning_gan3d.simd.elementary_functions import leaky_relu as leaky_relu
from lightning_gan3d.simd.elementary_functions import sigmoid as sigmoid
from lightning_gan3d.simd.elementary_functions import softplus as softplus
from lightning_gan3d.simd.matmul import ROWS as ROWS
from lightning_gan3d.simd.matmul import Product as Product
from lightning_gan3d.simd.matmul import matmul as matmul
from lightning_gan3d.simd.threads import num_workers as num_workers
from lightning_gan3d.simd.threads import run as run
from lightning_gan3d.simd.vector import Float as Float
from lightning_gan3d.simd.vector import Int as Int
from lightning_gan3d.simd.vector import Registers as Registers
from lightning_gan3d.simd.vector import Vec as Vec
from lightning_gan3d.simd.vector import absolute as absolute
from lightning_gan3d.simd.vector import branch as branch
from lightning_gan3d.simd.vector import broadcast as broadcast
from lightning_gan3d.simd.vector import constant as constant
from lightning_gan3d.simd.vector import floor as floor
from lightning_gan3d.simd.vector import fma as fma
from lightning_gan3d.simd.vector import join as join
from lightning_gan3d.simd.vector import lanes as lanes
from lightning_gan3d.simd.vector import load as load
from lightning_gan3d.simd.vector import load_bfloat16 as load_bfloat16
from lightning_gan3d.simd.vector import load_float as load_float
from lightning_gan3d.simd.vector import load_int as load_int
from lightning_gan3d.simd.vector import load_ints as load_ints
from lightning_gan3d.simd.vector import load_long as load_long
from lightning_gan3d.simd.vector import loop as loop
from lightning_gan3d.simd.vector import maximum as maximum
from lightning_gan3d.simd.vector import minimum as minimum
from lightning_gan3d.simd.vector import round_down as round_down
from lightning_gan3d.simd.vector import select as select
from lightning_gan3d.simd.vector import split as split
from lightning_gan3d.simd.vector import square_root as square_root
from lightning_gan3d.simd.vector import store as store
from lightning_gan3d.simd.vector import store_bfloat16 as store_bfloat16
from lightning_gan3d.simd.vector import store_float as store_float
from lightning_gan3d.simd.vector import total as total
from lightning_gan3d.simd.vector import when_within as when_within

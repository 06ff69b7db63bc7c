"""Explicit SIMD on a CPU without a C++ compiler: vectors of `WIDTH` floats in numba kernels.

A kernel is a numba function (`@entry`, `@helper`) that loops. It computes with vectors in functions
marked `@simd`, which emit LLVM instructions when the kernel is compiled (see `vector`):

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

from lightning_gan3d.simd.decorators import entry as entry
from lightning_gan3d.simd.decorators import helper as helper
from lightning_gan3d.simd.decorators import simd as simd
from lightning_gan3d.simd.elementary_functions import exp as exp
from lightning_gan3d.simd.elementary_functions import expm1 as expm1
from lightning_gan3d.simd.elementary_functions import leaky_relu as leaky_relu
from lightning_gan3d.simd.elementary_functions import log as log
from lightning_gan3d.simd.elementary_functions import sigmoid as sigmoid
from lightning_gan3d.simd.elementary_functions import sine as sine
from lightning_gan3d.simd.elementary_functions import sine_cosine as sine_cosine
from lightning_gan3d.simd.elementary_functions import softplus as softplus
from lightning_gan3d.simd.matmul import FEW_ROWS as FEW_ROWS
from lightning_gan3d.simd.matmul import ROWS as ROWS
from lightning_gan3d.simd.matmul import matmul as matmul
from lightning_gan3d.simd.processor import WIDTH as WIDTH
from lightning_gan3d.simd.processor import describe as describe
from lightning_gan3d.simd.processor import num_workers as num_workers
from lightning_gan3d.simd.processor import run as run
from lightning_gan3d.simd.processor import run_parts as run_parts
from lightning_gan3d.simd.processor import run_ranges as run_ranges

"""How rows of pixels lie in memory, for the kernels of layers and filters.

Pixels have their channels innermost, in whole vectors. Activations are float32 or bfloat16
(`half`), computed with in float32. Addresses are in bytes, counts in elements.
"""

from collections.abc import Callable
from typing import NamedTuple

from lightning_gan3d.simd import (
    WIDTH,
    Float,
    Int,
    Vec,
    load,
    load_bfloat16,
    load_float,
    simd,
    store,
    store_bfloat16,
)

BYTES = 4 * WIDTH
"""Of a vector of float32."""


class Kind(NamedTuple):
    """How a vector of numbers lies in memory."""

    size: int
    """Bytes of a vector."""
    load: Callable[[Int], Vec]
    store: Callable[[Vec, Int], None]


FLOAT32 = Kind(BYTES, load, store)
BFLOAT16 = Kind(BYTES // 2, load_bfloat16, store_bfloat16)


@simd
def read(at: Int) -> Float:
    """Read one float32."""
    return load_float(at)

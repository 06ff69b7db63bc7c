"""What the processor offers: floats per vector, and vector registers."""

import os

import llvmlite.binding as llvm

from lightning_gan3d.config import ConfigError

VARIABLE = "GAN3D_SIMD_WIDTH"
"""Environment variable that sets the floats per vector, for tests; LLVM splits what is too wide."""
WIDTHS = (4, 8, 16)


def _features() -> dict[str, bool]:
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot tell on every platform
        return {}


def choose_width(asked: str | None, features: dict[str, bool]) -> int:
    """Return the floats per vector: as asked, else the most that the processor has.

    Raises a `ConfigError` where what is asked is not one of 4, 8, 16.
    """
    if asked:
        if asked not in map(str, WIDTHS):
            raise ConfigError(f"{VARIABLE}={asked}: use 4, 8 or 16, or leave it unset")
        return int(asked)
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


FEATURES = _features()
"""What LLVM says of this processor, by LLVM's names."""
WIDTH = choose_width(os.environ.get(VARIABLE), FEATURES)
"""Floats per vector."""
MANY_REGISTERS = WIDTH == 16 or "neon" in FEATURES
"""32 vector registers instead of 16."""


def describe() -> str:
    """Name the vectors: `AVX-512`, `AVX2`, or their bits."""
    if WIDTH == 16 and FEATURES.get("avx512f"):
        return "AVX-512"
    if WIDTH == 8 and FEATURES.get("avx2"):
        return "AVX2"
    return f"{32 * WIDTH}-bit vectors"

"""Features of the processor: floats per vector, and number of vector registers."""

import os

import llvmlite.binding as llvm

from lightning_gan3d.config import ConfigError

VARIABLE = "GAN3D_SIMD_WIDTH"
"""Environment variable that sets the floats per vector, for tests; LLVM splits wider vectors."""
WIDTHS = (4, 8, 16)


def _features() -> dict[str, bool]:
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # not supported on every platform
        return {}


def choose_width(requested: str | None, features: dict[str, bool]) -> int:
    """Return the floats per vector: the requested, else the most that the processor has.

    Raises a `ConfigError` if the request is not 4, 8 or 16.
    """
    if requested:
        if requested not in map(str, WIDTHS):
            raise ConfigError(f"{VARIABLE}={requested}: use 4, 8 or 16, or leave it unset")
        return int(requested)
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


FEATURES = _features()
"""Features of this processor, by LLVM's names."""
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

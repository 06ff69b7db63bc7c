"""Fused CPU kernels for synthesis layers and filters; they need the extra `numba`."""

from functools import cache

import torch
from torch import Tensor


@cache
def _width() -> int:
    """Channels of a vector; 0 without numba."""
    try:
        from lightning_gan3d.simd import WIDTH
    except ImportError:
        return 0
    return WIDTH


def serves(x: Tensor, *channels: int) -> bool:
    """Whether the kernels support images like `x` in layers with these numbers of channels.

    Not while tracing: compilers fuse by themselves, and differentiate the result.
    """
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and _width() > 0
        and all(c % _width() == 0 for c in channels)
    )


def reads(*inputs: Tensor | None) -> bool:
    """Whether the kernels can read weight, style, shift, noise and strength of a layer.

    They are float32 whatever the image's precision, unless the network itself was converted.
    """
    return all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in inputs)

"""The layers' passes over activations fused on a CPU: with the extra `numba`, else not there."""

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
    """Whether fused kernels can take images like `x` in layers of so many channels.

    Not while tracing: a compiler fuses by itself, and differentiates what it has fused.
    """
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and _width() > 0
        and all(c % _width() == 0 for c in channels)
    )


def reads(*sides: Tensor | None) -> bool:
    """Whether kernels can read what goes with an image: weight, style, shift, noise, strength.

    These are float32 whatever the image is, but where somebody converts the network itself.
    """
    return all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in sides)

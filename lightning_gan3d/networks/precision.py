"""The precision of networks, as a property of their blocks.

Blocks of synthesis, super-resolution and discriminator convert their input to the precision, and
return colours and planes in float32. Weights, styles, demodulation factors, running sums, cameras,
points and the phases of sines are always float32.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""None: that of the input, so that a network in float64 computes in float64."""


class MixedPrecision(nn.Module):
    """A block whose activations have their own precision."""

    precision: Precision = "fp32"

    def enter(self, x: Float[Tensor, "v c *size"]) -> Float[Tensor, "v c *size"]:
        """Convert an input to this block's precision, images with their channels innermost."""
        dtype = DTYPES[self.precision] or x.dtype
        if x.ndim == 4:
            return x.to(dtype, memory_format=torch.channels_last)
        return x.to(dtype)


def set_precision(network: nn.Module, precision: Precision) -> None:
    """Compute in fp32, bf16 or fp16 from now on, in training and inference.

    bf16 keeps the range of float32 and 8 bits; fp16 keeps 11 bits and is meant for GPUs.
    """
    for part in network.modules():
        if isinstance(part, MixedPrecision):
            part.precision = precision


@contextlib.contextmanager
def computing_in(network: nn.Module, precision: Precision) -> Iterator[None]:
    """Compute in a precision within the context."""
    parts = [part for part in network.modules() if isinstance(part, MixedPrecision)]
    before = [part.precision for part in parts]
    set_precision(network, precision)
    try:
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            part.precision = own


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disable autocast within the context; the device `meta` has none."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)

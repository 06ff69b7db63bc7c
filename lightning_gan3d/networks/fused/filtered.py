"""StyleGAN3's filtered leaky ReLU by kernels that never store the upsampled image.

For the gradient two bits per sample are kept: its sign, and whether it is clamped. The backward
pass is the same kernel, with the filters exchanged and mirrored, and slopes by these bits.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lightning_gan3d.networks.filtered_lrelu import FilteredActivation

ACTIVATE, KEEP, MULTIPLY = 0, 1, 2
"""Modes: activate; store the bits too; multiply by the slopes of stored bits."""


class Slopes(NamedTuple):
    """Slopes for positive and negative samples, and the bound of the clamp."""

    positive: Any
    negative: Any
    clamp: Any


class Pass(NamedTuple):
    """A resampling to the high rate, an operation there, and a resampling from it.

    Result i is the sum of down[t] high[rates[1] i + offsets[1] + t], and high[m] that of up[t]
    z[m - offsets[0] + t], where z is the image with rates[0] - 1 zeros after each pixel. Both are 0
    beyond their ends.
    """

    activation: FilteredActivation
    up: Tensor
    down: Tensor
    rates: tuple[int, int]
    offsets: tuple[int, int]
    high: tuple[int, int]
    out: tuple[int, int]

    @property
    def slopes(self) -> Slopes:
        """Slopes and bound of the activation."""
        a = self.activation
        return Slopes(a.gain, a.gain * a.slope, math.inf if a.clamp is None else a.clamp)


class Images(NamedTuple):
    """Tensors or addresses: image, result, bias of each channel, and bits."""

    x: Any
    out: Any
    bias: Any
    bits: Any


class Sizes(NamedTuple):
    """Channels of an image, and sizes in pixels."""

    channels: Any
    height: Any
    width: Any
    high_height: Any
    high_width: Any
    out_height: Any
    out_width: Any


class Kernel(NamedTuple):
    """A kernel for images of a kind of device, in float32."""

    name: str
    new_bits: Callable[[Tensor, Pass], Tensor]
    """Of an image and its pass: memory for the bits."""
    run: Callable[[Pass, int, Images], None]
    """Of a pass, a mode, and contiguous tensors: write result and bits, or read bits."""


def _run(kernel: Kernel, p: Pass, mode: int, x: Tensor, *others: Tensor) -> Tensor:
    out = x.new_empty(*x.shape[:2], *p.out)
    kernel.run(p, mode, Images(x.contiguous(), out, *others))
    return out


def _passes(a: FilteredActivation, like: Tensor) -> tuple[Pass, Pass]:
    """Return the forward pass of an image, and its adjoint."""
    size = like.shape[2], like.shape[3]
    (high, height), (wide, width) = a.size(size[0]), a.size(size[1])
    up = a.up_filter.detach().float() * a.up
    down = torch.ones_like(up[:1]) if a.down_filter is None else a.down_filter.detach().float()
    first, second = (f.flip(*range(f.ndim)).contiguous() for f in (up, down))
    rates, offsets = (a.up, a.down), (a.padding[0], 0)
    forward = Pass(a, first, second, rates, offsets, (high, wide), (height, width))
    offsets = len(down) - 1, a.padding[0] - len(up) + 1
    backward = Pass(a, down.contiguous(), up, (a.down, a.up), offsets, (high, wide), size)
    return forward, backward


class FilteredLReLU(Function):
    """Inputs: kernel, activation, whether a gradient is needed, image and bias in float32."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, a: FilteredActivation, keep: bool, *x: Tensor) -> Tensor:
        """Keep the bits only."""
        image, bias = x
        forward, ctx.backward_pass = _passes(a, image)
        bits = kernel.new_bits(image, forward) if keep else image.new_empty(0)
        ctx.kernel = kernel
        ctx.save_for_backward(bits)
        return _run(kernel, forward, KEEP if keep else ACTIVATE, image, bias, bits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate by image and bias."""
        zero, (bits,) = grad.new_zeros(grad.shape[1]), ctx.saved_tensors
        grad_x = _run(ctx.kernel, ctx.backward_pass, MULTIPLY, grad, zero, bits)
        return None, None, None, grad_x, grad_x.sum((0, 2, 3))

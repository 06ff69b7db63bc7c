"""StyleGAN3's filtered leaky ReLU by its CPU kernel, which never stores the high rate.

For the gradient two bits per sample are kept: its sign, and whether it is clamped.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lightning_gan3d.networks.filtered_lrelu import FilteredActivation
from lightning_gan3d.networks.fused import filtered_kernels as kernels
from lightning_gan3d.simd import WIDTH, run

STRIP = 320
"""Most columns of a task: its rows stay in the cache of a core, and few samples are in two."""
BLOCKS = 4
"""Blocks of channels of a task."""


class Pass(NamedTuple):
    """A resampling to the high rate, a product there, and a resampling from it.

    Result i is the sum of down[t] high[rates[1] i + offsets[1] + t], and high[m] that of up[t]
    z[m - offsets[0] + t], where z is the image with rates[0] - 1 zeros after each pixel.
    """

    activation: FilteredActivation
    up: Tensor
    down: Tensor
    rates: tuple[int, int]
    offsets: tuple[int, int]
    high: tuple[int, int]
    out: tuple[int, int]

    def phases(self) -> Tensor:
        """Return the taps of `up` by their phase, (factor taps) or (factor factor taps taps)."""
        factor, dims = self.rates[0], self.up.ndim
        taps = math.ceil(len(self.up) / factor)
        padded = F.pad(self.up, [0, taps * factor - len(self.up)] * dims)
        order = (1, 0) if dims == 1 else (1, 3, 0, 2)
        return padded.reshape([taps, factor] * dims).permute(order).contiguous()


def forward_pass(a: FilteredActivation, size: tuple[int, int]) -> Pass:
    """Return the pass of an image of `size`."""
    up, down = _filters(a)
    (high, height), (wide, width) = a.size(size[0]), a.size(size[1])
    up, down = (f.flip(*range(f.ndim)).contiguous() for f in (up, down))
    return Pass(a, up, down, (a.up, a.down), (a.padding[0], 0), (high, wide), (height, width))


def backward_pass(a: FilteredActivation, size: tuple[int, int]) -> Pass:
    """Return the adjoint: the filters are exchanged and mirrored."""
    up, down = _filters(a)
    offsets = len(down) - 1, a.padding[0] - len(up) + 1
    high = a.size(size[0])[0], a.size(size[1])[0]
    return Pass(a, down, up, (a.down, a.up), offsets, high, size)


def _filters(a: FilteredActivation) -> tuple[Tensor, Tensor]:
    """Return both filters, with the gain of the zeros; the unit impulse for an absent one."""
    one = torch.ones(1, dtype=torch.float32, device="cpu")
    up, down = (one if f is None else f.detach().float() for f in (a.up_filter, a.down_filter))
    return up * a.up, down.contiguous()


def _run(p: Pass, mode: int, x: Tensor, bias: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result, and its sums over pixels in MULTIPLY: (samples, strips, channels)."""
    x, a = x.contiguous(), p.activation
    v, c, h, w = x.shape
    blocks = math.ceil(c / WIDTH)
    strips, groups = math.ceil(p.out[1] / STRIP), math.ceil(blocks / BLOCKS)
    out = torch.empty(v, c, *p.out, dtype=torch.float32, device="cpu")
    sums = torch.zeros(v, strips, blocks * WIDTH, dtype=torch.float32, device="cpu")
    # The kernel fills the last block with copies of the last channel.
    bias = torch.cat([bias.float(), bias[-1:].float().expand(blocks * WIDTH - c)])
    up = p.phases()
    taps = up.shape[-1], len(p.down)
    sides = (
        kernels.Side(up.data_ptr(), p.rates[0], taps[0], p.offsets[0], int(up.ndim == 4)),
        kernels.Side(p.down.data_ptr(), p.rates[1], taps[1], p.offsets[1], int(p.down.ndim == 2)),
    )
    bound = math.inf if a.clamp is None else a.clamp
    columns = math.ceil(p.out[1] / strips)
    high = p.rates[1] * (columns - 1) + taps[1]
    pitch = max(columns, high, math.ceil(high / p.rates[0]) + taps[0]) | 1  # odd: all cache sets

    def task(_worker: int, i: int) -> None:
        rest, group = divmod(i, groups)
        n, strip = divmod(rest, strips)
        scratch = torch.zeros((4 + sum(taps)) * pitch * WIDTH, dtype=torch.float32, device="cpu")
        tables = torch.empty(3, max(WIDTH, *taps), dtype=torch.int64, device="cpu").numpy()
        tensors = x[n], out[n], bias, codes[n : n + 1], sums[n, strip]
        images = kernels.Images(*(t.data_ptr() for t in tensors))
        begin, end = (p.out[1] * k // strips for k in (strip, strip + 1))
        part = begin, end, group * BLOCKS, min(blocks, (group + 1) * BLOCKS)
        extent = kernels.Extent(c, h, w, *p.high, *p.out, *part, pitch)
        activation = mode, a.gain, a.gain * a.slope, bound
        kernels.filter_strip(sides, images, extent, activation, (tables, scratch.data_ptr()))

    run(task, v * strips * groups)
    return out, sums


class _FilteredLReLU(Function):
    @staticmethod
    def forward(ctx: Any, a: FilteredActivation, keep: bool, x: Tensor, bias: Tensor) -> Tensor:
        v, c, h, w = x.shape
        p, ctx.activation, ctx.shape = forward_pass(a, (h, w)), a, x.shape
        size = (v, math.ceil(c / WIDTH), *p.high, kernels.CODE) if keep else (0,)
        codes = torch.empty(size, dtype=torch.uint8, device="cpu")
        ctx.save_for_backward(codes)
        return _run(p, kernels.KEEP if keep else kernels.ACTIVATE, x, bias, codes)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, c, h, w = ctx.shape
        p, zero = backward_pass(ctx.activation, (h, w)), grad.new_zeros(c)
        grad_x, sums = _run(p, kernels.MULTIPLY, grad, zero, *ctx.saved_tensors)
        return None, None, grad_x, sums.sum((0, 1))[:c]


def filtered_lrelu(
    x: Float[Tensor, "v c h w"], bias: Float[Tensor, " c"], activation: FilteredActivation
) -> Float[Tensor, "v c h2 w2"]:
    """As `networks.filtered_lrelu`, in float32, for any layout; differentiable once."""
    keep = torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad)
    y: Tensor = _FilteredLReLU.apply(activation, keep, x.float(), bias.float())
    return y.to(x.dtype)

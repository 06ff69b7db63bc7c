"""StyleGAN3's filtered leaky ReLU on a CPU: tensors to addresses, strips to threads."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gan3d.networks.fused import filtered_kernels as kernels
from lightning_gan3d.networks.fused.filtered import Kernel, Pass
from lightning_gan3d.simd import WIDTH, describe, run

STRIP = 320
"""Most columns of a task: its rows stay in the cache of a core, and few samples are in two."""
BLOCKS = 4
"""Blocks of channels of a task."""


def _phases(p: Pass) -> Tensor:
    """Return the taps of `p.up` by their phase, (factor taps) or (factor factor taps taps)."""
    factor, dims = p.rates[0], p.up.ndim
    taps = math.ceil(len(p.up) / factor)
    padded = F.pad(p.up, [0, taps * factor - len(p.up)] * dims)
    order = (1, 0) if dims == 1 else (1, 3, 0, 2)
    return padded.reshape([taps, factor] * dims).permute(order).contiguous()


def _new_bits(x: Tensor, p: Pass) -> Tensor:
    size = len(x), math.ceil(x.shape[1] / WIDTH), *p.high, kernels.CODE
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def _run(p: Pass, mode: int, x: Tensor, bias: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    x, a = x.contiguous(), p.activation
    v, c, h, w = x.shape
    blocks = math.ceil(c / WIDTH)
    strips, groups = math.ceil(p.out[1] / STRIP), math.ceil(blocks / BLOCKS)
    out = torch.empty(v, c, *p.out, dtype=torch.float32, device="cpu")
    sums = torch.zeros(v, strips, blocks * WIDTH, dtype=torch.float32, device="cpu")
    # The kernel fills the last block with copies of the last channel.
    bias = torch.cat([bias, bias[-1:].expand(blocks * WIDTH - c)])
    up = _phases(p)
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
        tensors = x[n], out[n], bias, bits[n : n + 1], sums[n, strip]
        images = kernels.Images(*(t.data_ptr() for t in tensors))
        begin, end = (p.out[1] * k // strips for k in (strip, strip + 1))
        part = begin, end, group * BLOCKS, min(blocks, (group + 1) * BLOCKS)
        extent = kernels.Extent(c, h, w, *p.high, *p.out, *part, pitch)
        activation = mode, a.gain, a.gain * a.slope, bound
        kernels.filter_strip(sides, images, extent, activation, (tables, scratch.data_ptr()))

    run(task, v * strips * groups)
    return out, sums.sum((0, 1))[:c]


KERNEL = Kernel(f"numba, {describe()}", _new_bits, _run)

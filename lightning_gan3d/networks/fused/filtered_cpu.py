"""StyleGAN3's filtered leaky ReLU on a CPU: tensors to addresses, strips to threads."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gan3d.networks.fused import filtered_kernels as kernels
from lightning_gan3d.networks.fused.filtered import Images, Kernel, Pass, Sizes
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


def _run(p: Pass, mode: int, images: Images) -> None:
    x, out, bias, bits = images
    v, c, h, w = x.shape
    blocks, width = math.ceil(c / WIDTH), p.out[1]
    strips, groups = math.ceil(width / STRIP), math.ceil(blocks / BLOCKS)
    # The kernel fills the last block with copies of the last channel.
    bias = torch.cat([bias, bias[-1:].expand(blocks * WIDTH - c)])
    up = _phases(p)
    taps = up.shape[-1], len(p.down)
    sides = (
        kernels.Side(up.data_ptr(), p.rates[0], taps[0], p.offsets[0], up.ndim == 4),
        kernels.Side(p.down.data_ptr(), p.rates[1], taps[1], p.offsets[1], p.down.ndim == 2),
    )
    columns = math.ceil(width / strips)
    high = p.rates[1] * (columns - 1) + taps[1]
    pitch = max(columns, high, math.ceil(high / p.rates[0]) + taps[0]) | 1  # odd: all cache sets
    sizes = Sizes(c, h, w, *p.high, *p.out)

    def task(_worker: int, i: int) -> None:
        rest, group = divmod(i, groups)
        n, strip = divmod(rest, strips)
        scratch = torch.zeros((4 + sum(taps)) * pitch * WIDTH, dtype=torch.float32, device="cpu")
        tables = torch.empty(3, max(WIDTH, *taps), dtype=torch.int64, device="cpu").numpy()
        addresses = (t.data_ptr() for t in (x[n], out[n], bias, bits[n : n + 1]))
        part = kernels.Part(
            width * strip // strips,
            width * (strip + 1) // strips,
            group * BLOCKS,
            min(blocks, (group + 1) * BLOCKS),
        )
        activation = mode, *p.slopes
        buffers = tables, scratch.data_ptr(), pitch
        kernels.filter_strip(sides, Images(*addresses), (sizes, part), activation, buffers)

    run(task, v * strips * groups)


KERNEL = Kernel(f"numba, {describe()}", _new_bits, _run)

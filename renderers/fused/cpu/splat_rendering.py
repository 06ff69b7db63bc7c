"""Splatting by the CPU kernels: memory, threads, and gradients.

Computes the same as `renderers.splat.composite`, in float32. Threads share the tiles of all views.
The backward pass stores one gradient per Gaussian and tile, and adds those of a Gaussian in a fixed
order: results have the same bits for any number of threads.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_gan3d.simd import describe as describe_vectors
from lightning_gan3d.simd import num_workers, run_parts, run_ranges
from lightning_gan3d.simd.wide import LANES
from renderers.footprints import Footprints
from renderers.fused.cpu.splat_bins import (
    CHANNELS,
    NUM_PLACES,
    TILE,
    Bins,
    FootprintArrays,
    count_tiles,
    fill_tiles,
)
from renderers.fused.cpu.splat_blocks import FEW, HISTORY, MOMENTS
from renderers.fused.cpu.splat_kernels import (
    FIRST_CHANNEL,
    FootprintGradients,
    History,
    Sums,
    gather_gradients,
    tiles_backward,
    tiles_forward,
)
from renderers.fused.cpu.splat_projection import project as project
from renderers.fused.cpu.workspace import FLOATS, as_array, padded
from renderers.splat import SplatSums


def describe() -> str:
    """Describe the kernels: `numba, AVX-512, 2 threads`."""
    threads = torch.get_num_threads()
    return f"numba, {describe_vectors()}, {threads} thread{'s' if threads > 1 else ''}"


def composite(footprints: Footprints, resolution: int) -> SplatSums:
    """Composite float32 footprints on a CPU, as `renderers.splat.composite`."""
    return SplatSums(*_Compositing.apply(resolution, *footprints))


class _Compositing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, resolution: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        bins = _bin(Footprints(*tensors), resolution)
        views, channels, _ = tensors[3].shape
        sums = SplatSums(
            *(torch.empty(views, k, resolution**2, **FLOATS) for k in (channels, 1, 1))
        )
        tasks = views * bins.across**2
        memory = _allocate(channels, num_workers(tasks))
        arrays = Sums(*(as_array(x) for x in sums))

        def work(worker: int, first: int, end: int) -> None:
            tiles_forward(first, end, resolution, bins, arrays, memory[worker])

        run_parts(work, tasks)
        ctx.bins, ctx.resolution, ctx.shape = bins, resolution, tensors[3].shape
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_sums: Tensor) -> tuple[Tensor | None, ...]:
        bins, (views, channels, number) = ctx.bins, ctx.shape
        given = Sums(*(as_array(x) for x in d_sums))
        tasks = views * bins.across**2
        memory = _allocate(channels, num_workers(tasks))
        histories = [_allocate_history(bins) for _ in memory]
        floats = padded(MOMENTS + max(FEW, channels + 1), LANES)
        parts = torch.empty(len(bins.entries), floats, **FLOATS).numpy()

        def work(worker: int, first: int, end: int) -> None:
            planes, history = memory[worker], histories[worker]
            tiles_backward(first, end, ctx.resolution, bins, given, planes, history, parts)

        run_parts(work, tasks)
        shapes = ((2, number), (3, number), (number,), (channels, number), (number,))
        gradients = [torch.zeros(views, *shape, **FLOATS) for shape in shapes]
        arrays = FootprintGradients(*(x.numpy() for x in gradients))

        def gather(_worker: int, first: int, end: int) -> None:
            gather_gradients(first, end, bins, parts, arrays)

        run_parts(gather, len(bins.rows))
        return None, *gradients, None, None


def _allocate(channels: int, workers: int) -> list[np.ndarray]:
    """Allocate the planes of each worker: zeros, which channels that do not exist keep."""
    planes = FIRST_CHANNEL + max(FEW, channels + 1)
    return [torch.zeros(planes, TILE**2 + LANES, **FLOATS).numpy() for _ in range(workers)]


def _allocate_history(bins: Bins) -> History:
    """Allocate 2 kB per entry of the fullest tile; what is not written takes no memory."""
    most = int(np.diff(bins.tiles).max(initial=0))
    return History(np.empty(most, np.int64), torch.empty(most, HISTORY // 4, **FLOATS).numpy())


def _bin(footprints: Footprints, resolution: int) -> Bins:
    """Pack, sort and scatter the Gaussians of all views."""
    f = FootprintArrays(
        *[
            *(as_array(x) for x in footprints[:5]),
            as_array(footprints.depth_z).view(np.int32),
            as_array(footprints.reach),
        ]
    )
    views, across = len(f.opacity), -(-resolution // TILE)
    visible, sizes = np.zeros(views, np.int64), np.zeros((views, across**2), np.int64)

    def count(_worker: int, first: int, end: int) -> None:
        count_tiles(f, first, end, resolution, visible, sizes)

    run_ranges(count, views)
    row_starts, tiles = _starts(visible), _starts(sizes.ravel())
    assert tiles[-1] < 2**31, f"{tiles[-1]} Gaussians in tiles: too many for 32-bit indices"
    rows = torch.zeros(
        int(row_starts[-1]), padded(CHANNELS + max(FEW, f.feature.shape[1] + 1), LANES), **FLOATS
    )
    bins = Bins(
        rows.numpy(),
        np.empty((len(rows), NUM_PLACES), np.int32),
        np.empty(tiles[-1], np.int32),
        np.empty(tiles[-1], np.int32),
        tiles,
        across,
    )
    cursors = tiles[:-1].reshape(sizes.shape).copy()

    def fill(_worker: int, first: int, end: int) -> None:
        fill_tiles(f, first, end, resolution, row_starts, cursors, bins)

    run_ranges(fill, views)
    return bins


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Return where parts of these sizes start, and the end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])

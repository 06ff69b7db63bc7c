"""All rays of all scenes, forward and backward: scenes in turn, tiles of rays over threads."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.simd import num_workers, run
from renderers.fused.cpu import texels
from renderers.fused.cpu.job import Job, along_of, array_of
from renderers.fused.cpu.kernels import march_tile, scatter_tiles, unmarch_tile
from renderers.fused.cpu.workspace import (
    FLOATS,
    TILE,
    Along,
    Scratch,
    Seen,
    Sizes,
    padded,
    scratch_of,
)
from renderers.march import Sums

AHEAD, MOST_AHEAD = 2, 32
"""Tiles of a block for each thread, and in all; one takes 0.8 MB (96 samples of 32), twice."""


def forward(job: Job, keep: bool) -> tuple[Sums, Float[Tensor, "b r f"]]:
    """Render all scenes; return the fine depths too if they are to be kept."""
    origins = job.request.rays.origins
    b, r, _ = origins.shape
    feature = torch.empty(b, r, job.sizes.features, **FLOATS)
    scalars = [torch.empty(b, r, 1, **FLOATS) for _ in range(4)]
    fine = torch.empty((b, r, job.rules.fine) if keep else (b, 0, 0), **FLOATS)
    scratches = [scratch_of(job.sizes, backward=False) for _ in range(num_workers(job.tiles))]
    for scene in range(b):
        task = functools.partial(
            _render,
            job,
            texels.readable(job.request.grid.grids[scene].detach(), job.request.grid.axes),
            along_of(job, scene),
            Seen(*(array_of(x[scene]) for x in (feature, *(y[..., 0] for y in scalars)))),
            array_of(fine[scene]),
            keep,
            scratches,
        )
        run(task, job.tiles)
    return Sums(feature, *scalars), fine


def _render(
    job: Job,
    grids: texels.Texels,
    along: Along,
    seen: Seen,
    depths: np.ndarray,
    keep: bool,
    scratches: list[Scratch],
    worker: int,
    tile: int,
) -> None:
    """Render a tile of a scene into its rows of `seen`, and of `depths` if these are kept."""
    march_tile(
        grids.address,
        grids.half,
        grids.table.ctypes.data,
        job.sizes,
        job.weights,
        job.rules,
        along,
        tile,
        seen,
        depths,
        keep,
        scratches[worker],
    )


def backward(
    job: Job,
    fine: Float[Tensor, "b r f"],
    d_sums: Sums,
    wants_grids: bool,
    wants_weights: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradient of the grids, in their order in memory, and those of the decoder.

    Besides these, one scene at a time: a copy of its grids and one of their gradient where the
    channels are not innermost, and the gradients of the features of some tiles.
    """
    s, grid = job.sizes, job.request.grid
    workers = num_workers(job.tiles)
    ahead = 1 if workers == 1 else min(AHEAD * workers, MOST_AHEAD)
    # A single tile still leaves several grids to scatter to.
    most = num_workers(job.tiles + _num_scatters(s.grids, workers))
    scratches = [scratch_of(s, backward=True) for _ in range(most)]
    block = (2, ahead, TILE, s.rows, s.channels) if wants_grids else (2, 1, 1, 1, 1)
    gathered: np.ndarray = torch.empty(block, **FLOATS).numpy()
    d_weights = np.zeros(_num_weights(s))
    d_grids = torch.empty_like(grid.grids) if wants_grids else None
    for scene in range(len(grid.grids)):
        source = grid.grids[scene].detach()
        feature, *scalars = (x[scene] for x in d_sums)
        target = None if d_grids is None else _target(d_grids[scene], grid.axes)
        one = _Backward(
            job,
            along_of(job, scene),
            array_of(fine[scene]),
            Seen(array_of(feature), *(array_of(x[:, 0]) for x in scalars)),
            texels.readable(source, grid.axes),
            target,
            wants_weights,
            gathered,
            scratches,
        )
        for parts in one.blocks(ahead):
            # In this order: sums of float64, the same for any number of threads.
            for part in parts:
                d_weights += part[: len(d_weights)]
        if d_grids is not None and target is not None:
            _finish(target, d_grids[scene])
    return d_grids, _split(d_weights, job) if wants_weights else [None] * 4


class _Backward(NamedTuple):
    """The backward pass of one scene."""

    job: Job
    along: Along
    depths: np.ndarray
    d_seen: Seen
    grids: texels.Texels
    target: texels.Texels | None
    wants_weights: bool
    gathered: np.ndarray
    """Gradients of the samples' features: of the block that is computed, and the one before."""
    scratches: list[Scratch]

    def blocks(self, ahead: int) -> Iterator[np.ndarray]:
        """Compute blocks of `ahead` tiles, and yield the gradient of the decoder by each tile.

        While one block is computed, what the one before it left is added to the texels.
        """
        starts = range(0, self.job.tiles, ahead)
        for n in range(len(starts) + 1):
            tasks: list[Callable[[int], None]] = []
            if n > 0 and self.target is not None:
                tasks += self._scatter(starts[n - 1], ahead, (n - 1) % 2)
            parts = np.zeros((0, 0), np.float32)
            if n < len(starts):
                num = min(ahead, self.job.tiles - starts[n])
                size = num, padded(_num_weights(self.job.sizes), 16)
                parts = torch.zeros(size, **FLOATS).numpy()
                tasks += [
                    functools.partial(self._unmarch, starts[n] + i, i, n % 2, parts[i])
                    for i in range(num)
                ]
            run(functools.partial(_call, tasks), len(tasks))
            yield parts

    def _unmarch(self, tile: int, slot: int, half: int, part: np.ndarray, worker: int) -> None:
        job = self.job
        unmarch_tile(
            self.grids.address,
            self.grids.half,
            self.grids.table.ctypes.data,
            job.sizes,
            job.weights,
            job.rules,
            self.along,
            tile,
            self.depths,
            self.d_seen,
            part,
            self.gathered[half, slot if self.target is not None else 0],
            self.wants_weights,
            self.target is not None,
            self.scratches[worker],
        )

    def _scatter(self, first: int, ahead: int, half: int) -> list[Callable[[int], None]]:
        """Tasks that add the gradients of a block to the texels; each owns a part of one grid."""
        assert self.target is not None
        grids = self.job.sizes.grids
        bands = _num_scatters(grids, len(self.scratches)) // grids
        tiles = min(ahead, self.job.tiles - first)
        tasks: list[Callable[[int], None]] = []
        for p in range(grids):
            start, stop = (int(x) for x in self.target.spans[p])
            ends = [start + (stop - start) * k // bands for k in range(bands + 1)]
            for low, high in itertools.pairwise(ends):
                tasks.append(functools.partial(self._add, p, low, high, first, tiles, half))
        return tasks

    def _add(
        self, p: int, low: int, high: int, first: int, tiles: int, half: int, worker: int
    ) -> None:
        assert self.target is not None
        scatter_tiles(
            self.target.address,
            self.target.table[p].ctypes.data,
            low,
            high,
            self.job.sizes,
            self.job.rules,
            self.along,
            first,
            tiles,
            self.depths,
            self.gathered[half],
            self.scratches[worker],
        )


def _num_scatters(grids: int, workers: int) -> int:
    """Tasks of a scatter: bands of each grid.

    A band looks at all samples for those that are its own: few bands, but enough tasks.
    """
    return grids * max(1, workers // (4 * grids))


def _call(tasks: list[Callable[[int], None]], worker: int, i: int) -> None:
    tasks[i](worker)


def _target(
    d_grids: Float[Tensor, "p d h w c"], axes: tuple[tuple[int, int, int], ...]
) -> texels.Texels:
    """Zero what texels' gradients are added to: the result itself, or a float32 copy."""
    if d_grids.dtype == torch.float32 and texels.in_place(d_grids):
        return texels.describe(d_grids.zero_(), axes)
    return texels.describe(texels.zeros(d_grids, torch.float32), axes)


def _finish(target: texels.Texels, d_grids: Float[Tensor, "p d h w c"]) -> None:
    if target.address != d_grids.data_ptr():
        texels.transcribe(target.values[..., : d_grids.shape[-1]], d_grids)


def _parts(s: Sizes) -> list[int]:
    return [s.channels * s.hidden, s.hidden, s.hidden, s.hidden * s.out, s.out, 1]


def _num_weights(s: Sizes) -> int:
    return sum(_parts(s))


def _split(flat: np.ndarray, job: Job) -> list[Tensor | None]:
    """Cut the decoder's gradients out of their padding, in the order of `LoweredGrid`."""
    s, grid = job.sizes, job.request.grid
    width, channels = grid.hidden_weight.shape
    whole = torch.from_numpy(flat).float()
    hidden, hidden_bias, density, out, out_bias, density_bias = torch.split(whole, _parts(s))
    hidden = hidden.view(s.channels, s.hidden)[:channels, :width].T
    out = out.view(s.hidden, s.out)[:width, : s.features].T
    return [
        hidden,
        hidden_bias[:width],
        torch.cat([density[None, :width], out]),
        torch.cat([density_bias, out_bias[: s.features]]),
    ]

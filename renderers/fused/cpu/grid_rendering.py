"""Rendering of fields of grids by the CPU kernels: memory, threads, and gradients."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.simd import num_workers, run, run_ranges
from renderers.fused.cpu import texels
from renderers.fused.cpu.grid_kernels import Gradients, scatter_tiles, tiles_backward, tiles_forward
from renderers.fused.cpu.workspace import (
    FLOATS,
    TILE,
    Decoder,
    Job,
    RayTensors,
    Scene,
    Scratch,
    SumArrays,
    allocate,
    as_array,
    empty_sums,
    padded,
    prepare,
    ray_arrays,
)
from renderers.ray_marching import RaySums, Request

AHEAD, MAX_AHEAD = 2, 32
"""Tiles of a block per thread, and in total; one takes 0.8 MB (96 samples of 32), twice."""
BLOCK = 1 << 19
"""Bytes of the gradients of a block's features with one thread: half of a cache of 1 MB."""


class GridRendering(NamedTuple):
    """The rendering of fields of grids."""

    job: Job

    @classmethod
    def prepare(cls, request: Request) -> "GridRendering":
        """Lay out a request."""
        return cls(prepare(request))

    def forward(
        self, inputs: Sequence[Tensor], rays: RayTensors, keep: bool
    ) -> tuple[RaySums, Float[Tensor, "b r f"]]:
        """Render all scenes; return the fine depths too, if `keep`."""
        job, grids = self.job, inputs[0]
        sums = empty_sums(rays, job.sizes.features)
        b, r, _ = sums.feature.shape
        fine = torch.empty((b, r, job.options.fine) if keep else (b, 0, 0), **FLOATS)
        scratches = [allocate(job, backward=False) for _ in range(num_workers(job.tiles))]
        for i in range(b):
            source = texels.readable(grids[i].detach(), job.axes)
            scene, depths = _scene(job, source, rays, i), as_array(fine[i])
            arrays = SumArrays(*(as_array(x[i]) for x in sums))
            work = functools.partial(_tiles_forward, scene, arrays, depths, scratches)
            run_ranges(work, job.tiles)
        return sums, fine

    def backward(
        self,
        inputs: Sequence[Tensor],
        rays: RayTensors,
        fine: Float[Tensor, "b r f"],
        d_sums: RaySums,
        needs: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs; those of the grids in their memory order."""
        needs_decoder = any(needs[1:])
        both = needs[0], needs_decoder
        d_grids, flat = _backward(self.job, inputs[0], rays, fine, d_sums, both)
        d_decoder = _split(flat, self.job, *inputs[1].shape) if needs_decoder else [None] * 4
        return d_grids, *d_decoder


def _scene(job: Job, grids: texels.Texels, rays: RayTensors, scene: int) -> Scene:
    return Scene(
        grids.grids, job.sizes, job.decoder, job.options, ray_arrays(job.side, rays, scene)
    )


def _tiles_forward(
    scene: Scene,
    sums: SumArrays,
    fine: np.ndarray,
    memory: list[Scratch],
    worker: int,
    first: int,
    end: int,
) -> None:
    tiles_forward(scene, first, end, sums, fine, memory[worker])


def _backward(
    job: Job,
    grids: Float[Tensor, "b p d h w c"],
    rays: RayTensors,
    fine: Float[Tensor, "b r f"],
    d_sums: RaySums,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, np.ndarray]:
    """Return the gradient of the grids, in their memory order, and the decoder's, flat.

    Extra memory, one scene at a time: copies of its grids and of their gradient if the channels are
    not innermost, and the gradients of the features of `ahead` tiles.
    """
    s, (needs_grids, needs_decoder) = job.sizes, needs
    workers = num_workers(job.tiles)
    channels = job.decoder.hidden.channels
    if workers == 1:
        # Features' gradients that stay in the cache until they are scattered.
        ahead = max(1, BLOCK // (4 * TILE * s.blocks * channels))
    else:
        ahead = min(AHEAD * workers, MAX_AHEAD)
    ahead = min(ahead, job.tiles)
    # A single tile still has several grids to scatter to.
    tasks = job.tiles + s.grids * _num_bands(s.grids, workers)
    scratches = [allocate(job, backward=True) for _ in range(num_workers(tasks))]
    shape = (2, ahead, TILE, s.blocks, channels) if needs_grids else (2, 1, 1, 1, 1)
    features: np.ndarray = torch.empty(shape, **FLOATS).numpy()
    d_decoder = np.zeros(sum(_decoder_sizes(job.decoder)))
    d_grids = torch.empty_like(grids) if needs_grids else None
    for i in range(len(grids)):
        source = texels.readable(grids[i].detach(), job.axes)
        target = None if d_grids is None else _target(d_grids[i], job.axes)
        arrays = SumArrays(*(as_array(x[i]) for x in d_sums))
        depths = as_array(fine[i])
        scene = _scene(job, source, rays, i)
        backward = _Backward(job, scene, depths, arrays, target, needs_decoder, features, scratches)
        for parts in backward.blocks(ahead):
            # In this order, in float64: the same for any number of threads.
            for part in parts:
                d_decoder += part
        if d_grids is not None and target is not None:
            _finish(target, d_grids[i])
    return d_grids, d_decoder


class _Backward(NamedTuple):
    """The backward pass of one scene."""

    job: Job
    scene: Scene
    fine: np.ndarray
    d_sums: SumArrays
    target: texels.Texels | None
    """Gradient of the grids."""
    needs_decoder: bool
    features: np.ndarray
    """Gradients of gathered features: of the current block of tiles, and of the one before."""
    scratches: list[Scratch]

    def blocks(self, ahead: int) -> Iterator[np.ndarray]:
        """Compute blocks of `ahead` tiles; yield the decoder's gradient of each tile.

        While one block is computed, the features' gradients of the one before are scattered.
        """
        starts = range(0, self.job.tiles, ahead)
        size = sum(_decoder_sizes(self.job.decoder))
        for n in range(len(starts) + 1):
            tasks: list[Callable[[int], None]] = []
            if n > 0 and self.target is not None:
                num = min(ahead, self.job.tiles - starts[n - 1])
                tasks += self._scatters(starts[n - 1], self.features[(n - 1) % 2, :num])
            parts = np.zeros((0, 0), np.float32)
            if n < len(starts):
                num = min(ahead, self.job.tiles - starts[n])
                parts = torch.zeros(num, padded(size, 16), **FLOATS).numpy()[:, :size]
                each = num if len(self.scratches) == 1 else 1  # tiles of a call
                for i in range(0, num, each):
                    rows = slice(i, i + each)
                    features = self.features[n % 2, rows if self.target is not None else slice(1)]
                    task = functools.partial(self._render, starts[n] + i, parts[rows], features)
                    tasks.append(task)
            run(functools.partial(_call, tasks), len(tasks))
            yield parts

    def _render(self, first: int, d_decoder: np.ndarray, features: np.ndarray, worker: int) -> None:
        needs_grids = self.target is not None
        gradients = Gradients(d_decoder, features, self.needs_decoder, needs_grids)
        scratch = self.scratches[worker]
        tiles_backward(self.scene, first, self.fine, self.d_sums, gradients, scratch)

    def _scatters(self, first: int, features: np.ndarray) -> Iterator[Callable[[int], None]]:
        """Tasks that add gradients of a block to the texels; each owns a band of one grid."""
        assert self.target is not None
        grids = self.job.sizes.grids
        bands = _num_bands(grids, len(self.scratches))
        base = self.target.grids.base
        for p in range(grids):
            start, stop = (int(x) for x in self.target.ranges[p])
            ends = [start + (stop - start) * k // bands for k in range(bands + 1)]
            for low, high in itertools.pairwise(ends):
                band = texels.Band(base, self.target.table[p].ctypes.data, low, high)
                yield functools.partial(self._scatter, band, first, features)

    def _scatter(self, band: texels.Band, first: int, features: np.ndarray, worker: int) -> None:
        scatter_tiles(self.scene, band, first, self.fine, features, self.scratches[worker])


def _num_bands(grids: int, workers: int) -> int:
    """Bands of each grid: few, since each reads all samples, but enough tasks."""
    return max(1, workers // (4 * grids))


def _call(tasks: list[Callable[[int], None]], worker: int, i: int) -> None:
    tasks[i](worker)


def _target(
    d_grids: Float[Tensor, "p d h w c"], axes: tuple[tuple[int, int, int], ...]
) -> texels.Texels:
    """Zeros that texels' gradients are added to: the result itself, or a float32 copy."""
    if d_grids.dtype == torch.float32 and texels.in_place(d_grids):
        return texels.describe(d_grids.zero_(), axes)
    return texels.describe(texels.zeros(d_grids, torch.float32), axes)


def _finish(target: texels.Texels, d_grids: Float[Tensor, "p d h w c"]) -> None:
    if target.values.data_ptr() != d_grids.data_ptr():
        texels.transcribe(target.values[..., : d_grids.shape[-1]], d_grids)


def _decoder_sizes(w: Decoder) -> list[int]:
    """Elements of each part of the decoder's flat gradient."""
    units, features = w.out.units, w.out.features
    return [w.hidden.channels * units, units, units, units * features, features, 1]


def _split(flat: np.ndarray, job: Job, units: int, channels: int) -> list[Tensor]:
    """Remove the padding of the decoder's gradient; in the order of `LoweredGrid`."""
    w, features = job.decoder, job.sizes.features
    parts = torch.split(torch.from_numpy(flat).float(), _decoder_sizes(w))
    hidden, hidden_bias, density, out, out_bias, density_bias = parts
    hidden = hidden.view(w.hidden.channels, w.hidden.units)[:channels, :units].T
    out = out.view(w.out.units, w.out.features)[:units, :features].T
    return [
        hidden,
        hidden_bias[:units],
        torch.cat([density[None, :units], out]),
        torch.cat([density_bias, out_bias[:features]]),
    ]

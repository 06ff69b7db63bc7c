"""All rays of all scenes, forward and backward: scenes in turn, tiles of rays over threads."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.simd import num_workers, run
from renderers.fused.cpu import texels
from renderers.fused.cpu.job import Job, along_of, array_of
from renderers.fused.cpu.kernels import march_tile, scatter_tiles, unmarch_tile
from renderers.fused.cpu.memory import TILE, Along, Scratch, Seen, Sizes, padded, scratch_of
from renderers.march import Sums

AHEAD, MOST_AHEAD = 8, 64
"""Tiles between two scatters where threads meet for them; one takes 0.8 MB (96 samples of 32)."""


def forward(job: Job, keep: bool) -> tuple[Sums, Float[Tensor, "b r f"]]:
    """Render all scenes; return the fine depths too if they are to be kept."""
    origins = job.request.rays.origins
    b, r, _ = origins.shape
    feature = torch.empty(b, r, job.sizes.features)
    scalars = [torch.empty(b, r, 1) for _ in range(4)]
    fine = torch.empty(b, r, job.rules.fine) if keep else torch.empty(b, 0, 0)
    scratches = [scratch_of(job.sizes, backward=False) for _ in range(num_workers(job.tiles))]
    for scene in range(b):
        grids = texels.readable(job.request.grid.grids[scene].detach(), job.request.grid.axes)
        along = along_of(job, scene)
        seen = Seen(*(array_of(x[scene]) for x in (feature, *(y[..., 0] for y in scalars))))
        depths = array_of(fine[scene])

        def render(worker: int, tile: int) -> None:
            march_tile(
                grids.address,  # noqa: B023  # run before the next scene
                grids.half,  # noqa: B023
                grids.table.ctypes.data,  # noqa: B023
                job.sizes,
                job.weights,
                job.rules,
                along,  # noqa: B023
                tile,
                seen,  # noqa: B023
                depths,  # noqa: B023
                keep,
                scratches[worker],
            )

        run(render, job.tiles)
    return Sums(feature, *scalars), fine


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
    ahead = 1 if workers == 1 else min(max(AHEAD, workers), MOST_AHEAD)
    scratches = [scratch_of(s, backward=True) for _ in range(workers)]
    block = (ahead, TILE, s.rows, s.channels) if wants_grids else (1, 1, 1, 1)
    gathered: np.ndarray = torch.empty(block).numpy()
    d_weights = np.zeros(_num_weights(s))
    d_grids = torch.empty_like(grid.grids) if wants_grids else None
    for scene in range(len(grid.grids)):
        source = grid.grids[scene].detach()
        along, depths = along_of(job, scene), array_of(fine[scene])
        feature, *scalars = (x[scene] for x in d_sums)
        d_seen = Seen(array_of(feature), *(array_of(x[:, 0]) for x in scalars))
        target = None
        if d_grids is not None:
            target = _target(d_grids[scene], grid.axes)
        grids = texels.readable(source, grid.axes)
        for first in range(0, job.tiles, ahead):
            tiles = min(ahead, job.tiles - first)
            parts = torch.zeros(tiles, padded(len(d_weights), 16)).numpy()

            def differentiate(worker: int, i: int) -> None:
                unmarch_tile(
                    grids.address,  # noqa: B023  # run before these change
                    grids.half,  # noqa: B023
                    grids.table.ctypes.data,  # noqa: B023
                    s,
                    job.weights,
                    job.rules,
                    along,  # noqa: B023
                    first + i,  # noqa: B023
                    depths,  # noqa: B023
                    d_seen,  # noqa: B023
                    parts[i],  # noqa: B023
                    gathered[i if wants_grids else 0],
                    wants_weights,
                    wants_grids,
                    scratches[worker],
                )

            run(differentiate, tiles)
            for part in parts:  # in this order: sums of float64, the same for any number of threads
                d_weights += part[: len(d_weights)]
            if target is not None:
                _scatter(job, along, depths, first, tiles, gathered, target, scratches)
        if d_grids is not None and target is not None:
            _finish(target, d_grids[scene])
    return d_grids, _split(d_weights, job) if wants_weights else [None] * 4


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


def _scatter(
    job: Job,
    along: Along,
    depths: np.ndarray,
    first: int,
    tiles: int,
    gathered: np.ndarray,
    target: texels.Texels,
    scratches: list[Scratch],
) -> None:
    """Add the gradients of some tiles to the texels; each task owns a part of one grid."""
    grids = job.sizes.grids
    bands = len(scratches) // math.gcd(len(scratches), grids)

    def add(worker: int, i: int) -> None:
        p, band = divmod(i, bands)
        start, stop = (int(x) for x in target.spans[p])
        low, high = (start + (stop - start) * k // bands for k in (band, band + 1))
        scatter_tiles(
            target.address,
            target.table[p].ctypes.data,
            low,
            high,
            job.sizes,
            job.rules,
            along,
            first,
            tiles,
            depths,
            gathered,
            scratches[worker],
        )

    run(add, grids * bands)


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

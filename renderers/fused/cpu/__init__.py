"""The volume renderer on a CPU in kernels of explicit SIMD: `renderer.path=numba`.

A ray's samples never leave the cache: texels are gathered, decoded, weighed and summed tile by
tile. Backward, they are computed again from the fine depths. It does what `renderers.march.march`
does, in float32, for fields of grids (`LoweredGrid`); the bits are the same from run to run and for
any number of threads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_gan3d.cameras import Rays
from lightning_gan3d.networks.lowering import LoweredGrid
from lightning_gan3d.simd import describe as describe_vectors
from renderers.fused.cpu import march_numba, texels
from renderers.fused.cpu.job import prepare
from renderers.march import Random, Sums
from renderers.paths import Request
from renderers.sampling import Span

__all__ = ["describe", "march", "refuses"]


def describe(request: Request) -> str:  # noqa: ARG001  # it runs alike for all
    """Say what runs, such as `numba, AVX-512, 2 threads`."""
    threads = torch.get_num_threads()
    return f"numba, {describe_vectors()}, {threads} thread{'s' if threads > 1 else ''}"


def refuses(request: Request) -> str | None:
    """Say why this request has to take the plain path, or None."""
    grid, dtype = request.grid, request.rays.origins.dtype
    if dtype != torch.float32:
        return f"rays of {dtype}; the kernels compute in float32"
    if grid.grids.dtype not in texels.DTYPES:
        return f"grids of {grid.grids.dtype}; the kernels read float32 and bfloat16"
    decoder = {x.dtype for x in _inputs(grid)[1:]}
    if decoder != {torch.float32}:
        return f"a decoder of {', '.join(map(str, decoder))}; the kernels compute in float32"
    if texels.too_large(grid.grids):
        return f"a scene of more than {texels.MOST} elements, which 32-bit offsets cannot count"
    return None


def march(request: Request) -> Sums:
    """Render all rays; keep what the backward pass needs only if there will be one."""
    inputs = _inputs(request.grid)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return Sums(*_March.apply(request, *inputs))
    sums, _ = march_numba.forward(prepare(request), keep=False)
    return sums


def _inputs(grid: LoweredGrid) -> tuple[Tensor, ...]:
    """What can be differentiated by, in the order of `LoweredGrid`."""
    return grid.grids, grid.hidden_weight, grid.hidden_bias, grid.out_weight, grid.out_bias


class _March(torch.autograd.Function):
    """Keeps the fine depths alone, and references to what it was given."""

    @staticmethod
    def forward(ctx: Any, request: Request, *inputs: Tensor) -> tuple[Tensor, ...]:
        sums, fine = march_numba.forward(prepare(request), keep=True)
        ctx.save_for_backward(fine, *inputs, *request.rays, *request.part, *request.random)
        grid = request.grid
        ctx.rest = request.options, grid.axes, grid.activation, request.scene_cfg
        ctx.mark_non_differentiable(sums.nearest, sums.farthest)
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_sums: Tensor) -> tuple[Tensor | None, ...]:
        fine, grids, w1, b1, w2, b2, origins, dirs, near, far, *random = ctx.saved_tensors
        options, axes, activation, scene_cfg = ctx.rest
        grid = LoweredGrid(grids, axes, w1, b1, w2, b2, activation)
        rays, part = Rays(origins, dirs), Span(near, far)
        request = Request(options, grid, scene_cfg, rays, part, Random(*random))
        wants_grids, *wants_weights = ctx.needs_input_grad[1:]
        d_grids, d_decoder = march_numba.backward(
            prepare(request), fine, Sums(*d_sums), wants_grids, any(wants_weights)
        )
        return None, d_grids, *d_decoder

"""Ray marching on a CPU in kernels of explicit SIMD: `path=numba`.

Computes the same as `ray_marching`, in float32, for fields of grids (`LoweredGrid`) and MLPs
(`LoweredMlp`). Threads share tiles of rays; samples never leave the cache. The backward pass
computes them again from the fine depths. Results have the same bits in every run, for any number of
threads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_gan3d.networks.lowering import LoweredMlp
from lightning_gan3d.simd import describe as describe_vectors
from renderers.fused.cpu import texels
from renderers.fused.cpu.grid_rendering import GridRendering
from renderers.fused.cpu.mlp_rendering import MlpRendering
from renderers.ray_marching import RaySums, Request


def describe(request: Request) -> str:  # noqa: ARG001  # equal for all requests
    """Describe the kernels: `numba, AVX-512, 2 threads`."""
    threads = torch.get_num_threads()
    return f"numba, {describe_vectors()}, {threads} thread{'s' if threads > 1 else ''}"


def unsupported(request: Request) -> str | None:
    """Return the reason why the kernels cannot render this request, or None."""
    dtype = request.rays.origins.dtype
    if dtype != torch.float32:
        return f"rays of {dtype}; the kernels compute in float32"
    if isinstance(request.lowered, LoweredMlp):
        weights, part = list(request.lowered.tensors), "an MLP"
    else:
        grids, *weights = request.grid.tensors
        part = "a decoder"
        if grids.dtype not in texels.DTYPES:
            return f"grids of {grids.dtype}; the kernels read float32 and bfloat16"
        if texels.too_large(grids):
            return f"a scene of more than {texels.MAX_ELEMENTS} elements, beyond 32-bit offsets"
    dtypes = {x.dtype for x in weights}
    if dtypes != {torch.float32}:
        return f"{part} of {', '.join(map(str, dtypes))}; the kernels compute in float32"
    return None


def render_request(request: Request) -> RaySums:
    """Render all rays; fine depths are stored only if there can be a backward pass."""
    inputs = request.lowered_field.tensors
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return RaySums(*_RayMarching.apply(request, *inputs))
    rays = (*request.rays, *request.span, *request.jitter)
    sums, _ = _prepare(request).forward(inputs, rays, keep=False)
    return sums


def _prepare(request: Request) -> GridRendering | MlpRendering:
    if isinstance(request.lowered, LoweredMlp):
        return MlpRendering.prepare(request, request.lowered)
    return GridRendering.prepare(request)


class _RayMarching(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, request: Request, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.rendering, ctx.num_inputs = _prepare(request), len(inputs)
        rays = (*request.rays, *request.span, *request.jitter)
        sums, fine = ctx.rendering.forward(inputs, rays, keep=True)
        ctx.save_for_backward(fine, *inputs, *rays)
        ctx.mark_non_differentiable(sums.nearest, sums.farthest)
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_sums: Tensor) -> tuple[Tensor | None, ...]:
        fine, *saved = ctx.saved_tensors
        inputs, rays = saved[: ctx.num_inputs], tuple(saved[ctx.num_inputs :])
        needs = ctx.needs_input_grad[1:]
        return None, *ctx.rendering.backward(inputs, rays, fine, RaySums(*d_sums), needs)

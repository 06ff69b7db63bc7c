"""Ray marching on a GPU in Triton kernels: `path=triton`; of MLPs in `mlp_marching`.

Forward: density of the coarse samples, fine depths, density of the fine samples, order and weights
of all samples (scalars), then sum omega_i c_i. The sum needs no order, so that sorting moves only
scalars. Backward: q_i = g . c_i gives the gradient of each density. One more pass recomputes the
features and adds their gradients to the texels (atomically, in float32); each program adds those
of the decoder to its own partial sum.

Memory, in bytes per ray of S samples: 10 S between forward and backward pass (depths and densities
in float32, the order in int16), 12 S more during the backward pass (q, weights, gradients of
densities). 128 x 128 rays of 48 + 48 samples keep 16 MB, and 25 MB of planes (3 x 256 x 256 x 32;
half of it in fp16) if the field's channels are not innermost. The backward pass peaks at 16 + 25 +
25 (gradient of the planes) + 19 + 9 (partial sums) + 6 (features and their gradient) = 100 MB.

Atomic additions come in any order: gradients differ in their last bits between runs. Therefore
`torch.use_deterministic_algorithms(True)` selects the plain path. Nothing here waits for the device
or allocates by computed values, so that CUDA graphs can record it.
"""

import os
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_gan3d.networks.lowering import LoweredGrid, LoweredMlp
from renderers.fused.gpu.launches import (
    Launch,
    find_gradients,
    find_order,
    find_q,
    find_sigma,
    find_weights,
    find_weights_backward,
    place_fine,
    prepare,
    sum_features,
)
from renderers.fused.gpu.mlp_marching import ROW, render_mlp
from renderers.fused.gpu.ray_kernels import WeightGradients
from renderers.ray_marching import RaySums, Request
from renderers.sampling import RaySpan, stratified

MAX_WIDTH = 64
"""Of channels, hidden units, features: blocks of them fit in registers and shared memory."""
MAX_SAMPLES = 4096
"""Per ray: a row of the ray kernels, and the range of the int16 order."""


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unsupported(request: Request) -> str | None:
    """Return the reason why the kernels cannot render this request, or None."""
    rays, o = request.rays, request.options
    samples = o.samples_coarse + o.samples_fine
    if rays.origins.dtype != torch.float32:
        return f"rays of {rays.origins.dtype}; the kernels compute in float32"
    if samples > MAX_SAMPLES:
        return f"{samples} samples per ray; the kernels support up to {MAX_SAMPLES}"
    if isinstance(request.lowered, LoweredMlp):
        b, _, units, _ = request.lowered.weights.shape
        # Of the smallest chunk, one ray of each scene, and of the weights of a layer.
        entries = b * max(samples, units) * (units + 2 * ROW)
    else:
        grid, (b, r, _) = request.grid, rays.origins.shape
        if reason := _unsupported_grid(grid):
            return reason
        entries = max(grid.grids[0].numel(), b * r * max(samples, len(grid.out_bias) - 1))
    if entries >= 2**31:
        return "more than 2^31 entries, beyond 32-bit indices"
    if not interpreted() and torch.cuda.get_device_capability(rays.origins.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def _unsupported_grid(grid: LoweredGrid) -> str | None:
    widths = (grid.grids.shape[-1], len(grid.hidden_bias), len(grid.out_bias) - 1)
    if max(widths) > MAX_WIDTH:
        return f"channels, hidden units, features {widths}; the kernels support up to {MAX_WIDTH}"
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in grid.tensors)
    if differentiates and torch.are_deterministic_algorithms_enabled():
        return "gradients are added atomically, but deterministic algorithms are required"
    return None


def describe(request: Request) -> str:
    """Describe version, device and precision."""
    precision = request.options.precision
    if interpreted():
        return f"triton, interpreted, {precision}"
    device = torch.cuda.get_device_name(request.rays.origins.device)
    return f"triton {triton.__version__}, {device}, {precision}"


def render_request(request: Request) -> RaySums:
    """Render all rays."""
    device = torch.cuda.device_of(request.rays.origins)  # type: ignore[no-untyped-call]  # torch's
    with device:  # Triton launches on the current device
        if isinstance(request.lowered, LoweredMlp):
            return render_mlp(request, request.lowered)
        return RaySums(*_RayMarching.apply(request, *request.grid.tensors))


class _RayMarching(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, request: Request, grids: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        o, jitter = request.options, request.jitter
        coarse, span = stratified(request.span, o.samples_coarse, jitter.strata, o.rules)
        x = prepare(request, grids, weights, span)
        t = coarse.new_empty(*coarse.shape[:2], x.samples)
        t[..., : o.samples_coarse] = coarse
        sigma = torch.empty_like(t)
        find_sigma(x, t, sigma, jitter.noise, 0, o.samples_coarse)
        if o.samples_fine:
            place_fine(x, t, sigma, jitter.u)
            find_sigma(x, t, sigma, jitter.noise, o.samples_coarse, o.samples_fine)
        order = find_order(x, t)
        omega, (depth, opacity, nearest, farthest) = find_weights(x, t, sigma, order)
        feature = sum_features(x, t, omega)
        # Without the jitter, which the backward pass does not read.
        ctx.save_for_backward(t, sigma, order, x.texels, x.origins, x.dirs, *x.span, *x.weights)
        ctx.constants = x.options, x.scene_cfg, x.axes, x.activation
        ctx.dtypes = [y.dtype for y in (grids, *weights)]
        ctx.mark_non_differentiable(nearest, farthest)
        return feature, depth, opacity, nearest, farthest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        t, sigma, order, texels, origins, dirs, near, far, *weights = ctx.saved_tensors
        options, scene_cfg, axes, activation = ctx.constants
        of_grids = axes, activation, texels, tuple(weights), origins, dirs
        x = Launch(options, scene_cfg, RaySpan(near, far), *of_grids)
        d_feature, d_depth, d_opacity = (g.contiguous() for g in gradients[:3])
        q = find_q(x, t, d_feature)
        d_weights = WeightGradients(q, d_depth, d_opacity)
        omega, d_sigma = find_weights_backward(x, t, sigma, order, d_weights)
        del q, d_weights
        grads = find_gradients(x, t, omega, d_sigma, d_feature)
        return None, *(g.to(d) for g, d in zip(grads, ctx.dtypes, strict=True))

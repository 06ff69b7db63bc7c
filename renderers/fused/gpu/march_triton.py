"""The march on a GPU, in Triton: features live in registers, and are computed again for gradients.

Forward: density of the coarse samples, fine depths, density of the fine samples, order and weights
of all of them (scalars), then sum omega_i c_i. That sum needs no order, so that sorting moves
scalars alone. Backward: q_i = g . c_i, the gradient by each density from it, and one pass that
computes features once more and adds their gradients to the texels (atomically, in float32) and to
one partial sum per program for the decoder.

Memory, in bytes per ray of S samples: 10 S kept for the backward pass (depths and densities in
float32, the order in int16), 12 S more during it (q, weights, gradient of densities). A rendering
of 128 x 128 rays of 48 + 48 samples keeps 16 MB, and 25 MB of planes (3 x 256 x 256 x 32; half of
that as fp16) where the field's are not stored with their channels innermost. Its backward pass
peaks at 16 + 25 + 25 (gradient of the planes) + 19 + 9 (partial sums) + 6 (features and their
gradient), which is 100 MB.

The order of atomic additions varies: gradients differ in their last bits between runs. So the plain
path is taken under `torch.use_deterministic_algorithms(True)`. Nothing here waits for the device or
allocates by what it computed, so that CUDA graphs can record it.
"""

import os
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_gan3d.cameras import Rays
from lightning_gan3d.networks.lowering import LoweredGrid
from renderers.fused.gpu.launches import (
    Launch,
    find_gradients,
    find_order,
    find_q,
    find_sigma,
    place_fine,
    prepare,
    sum_features,
    weigh,
    weigh_backward,
)
from renderers.march import Random, Sums
from renderers.paths import Request
from renderers.sampling import Span, stratified

MOST_WIDTH = 64
"""Most channels, hidden units or features: registers and shared memory hold a block of them."""
MOST_SAMPLES = 4096
"""Of a ray: a row of the scalar kernels, and what the int16 order counts."""


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refuses(request: Request) -> str | None:
    """Say why this request has to take the plain path, or None."""
    grid, rays = request.grid, request.rays
    samples = request.options.samples_coarse + request.options.samples_fine
    b, r, _ = rays.origins.shape
    widths = (grid.grids.shape[-1], len(grid.hidden_bias), len(grid.out_bias) - 1)
    if rays.origins.dtype != torch.float32:
        return f"rays are {rays.origins.dtype}, the kernel computes in float32"
    if max(widths) > MOST_WIDTH:
        return f"channels, hidden units, features are {widths}; it knows up to {MOST_WIDTH}"
    if samples > MOST_SAMPLES:
        return f"{samples} samples of a ray; it knows up to {MOST_SAMPLES}"
    if max(grid.grids[0].numel(), b * r * max(samples, widths[2])) >= 2**31:
        return "more than 2^31 entries, which its indices do not reach"
    needed = torch.is_grad_enabled() and any(x.requires_grad for x in grid if isinstance(x, Tensor))
    if needed and torch.are_deterministic_algorithms_enabled():
        return "it adds gradients atomically, and deterministic algorithms are asked for"
    if not interpreted() and torch.cuda.get_device_capability(rays.origins.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def describe(request: Request) -> str:
    """Say what runs, where the rays are, and in which precision."""
    precision = request.options.precision
    if interpreted():
        return f"triton, interpreted, {precision}"
    device = torch.cuda.get_device_name(request.rays.origins.device)
    return f"triton {triton.__version__}, {device}, {precision}"


def march(request: Request) -> Sums:
    """Do what `renderers.march.march` does, for all rays."""
    g = request.grid
    here = torch.cuda.device_of(request.rays.origins)  # type: ignore[no-untyped-call]  # torch's
    with here:  # Triton launches on the current device
        sums = _March.apply(
            request, g.grids, g.hidden_weight, g.hidden_bias, g.out_weight, g.out_bias
        )
    return Sums(*sums)


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, request: Request, grids: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        o = request.options
        coarse, part = stratified(request.part, o.samples_coarse, request.random.jitter, o.rules)
        x = prepare(request, grids, weights, part)
        t = coarse.new_empty(*coarse.shape[:2], x.samples)
        t[..., : o.samples_coarse] = coarse
        sigma = torch.empty_like(t)
        find_sigma(x, t, sigma, 0, o.samples_coarse)
        if o.samples_fine:
            place_fine(x, t, sigma)
            find_sigma(x, t, sigma, o.samples_coarse, o.samples_fine)
        order = find_order(x, t)
        omega, (depth, opacity, nearest, farthest) = weigh(x, t, sigma, order)
        feature = sum_features(x, t, omega)
        # Without the draws, which the backward pass does not read.
        ctx.save_for_backward(t, sigma, order, x.texels, x.origins, x.dirs, *x.part, *x.weights)
        ctx.rest = o, request.grid.axes, request.grid.activation, request.scene_cfg
        ctx.dtypes = [y.dtype for y in (grids, *weights)]
        ctx.mark_non_differentiable(nearest, farthest)
        return feature, depth, opacity, nearest, farthest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        t, sigma, order, texels, origins, dirs, near, far, w1, b1, w2, b2 = ctx.saved_tensors
        options, axes, activation, scene_cfg = ctx.rest
        grid = LoweredGrid(texels, axes, w1, b1, w2, b2, activation)
        rays, part = Rays(origins, dirs), Span(near, far)
        request = Request(options, grid, scene_cfg, rays, part, Random())
        x = Launch(request, texels, (w1, b1, w2, b2), origins, dirs, part)
        d_feature, d_depth, d_opacity = (g.contiguous() for g in gradients[:3])
        q = find_q(x, t, d_feature)
        omega, d_sigma = weigh_backward(x, t, sigma, order, q, d_depth, d_opacity)
        del q
        found = find_gradients(x, t, omega, d_sigma, d_feature)
        return None, *(g.to(d) for g, d in zip(found, ctx.dtypes, strict=True))

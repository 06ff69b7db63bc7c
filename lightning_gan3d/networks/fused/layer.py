"""A layer of a synthesis network; its gradient keeps one image, the layer's output."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from lightning_gan3d.networks.convolution import Affine, modulated_layer
from lightning_gan3d.networks.fused import ops

_CLAMPED = 1 - 2**-8
"""Outputs above this share of the clamp count as clamped, because bfloat16 rounds."""


def modulated(
    x: Float[Tensor, "v i h w"],
    weight: Float[Tensor, "o i 3 3"],
    style: Float[Tensor, "v i"],
    affine: Affine,
    up: int,
    clamp: float | None,
) -> Float[Tensor, "v o h2 w2"]:
    """Return leaky_relu(scale convolve(x style, weight, up) + shift + strength noise), clamped.

    In the precision of `x`; all else is float32, and `noise` has no gradient. Second derivatives
    are those of the plain layer, at its cost.
    """
    noise = affine.noise
    lost = noise is not None and noise.requires_grad and torch.is_grad_enabled()
    assert not lost, "`noise` would get no gradient"
    # Convert the layout first: saved tensors have to be in the graph.
    x = ops.channels_last(x)
    y: Tensor = _ModulatedLayer.apply(up, _bound(clamp), x, weight, style, *affine)
    return y


def single(
    x: Float[Tensor, "1 i h w"],
    weight: Float[Tensor, "o i 3 3"],
    affine: Affine,
    up: int,
    clamp: float | None,
) -> Float[Tensor, "1 o h2 w2"]:
    """As `modulated` without a gradient, for a weight that is modulated already."""
    cast = weight.to(x.dtype, memory_format=torch.channels_last)
    return _layer(ops.channels_last(x), cast, affine, up, _bound(clamp))


def _bound(clamp: float | None) -> float:
    return math.inf if clamp is None else clamp


def _layer(x: Tensor, weight: Tensor, affine: Affine, up: int, clamp: float) -> Tensor:
    noise = ops.Noise(affine.noise, affine.strength)
    if up == 2:
        phases = _phases(x, weight)
        return ops.filter_and_activate(phases, affine.scale, affine.shift, noise, clamp)
    y = F.conv2d(x, weight, padding=1)
    return ops.activate(y, affine.scale, affine.shift, noise, clamp)


def _phases(
    x: Float[Tensor, "v i h w"], weight: Float[Tensor, "o i 3 3"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the transposed convolution with stride 2, as its even and odd rows and columns.

    A sample between two pixels meets the outer taps of the kernel, one at a pixel the middle one:
    9 products a pixel, instead of the 36 of convolving the enlarged image.
    """

    def phase(rows: int, columns: int) -> Tensor:
        taps = weight[:, :, rows::2, columns::2].flip(2, 3)
        taps = taps.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, taps, padding=(1 - rows, 1 - columns))

    # A matrix product: torch's convolution with one tap is slow.
    middle = (x.permute(0, 2, 3, 1) @ weight[:, :, 1, 1].T).permute(0, 3, 1, 2)
    return phase(0, 0), phase(0, 1), phase(1, 0), middle


class _ModulatedLayer(Function):
    """Inputs: up, clamp, x, weight, style, and the fields of `Affine`."""

    @staticmethod
    def forward(ctx: Any, up: int, clamp: float, *inputs: Any) -> Tensor:
        x, weight, style, *affine = inputs
        cast = weight.to(x.dtype, memory_format=torch.channels_last)
        out = _layer(_times(x, style), cast, Affine(*affine), up, clamp)
        ctx.save_for_backward(*inputs, out)
        ctx.up, ctx.clamp = up, clamp
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # for second derivatives: differentiate the plain layer
            return None, None, *_plain_gradients(grad, inputs, needs, ctx.up, ctx.clamp)
        x, weight, style, scale, shift, noise, strength = inputs
        clamp = ctx.clamp * (_CLAMPED if out.dtype == torch.bfloat16 else 1.0)
        grad_y, sums = ops.activate_backward(grad, out, scale, ops.Noise(noise, strength), clamp)
        by_out, grad_before, by_noise = sums.unbind(1)
        grad_shift = grad_before.sum(0)
        # The scaled image, input of the activation minus shift and noise, is not stored.
        if strength is not None:
            by_out = by_out - strength * by_noise
        grad_scale = (by_out - shift * grad_before) / scale
        grad_strength = None if strength is None else by_noise.sum()
        cast = weight.to(x.dtype, memory_format=torch.channels_last)
        if ctx.up == 2:
            grad_y = ops.fir(grad_y, 2, 1, 2.0)
            cast = cast.transpose(0, 1)
        stride, padding = [ctx.up] * 2, [2 - ctx.up] * 2
        outputs = [needs[0] or needs[2], needs[1], False]
        x_scaled, transposed = _times(x, style), ctx.up == 2
        grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad_y, x_scaled, cast, None, stride, padding, [1, 1], transposed, [0, 0], 1, outputs
        )
        grad_x = grad_style = None
        if needs[0] or needs[2]:
            grad_x, grad_style = ops.modulate_backward(grad_input, x, style)
        if needs[1]:
            if ctx.up == 2:
                grad_weight = grad_weight.transpose(0, 1)
            # In the layout of the weight, or the optimizer copies it.
            grad_weight = grad_weight.to(weight.dtype, memory_format=torch.channels_last)
        affine = grad_scale, grad_shift, None, grad_strength
        return None, None, grad_x, grad_weight, grad_style, *affine


def _plain_gradients(
    grad: Tensor, inputs: list[Tensor | None], needs: tuple[bool, ...], up: int, clamp: float
) -> list[Tensor | None]:
    """Return gradients by those inputs that need them, for second derivatives."""
    # `scale` was computed from `weight` and `style`, which receive its gradient elsewhere. Aliases
    # of the three are independent, so nothing is counted twice.
    aliases: list[Any] = [None if x is None else x.view_as(x) for x in inputs]
    x, weight, style, *affine = aliases
    bound = clamp if math.isfinite(clamp) else None
    y = modulated_layer(x, weight, style, Affine(*affine), up, bound)
    indices = [i for i, x in enumerate(aliases) if x is not None and needs[i]]
    leaves = [aliases[i] for i in indices]
    grads = torch.autograd.grad(y, leaves, grad, create_graph=True)
    by_index = dict(zip(indices, grads, strict=True))
    return [by_index.get(i) for i in range(len(inputs))]


def _times(x: Float[Tensor, "v i h w"], style: Float[Tensor, "v i"]) -> Float[Tensor, "v i h w"]:
    return x * style.to(x.dtype)[:, :, None, None]

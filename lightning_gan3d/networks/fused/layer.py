"""A layer of a synthesis network, whose gradient keeps one image: what the layer returns."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from lightning_gan3d.networks.fused import ops

_CLAMPED = 1 - 2**-8
"""A clamp is met up to the rounding of bfloat16."""


def modulated(
    x: Float[Tensor, "v i h w"],
    weight: Float[Tensor, "o i 3 3"],
    style: Float[Tensor, "v i"],
    scale: Float[Tensor, "v o"],
    shift: Float[Tensor, " o"],
    noise: Float[Tensor, "*n h2 w2"] | None,
    strength: Float[Tensor, ""] | None,
    up: int,
    clamp: float | None,
) -> Float[Tensor, "v o h2 w2"]:
    """Return leaky_relu(scale convolve(x style, weight, up) + shift + strength noise), clamped.

    In the precision of `x`; all else is float32, and `noise` has no gradient. Second derivatives
    are those of the plain layer, at its cost.
    """
    lost = noise is not None and noise.requires_grad and torch.is_grad_enabled()
    assert not lost, "`noise` would get no gradient"
    bound = float("inf") if clamp is None else clamp
    given = ops.channels_last(x)  # before, for what is saved has to be in the graph
    y: Tensor = _ModulatedLayer.apply(
        given, weight, style, scale, shift, noise, strength, up, bound
    )
    return y


def _phases(
    x: Float[Tensor, "v i h w"], weight: Float[Tensor, "o i 3 3"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the transposed convolution with stride 2, as its even and odd rows and columns.

    A sample between two pixels meets the outer taps of the kernel, one at a pixel the middle one:
    9 products a pixel where a convolution of the enlarged image makes 36.
    """

    def phase(rows: int, columns: int) -> Tensor:
        taps = weight[:, :, rows::2, columns::2].flip(2, 3)
        taps = taps.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, taps, padding=(1 - rows, 1 - columns))

    # Torch has a slow path of its own for a single tap.
    middle = (x.permute(0, 2, 3, 1) @ weight[:, :, 1, 1].T).permute(0, 3, 1, 2)
    return phase(0, 0), phase(0, 1), phase(1, 0), middle


def _layer(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    noise: ops.Noise,
    up: int,
    clamp: float,
) -> Tensor:
    if up == 2:
        return ops.merge(_phases(x, weight), scale, shift, noise, clamp)
    return ops.activate(F.conv2d(x, weight, padding=1), scale, shift, noise, clamp)


class _ModulatedLayer(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        style: Tensor,
        scale: Tensor,
        shift: Tensor,
        noise: Tensor | None,
        strength: Tensor | None,
        up: int,
        clamp: float,
    ) -> Tensor:
        cast = weight.to(x.dtype, memory_format=torch.channels_last)
        out = _layer(_times(x, style), cast, scale, shift, ops.Noise(noise, strength), up, clamp)
        ctx.save_for_backward(x, weight, style, scale, shift, noise, strength, out)
        ctx.up, ctx.clamp = up, clamp
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, style, scale, shift, noise, strength, out = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Somebody will differentiate this: by the plain layer, computed again.
            inputs = (x, weight, style, scale, shift, noise, strength)
            return _plain_gradients(grad, inputs, ctx.needs_input_grad, ctx.up, ctx.clamp)
        clamp = ctx.clamp * (_CLAMPED if out.dtype == torch.bfloat16 else 1.0)
        given = ops.Noise(noise, strength)
        grad_y, sums = ops.activate_backward(grad, out, scale, given, clamp)
        by_out, alone, by_noise = sums.unbind(1)
        grad_shift = alone.sum(0)
        # What was scaled is what was activated less what was added: no need to keep it.
        if strength is not None:
            by_out = by_out - strength * by_noise
        grad_scale = (by_out - shift * alone) / scale
        grad_strength = None if strength is None else by_noise.sum()
        cast = weight.to(x.dtype, memory_format=torch.channels_last)
        if ctx.up == 2:
            grad_y = ops.fir(grad_y, 2, 1, 2.0)
            cast = cast.transpose(0, 1)
        needs = ctx.needs_input_grad
        grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad_y,
            _times(x, style),
            cast,
            None,
            [ctx.up] * 2,
            [2 - ctx.up] * 2,
            [1, 1],
            ctx.up == 2,
            [0, 0],
            1,
            [needs[0] or needs[2], needs[1], False],
        )
        grad_x = grad_style = None
        if needs[0] or needs[2]:
            grad_x, grad_style = ops.modulate_backward(grad_input, x, style)
        if needs[1]:
            if ctx.up == 2:
                grad_weight = grad_weight.transpose(0, 1)
            # In the layout of the weight, or the optimizer copies it.
            grad_weight = grad_weight.to(weight.dtype, memory_format=torch.channels_last)
        return (
            *(grad_x, grad_weight, grad_style, grad_scale, grad_shift),
            *(None, grad_strength, None, None),
        )


def _plain_gradients(
    grad: Tensor,
    given: tuple[Tensor | None, ...],
    needs: tuple[bool, ...],
    up: int,
    clamp: float,
) -> tuple[Tensor | None, ...]:
    from lightning_gan3d.networks.layers import modulated_layer

    plain: Any = modulated_layer
    wanted = [i for i, x in enumerate(given) if x is not None and needs[i]]
    # `scale` was computed from `weight` and `style`: what reaches these through it is found from
    # the gradient of `scale` that is returned, and must not be found here too. Of aliases, none
    # was computed from another.
    aliases = [None if x is None else x.view_as(x) for x in given]
    y = plain(*aliases, up, clamp if math.isfinite(clamp) else None)
    inputs = [x for i, x in enumerate(aliases) if x is not None and i in wanted]
    found = dict(zip(wanted, torch.autograd.grad(y, inputs, grad, create_graph=True), strict=True))
    return tuple(found.get(i) for i in range(len(given) + 2))


def _times(x: Float[Tensor, "v i h w"], style: Float[Tensor, "v i"]) -> Float[Tensor, "v i h w"]:
    return x * style.to(x.dtype)[:, :, None, None]


def single(
    x: Float[Tensor, "1 i h w"],
    weight: Float[Tensor, "o i 3 3"],
    scale: Float[Tensor, "1 o"],
    shift: Float[Tensor, " o"],
    noise: Float[Tensor, "*n h2 w2"] | None,
    strength: Float[Tensor, ""] | None,
    up: int,
    clamp: float | None,
) -> Float[Tensor, "1 o h2 w2"]:
    """As `modulated` without a gradient, for a weight that is modulated already."""
    bound = float("inf") if clamp is None else clamp
    cast = weight.to(x.dtype, memory_format=torch.channels_last)
    return _layer(ops.channels_last(x), cast, scale, shift, ops.Noise(noise, strength), up, bound)

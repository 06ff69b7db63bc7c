"""The FIR filter and its adjoint, which are differentiable any number of times."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from lightning_gan3d.networks.fused import ops


class _Fir(Function):
    """Linear and its own adjoint but for the padding: differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int, stride: int, gain: float) -> Tensor:
        ctx.pad, ctx.stride, ctx.gain = pad, stride, gain
        return ops.fir(x, pad, stride, gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        if ctx.stride == 2:
            return double(grad, ctx.gain), None, None, None
        return fir(grad, 3 - ctx.pad, 1, ctx.gain), None, None, None


class _Double(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return ops.double(x, gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return fir(grad, 1, 2, ctx.gain), None


class _DoublePlus(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor) -> Tensor:
        ctx.dtype = added.dtype
        return ops.double(x, 2.0, added)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first, second = ctx.needs_input_grad
        return fir(grad, 1, 2, 2.0) if first else None, grad.to(ctx.dtype) if second else None


def fir(x: Float[Tensor, "v c h w"], pad: int, stride: int, gain: float) -> Tensor:
    """As `resample.fir`; `stride` 2 takes an even size and pad 1."""
    y: Tensor = _Fir.apply(x, pad, stride, gain)
    return y


def double(x: Float[Tensor, "v c h w"], gain: float) -> Tensor:
    """The adjoint of `fir` with pad 1 and stride 2."""
    y: Tensor = _Double.apply(x, gain)
    return y


def double_plus(x: Float[Tensor, "v c h w"], added: Float[Tensor, "v c h2 w2"]) -> Tensor:
    """Double `x`, in float32, with gain 2 per axis, and add an image in any precision."""
    y: Tensor = _DoublePlus.apply(x, added)
    return y

"""Operations on images by the CPU kernels: tensors to addresses, rows to threads.

The filters are differentiable any number of times; `layer` differentiates the activation.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from lightning_gan3d.networks.fused import activation_kernels, fir_kernels
from lightning_gan3d.networks.fused.fir_kernels import ROWS
from lightning_gan3d.simd import WIDTH, run_ranges

# Kernels use float32 on the CPU, whatever the default dtype and device.


def _zeros(*size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float32, device="cpu")


def _scratch(size: int) -> Float[Tensor, " size"]:
    return torch.empty(size, dtype=torch.float32, device="cpu")


class Noise:
    """Noise for the kernels: (h w) or one image per sample, times a strength; zero if not given."""

    def __init__(
        self, values: Float[Tensor, "*v h w"] | None, strength: Float[Tensor, ""] | None
    ) -> None:
        """Store the tensors that addresses point to."""
        given = values is not None and strength is not None
        self.values = values.contiguous() if values is not None and given else _zeros(1)
        self.strength = strength if strength is not None and given else _zeros()
        self.step = self.values.element_size() if given else 0
        """Bytes from pixel to pixel."""
        single = not given or self.values.ndim == 2 or len(self.values) == 1
        self.per_sample = 0 if single else self.values[0].numel() * self.step

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """Address of the noise, bytes to the next pixel and sample, address of the strength."""
        return self.values.data_ptr(), self.step, self.per_sample, self.strength.data_ptr()


def channels_last(x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    """Return `x` with its channels innermost; `x` itself if they are."""
    # For sizes of 1 torch ignores strides, but kernels do not.
    rows = x.permute(0, 2, 3, 1)
    return x if rows.is_contiguous() else rows.contiguous().permute(0, 3, 1, 2)


def _empty(
    like: Float[Tensor, "v c h w"], height: int, width: int
) -> Float[Tensor, "v c height width"]:
    size = *like.shape[:2], height, width
    return torch.empty(size, dtype=like.dtype, device="cpu", memory_format=torch.channels_last)


def _each(samples: int, rows: int, task: Callable[[tuple[int, int]], None]) -> None:
    """Call task((first, end)) for all tasks of all samples."""
    run_ranges(lambda _, first, end: task((first, end)), samples * _tasks(rows))


def _tasks(rows: int) -> int:
    return math.ceil(rows / ROWS)


def activate(
    x: Float[Tensor, "v c h w"],
    scale: Float[Tensor, "v c"],
    shift: Float[Tensor, " c"],
    noise: Noise,
    clamp: float,
) -> Float[Tensor, "v c h w"]:
    """Return leaky_relu(x scale + shift + noise), clamped; overwrites `x`."""
    x = channels_last(x)
    v, c, h, w = x.shape
    half, scale, shift = x.dtype == torch.bfloat16, scale.contiguous(), shift.contiguous()
    images, factors = (x.data_ptr(), x.data_ptr()), (scale.data_ptr(), shift.data_ptr())

    def task(tasks: tuple[int, int]) -> None:
        shape = c // WIDTH, h, w
        activation_kernels.activate(half, images, factors, noise.addresses, clamp, shape, tasks)

    _each(v, h, task)
    return x


def activate_backward(
    grad: Float[Tensor, "v c h w"],
    out: Float[Tensor, "v c h w"],
    scale: Float[Tensor, "v c"],
    noise: Noise,
    clamp: float,
) -> tuple[Float[Tensor, "v c h w"], Float[Tensor, "v 3 c"]]:
    """Return the gradient of `x` in `activate`, and the sums of its kernel."""
    grad = channels_last(grad)
    v, c, h, w = out.shape
    grad_x = _empty(out, h, w)
    half, scale = out.dtype == torch.bfloat16, scale.contiguous()
    sums = _zeros(v, _tasks(h), 3, c)
    images = grad.data_ptr(), out.data_ptr(), grad_x.data_ptr()
    per_channel = scale.data_ptr(), sums.data_ptr()

    def task(tasks: tuple[int, int]) -> None:
        added, shape = noise.addresses[:3], (c // WIDTH, h, w)
        activation_kernels.activate_backward(half, images, added, per_channel, clamp, shape, tasks)

    _each(v, h, task)
    return grad_x, sums.sum(1)


def modulate_backward(
    grad: Float[Tensor, "v c h w"], x: Float[Tensor, "v c h w"], scale: Float[Tensor, "v c"]
) -> tuple[Float[Tensor, "v c h w"], Float[Tensor, "v c"]]:
    """Return the gradients of x scale by x, which overwrites `grad`, and by scale."""
    grad, x = channels_last(grad), channels_last(x)
    v, c, h, w = x.shape
    half, scale = x.dtype == torch.bfloat16, scale.contiguous()
    sums = _zeros(v, _tasks(h), c)
    images, per_channel = (grad.data_ptr(), x.data_ptr()), (scale.data_ptr(), sums.data_ptr())

    def task(tasks: tuple[int, int]) -> None:
        shape = c // WIDTH, h, w
        activation_kernels.modulate_backward(half, images, per_channel, shape, tasks)

    _each(v, h, task)
    return grad, sums.sum(1)


def filter_and_activate(
    phases: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: Float[Tensor, "v c"],
    shift: Float[Tensor, " c"],
    noise: Noise,
    clamp: float,
) -> Float[Tensor, "v c h2 w2"]:
    """Filter a transposed convolution, given by its phases, with gain 2 per axis; activate it."""
    phases = tuple(channels_last(x) for x in phases)  # type: ignore[assignment]  # four as well
    v, c, h, w = phases[3].shape
    out, zeros = _empty(phases[3], 2 * h, 2 * w), phases[3].new_zeros((w + 1) * c)
    half, scale, shift = out.dtype == torch.bfloat16, scale.contiguous(), shift.contiguous()
    ee, eo, oe, oo = (x.data_ptr() for x in phases)

    def task(tasks: tuple[int, int]) -> None:
        scratch = _scratch((2 * w + 3) * c)
        activation_kernels.filter_and_activate(
            half,
            (ee, eo, oe, oo, out.data_ptr()),
            (scratch.data_ptr(), zeros.data_ptr()),
            (scale.data_ptr(), shift.data_ptr()),
            noise.addresses,
            (clamp, 1 / 4, 3 / 4),
            (c // WIDTH, h, w),
            tasks,
        )

    _each(v, h, task)
    return out


def _fir(x: Tensor, pad: int, stride: int, gain: float) -> Tensor:
    x = channels_last(x)
    v, c, h, w = x.shape
    height, width = ((n + 2 * pad - 4) // stride + 1 for n in (h, w))
    out, zeros = _empty(x, height, width), x.new_zeros(w * c)

    def task(tasks: tuple[int, int]) -> None:
        scratch = _scratch((w + 2 * pad) * c)
        fir_kernels.fir_rows(
            x.dtype == torch.bfloat16,
            (x.data_ptr(), out.data_ptr()),
            (scratch.data_ptr(), zeros.data_ptr()),
            (gain / 8, gain * 3 / 8),
            (c // WIDTH, h, w, pad, stride),
            tasks,
        )

    _each(v, height, task)
    return out


def _double(x: Tensor, gain: float, added: Tensor | None = None) -> Tensor:
    """The adjoint of `_fir` with pad 1 and stride 2; `added` only if `x` is float32."""
    x, added = channels_last(x), None if added is None else channels_last(added)
    v, c, h, w = x.shape
    out, zeros = _empty(x, 2 * h, 2 * w), x.new_zeros(w * c)
    halves = x.dtype == torch.bfloat16, added is not None and added.dtype == torch.bfloat16

    def task(tasks: tuple[int, int]) -> None:
        scratch = _scratch((w + 2) * c)
        fir_kernels.double_rows(
            halves,
            (x.data_ptr(), out.data_ptr(), 0 if added is None else added.data_ptr()),
            (scratch.data_ptr(), zeros.data_ptr()),
            (gain / 8, gain * 3 / 8),
            (c // WIDTH, h, w),
            tasks,
        )

    _each(v, h, task)
    return out


class _Fir(Function):
    """The adjoint is the same filter with another padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int, stride: int, gain: float) -> Tensor:
        ctx.pad, ctx.stride, ctx.gain = pad, stride, gain
        return _fir(x, pad, stride, gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        if ctx.stride == 2:
            return double(grad, ctx.gain), None, None, None
        return fir(grad, 3 - ctx.pad, 1, ctx.gain), None, None, None


class _Double(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return _double(x, gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return fir(grad, 1, 2, ctx.gain), None


class _DoublePlus(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor) -> Tensor:
        ctx.dtype = added.dtype
        return _double(x, 2.0, added)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first, second = ctx.needs_input_grad
        return fir(grad, 1, 2, 2.0) if first else None, grad.to(ctx.dtype) if second else None


def fir(x: Float[Tensor, "v c h w"], pad: int, stride: int, gain: float) -> Tensor:
    """As `resample.fir`; `stride` 2 needs an even size and pad 1."""
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

"""Calls of the kernels: tensors to addresses, images to rows that threads share."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks.fused.kernels import activation, filtering, merging
from lightning_gan3d.simd import WIDTH, run

ROWS = 16
"""Rows of a task. It does not depend on the number of threads, nor do sums over tasks."""


# Kernels read and write float32 of the CPU, whatever the caller's default dtype and device are.


def _zeros(*size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float32, device="cpu")


def _scratch(size: int) -> Float[Tensor, " size"]:
    return torch.empty(size, dtype=torch.float32, device="cpu")


class Noise:
    """Noise as kernels read it: const (h w), or one image a sample, times a strength; or none."""

    def __init__(
        self, values: Float[Tensor, "*v h w"] | None, strength: Float[Tensor, ""] | None
    ) -> None:
        """Keep what addresses point to."""
        some = values is not None and strength is not None
        self.values = values.contiguous() if values is not None and some else _zeros(1)
        self.strength = strength if strength is not None and some else _zeros()
        self.step = self.values.element_size() if some else 0
        """Bytes from pixel to pixel."""
        single = not some or self.values.ndim == 2 or len(self.values) == 1
        self.per_sample = 0 if single else self.values[0].numel() * self.step

    def at(self, sample: int) -> int:
        """Return the address of a sample's first pixel."""
        return self.values.data_ptr() + sample * self.per_sample


def channels_last(x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    """Return `x` with its channels innermost, itself where they are."""
    # Sizes of 1 leave strides open to torch, but not to the kernels.
    rows = x.permute(0, 2, 3, 1)
    return x if rows.is_contiguous() else rows.contiguous().permute(0, 3, 1, 2)


def _empty(
    like: Float[Tensor, "v c h w"], height: int, width: int
) -> Float[Tensor, "v c height width"]:
    size = *like.shape[:2], height, width
    return torch.empty(size, dtype=like.dtype, device="cpu", memory_format=torch.channels_last)


def _each(samples: int, rows: int, task: Callable[[int, int, int], None]) -> int:
    """Call task(sample, first row, last row) for all; return the number of tasks a sample."""
    per_sample = math.ceil(rows / ROWS)

    def one(_worker: int, i: int) -> None:
        sample, part = divmod(i, per_sample)
        task(sample, part * ROWS, min(rows, (part + 1) * ROWS))

    run(one, samples * per_sample)
    return per_sample


def activate(
    x: Float[Tensor, "v c h w"],
    scale: Float[Tensor, "v c"],
    shift: Float[Tensor, " c"],
    noise: Noise,
    clamp: float,
) -> Float[Tensor, "v c h w"]:
    """Return leaky_relu(x scale + shift + noise), clamped; in the place of `x`, which is ours."""
    x = channels_last(x)
    v, c, h, w = x.shape
    sample, row = (c * w * n * x.element_size() for n in (h, 1))
    half, scale, shift = x.dtype == torch.bfloat16, scale.contiguous(), shift.contiguous()

    def task(n: int, first: int, last: int) -> None:
        at = x.data_ptr() + n * sample + first * row
        activation.activate(
            half,
            at,
            at,
            scale.data_ptr() + n * c * 4,
            shift.data_ptr(),
            noise.at(n) + first * w * noise.step,
            noise.step,
            noise.strength.data_ptr(),
            clamp,
            c // WIDTH,
            (last - first) * w,
        )

    _each(v, h, task)
    return x


def activate_backward(
    grad: Float[Tensor, "v c h w"],
    out: Float[Tensor, "v c h w"],
    scale: Float[Tensor, "v c"],
    noise: Noise,
    clamp: float,
) -> tuple[Float[Tensor, "v c h w"], Float[Tensor, "v 3 c"]]:
    """Return the gradient of `x` in `activate`, and the sums of `activation.activate_backward`."""
    grad = channels_last(grad)
    v, c, h, w = out.shape
    grad_x = _empty(out, h, w)
    sample, row = (c * w * n * out.element_size() for n in (h, 1))
    half, scale = out.dtype == torch.bfloat16, scale.contiguous()
    per_sample = math.ceil(h / ROWS)
    sums = _zeros(v, per_sample, 3, c)

    def task(n: int, first: int, last: int) -> None:
        at = n * sample + first * row
        activation.activate_backward(
            half,
            grad.data_ptr() + at,
            out.data_ptr() + at,
            grad_x.data_ptr() + at,
            scale.data_ptr() + n * c * 4,
            noise.at(n) + first * w * noise.step,
            noise.step,
            sums.data_ptr() + (n * per_sample + first // ROWS) * 3 * c * 4,
            clamp,
            c // WIDTH,
            (last - first) * w,
        )

    _each(v, h, task)
    return grad_x, sums.sum(1)


def modulate_backward(
    grad: Float[Tensor, "v c h w"], x: Float[Tensor, "v c h w"], scale: Float[Tensor, "v c"]
) -> tuple[Float[Tensor, "v c h w"], Float[Tensor, "v c"]]:
    """Return the gradients of x scale by x, in the place of `grad`, which is ours, and by scale."""
    grad, x = channels_last(grad), channels_last(x)
    v, c, h, w = x.shape
    sample, row = (c * w * n * x.element_size() for n in (h, 1))
    half, scale = x.dtype == torch.bfloat16, scale.contiguous()
    per_sample = math.ceil(h / ROWS)
    sums = _zeros(v, per_sample, c)

    def task(n: int, first: int, last: int) -> None:
        at = n * sample + first * row
        activation.modulate_backward(
            half,
            grad.data_ptr() + at,
            x.data_ptr() + at,
            scale.data_ptr() + n * c * 4,
            sums.data_ptr() + (n * per_sample + first // ROWS) * c * 4,
            c // WIDTH,
            (last - first) * w,
        )

    _each(v, h, task)
    return grad, sums.sum(1)


def fir(
    x: Float[Tensor, "v c h w"], pad: int, stride: int, gain: float
) -> Float[Tensor, "v c h2 w2"]:
    """As `resample.fir`."""
    x = channels_last(x)
    v, c, h, w = x.shape
    height, width = ((n + 2 * pad - 4) // stride + 1 for n in (h, w))
    out, zeros = _empty(x, height, width), x.new_zeros(w * c)
    size = x.element_size() * c

    def task(n: int, first: int, last: int) -> None:
        scratch = _scratch((w + 2 * pad) * c)
        filtering.fir_rows(
            x.dtype == torch.bfloat16,
            x.data_ptr() + n * h * w * size,
            out.data_ptr() + n * height * width * size,
            scratch.data_ptr(),
            zeros.data_ptr(),
            gain / 8,
            gain * 3 / 8,
            c // WIDTH,
            h,
            w,
            pad,
            stride,
            first,
            last,
        )

    _each(v, height, task)
    return out


def double(
    x: Float[Tensor, "v c h w"], gain: float, added: Float[Tensor, "v c h2 w2"] | None = None
) -> Float[Tensor, "v c h2 w2"]:
    """Return the adjoint of `fir` with pad 1 and stride 2 at `x`, with `gain` per axis.

    `added`, in any precision, is added where `x` is float32.
    """
    x, added = channels_last(x), None if added is None else channels_last(added)
    v, c, h, w = x.shape
    out, zeros = _empty(x, 2 * h, 2 * w), x.new_zeros(w * c)
    size = x.element_size() * c

    def task(n: int, first: int, last: int) -> None:
        scratch = _scratch((w + 2) * c)
        filtering.double_rows(
            x.dtype == torch.bfloat16,
            x.data_ptr() + n * h * w * size,
            out.data_ptr() + n * 4 * h * w * size,
            0 if added is None else added[n].data_ptr(),
            added is not None and added.dtype == torch.bfloat16,
            scratch.data_ptr(),
            zeros.data_ptr(),
            gain / 8,
            gain * 3 / 8,
            c // WIDTH,
            h,
            w,
            first,
            last,
        )

    _each(v, h, task)
    return out


def merge(
    phases: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: Float[Tensor, "v c"],
    shift: Float[Tensor, " c"],
    noise: Noise,
    clamp: float,
) -> Float[Tensor, "v c h2 w2"]:
    """Filter a transposed convolution, given by its phases, with gain 2 per axis; activate it."""
    ee, eo, oe, oo = (channels_last(x) for x in phases)
    v, c, h, w = oo.shape
    out, zeros = _empty(oo, 2 * h, 2 * w), oo.new_zeros((w + 1) * c)
    size, scale, shift = oo.element_size() * c, scale.contiguous(), shift.contiguous()

    def task(n: int, first: int, last: int) -> None:
        scratch = _scratch((2 * w + 3) * c)
        merging.merge_rows(
            oo.dtype == torch.bfloat16,
            ee.data_ptr() + n * (h + 1) * (w + 1) * size,
            eo.data_ptr() + n * (h + 1) * w * size,
            oe.data_ptr() + n * h * (w + 1) * size,
            oo.data_ptr() + n * h * w * size,
            out.data_ptr() + n * 4 * h * w * size,
            scratch.data_ptr(),
            zeros.data_ptr(),
            scale.data_ptr() + n * c * 4,
            shift.data_ptr(),
            noise.at(n),
            noise.step,
            noise.strength.data_ptr(),
            clamp,
            1 / 4,
            3 / 4,
            c // WIDTH,
            h,
            w,
            first,
            last,
        )

    _each(v, h, task)
    return out

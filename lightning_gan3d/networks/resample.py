"""Resampling of images and volumes: StyleGAN2's FIR filter [1, 3, 3, 1], and bilinear resizing.

All functions are linear in their input and differentiable any number of times. Filters accept
(v, c, h, w) and (v, c, d, h, w), and pad with zeros, as StyleGAN2's.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks import fused

FIR_TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
"""The binomial filter [1, 3, 3, 1], normalised to keep a constant."""
SMALL = 64
"""Longest axis of a volume that is filtered by a banded matrix, not a depthwise convolution.

A CPU's matrix product over a few dozen samples is two to four times as fast as its convolution.
"""


def fir(
    x: Float[Tensor, "v c *size"], pad: int, stride: int = 1, gain: float = 1.0
) -> Float[Tensor, "v c *out"]:
    """Filter every axis with [1, 3, 3, 1] / 8, after padding both ends by `pad` zeros.

    `stride` 2 keeps every second sample. `gain` multiplies once per axis.
    """
    dims = x.ndim - 2
    whole = stride == 1 or (pad == 1 and x.shape[-1] % 2 == x.shape[-2] % 2 == 0)
    if whole and fused.serves(x, x.shape[1]):
        from lightning_gan3d.networks.fused import ops

        return ops.fir(x, pad, stride, gain)
    if dims == 3 and max(x.shape[2:]) <= SMALL:
        for axis in range(x.ndim - 1, 1, -1):
            x = _along(x, axis, _fir_matrix(x.shape[axis], pad, stride, gain, x.dtype, x.device))
        return x
    conv = F.conv2d if dims == 2 else F.conv3d
    kernel = _kernel(dims, x.shape[1], gain, x.dtype, x.device)
    return conv(x, kernel, stride=stride, padding=pad, groups=x.shape[1])


def upsample(x: Float[Tensor, "v c *size"]) -> Float[Tensor, "v c *double"]:
    """Double every axis: zeros between the samples, then the filter with gain 2 per axis.

    Sample i of the input lies between samples 2i and 2i + 1 of the output, as pixel areas do.
    """
    dims = x.ndim - 2
    if fused.serves(x, x.shape[1]):
        from lightning_gan3d.networks.fused import ops

        return ops.double(x, 2.0)
    if dims == 2:
        # Between two samples it is bilinear interpolation, with zeros beyond the border.
        wide = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")
        return wide[..., 2:-2, 2:-2]
    if max(x.shape[2:]) <= SMALL // 2:
        for axis in range(x.ndim - 1, 1, -1):
            # The transpose of downsampling, with gain 2 instead of 1.
            matrix = _fir_matrix(2 * x.shape[axis], 1, 2, 2.0, x.dtype, x.device)
            x = _along(x, axis, matrix.T)
        return x
    kernel = _kernel(dims, x.shape[1], 2.0, x.dtype, x.device)
    return F.conv_transpose3d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def upsample_plus(
    x: Float[Tensor, "v c *size"], added: Float[Tensor, "v c *double"]
) -> Float[Tensor, "v c *double"]:
    """Return upsample(x) + added, in the precision of `x`."""
    both = x.dtype == torch.float32 and fused.serves(added, x.shape[1])
    if both and fused.serves(x, x.shape[1]):
        from lightning_gan3d.networks.fused import ops

        return ops.double_plus(x, added)
    return upsample(x).add_(added)  # a new tensor


def downsample(x: Float[Tensor, "v c *size"]) -> Float[Tensor, "v c *half"]:
    """Halve every axis, of even length: the filter, then every second sample.

    This is the adjoint of `upsample`, divided by 2 per axis.
    """
    return fir(x, 1, stride=2)


def _along(
    x: Float[Tensor, "v c *size"], axis: int, matrix: Float[Tensor, "i o"]
) -> Float[Tensor, "v c *out"]:
    """Multiply one axis by a matrix, without moving the others."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if not after:
        return (x.reshape(-1, x.shape[axis]) @ matrix).reshape(*before, -1)
    flat = x.reshape(math.prod(before), x.shape[axis], math.prod(after))
    return torch.bmm(matrix.T.expand(len(flat), -1, -1), flat).reshape(*before, -1, *after)


# Cached tensors are shared with training, so they must not be inference tensors.


@lru_cache(maxsize=256)
def _fir_matrix(
    length: int, pad: int, stride: int, gain: float, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "i o"]:
    with torch.inference_mode(False):
        matrix = torch.zeros(length, length + 2 * pad - len(FIR_TAPS) + 1, dtype=torch.float64)
        for k, tap in enumerate(FIR_TAPS):
            matrix.diagonal(pad - k).fill_(tap * gain)
        return matrix[:, ::stride].contiguous().to(device, dtype)


@lru_cache(maxsize=256)
def _kernel(
    dims: int, channels: int, gain: float, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "c 1 *taps"]:
    with torch.inference_mode(False):
        kernel = taps = torch.tensor(FIR_TAPS, dtype=torch.float64) * gain
        for _ in range(dims - 1):
            kernel = kernel[..., None] * taps
        return kernel.expand(channels, 1, *kernel.shape).contiguous().to(device, dtype)


def resize(
    x: Float[Tensor, "v c h w"], size: int | tuple[int, int], antialias: bool = True
) -> Float[Tensor, "v c h2 w2"]:
    """Resize bilinearly, pixel areas aligned; `antialias` widens the filter of shrinking axes."""
    target = (size, size) if isinstance(size, int) else size
    if tuple(x.shape[-2:]) == target:
        return x
    # For growing axes, antialiasing changes only the time.
    shrinks = target[0] < x.shape[-2] or target[1] < x.shape[-1]
    return F.interpolate(
        x, target, mode="bilinear", align_corners=False, antialias=antialias and shrinks
    )

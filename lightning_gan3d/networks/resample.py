"""Resampling of images and volumes: StyleGAN2's FIR filter [1, 3, 3, 1], and resizing to any size.

All functions are linear in their input and differentiable any number of times. Those that filter
work on (v, c, h, w) and (v, c, d, h, w) alike, and pad with zeros, as StyleGAN2 does.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FIR_TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
"""The binomial filter [1, 3, 3, 1], normalised to keep a constant."""


@lru_cache(maxsize=256)
def _kernel(
    axis: int, dims: int, channels: int, gain: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # Not an inference tensor, even if first asked for in inference mode: training shares it.
    with torch.inference_mode(False):
        shape = [1, 1] + [1] * dims
        shape[2 + axis] = len(FIR_TAPS)
        taps = torch.tensor(FIR_TAPS, dtype=torch.float64) * gain
        return (
            taps.reshape(shape).repeat(channels, *[1] * (dims + 1)).to(device=device, dtype=dtype)
        )


def fir(
    x: Float[Tensor, "v c *size"], pad: tuple[int, int], stride: int = 1, gain: float = 1.0
) -> Float[Tensor, "v c *out"]:
    """Filter every axis with [1, 3, 3, 1] / 8, after zero padding by `pad` (before, after).

    `stride` 2 keeps every second sample. `gain` multiplies once per axis.
    """
    dims = x.ndim - 2
    conv = F.conv2d if dims == 2 else F.conv3d
    c = x.shape[1]
    if pad[0] != pad[1]:
        x = F.pad(x, [*pad] * dims)
    for axis in range(dims):
        step, padding = [1] * dims, [0] * dims
        step[axis] = stride
        padding[axis] = pad[0] if pad[0] == pad[1] else 0
        x = conv(
            x,
            _kernel(axis, dims, c, gain, x.dtype, x.device),
            stride=step,
            padding=padding,
            groups=c,
        )
    return x


def upsample(x: Float[Tensor, "v c *size"]) -> Float[Tensor, "v c *double"]:
    """Double every axis: zeros between the samples, then the filter with gain 2 per axis.

    Sample i of the input lies between samples 2i and 2i + 1 of the output, as pixel areas do.
    """
    dims = x.ndim - 2
    convs = F.conv_transpose2d if dims == 2 else F.conv_transpose3d
    c = x.shape[1]
    for axis in range(dims):
        step, padding = [1] * dims, [0] * dims
        step[axis], padding[axis] = 2, 1
        x = convs(
            x,
            _kernel(axis, dims, c, 2.0, x.dtype, x.device),
            stride=step,
            padding=padding,
            groups=c,
        )
    return x


def downsample(x: Float[Tensor, "v c *size"]) -> Float[Tensor, "v c *half"]:
    """Halve every axis, of even length: the filter, then every second sample.

    This is the adjoint of `upsample`, divided by 2 per axis.
    """
    return fir(x, (1, 1), stride=2)


def resize(
    x: Float[Tensor, "v c h w"], size: int | tuple[int, int], antialias: bool = True
) -> Float[Tensor, "v c h2 w2"]:
    """Resize bilinearly, pixel areas aligned; `antialias` widens the filter where sizes shrink."""
    target = (size, size) if isinstance(size, int) else size
    if tuple(x.shape[-2:]) == target:
        return x
    # Where it grows, antialiasing changes nothing but the time.
    shrinks = target[0] < x.shape[-2] or target[1] < x.shape[-1]
    return F.interpolate(
        x, target, mode="bilinear", align_corners=False, antialias=antialias and shrinks
    )

"""Convolutions of StyleGAN2 (Karras et al. 2020b): resampled, and modulated by styles.

Activations are leaky ReLU 0.2 with gain sqrt(2). A leaky ReLU commutes with positive factors, so
gains are folded into weights, demodulation factors and biases. This saves a pass over activations.

Images and kernels have their channels innermost in memory, as 16-bit units of GPUs require. At 128
channels and 512 pixels a CPU convolves them 1.25 times (float32) or 4.5 times (bfloat16) as fast.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.networks.resample import fir

Activation = Literal["linear", "lrelu"]

GAINS = {"linear": 1.0, "lrelu": math.sqrt(2)}
"""Gain of an activation, which keeps the variance of its input."""
SLOPE = 0.2
DEMOD_EPS = 1e-8

_CONVOLUTIONS = {4: (F.conv2d, F.conv_transpose2d), 5: (F.conv3d, F.conv_transpose3d)}


def kernel_parameter(weight: Float[Tensor, "o i *kernel"]) -> nn.Parameter:
    """Make a kernel trainable, in the memory layout of images."""
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(weight)


def convolve(
    x: Float[Tensor, "v i *size"],
    weight: Float[Tensor, "o i *kernel"],
    bias: Float[Tensor, " o"] | None = None,
    up: int = 1,
    down: int = 1,
) -> Float[Tensor, "v o *out"]:
    """Convolve with an odd kernel and zero padding, with FIR-filtered up- or downsampling by 2.

    Upsampling (without bias): zeros between the samples, the kernel (as a true convolution,
    mirrored against the correlation of the other cases), then the FIR filter with gain 2 per axis.
    Downsampling: the FIR filter, then the strided kernel. Both as in StyleGAN2, so that its weights
    fit. Computed in the precision of `x`.
    """
    k = weight.shape[-1]
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if down == 2:
        x = fir(x, 1 + k // 2, stride=2 if k == 1 else 1)
    if k == 1 and x.ndim == 4:
        # A matrix product: torch's convolution with one tap is slow on a CPU.
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    conv, transposed = _CONVOLUTIONS[x.ndim]
    # On a CPU, volumes of odd widths are up to twice as fast with the channels innermost.
    wide = weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0
    odd = x.ndim == 5 and x.device.type == "cpu" and k > 1 and not wide
    if odd:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    if up == 2:
        y = transposed(x, weight.transpose(0, 1), stride=2)
    elif down == 2 and k > 1:
        y = conv(x, weight, bias, stride=2)
    else:
        y = conv(x, weight, bias, padding=k // 2)
    if odd:
        y = y.contiguous()
    # Half a kernel outside is within the filter's reach of the border pixels.
    return fir(y, 2 - k // 2, gain=2.0) if up == 2 else y


def clamped(x: Float[Tensor, "*s"], bound: float | None) -> Float[Tensor, "*s"]:
    """Clamp to [-bound, bound], if there is a bound.

    By `hardtanh`: its gradient is one pass, that of `clamp` five.
    """
    return x if bound is None else F.hardtanh(x, -bound, bound)


class Affine(NamedTuple):
    """The map scale * y + shift + strength * noise that follows a modulated convolution."""

    scale: Float[Tensor, "v o"]
    """Demodulation, times the gain of the activation."""
    shift: Float[Tensor, " o"]
    noise: Float[Tensor, "*n"] | None = None
    """Of the output's size, or one per sample."""
    strength: Float[Tensor, ""] | None = None


def demodulation(
    weight: Float[Tensor, "o i *kernel"], style: Float[Tensor, "v i"], gain: float = 1.0
) -> Float[Tensor, "v o"]:
    """Return the factors that scale each weight * style to the norm `gain` per output channel."""
    power = weight.square().flatten(2).sum(2)
    eps = _demod_eps(style.dtype, style.device)
    # rsqrt(p / gain^2) = gain * rsqrt(p), in two operations instead of four.
    scaled = torch.addmm(eps, style.square(), power.T, beta=gain**-2, alpha=gain**-2)
    return scaled.rsqrt()


def modulated_layer(
    x: Float[Tensor, "v i *size"],
    weight: Float[Tensor, "o i *kernel"],
    style: Float[Tensor, "v i"],
    affine: Affine,
    up: int,
    clamp: float | None,
) -> Float[Tensor, "v o *out"]:
    """Modulated convolution (Karras et al. 2020b, eqs. 1-3), noise, bias, leaky ReLU, clamp.

    leaky_relu(scale convolve(x style, weight, up) + shift + strength noise). Each sample has its
    own weight * style. Scaling input and output instead needs one weight for the whole batch.
    """
    ones = [1] * (x.ndim - 2)
    scale, shift, noise, strength = affine
    y = convolve(x * style.reshape(*style.shape, *ones).to(x.dtype), weight, up=up)
    added = shift.reshape(-1, *ones)
    if noise is not None and strength is not None:
        added = torch.addcmul(added, noise, strength)
    factors = scale.reshape(*scale.shape, *ones).to(y.dtype)
    y = F.leaky_relu(torch.addcmul(added.to(y.dtype), y, factors), SLOPE, inplace=True)
    return clamped(y, clamp)


def within_float16(
    weight: Float[Tensor, "o i *kernel"], style: Float[Tensor, "v i"]
) -> tuple[Float[Tensor, "o i *kernel"], Float[Tensor, "v i"]]:
    """Scale weight and style so that sums of products stay in float16's range.

    Demodulation reverts the scales. As Karras et al. (2020b, appendix) with the largest magnitudes:
    sums of random terms then grow as the root of their number, others are left to `conv_clamp`.
    """
    largest = weight.detach().abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1))
    fan_in = weight[0].numel()
    return (
        weight / (largest * math.sqrt(fan_in)),
        style / style.detach().abs().amax(dim=1, keepdim=True),
    )


@lru_cache(maxsize=8)
def _demod_eps(dtype: torch.dtype, device: torch.device) -> Float[Tensor, " 1"]:
    with torch.inference_mode(False):
        return torch.full([1], DEMOD_EPS, dtype=dtype, device=device)

"""StyleGAN3's filtered nonlinearity (Karras et al. 2021, section 3.1): leaky ReLU without aliasing.

The image is upsampled, activated at the higher rate, and downsampled, each with a low-pass filter.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.networks import fused


@dataclass(frozen=True, eq=False)
class FilteredActivation:
    """Filters, rates and activation of `filtered_lrelu`.

    Filters are tensors on the device of the image, in any floating-point dtype, and have no
    gradient.
    """

    up_filter: Float[Tensor, " taps"]
    """Separable low-pass filter after the zeros, of sum 1."""
    down_filter: Float[Tensor, "*taps"] | None = None
    """Separable (1-D) or radial (2-D, square) low-pass filter, of sum 1; None: no filter."""
    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (0, 0)
    """Zeros before and after both axes at the high rate; negative: samples to cut off."""
    gain: float = math.sqrt(2)
    slope: float = 0.2
    clamp: float | None = 256.0
    """Bound of the magnitude of an activation."""

    def __post_init__(self) -> None:
        """Check the filters."""
        assert self.up_filter.ndim == 1, "`up_filter` must be separable"
        shape = () if self.down_filter is None else self.down_filter.shape
        assert len(shape) < 2 or (len(shape) == 2 and shape[0] == shape[1]), (
            "`down_filter` must be 1-D or a square"
        )

    @property
    def taps(self) -> tuple[int, int]:
        """Taps of both filters along an axis."""
        return len(self.up_filter), 1 if self.down_filter is None else len(self.down_filter)

    def size(self, n: int) -> tuple[int, int]:
        """Return the size of an axis of `n` pixels at the high rate, and in the result."""
        high = n * self.up + sum(self.padding) - self.taps[0] + 1
        size = (high - self.taps[1]) // self.down + 1
        assert size > 0, f"{n} pixels are too few for filters of {self.taps} taps"
        return high, size


def filtered_lrelu(
    x: Float[Tensor, "v c h w"], bias: Float[Tensor, " c"], activation: FilteredActivation
) -> Float[Tensor, "v c h2 w2"]:
    """Add the bias, upsample, apply the leaky ReLU with gain and clamp, downsample.

    Upsampling: up - 1 zeros after each pixel, padding, the filter with gain `up` per axis. Filters
    are true convolutions within the padded image. Downsampling: the filter, then every `down`-th
    sample from the first. In the dtype of `x`. Differentiable by `x` and `bias`: once by the
    kernels, any number of times by plain torch (`backend` names which).
    """
    kernel, _ = _find_kernel(x, activation)
    if kernel is None:
        return plain(x, bias, activation)
    from lightning_gan3d.networks.fused.filtered import FilteredLReLU

    keep = torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad)
    y: Tensor = FilteredLReLU.apply(kernel, activation, keep, x.float(), bias.float())
    return y.to(x.dtype)


def backend(like: Float[Tensor, "a b c d"], activation: FilteredActivation) -> str:
    """Name what computes `filtered_lrelu` for images of the device and dtype of `like`.

    Such as `numba, AVX-512`, or `plain torch (numba is missing: ...)` with the reason.
    """
    kernel, reason = _find_kernel(like, activation)
    return f"plain torch ({reason})" if kernel is None else str(kernel.name)


def _find_kernel(like: Tensor, activation: FilteredActivation) -> tuple[Any, str]:
    device, dtypes = like.device.type, (torch.float32, torch.float16, torch.bfloat16)
    try:
        if device == "cuda" and like.dtype in dtypes and not torch.compiler.is_compiling():
            from lightning_gan3d.networks.fused import filtered_gpu

            why = filtered_gpu.unsupported(activation) or filtered_gpu.find_fault(like.device)
            return (None, why) if why else (filtered_gpu.KERNEL, "")
        if device == "cpu":
            from lightning_gan3d.networks.fused import filtered_cpu

            if fused.serves(like):
                return filtered_cpu.KERNEL, ""
    except ImportError as error:
        return None, str(error)
    needs = "kernels need float32 or bfloat16 on cpu or cuda, or float16 on cuda"
    return None, f"{like.dtype} on {device}; {needs}"


def plain(
    x: Float[Tensor, "v c h w"], bias: Float[Tensor, " c"], activation: FilteredActivation
) -> Float[Tensor, "v c h2 w2"]:
    """Compute `filtered_lrelu` by torch; it keeps the image at the high rate."""
    a = activation
    v, c, h, w = x.shape
    (_, height), (_, width) = a.size(h), a.size(w)
    y = (x + bias.to(x.dtype).reshape(-1, 1, 1)).reshape(v * c, 1, h, w)
    low, high = a.padding
    taps = a.up_filter.to(y) * a.up
    y = F.conv_transpose2d(y, taps.reshape(1, 1, -1, 1), stride=(a.up, 1))
    y = F.conv_transpose2d(y, taps.reshape(1, 1, 1, -1), stride=(1, a.up))
    # The whole convolution reaches taps - 1 samples beyond the image at both ends.
    first, last = low + 1 - len(taps), high + a.up - len(taps)
    y = F.pad(y, (first, last, first, last))
    y = F.leaky_relu(y, a.slope) * a.gain
    if a.clamp is not None:
        y = F.hardtanh(y, -a.clamp, a.clamp)
    if a.down_filter is None:
        y = y[..., :: a.down, :: a.down]
    elif a.down_filter.ndim == 2:
        y = F.conv2d(y, a.down_filter.to(y).flip(0, 1)[None, None], stride=a.down)
    else:
        taps = a.down_filter.to(y).flip(0)
        y = F.conv2d(y, taps.reshape(1, 1, -1, 1), stride=(a.down, 1))
        y = F.conv2d(y, taps.reshape(1, 1, 1, -1), stride=(1, a.down))
    return y.reshape(v, c, height, width)

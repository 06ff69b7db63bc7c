"""Layers of StyleGAN2 (Karras et al. 2020b): equalised learning rate, modulated convolution, noise.

One implementation serves images (`dims=2`) and volumes (`dims=3`). Activations are leaky ReLU 0.2
with gain sqrt(2). Because a leaky ReLU commutes with positive factors, gains are folded into
weights, demodulation factors and biases, which are small, instead of being a pass over the
activations.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.resample import fir

Activation = Literal["linear", "lrelu"]
NoiseMode = Literal["const", "random", "none"]

GAINS = {"linear": 1.0, "lrelu": math.sqrt(2)}
"""Gain of an activation, chosen so that it keeps the variance of its input."""
SLOPE = 0.2
DEMOD_EPS = 1e-8


def normalize_second_moment(x: Float[Tensor, "b c"], eps: float = 1e-8) -> Float[Tensor, "b c"]:
    """Divide each row by its root mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1).

    Stored weights start with standard deviation 1 / lr_mul. The effective weight is
    weight * lr_mul / sqrt(in_dim), the effective bias bias * lr_mul, which starts at `bias_init`.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        activation: Activation = "linear",
        lr_mul: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_dim,), bias_init / lr_mul))
        self.weight_gain = GAINS[activation] * lr_mul / math.sqrt(in_dim)
        self.bias_gain = GAINS[activation] * lr_mul

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Map the last axis."""
        y = torch.addmm(
            self.bias,
            x.reshape(-1, x.shape[-1]),
            self.weight.T,
            beta=self.bias_gain,
            alpha=self.weight_gain,
        )
        y = y.reshape(*x.shape[:-1], -1)
        return F.leaky_relu(y, SLOPE) if self.activation == "lrelu" else y


_CONVOLUTIONS = {
    4: (F.conv2d, F.conv_transpose2d, torch.channels_last),
    5: (F.conv3d, F.conv_transpose3d, torch.channels_last_3d),
}


def convolve(
    x: Float[Tensor, "v i *size"],
    weight: Float[Tensor, "o i *kernel"],
    bias: Float[Tensor, " o"] | None = None,
    up: int = 1,
    down: int = 1,
) -> Float[Tensor, "v o *out"]:
    """Convolve with an odd kernel and zero padding, with FIR-filtered up- or downsampling by 2.

    Upsampling (which takes no bias): zeros between the samples, the kernel (as a true convolution,
    mirrored against the correlation of the other cases), then the FIR filter with gain 2 per axis.
    Downsampling: the FIR filter, then the strided kernel. Both as in StyleGAN2, so that its weights
    can be read.
    """
    k = weight.shape[-1]
    if down == 2:
        x = fir(x, 1 + k // 2, stride=2 if k == 1 else 1)
    conv, transposed, layout = _CONVOLUTIONS[x.ndim]
    # On a CPU, odd widths are up to twice as fast with the channels innermost.
    odd = x.device.type == "cpu" and k > 1 and (weight.shape[0] % 16 or weight.shape[1] % 16)
    if odd:
        x = x.contiguous(memory_format=layout)
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


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, bias, activation: the discriminator's layer."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: int,
        activation: Activation = "lrelu",
        bias: bool = True,
        down: int = 1,
        gain: float = 1.0,
        conv_clamp: float | None = None,
    ) -> None:
        """Draw the weights; `gain` scales the output, after the activation and before the clamp."""
        super().__init__()
        self.activation, self.down = activation, down
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None
        self.bias_gain = GAINS[activation] * gain
        self.weight_gain = self.bias_gain / math.sqrt(in_dim * kernel**2)
        self.clamp = None if conv_clamp is None else conv_clamp * gain

    def forward(self, x: Float[Tensor, "v i h w"]) -> Float[Tensor, "v o h2 w2"]:
        """Convolve, activate, clamp."""
        bias = None if self.bias is None else self.bias * self.bias_gain
        y = convolve(x, self.weight * self.weight_gain, bias, down=self.down)
        if self.activation == "lrelu":
            y = F.leaky_relu(y, SLOPE)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def modulated_convolve(
    x: Float[Tensor, "v i *size"],
    weight: Float[Tensor, "o i *kernel"],
    style: Float[Tensor, "v i"],
    up: int = 1,
    gain: float = 1.0,
) -> tuple[Float[Tensor, "v o *out"], Float[Tensor, "v o"]]:
    """Modulated convolution (Karras et al. 2020b, eqs. 1-3), and the factors that demodulate it.

    Each sample has its own weight * style, scaled to the norm `gain` per output channel. Scaling
    the input by the style and the output by the demodulation factors is the same thing with one
    weight for the whole batch. The factors are returned, not applied, so that the caller folds them
    with bias and noise in one pass.
    """
    y = convolve(x * style.reshape(*style.shape, *[1] * (x.ndim - 2)), weight, up=up)
    power = weight.square().flatten(2).sum(2)
    eps = _demod_eps(style.dtype, style.device)
    # rsqrt(p / gain^2) = gain * rsqrt(p), in two operations instead of four.
    scaled = torch.addmm(eps, style.square(), power.T, beta=gain**-2, alpha=gain**-2)
    return y, scaled.rsqrt()


@lru_cache(maxsize=8)
def _demod_eps(dtype: torch.dtype, device: torch.device) -> Float[Tensor, " 1"]:
    with torch.inference_mode(False):
        return torch.full([1], DEMOD_EPS, dtype=dtype, device=device)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU: one layer of a synthesis network."""

    noise_const: Tensor

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        w_dim: int,
        resolution: int,
        up: int = 1,
        dims: int = 2,
        use_noise: bool = True,
        conv_clamp: float | None = None,
    ) -> None:
        """Draw weights and the constant noise; `resolution` is that of the output."""
        super().__init__()
        self.up, self.dims, self.resolution, self.use_noise, self.clamp = (
            up,
            dims,
            resolution,
            use_noise,
            conv_clamp,
        )
        self.affine = FullyConnected(w_dim, in_dim, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, *[3] * dims))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn([resolution] * dims))

    def forward(
        self,
        x: Float[Tensor, "v i *size"],
        w: Float[Tensor, "v w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Float[Tensor, "v o *out"]:
        """Apply the layer to v samples, each with its style."""
        gain = GAINS["lrelu"]
        y, demod = modulated_convolve(x, self.weight, self.affine(w), self.up, gain)
        shift = (self.bias * gain).reshape(-1, *[1] * self.dims)
        if self.use_noise and noise_mode != "none":
            noise = self._noise(x, noise_mode, draws)
            shift = torch.addcmul(shift, noise, self.noise_strength * gain)
        # Under autocast the activations stay in the convolution's precision.
        factors = demod.reshape(*demod.shape, *[1] * self.dims).to(y.dtype)
        y = F.leaky_relu(torch.addcmul(shift.to(y.dtype), y, factors), SLOPE)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)

    def _noise(self, x: Tensor, noise_mode: NoiseMode, draws: Draws | None) -> Tensor:
        if noise_mode == "const":
            return self.noise_const
        if draws is None:
            raise ValueError(
                "noise_mode='random' needs draws; pass draws, or noise_mode 'const' or 'none'"
            )
        shape = [x.shape[0], 1, *[self.resolution] * self.dims]
        return draws.normal("noise", shape, x.device, on_device=True).to(self.bias.dtype)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation: features to colours, planes or voxels."""

    def __init__(
        self, in_dim: int, out_dim: int, w_dim: int, dims: int = 2, conv_clamp: float | None = None
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.dims, self.clamp = dims, conv_clamp
        self.affine = FullyConnected(w_dim, in_dim, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, *[1] * dims))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.weight_gain = 1 / math.sqrt(in_dim)

    def forward(
        self, x: Float[Tensor, "v i *size"], w: Float[Tensor, "v w_dim"]
    ) -> Float[Tensor, "v o *size"]:
        """Apply the layer to v samples, each with its style."""
        # A 1x1 kernel per sample is small: one batched product reads the features once.
        style = self.affine(w) * self.weight_gain
        weight = self.weight.flatten(1) * style[:, None, :]
        bias = self.bias.reshape(1, -1, 1).expand(x.shape[0], -1, 1)
        y = torch.baddbmm(bias, weight, x.flatten(2)).reshape(*weight.shape[:2], *x.shape[2:])
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)

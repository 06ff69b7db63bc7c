"""Layers of StyleGAN2 (Karras et al. 2020b): equalised learning rate, modulated convolution, noise.

One implementation serves images (`dims=2`) and volumes (`dims=3`). Activations are leaky ReLU 0.2
with gain sqrt(2). Because a leaky ReLU commutes with positive factors, gains are folded into
weights, demodulation factors and biases, which are small, instead of being a pass over the
activations.

Images have their channels innermost in memory, and so have the kernels: at 128 channels and 512
pixels a CPU convolves them 1.25 times as fast in float32 and 4.5 times in bfloat16, and a GPU's
16-bit units know nothing else. What is computed with 16 bits is what the layers are given;
styles, demodulation factors, biases and noise are float32 throughout.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks import fused
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


_CONVOLUTIONS = {4: (F.conv2d, F.conv_transpose2d), 5: (F.conv3d, F.conv_transpose3d)}


def kernel_parameter(weight: Float[Tensor, "o i *kernel"]) -> nn.Parameter:
    """Make a kernel trainable, in the layout in which images are convolved."""
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

    Upsampling (which takes no bias): zeros between the samples, the kernel (as a true convolution,
    mirrored against the correlation of the other cases), then the FIR filter with gain 2 per axis.
    Downsampling: the FIR filter, then the strided kernel. Both as in StyleGAN2, so that its weights
    can be read. Computed in the precision of `x`.
    """
    k = weight.shape[-1]
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if down == 2:
        x = fir(x, 1 + k // 2, stride=2 if k == 1 else 1)
    if k == 1 and x.ndim == 4:
        # A product of matrices, for which torch's convolution has a slow path on a CPU.
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
    """Clamp to [-bound, bound], if there is one.

    By `hardtanh`, whose gradient is one pass where that of `clamp` is five.
    """
    return x if bound is None else F.hardtanh(x, -bound, bound)


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
        self.weight = kernel_parameter(torch.randn(out_dim, in_dim, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None
        self.bias_gain = GAINS[activation] * gain
        self.weight_gain = self.bias_gain / math.sqrt(in_dim * kernel**2)
        self.clamp = None if conv_clamp is None else conv_clamp * gain

    def forward(self, x: Float[Tensor, "v i h w"]) -> Float[Tensor, "v o h2 w2"]:
        """Convolve, activate, clamp."""
        bias = None if self.bias is None else self.bias * self.bias_gain
        y = convolve(x, self.weight * self.weight_gain, bias, down=self.down)
        if self.activation == "lrelu":
            # A convolution does not need its result; with a single tap that is a view of another.
            y = F.leaky_relu(y, SLOPE, inplace=self.weight.shape[-1] > 1)
        return clamped(y, self.clamp)


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
    scale: Float[Tensor, "v o"],
    shift: Float[Tensor, " o"],
    noise: Float[Tensor, "*n"] | None,
    strength: Float[Tensor, ""] | None,
    up: int,
    clamp: float | None,
) -> Float[Tensor, "v o *out"]:
    """Modulated convolution (Karras et al. 2020b, eqs. 1-3), noise, bias, leaky ReLU, clamp.

    leaky_relu(scale convolve(x style, weight, up) + shift + strength noise). Each sample has its
    own weight * style, demodulated by its `scale`. Scaling the input and the output is the same
    thing with one weight for the whole batch.
    """
    ones = [1] * (x.ndim - 2)
    y = convolve(x * style.reshape(*style.shape, *ones).to(x.dtype), weight, up=up)
    added = shift.reshape(-1, *ones)
    if noise is not None and strength is not None:
        added = torch.addcmul(added, noise, strength)
    factors = scale.reshape(*scale.shape, *ones).to(y.dtype)
    y = F.leaky_relu(torch.addcmul(added.to(y.dtype), y, factors), SLOPE, inplace=True)
    return clamped(y, clamp)


def _within_float16(
    weight: Float[Tensor, "o i *kernel"], style: Float[Tensor, "v i"]
) -> tuple[Float[Tensor, "o i *kernel"], Float[Tensor, "v i"]]:
    """Scale what demodulation scales back, so that sums of products stay in float16's range.

    As Karras et al. (2020b, appendix) with the largest magnitudes: sums of many terms then grow as
    their root at most where terms are random, and by `conv_clamp` where they are not.
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
        self.weight = kernel_parameter(torch.randn(out_dim, in_dim, *[3] * dims))
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
        """Apply the layer to v samples, each with its style, in the precision of `x`."""
        gain = GAINS["lrelu"]
        weight: Tensor = self.weight
        style = self.affine(w)
        if x.dtype == torch.float16:
            weight, style = _within_float16(weight, style)
        noise = strength = None
        if self.use_noise and noise_mode != "none":
            noise, strength = self._noise(x, noise_mode, draws), self.noise_strength * gain
        shift = self.bias * gain
        sides = weight, style, shift, noise, strength
        # Projectors optimise the noise, by which the fused layer does not differentiate.
        by_noise = noise is not None and noise.requires_grad and torch.is_grad_enabled()
        if fused.serves(x, *weight.shape[:2]) and fused.reads(*sides) and not by_noise:
            from lightning_gan3d.networks.fused import layer

            if len(x) == 1 and not torch.is_grad_enabled():
                # One sample's style is a pass over the weight instead of one over the image.
                weight = weight * style[0, :, None, None]
                norm = torch.linalg.vector_norm(weight.permute(0, 2, 3, 1).flatten(1), dim=1)
                demod = gain * (norm.square() + DEMOD_EPS).rsqrt()[None]
                return layer.single(x, weight, demod, shift, noise, strength, self.up, self.clamp)
            form = layer.modulated
        else:
            form = modulated_layer
        demod = demodulation(weight, style, gain)
        return form(x, weight, style, demod, shift, noise, strength, self.up, self.clamp)

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
        """Apply the layer to v samples, each with its style, in the precision of `x`."""
        # A 1x1 kernel per sample is small: one batched product reads the features once.
        style = self.affine(w) * self.weight_gain
        weight = (self.weight.flatten(1) * style[:, None, :]).to(x.dtype)
        bias = self.bias.to(x.dtype)
        if x.ndim == 4:
            v, _, height, width = x.shape
            rows = x.permute(0, 2, 3, 1).reshape(v, height * width, -1)
            y = torch.baddbmm(bias.expand(v, len(rows[0]), -1), rows, weight.mT)
            y = y.reshape(v, height, width, -1).permute(0, 3, 1, 2)
        else:
            bias = bias.reshape(1, -1, 1).expand(x.shape[0], -1, 1)
            y = torch.baddbmm(bias, weight, x.flatten(2)).reshape(*weight.shape[:2], *x.shape[2:])
        return clamped(y, self.clamp)

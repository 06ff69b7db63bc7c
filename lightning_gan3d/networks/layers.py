"""Layers of StyleGAN2 (Karras et al. 2020b): equalised learning rate, modulation, noise.

One implementation serves images (`dims=2`) and volumes (`dims=3`). Activations have the precision
of a layer's input; styles, demodulation factors, biases and noise are float32 throughout.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks import fused
from lightning_gan3d.networks.convolution import (
    DEMOD_EPS,
    GAINS,
    SLOPE,
    Activation,
    Affine,
    clamped,
    convolve,
    demodulation,
    kernel_parameter,
    modulated_layer,
    within_float16,
)

NoiseMode = Literal["const", "random", "none"]


def normalize_second_moment(
    x: Float[Tensor, "b c *size"], eps: float = 1e-8
) -> Float[Tensor, "b c *size"]:
    """Divide each row, or the channels of each pixel, by their root mean square."""
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
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim).div_(lr_mul))
        self.bias = nn.Parameter(torch.full((out_dim,), bias_init / lr_mul))
        self.weight_gain = GAINS[activation] * lr_mul / math.sqrt(in_dim)
        self.bias_gain = GAINS[activation] * lr_mul

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Map the last axis."""
        rows = x.reshape(-1, x.shape[-1])
        weight, gains = self.weight.T, (self.bias_gain, self.weight_gain)
        y = torch.addmm(self.bias, rows, weight, beta=gains[0], alpha=gains[1])
        y = y.reshape(*x.shape[:-1], -1)
        return F.leaky_relu(y, SLOPE) if self.activation == "lrelu" else y


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, bias, activation: the discriminator's layer.

    `linear` is without bias. `residual`, for the branches of a residual block: halve the size, and
    scale by sqrt(1/2) after the activation and before the clamp.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: int,
        activation: Activation = "lrelu",
        residual: bool = False,
        conv_clamp: float | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        gain = math.sqrt(0.5) if residual else 1.0
        self.activation, self.down = activation, 2 if residual else 1
        self.weight = kernel_parameter(torch.randn(out_dim, in_dim, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_dim)) if activation != "linear" else None
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


@dataclass(frozen=True)
class LayerOptions:
    """What the layers of a synthesis network have in common."""

    w_dim: int
    dims: int = 2
    """2 for images, 3 for volumes."""
    use_noise: bool = True
    conv_clamp: float | None = None


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU: one layer of a synthesis network."""

    noise_const: Tensor

    def __init__(
        self, in_dim: int, out_dim: int, resolution: int, options: LayerOptions, up: int = 1
    ) -> None:
        """Draw weights and the constant noise; `resolution` is that of the output."""
        super().__init__()
        self.up, self.resolution, self.options = up, resolution, options
        self.affine = FullyConnected(options.w_dim, in_dim, bias_init=1.0)
        self.weight = kernel_parameter(torch.randn(out_dim, in_dim, *[3] * options.dims))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        if options.use_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn([resolution] * options.dims))

    def forward(
        self,
        x: Float[Tensor, "v i *size"],
        w: Float[Tensor, "v w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Float[Tensor, "v o *out"]:
        """Apply the layer to v samples, each with its style, in the precision of `x`."""
        gain, clamp = GAINS["lrelu"], self.options.conv_clamp
        weight: Tensor = self.weight
        style = self.affine(w)
        if x.dtype == torch.float16:
            weight, style = within_float16(weight, style)
        noise = strength = None
        if self.options.use_noise and noise_mode != "none":
            noise, strength = self._noise(x, noise_mode, draws), self.noise_strength * gain
        shift = self.bias * gain
        # Projection optimises the noise, by which the fused layer does not differentiate.
        by_noise = noise is not None and noise.requires_grad and torch.is_grad_enabled()
        form = modulated_layer
        if (
            fused.serves(x, *weight.shape[:2])
            and fused.reads(weight, style, shift, noise, strength)
            and not by_noise
        ):
            from lightning_gan3d.networks.fused import layer

            if len(x) == 1 and not torch.is_grad_enabled():
                # One sample's style is a pass over the weight instead of one over the image.
                weight = weight * style[0, :, None, None]
                norm = torch.linalg.vector_norm(weight.permute(0, 2, 3, 1).flatten(1), dim=1)
                demod = gain * (norm.square() + DEMOD_EPS).rsqrt()[None]
                return layer.single(
                    x, weight, Affine(demod, shift, noise, strength), self.up, clamp
                )
            form = layer.modulated
        affine = Affine(demodulation(weight, style, gain), shift, noise, strength)
        return form(x, weight, style, affine, self.up, clamp)

    def _noise(self, x: Tensor, noise_mode: NoiseMode, draws: Draws | None) -> Tensor:
        if noise_mode == "const":
            return self.noise_const
        if draws is None:
            raise ValueError(
                "noise_mode='random' needs draws; pass draws, or noise_mode 'const' or 'none'"
            )
        shape = [x.shape[0], 1, *[self.resolution] * self.options.dims]
        return draws.normal("noise", shape, x.device, on_device=True).to(self.bias.dtype)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation: features to colours, planes or voxels."""

    def __init__(self, in_dim: int, out_dim: int, options: LayerOptions) -> None:
        """Draw the weights."""
        super().__init__()
        self.clamp = options.conv_clamp
        self.affine = FullyConnected(options.w_dim, in_dim, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, *[1] * options.dims))
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

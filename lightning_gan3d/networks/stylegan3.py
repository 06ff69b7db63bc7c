"""StyleGAN3's synthesis network (Karras et al. 2021), configurations T and R: alias-free layers."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks import band_limits
from lightning_gan3d.networks.band_limits import Signal, StyleGAN3Config
from lightning_gan3d.networks.convolution import demodulation
from lightning_gan3d.networks.filtered_lrelu import FilteredActivation, filtered_lrelu
from lightning_gan3d.networks.layers import FullyConnected, LayerOptions, NoiseMode, ToRGB
from lightning_gan3d.networks.precision import MixedPrecision, without_autocast

MAGNITUDE_HALF_LIFE = 20_000
"""Images after which half of `magnitude_ema` is new."""


class FourierInput(nn.Module):
    """Sines of random frequencies below the cutoff, rotated and translated by w and `transform`.

    `transform` is the caller's affine map from coordinates of the picture to those of the input, in
    image sides: a picture shifted by t has transform[:2, 2] = -t. With `affine` = None, w has no
    effect.
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, signal: Signal, w_dim: int) -> None:
        """Draw frequencies, phases and weights."""
        super().__init__()
        self.signal, channels = signal, signal.channels
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine: FullyConnected | None = FullyConnected(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        freqs = torch.randn(channels, 2)
        radius = freqs.norm(dim=1, keepdim=True)
        # A 2D normal point is further than r with probability exp(-r^2 / 2), so points of radius
        # exp(-r^2 / 4) are uniform in the unit disc.
        freqs = freqs / (radius * (radius.square() / 4).exp()) * signal.cutoff
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Float[Tensor, "v w_dim"]) -> Float[Tensor, "v c size size"]:
        """Sample the canvas, in the precision of the weights."""
        turn, shift = self.transform[None, :2, :2], self.transform[None, :2, 2:]
        if self.affine is not None:
            t = self.affine(w)
            cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
            rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
            turn = rotation @ turn
            shift = rotation @ (shift - torch.stack([x, y], dim=1)[:, :, None])
        freqs, phases = self.freqs @ turn, self.phases + (self.freqs @ shift)[:, :, 0]
        rate, size, cutoff = self.signal.rate, self.signal.size, self.signal.cutoff
        # Frequencies fade out between the cutoff and half the sampling rate.
        amplitudes = (1 - (freqs.norm(dim=2) - cutoff) / (rate / 2 - cutoff)).clamp(0, 1)
        axis = (torch.arange(size, device=w.device, dtype=freqs.dtype) - (size - 1) / 2) / rate
        points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=2)
        cycles = points.view(1, -1, 2) @ freqs.mT + phases[:, None]
        waves = (cycles * (2 * torch.pi)).sin() * amplitudes[:, None]
        canvas = F.linear(waves, self.weight / math.sqrt(len(self.weight)))
        canvas = canvas.view(-1, size, size, len(self.weight)).permute(0, 3, 1, 2)
        return canvas.expand(len(w), -1, -1, -1)


class AliasFreeLayer(MixedPrecision):
    """Modulated convolution and filtered leaky ReLU, from one sampling of the image to another.

    All samples share the weights: their styles scale the input, demodulation scales the output. The
    input is divided by the root of `magnitude_ema`, its running mean square (`InputMagnitudes`).
    """

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self, cfg: StyleGAN3Config, variant: str, w_dim: int, before: Signal, after: Signal
    ) -> None:
        """Draw the weights and design the filters; `before` and `after` of the layer."""
        super().__init__()
        kernel = 3 if variant == "t" else 1
        self.affine = FullyConnected(w_dim, before.channels, bias_init=1.0)
        weight = torch.randn(after.channels, before.channels, kernel, kernel)
        # Not channels last: gradients by these shapes take twice as long on a CPU.
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(after.channels))
        rate = cfg.lrelu_upsampling * max(before.rate, after.rate)
        up, down, n = rate // before.rate, rate // after.rate, cfg.filter_size
        radial = variant == "r" and not after.critical
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.register_buffer("up_filter", band_limits.lowpass(n * up, before, rate))
        self.register_buffer("down_filter", band_limits.lowpass(n * down, after, rate, radial))
        self.rates: dict[str, Any] = {"up": up, "down": down, "clamp": cfg.conv_clamp}
        canvas = before.size + kernel - 1
        self.rates["padding"] = band_limits.centred_padding(canvas, after.size, self.activation)

    @property
    def activation(self) -> FilteredActivation:
        """Filters and rates of the nonlinearity."""
        return FilteredActivation(self.up_filter, self.down_filter, **self.rates)

    def forward(
        self, x: Float[Tensor, "v i h w"], w: Float[Tensor, "v w_dim"]
    ) -> Float[Tensor, "v o h2 w2"]:
        """Apply the layer to v samples, each with its style."""
        x, style, weight = self.enter(x), self.affine(w), torch.as_tensor(self.weight)
        # Demodulation reverts both scales, which keep 16-bit numbers in range.
        style = style * style.square().mean(dim=1, keepdim=True).rsqrt()
        weight = weight * weight.square().sum(dim=(1, 2, 3), keepdim=True).rsqrt()
        scale = demodulation(weight, style) * self.magnitude_ema.rsqrt()
        # One sample's scales are a pass over the weight instead of two over the image.
        single = len(x) == 1 and not torch.is_grad_enabled()
        if single:
            weight = weight * scale.mT[:, :, None, None] * style[0, :, None, None]
        else:
            x = x * style[:, :, None, None].to(x.dtype)
        weight = weight.to(x.dtype)
        if weight.shape[-1] == 1:
            y = (weight.flatten(1) @ x.flatten(2)).view(len(x), -1, *x.shape[2:])
        else:
            y = F.conv2d(x, weight, padding=weight.shape[-1] - 1)
        if not single:
            y = y * scale[:, :, None, None].to(x.dtype)
        return filtered_lrelu(y, self.bias, self.activation)


class AliasFreeToRGB(ToRGB):
    """The output layer: a modulated 1x1 convolution, without demodulation and nonlinearity."""

    magnitude_ema: Tensor

    def __init__(self, in_dim: int, out_dim: int, options: LayerOptions) -> None:
        """Draw the weights."""
        super().__init__(in_dim, out_dim, options)
        self.register_buffer("magnitude_ema", torch.ones([]))

    def forward(
        self, x: Float[Tensor, "v i h w"], w: Float[Tensor, "v w_dim"]
    ) -> Float[Tensor, "v o h w"]:
        """Apply the layer to v samples, each with its style."""
        return super().forward(x * self.magnitude_ema.rsqrt().to(x.dtype), w)


class AliasFreeStack(nn.Module):
    """Layers L0, L1, ... from an input signal to an image; names have the canvas and the channels.

    `variant`: "t", 3x3 kernels, equivariant to translation, or "r", 1x1 kernels, to rotation too.
    """

    def __init__(
        self, cfg: StyleGAN3Config, variant: str, w_dim: int, signals: Sequence[Signal]
    ) -> None:
        """Build; `signals`: the input, the outputs of the layers, the image."""
        super().__init__()
        self.cfg, self.names = cfg, []
        for i, (before, after) in enumerate(pairwise(signals)):
            if i < cfg.num_layers:
                layer: nn.Module = AliasFreeLayer(cfg, variant, w_dim, before, after)
            else:
                options = LayerOptions(w_dim, conv_clamp=cfg.conv_clamp)
                layer = AliasFreeToRGB(before.channels, after.channels, options)
            self.names.append(f"L{i}_{after.size}_{after.channels}")
            self.add_module(self.names[-1], layer)

    def image(
        self, x: Float[Tensor, "v i h w"], ws: Float[Tensor, "v n w_dim"]
    ) -> Float[Tensor, "v o r r"]:
        """Apply all layers, each with its style; the image is in the precision of `ws`."""
        with without_autocast(ws.device):
            for name, w in zip(self.names, ws.unbind(dim=1), strict=True):
                x = getattr(self, name)(x, w)
            return x.to(ws.dtype) * self.cfg.output_scale


class StyleGAN3Synthesis(AliasFreeStack):
    """StyleGAN3's synthesis network, to (b, out_channels, r, r); noise and draws have no effect.

    `num_ws` styles: of the input, of each layer, of the output layer.
    """

    def __init__(
        self, cfg: StyleGAN3Config, variant: str, w_dim: int, resolution: int, out_channels: int
    ) -> None:
        """Build for a resolution that is a power of two."""
        signals = band_limits.layer_signals(cfg, resolution)
        signals[-1] = signals[-1]._replace(channels=out_channels)
        super().__init__(cfg, variant, w_dim, [signals[0], *signals])
        self.input = FourierInput(signals[0], w_dim)
        self.num_ws = cfg.num_layers + 2

    @property
    def transform(self) -> Float[Tensor, "3 3"]:
        """The caller's inverse map of the input, `FourierInput.transform`; change it in place."""
        return self.input.transform

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # no noise
        draws: Draws | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Float[Tensor, "b c r r"]:
        """Return the image of each row of styles."""
        with without_autocast(ws.device):
            x = self.input(ws[:, 0])
        return self.image(x, ws[:, 1:])


class InputMagnitudes:
    """Updates `magnitude_ema` of a generator's alias-free layers from its forwards in training."""

    def __init__(self, generator: nn.Module) -> None:
        kinds = AliasFreeLayer, AliasFreeToRGB
        self.layers: list[Any] = [m for m in generator.modules() if isinstance(m, kinds)]

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Record a forward; the list then has the mean square (1,) of each layer's input."""
        seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in self.layers}
        squares: list[Tensor] = []

        def record(layer: nn.Module, args: Any) -> None:
            seen[layer].append(args[0].detach().float().square().mean())

        handles = [layer.register_forward_pre_hook(record) for layer in self.layers]
        try:
            yield squares
        finally:
            for handle in handles:
                handle.remove()
        squares += [torch.stack(values).mean()[None] for values in seen.values()]

    @torch.no_grad()
    def update(
        self, squares: Float[Tensor, " layers"], batch: int, healthy: Bool[Tensor, ""]
    ) -> None:
        """Move the running means toward those of a global batch, on the device; not if frozen."""
        decay = 0.5 ** (batch / MAGNITUDE_HALF_LIFE)
        for layer, square in zip(self.layers, squares, strict=True):
            if layer.weight.requires_grad:
                ema = layer.magnitude_ema
                ema.copy_(torch.where(healthy, torch.lerp(square.to(ema), ema, decay), ema))

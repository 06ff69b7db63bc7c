"""Sampling rates, bandwidths and low-pass filters of StyleGAN3 (Karras et al. 2021).

Signals are band-limited: each has a cutoff frequency and a transition band below or around half its
sampling rate. Frequencies and rates are in cycles and samples per image side. Canvases are larger
than the image by a margin, so that their borders are far from it.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError, Count, Positive
from lightning_gan3d.networks.filtered_lrelu import FilteredActivation


@dataclass(frozen=True)
class StyleGAN3Config:
    """Widths, rates and filters; defaults are those of configuration T.

    Configuration R has 1x1 kernels, radial filters and twice the channels: 65536 and 1024.
    """

    channel_base: Count = 32768
    """Channels of a layer of cutoff f are channel_base / (2 f), at most `channel_max`."""
    channel_max: Count = 512
    """Most channels of a layer."""
    num_layers: Annotated[int, Ge(2)] = 14
    """Layers before the output layer; there are two styles more."""
    num_critical: Annotated[int, Ge(1)] = 2
    """Last layers whose cutoff is half the resolution: sharp images, less equivariance."""
    first_cutoff: Positive = 2.0
    """Cutoff of the input, in cycles per image side; it grows geometrically."""
    first_stopband: Positive = 2**2.1
    """End of the input's transition band; it grows geometrically."""
    last_stopband_rel: Annotated[float, Gt(1)] = 2**0.3
    """End of the last transition band over its cutoff."""
    margin_size: Annotated[int, Ge(0)] = 10
    """Samples of a canvas beyond each side of the image."""
    output_scale: Positive = 0.25
    """Factor on the output."""
    conv_clamp: Positive | None = 256.0
    """Clamp activations to this magnitude."""
    filter_size: Annotated[int, Ge(2)] = 6
    """Taps of a filter per sample at the lower rate."""
    lrelu_upsampling: Literal[2, 4] = 2
    """Rate of an activation over the higher one of its layer's input and output."""

    def __post_init__(self) -> None:
        """Check across fields."""
        for name, low, bound in (
            ("num_critical", self.num_critical, "num_layers"),
            ("first_cutoff", self.first_cutoff, "first_stopband"),
        ):
            if low >= getattr(self, bound):
                text = f"stylegan3.{name}={low}: use less than {bound}={getattr(self, bound)}"
                raise ConfigError(text, field=name)


class Signal(NamedTuple):
    """Sampling and bandwidth of a layer's output."""

    rate: int
    """Samples per image side."""
    size: int
    """Samples per side of the canvas."""
    channels: int
    cutoff: float
    half_width: float
    """Of the transition band around the cutoff."""
    critical: bool = False
    """Sampled at twice the cutoff: the transition band aliases."""


def layer_signals(cfg: StyleGAN3Config, resolution: int) -> list[Signal]:
    """Outputs of the layers and of the output layer, for images of a power of two.

    Karras et al. 2021, section 3.2: cutoff and stopband grow geometrically; the rate is the power
    of two above twice the stopband, at most the resolution.
    """
    least = 2 ** math.floor(math.log2(4 * cfg.first_cutoff))
    if resolution < least or resolution & (resolution - 1):
        near = max(least, 2 ** round(math.log2(max(resolution, 1))))
        raise ConfigError(
            f"stylegan3: resolution={resolution}: use a power of two of {least} or more, e.g. "
            f"{near}",
            field="resolution",
        )
    last_cutoff = resolution / 2
    last_stopband = last_cutoff * cfg.last_stopband_rel
    signals = []
    for i in range(cfg.num_layers + 1):
        exponent = min(i / (cfg.num_layers - cfg.num_critical), 1)
        cutoff = cfg.first_cutoff * (last_cutoff / cfg.first_cutoff) ** exponent
        stopband = cfg.first_stopband * (last_stopband / cfg.first_stopband) ** exponent
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, resolution)))
        size = rate + 2 * cfg.margin_size if i < cfg.num_layers - 1 else rate
        channels = max(1, round(min(cfg.channel_base / 2 / cutoff, cfg.channel_max)))
        half_width = max(stopband, rate / 2) - cutoff
        signals.append(Signal(rate, size, channels, cutoff, half_width, exponent == 1))
    return signals


def lowpass(
    taps: int, signal: Signal, rate: int, radial: bool = False
) -> Float[Tensor, " taps"] | Float[Tensor, "taps taps"]:
    """Low-pass filter at `rate` for the band of a signal, of sum 1: Kaiser's window design.

    `radial`: in 2D, a jinc with the outer product of the window, for rotations.
    """
    # Kaiser's formulas for attenuation (dB) and beta, as scipy.signal, whose import takes seconds.
    attenuation = 2.285 * (taps - 1) * np.pi * (4 * signal.half_width / rate) + 7.95
    beta = 0.1102 * (attenuation - 8.7)
    if attenuation <= 50:
        above = max(attenuation - 21, 0)
        beta = 0.5842 * above**0.4 + 0.07886 * above
    window = np.kaiser(taps, beta)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    kernel = np.sinc(2 * signal.cutoff * x) * window
    if radial:
        radius = np.hypot(x, x[:, None])  # never 0: `taps` is even
        with torch.device("cpu"):
            waves = torch.special.bessel_j1(torch.from_numpy(2 * np.pi * signal.cutoff * radius))
        kernel = waves.numpy() / radius * np.outer(window, window)
    return torch.as_tensor(kernel / kernel.sum(), dtype=torch.float32)


def centred_padding(size: int, out: int, activation: FilteredActivation) -> tuple[int, int]:
    """Padding at the high rate that maps `size` to `out` pixels with the same centre."""
    up, down = activation.up, activation.down
    total = (out - 1) * down - 1 - size * up + sum(activation.taps)
    return (total + up) // 2, total - (total + up) // 2

"""The 2D synthesis network of StyleGAN2: styles to an image, or to tri-planes."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.layers import NoiseMode, SynthesisLayer, ToRGB
from lightning_gan3d.networks.precision import MixedPrecision, without_autocast
from lightning_gan3d.networks.resample import upsample_plus


@dataclass(frozen=True)
class SynthesisConfig:
    """Widths and options of a 2D synthesis network."""

    channel_base: int = 32768
    """Channels at resolution r are channel_base / r, at most `channel_max`."""
    channel_max: int = 512
    """Most channels of a layer."""
    channels: tuple[int, ...] | None = None
    """Channels at 4, 8, 16, ... up to the resolution, instead of the two above."""
    use_noise: bool = True
    """Add noise of learned strength to every layer."""
    conv_clamp: float | None = None
    """Clamp activations to this magnitude; EG3D's 16-bit layers use 256."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_channels("synthesis", self.channel_base, self.channel_max, self.channels)
        check_clamp("synthesis", self.conv_clamp)


def check_channels(
    name: str, channel_base: int, channel_max: int, channels: tuple[int, ...] | None
) -> None:
    """Refuse widths below 1, in the words of the configuration `name`."""
    for field, value in (("channel_base", channel_base), ("channel_max", channel_max)):
        if value < 1:
            raise ConfigError(
                f"{name}.{field}={value}: use a whole number of 1 or more", field=field
            )
    if channels is not None and (not channels or min(channels) < 1):
        raise ConfigError(
            f"{name}.channels={list(channels)}: use widths of 1 or more, e.g. [64, 64, 48, 24]",
            "channels",
        )


def check_clamp(name: str, conv_clamp: float | None) -> None:
    """Refuse a clamp that is not positive."""
    if conv_clamp is not None and not conv_clamp > 0:
        raise ConfigError(
            f"{name}.conv_clamp={conv_clamp}: use a positive number, e.g. 256, or null",
            "conv_clamp",
        )


def widths(
    name: str,
    resolution: int,
    channel_base: int,
    channel_max: int,
    channels: tuple[int, ...] | None,
) -> dict[int, int]:
    """Return the channels at 4, 8, ..., `resolution`, which must be a power of two of 4 or more."""
    if resolution < 4 or resolution & (resolution - 1):
        near = 2 ** max(2, round(math.log2(max(resolution, 1))))
        raise ConfigError(
            f"{name}: resolution={resolution}: use a power of two of 4 or more, e.g. {near}",
            "resolution",
        )
    resolutions = [2**i for i in range(2, resolution.bit_length())]
    if channels is None:
        return {r: max(1, min(channel_base // r, channel_max)) for r in resolutions}
    if len(channels) != len(resolutions):
        raise ConfigError(
            f"{name}.channels={list(channels)}: resolution {resolution} needs {len(resolutions)} "
            f"numbers, one for each of {', '.join(map(str, resolutions))}",
            field="channels",
        )
    return dict(zip(resolutions, channels, strict=True))


class SynthesisBlock(MixedPrecision):
    """One resolution of a synthesis network: conv0, which upsamples, conv1, a sum of outputs."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        w_dim: int,
        resolution: int,
        rgb_dim: int,
        up: int = 2,
        dims: int = 2,
        use_noise: bool = True,
        conv_clamp: float | None = None,
    ) -> None:
        """Build; `in_dim` 0 starts from a learned constant."""
        super().__init__()
        self.in_dim, self.up = in_dim, up

        def layer(i: int, up: int = 1) -> SynthesisLayer:
            return SynthesisLayer(i, out_dim, w_dim, resolution, up, dims, use_noise, conv_clamp)

        if in_dim == 0:
            self.const = nn.Parameter(torch.randn(out_dim, *[resolution] * dims))
        else:
            self.conv0 = layer(in_dim, up)
        self.conv1 = layer(out_dim)
        self.torgb = ToRGB(out_dim, rgb_dim, w_dim, dims, conv_clamp)
        self.num_conv = 1 if in_dim == 0 else 2

    def forward(
        self,
        x: Float[Tensor, "v i *size"] | None,
        rgb: Float[Tensor, "v o *size"] | None,
        ws: Float[Tensor, "v n w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> tuple[Float[Tensor, "v c *out"], Float[Tensor, "v o *out"]]:
        """Return features, in this block's precision, and the running output, in that of `ws`.

        `ws`: one style for each convolution, then one for the output layer.
        """
        with without_autocast(ws.device):  # the precision is a property of ours
            if x is None:
                x = self.enter(self.const.expand(ws.shape[0], *self.const.shape))
            else:
                x = self.enter(x)
                x = self.conv0(x, ws[:, 0], noise_mode, draws and draws.scope("conv0"))
            x = self.conv1(x, ws[:, self.num_conv - 1], noise_mode, draws and draws.scope("conv1"))
            out = self.torgb(x, ws[:, self.num_conv])
            if rgb is None:
                return x, out.to(ws.dtype)
            return x, upsample_plus(rgb, out) if self.up == 2 else rgb + out


class Synthesis(nn.Module):
    """Blocks b4, b8, ... of a synthesis network with skip connections, in 2D or 3D.

    `num_ws` styles: one for each convolution and one for the last output layer; every other output
    layer shares the style of the next block's first convolution.
    """

    def __init__(
        self,
        channels: dict[int, int],
        w_dim: int,
        out_channels: int,
        dims: int,
        use_noise: bool,
        conv_clamp: float | None = None,
    ) -> None:
        """Build the blocks for `channels` at each resolution."""
        super().__init__()
        self.resolutions = list(channels)
        self.num_ws = 2 * len(channels)
        below = 0
        for r, c in channels.items():
            block = SynthesisBlock(
                below,
                c,
                w_dim,
                r,
                out_channels,
                dims=dims,
                use_noise=use_noise,
                conv_clamp=conv_clamp,
            )
            self.add_module(f"b{r}", block)
            below = c

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """Return the image or volume of each row of styles.

        `random` noise needs `draws`, and is keyed by layer.
        """
        x: Tensor | None = None
        out: Tensor | None = None
        start = 0
        for r in self.resolutions:
            block: SynthesisBlock = getattr(self, f"b{r}")
            styles = ws[:, start : start + block.num_conv + 1]
            x, out = block(x, out, styles, noise_mode, draws and draws.scope(f"b{r}"))
            start += block.num_conv
        assert out is not None
        return out


class Synthesis2d(Synthesis):
    """StyleGAN2's synthesis network with skip connections, to (b, out_channels, r, r)."""

    def __init__(
        self, cfg: SynthesisConfig, w_dim: int, resolution: int, out_channels: int
    ) -> None:
        """Build for a resolution that is a power of two."""
        channels = widths("synthesis", resolution, cfg.channel_base, cfg.channel_max, cfg.channels)
        super().__init__(channels, w_dim, out_channels, 2, cfg.use_noise, cfg.conv_clamp)

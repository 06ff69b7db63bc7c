"""StyleGAN2's synthesis network in 2D and 3D: styles to an image, tri-planes or a voxel grid."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError, Count, Positive
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks import filtered_lrelu, fused
from lightning_gan3d.networks.layers import LayerOptions, NoiseMode, SynthesisLayer, ToRGB
from lightning_gan3d.networks.precision import DTYPES, MixedPrecision, without_autocast
from lightning_gan3d.networks.resample import upsample_plus
from lightning_gan3d.networks.stylegan3 import AliasFreeLayer

IDENTITY = torch.eye(3)
"""The input transform that changes nothing."""


@dataclass(frozen=True)
class ChannelsConfig:
    """Widths of a network whose layers have resolutions from 4 to a power of two."""

    channel_base: Count = 32768
    """Channels at resolution r are channel_base / r, at most `channel_max`."""
    channel_max: Count = 512
    """Most channels of a layer."""
    channels: tuple[Count, ...] | None = None
    """Channels at 4, 8, 16, ... up to the resolution, instead of the two above."""

    def widths(self, name: str, resolution: int) -> dict[int, int]:
        """Return the channels at 4, 8, ..., `resolution`; `name` is the network's in errors."""
        if resolution < 4 or resolution & (resolution - 1):
            near = 2 ** max(2, round(math.log2(max(resolution, 1))))
            raise ConfigError(
                f"{name}: resolution={resolution}: use a power of two of 4 or more, e.g. {near}",
                "resolution",
            )
        resolutions = [2**i for i in range(2, resolution.bit_length())]
        if self.channels is None:
            return {r: max(1, min(self.channel_base // r, self.channel_max)) for r in resolutions}
        if len(self.channels) != len(resolutions):
            raise ConfigError(
                f"{name}.channels={list(self.channels)}: resolution {resolution} needs "
                f"{len(resolutions)} numbers, one for each of {', '.join(map(str, resolutions))}; "
                f"or use data of {2 ** (len(self.channels) + 1)} pixels",
                field="channels",
            )
        return dict(zip(resolutions, self.channels, strict=True))


@dataclass(frozen=True)
class SynthesisConfig(ChannelsConfig):
    """Widths and options of a 2D synthesis network."""

    use_noise: bool = True
    """Add noise of learned strength to every layer."""
    conv_clamp: Positive | None = None
    """Clamp activations to this magnitude; EG3D's 16-bit layers use 256."""


@dataclass(frozen=True)
class Synthesis3dConfig(ChannelsConfig):
    """Widths and options of a 3D synthesis network."""

    channel_base: Count = 2048
    channel_max: Count = 256
    use_noise: bool = True
    """Add noise of learned strength to every layer."""


class SynthesisBlock(MixedPrecision):
    """One resolution of a synthesis network: conv0, which upsamples, conv1, a sum of outputs."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        resolution: int,
        rgb_dim: int,
        options: LayerOptions,
        up: int = 2,
    ) -> None:
        """Build; `in_dim` 0 starts from a learned constant."""
        super().__init__()
        self.in_dim, self.up = in_dim, up
        if in_dim == 0:
            self.const = nn.Parameter(torch.randn(out_dim, *[resolution] * options.dims))
        else:
            self.conv0 = SynthesisLayer(in_dim, out_dim, resolution, options, up)
        self.conv1 = SynthesisLayer(out_dim, out_dim, resolution, options)
        self.torgb = ToRGB(out_dim, rgb_dim, options)
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
        with without_autocast(ws.device):  # the block has its own precision
            if x is None:
                x = self.const.expand(ws.shape[0], *self.const.shape)
            x = self.enter(x)
            if self.in_dim > 0:
                x = self.conv0(x, ws[:, 0], noise_mode, draws and draws.scope("conv0"))
            x = self.conv1(x, ws[:, self.num_conv - 1], noise_mode, draws and draws.scope("conv1"))
            out = self.torgb(x, ws[:, self.num_conv])
            if rgb is None:
                return x, out.to(ws.dtype)
            return x, upsample_plus(rgb, out) if self.up == 2 else rgb + out


def blocks_and_alpha(num_blocks: int, lod: float) -> tuple[int, float]:
    """Blocks in use at a level of detail, at least one, and the share of the last one's output."""
    used = num_blocks - int(lod)
    return (used, 1 - lod % 1) if used > 1 else (1, 1.0)


class Synthesis(nn.Module):
    """Blocks b4, b8, ... of a synthesis network with skip connections, in 2D or 3D.

    `num_ws` styles: one for each convolution and one for the last output layer; every other output
    layer shares the style of the next block's first convolution.
    """

    def __init__(self, channels: dict[int, int], out_channels: int, options: LayerOptions) -> None:
        """Build the blocks for `channels` at each resolution."""
        super().__init__()
        self.resolutions = list(channels)
        self.num_ws = 2 * len(channels)
        below = 0
        for r, c in channels.items():
            self.add_module(f"b{r}", SynthesisBlock(below, c, r, out_channels, options))
            below = c

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
        lod: float = 0.0,
    ) -> Float[Tensor, "b c *size"]:
        """Return the image or volume of each row of styles.

        `random` noise needs `draws`, keyed by layer. `lod`: halvings of the size, at most to that
        of the first block; its fraction is the share of the last block's output that is missing.
        """
        x = self.moved_constant(len(ws))
        out: Tensor | None = None
        start = 0
        used, alpha = blocks_and_alpha(len(self.resolutions), lod)
        for i, r in enumerate(self.resolutions[:used], start=1):
            block: SynthesisBlock = getattr(self, f"b{r}")
            styles, fades = ws[:, start : start + block.num_conv + 1], i == used and alpha < 1
            below, scoped = None if fades else out, draws and draws.scope(f"b{r}")
            x, y = block(x, below, styles, noise_mode, scoped)
            out = upsample_plus(out, alpha * y) if fades and out is not None else y
            start += block.num_conv
        assert out is not None
        return out

    def moved_constant(self, batch: int) -> Float[Tensor, "b c *size"] | None:  # noqa: ARG002  # subclasses use it
        """Return what replaces the learned constant; None: nothing does."""
        return None


class Synthesis2d(Synthesis):
    """StyleGAN2's synthesis network with skip connections, to (b, out_channels, r, r)."""

    def __init__(
        self, cfg: SynthesisConfig, w_dim: int, resolution: int, out_channels: int
    ) -> None:
        """Build for a resolution that is a power of two."""
        options = LayerOptions(w_dim, 2, cfg.use_noise, cfg.conv_clamp)
        super().__init__(cfg.widths("synthesis", resolution), out_channels, options)
        # No buffer: a tensor on the CPU is compared without waiting for a GPU.
        self.transform = IDENTITY.clone()

    def moved_constant(self, batch: int) -> Float[Tensor, "b c 4 4"] | None:
        """Shift the constant by `transform` with wrap, band-limited; in evaluation mode only."""
        if self.training or torch.equal(self.transform, IDENTITY):
            return None
        if not torch.equal(self.transform[:, :2], IDENTITY[:, :2]):
            raise NotImplementedError("StyleGAN2's constant input can be shifted, but not rotated")
        const: Tensor = self.b4.const  # type: ignore[assignment, union-attr]  # a sub-module
        i = torch.arange(4, dtype=torch.float64)
        # Rows of weights; frequencies 0, 1, and 2 (Nyquist's) of the four samples.
        angles = (torch.pi / 2 * (i[:, None] - i + 4 * float(t)) for t in self.transform[:2, 2])
        x, y = (((1 + 2 * a.cos() + (2 * a).cos()) / 4).to(const) for a in angles)
        return (y @ const @ x.T).expand(batch, -1, -1, -1)


class Synthesis3d(Synthesis):
    """The same design with modulated 3D convolutions, to (b, out_channels, r, r, r)."""

    def __init__(
        self, cfg: Synthesis3dConfig, w_dim: int, resolution: int, out_channels: int
    ) -> None:
        """Build for a resolution that is a power of two."""
        options = LayerOptions(w_dim, 3, cfg.use_noise)
        super().__init__(cfg.widths("synthesis", resolution), out_channels, options)


def describe_layers(network: nn.Module) -> str:
    """Name the backend of a network's synthesis layers, with the reason if it is plain torch.

    Such as `numba, AVX-512`, `numba, AVX-512, in 5 of 7 layers` (the others are plain),
    `plain torch (numba is missing: ...)`, or `none` without such layers. Compilers are ignored.
    StyleGAN3's layers follow as `filtered activations: ...`, with each backend that they use.
    """
    filtered = [m for m in network.modules() if isinstance(m, AliasFreeLayer)]
    layers = [m for m in network.modules() if isinstance(m, SynthesisLayer)]
    if not filtered:
        return _describe(network, layers) if layers else "none"
    likes = (m.weight.to(DTYPES[m.precision] or m.weight.dtype) for m in filtered)
    backends = map(filtered_lrelu.backend, likes, (m.activation for m in filtered))
    text = f"filtered activations: {', '.join(dict.fromkeys(backends))}"
    return f"{_describe(network, layers)}; {text}" if layers else text


def _describe(network: nn.Module, layers: list[SynthesisLayer]) -> str:
    devices = {m.weight.device.type for m in layers} - {"cpu"}
    if devices:
        return f"plain torch (layers on {', '.join(sorted(devices))}; the kernels need a CPU)"
    try:
        from lightning_gan3d import simd
    except ImportError as error:
        return f"plain torch ({error})"
    in_float16 = {
        m
        for part in network.modules()
        if isinstance(part, MixedPrecision) and part.precision == "fp16"
        for m in part.modules()
    }
    # A layer's activations have the device, the axes and at most the precision of its weight.
    num = sum(
        fused.reads(m.weight)
        and fused.serves(m.weight, *m.weight.shape[:2])
        and m not in in_float16
        for m in layers
    )
    if num == 0:
        return (
            "plain torch (no layer of images with float32 weights, activations in float32 or "
            f"bfloat16, and channels in multiples of {simd.WIDTH})"
        )
    backend = f"numba, {simd.describe()}"
    return backend if num == len(layers) else f"{backend}, in {num} of {len(layers)} layers"

"""ProGAN's generator (Karras et al. 2018): from a latent to an image, without styles or noise."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.layers import (
    Conv2dLayer,
    FullyConnected,
    NoiseMode,
    normalize_second_moment,
)
from lightning_gan3d.networks.precision import MixedPrecision, without_autocast
from lightning_gan3d.networks.synthesis import ChannelsConfig, blocks_and_alpha


class ProganBlock(MixedPrecision):
    """Nearest enlargement and two convolutions, or from a latent, a dense layer and one.

    After each come bias, leaky ReLU and pixel norm: x / sqrt(mean over channels of x^2 + 1e-8).
    """

    def __init__(self, in_dim: int, out_dim: int, of_latent: bool) -> None:
        """Build; `of_latent`: the dense layer makes 4x4 features."""
        super().__init__()
        if of_latent:
            self.gain = math.sqrt(2 / in_dim) / 4
            self.dense = nn.Parameter(torch.randn(out_dim * 16, in_dim))
            self.bias = nn.Parameter(torch.zeros(out_dim))
        else:
            self.conv0 = Conv2dLayer(in_dim, out_dim, 3)
        self.conv1 = Conv2dLayer(out_dim, out_dim, 3)
        self.torgb = FullyConnected(out_dim, 3)

    def forward(self, x: Float[Tensor, "b i *size"]) -> Float[Tensor, "b o h w"]:
        """Return features, in this block's precision."""
        if x.ndim == 2:
            y = (x @ self.dense.T * self.gain).view(len(x), -1, 4, 4) + self.bias[:, None, None]
            y = F.leaky_relu(self.enter(y), 0.2)
        else:
            y = self.conv0(F.interpolate(self.enter(x), scale_factor=2))
        y = self.conv1(normalize_second_moment(y))
        return normalize_second_moment(y)

    def image(self, x: Float[Tensor, "b o h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the colours of features, unbounded, in float32."""
        pixels: Tensor = self.torgb(x.to(self.torgb.weight.dtype).permute(0, 2, 3, 1))
        return pixels.permute(0, 3, 1, 2)


class Progan2d(nn.Module):
    """Blocks b4, b8, ..., each with its own layer to colours. The one style is the latent itself.

    Equalised learning rates. The gain sqrt(2) of the convolutions includes their biases, as in
    StyleGAN2; pixel norm cancels it elsewhere.
    """

    num_ws = 1

    def __init__(self, cfg: ChannelsConfig, w_dim: int, resolution: int) -> None:
        """Build for a resolution that is a power of two; ProGAN: channel_base 16384."""
        super().__init__()
        channels = cfg.widths("synthesis", resolution)
        self.resolutions, below = list(channels), w_dim
        for r, dim in channels.items():
            self.add_module(f"b{r}", ProganBlock(below, dim, r == 4))
            below = dim

    def forward(
        self,
        ws: Float[Tensor, "b 1 w_dim"],
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # no noise; same call as other networks
        draws: Draws | None = None,  # noqa: ARG002  # nothing is drawn
        lod: float = 0.0,
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the images; `lod` is the level of detail, as of `Synthesis`.

        In a fade: a mixture of both layers to colours, the lower one enlarged by repetition.
        """
        used, alpha = blocks_and_alpha(len(self.resolutions), lod)
        blocks: list[ProganBlock] = [getattr(self, f"b{r}") for r in self.resolutions[:used]]
        below = x = ws[:, 0]
        with without_autocast(ws.device):  # the blocks have their own precision
            for block in blocks:
                below, x = x, block(x)
            image = blocks[-1].image(x)
            if alpha == 1:
                return image
            return F.interpolate(blocks[-2].image(below), scale_factor=2).lerp(image, alpha)

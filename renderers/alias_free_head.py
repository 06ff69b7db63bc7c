"""A head of StyleGAN3 layers: super-resolution whose details move with the rendering."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.config import ConfigError, Count
from lightning_gan3d.contract import Code, Head, NoiseMode, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering, Upscaled, resize
from lightning_gan3d.networks import band_limits
from lightning_gan3d.networks.band_limits import Signal, StyleGAN3Config
from lightning_gan3d.networks.filtered_lrelu import FilteredActivation, filtered_lrelu
from lightning_gan3d.networks.stylegan3 import AliasFreeStack


@dataclass(frozen=True)
class AliasFreeConfig:
    """Layers of StyleGAN3-T (Karras et al. 2021) from a rendering to the image."""

    factor: Literal[2, 4, 8, 16] = 4
    """Image over rendering resolution."""
    num_layers: Annotated[int, Ge(2)] = 4
    """Layers before the output layer; the last two, or the last of two, are critically sampled."""
    channel_base: Count = 16384
    """Channels of a layer of cutoff f are channel_base / (2 f), at most `channel_max`."""
    channel_max: Count = 128
    """Most channels of a layer."""


class AliasFreeHead(Head):
    """Refines rendered features by a few alias-free layers, without Fourier input and noise.

    The rendering takes the place of the input: a critically sampled signal with a cutoff of half
    its resolution, extended by StyleGAN3's margin of 10 replicated pixels. Cutoffs and rates of the
    layers follow its formulas from there to the image. All layers use the last style; in scenes of
    parts with a background, its style. The rendered colours are added after upsampling with a
    low-pass filter. A short network is enough: VoxGRAF (Schwarz et al. 2022) refines by 3 such
    layers, Szabo et al. (2024) reach a megapixel.
    """

    rgb_filter: Tensor

    def __init__(
        self,
        cfg: AliasFreeConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,
        codes: Sequence[Code],  # noqa: ARG002  # as all heads
    ) -> None:
        """Build for renderings of `scene.feature_dim` channels."""
        super().__init__()
        self.size, rel = resolution // cfg.factor, StyleGAN3Config.last_stopband_rel
        if resolution % cfg.factor or self.size < 2:
            raise ConfigError(
                f"generator.head.factor={cfg.factor}: resolution={resolution}: use a multiple of "
                f"{cfg.factor}, at least {2 * cfg.factor}: the rendering needs 2 pixels or more",
                field="head",
            )
        cutoff = self.size / 2
        options = StyleGAN3Config(
            channel_base=cfg.channel_base,
            channel_max=cfg.channel_max,
            num_layers=cfg.num_layers,
            num_critical=min(2, cfg.num_layers - 1),
            first_cutoff=cutoff,
            first_stopband=cutoff * rel,
        )
        self.margin = options.margin_size
        canvas = self.size + 2 * self.margin
        # A wide transition suppresses the images of the spectrum better than a sharp one would.
        rendered = Signal(self.size, canvas, scene.feature_dim, cutoff, cutoff / 2, critical=True)
        signals = band_limits.layer_signals(options, resolution)
        signals[-1] = signals[-1]._replace(channels=3)
        self.layers = AliasFreeStack(options, "t", w_dim, [rendered, *signals])
        # No layer corrects the colours: twice the taps, for a sharp transition.
        sharp = rendered._replace(half_width=cutoff * (rel - 1))
        kernel = band_limits.lowpass(2 * options.filter_size * cfg.factor, sharp, resolution)
        phases = kernel.view(-1, cfg.factor)
        phases = phases / (cfg.factor * phases.sum(dim=0))  # or a constant would get a pattern
        self.register_buffer("rgb_filter", phases.flatten(), persistent=False)
        upsampling = FilteredActivation(self.rgb_filter, up=cfg.factor)
        self.factor = cfg.factor
        self.padding = band_limits.centred_padding(canvas, resolution, upsampling)

    def forward(
        self,
        rendering: Rendering,
        ws: Float[Tensor, "v num_ws w_dim"],
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # no noise
        draws: Draws | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Upscaled:
        """Return the images of renderings."""
        x = F.pad(resize(rendering.feature, self.size), [self.margin] * 4, mode="replicate")
        linear = FilteredActivation(
            self.rgb_filter, None, self.factor, 1, self.padding, gain=1.0, slope=1.0, clamp=None
        )
        rgb = filtered_lrelu(x[:, :3], x.new_zeros(3), linear)
        styles = ws[:, -1:].expand(-1, len(self.layers.names), -1)
        return Upscaled(rgb + self.layers.image(x, styles), rendering.feature[:, :3])

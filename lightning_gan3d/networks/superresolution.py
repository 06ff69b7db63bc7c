"""Super-resolution: rendered colours and features to the image, as EG3D's 2X, 4X, 8X and 8XDC."""

from dataclasses import dataclass
from typing import Literal

from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError, Count, Positive
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering, Upscaled
from lightning_gan3d.networks.layers import LayerOptions, NoiseMode
from lightning_gan3d.networks.resample import resize
from lightning_gan3d.networks.synthesis import SynthesisBlock


@dataclass(frozen=True)
class SuperResolutionConfig:
    """From a rendering to the image. EG3D's 8XDC: factor 8, channels [256, 128]."""

    factor: Literal[1, 2, 4, 8] = 1
    """Image over rendering resolution. 1: no network. 4: 2 after a bilinear doubling, as EG3D."""
    channels: tuple[Count, Count] = (128, 64)
    """Widths of the two blocks."""
    antialias: bool = True
    """Antialias a rendering that is larger than the network's input."""
    noise: Literal["none", "const", "random"] = "none"
    """Layer noise at most of this kind; callers can reduce it."""
    conv_clamp: Positive | None = None
    """Clamp activations to this magnitude; EG3D uses 256."""
    residual_in_raw: bool = False
    """Return `image_raw` with the first block's colours added, if that block keeps the size and the
    rendering needs no resizing. EG3D's 2X and 4X do so in place, and its discriminators were
    trained on it."""

    def __post_init__(self) -> None:
        """Check combinations of fields."""
        if self.residual_in_raw and self.factor not in (2, 4):
            raise ConfigError(
                f"superresolution.residual_in_raw=true: with factor={self.factor} there is no "
                "block that keeps the size; use factor 2 or 4, or false",
                "residual_in_raw",
            )


NOISE_RANK: dict[NoiseMode, int] = {"none": 0, "const": 1, "random": 2}


class SuperResolution(nn.Module):
    """Two synthesis blocks over the rendered features; rendered colours start the running image.

    The blocks work from `work_resolution`: half of the image for factors 2 and 4 (the first block
    keeps the size), a quarter for 8. Renderings of another size are resized to it first. All layers
    use the last style.
    """

    def __init__(
        self, cfg: SuperResolutionConfig, feature_dim: int, w_dim: int, out_resolution: int
    ) -> None:
        """Build for features of `feature_dim` channels and images of `out_resolution`."""
        super().__init__()
        if out_resolution % cfg.factor:
            raise ConfigError(
                f"superresolution.factor={cfg.factor}: does not divide the resolution "
                f"{out_resolution}",
                field="factor",
            )
        self.cfg, self.out_resolution = cfg, out_resolution
        self.work_resolution = out_resolution // {1: 1, 2: 2, 4: 2, 8: 4}[cfg.factor]
        if cfg.factor == 1:
            return
        c0, c1 = cfg.channels
        up0 = 2 if cfg.factor == 8 else 1
        options = LayerOptions(w_dim, 2, cfg.noise != "none", cfg.conv_clamp)
        self.block0 = SynthesisBlock(feature_dim, c0, out_resolution // 2, 3, options, up0)
        self.block1 = SynthesisBlock(c0, c1, out_resolution, 3, options)

    def forward(
        self,
        rendering: Rendering,
        ws: Float[Tensor, "v num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Upscaled:
        """Return the images of renderings."""
        return self.upscale(rendering.feature[:, :3], rendering.feature, ws, noise_mode, draws)

    def upscale(
        self,
        rgb: Float[Tensor, "v 3 h w"],
        feature: Float[Tensor, "v c h w"],
        ws: Float[Tensor, "v num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Upscaled:
        """Return the image, and `rgb`, with the residual if configured. No input changes."""
        small = resize(rgb, self.work_resolution, self.cfg.antialias)
        if self.cfg.factor == 1:
            return Upscaled(small, rgb)
        x = resize(feature, self.work_resolution, self.cfg.antialias)
        mode = min(noise_mode, self.cfg.noise, key=NOISE_RANK.__getitem__)
        styles = repeat(ws[:, -1], "v d -> v n d", n=3)
        x, half = self.block0(x, small, styles, mode, draws and draws.scope("block0"))
        _, image = self.block1(x, half, styles, mode, draws and draws.scope("block1"))
        with_residual = self.cfg.residual_in_raw and half.shape == rgb.shape
        return Upscaled(image, half if with_residual else rgb)

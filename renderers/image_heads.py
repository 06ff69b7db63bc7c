"""Heads: networks from renderings to images, in the place of super-resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lightning_gan3d.config import ConfigError, Count
from lightning_gan3d.contract import Code, Head, NoiseMode, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering, Upscaled, resize
from lightning_gan3d.networks.layers import LayerOptions, SynthesisLayer, ToRGB
from lightning_gan3d.networks.resample import upsample_plus
from lightning_gan3d.networks.synthesis import SynthesisBlock
from renderers.alias_free_head import AliasFreeConfig, AliasFreeHead

Factor = Literal[2, 4, 8, 16]


def _doublings(factor: int, resolution: int) -> list[int]:
    """Resolutions after each doubling, up to that of the image."""
    sizes = [resolution]
    while resolution // sizes[0] < factor // 2:
        sizes.insert(0, sizes[0] // 2)
    if resolution % factor:
        raise ConfigError(
            f"generator.head.factor={factor}: does not divide the resolution {resolution}",
            field="head",
        )
    return sizes


@dataclass(frozen=True)
class GiraffeConfig:
    """GIRAFFE's neural renderer (Niemeyer and Geiger 2021)."""

    factor: Factor = 4
    """Image over rendering resolution."""
    min_channels: Count = 32
    """Fewest channels; each doubling halves them, from those of the rendering."""


class GiraffeHead(Head):
    """Doubles the size, halves the channels, and adds up the colours of all sizes. No styles."""

    def __init__(
        self,
        cfg: GiraffeConfig,
        scene: SceneConfig,
        w_dim: int,  # noqa: ARG002  # reads no styles
        resolution: int,
        codes: Sequence[Code],  # noqa: ARG002  # as all heads
    ) -> None:
        """Build for renderings of `scene.feature_dim` channels."""
        super().__init__()
        self.sizes = _doublings(cfg.factor, resolution)
        widths = [scene.feature_dim]
        for _ in self.sizes:
            widths.append(max(widths[-1] // 2, min(cfg.min_channels, widths[-1])))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.to_rgb = nn.ModuleList(nn.Conv2d(width, 3, 3, padding=1) for width in widths)

    def forward(
        self,
        rendering: Rendering,
        ws: Float[Tensor, "v num_ws w_dim"],  # noqa: ARG002  # no styles
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # no noise
        draws: Draws | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Upscaled:
        """Return the images of renderings."""
        x = resize(rendering.feature, self.sizes[0] // 2)
        rgb = self.to_rgb[0](x)
        for conv, to_rgb in zip(self.convs, self.to_rgb[1:], strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = functional.leaky_relu(conv(x), 0.2)
            rgb = upsample_plus(rgb, to_rgb(x))
        return Upscaled(2 * torch.sigmoid(rgb) - 1, rendering.feature[:, :3])


@dataclass(frozen=True)
class GiraffeHdConfig:
    """GIRAFFE HD's style-based renderers of objects and background (Xue et al. 2022)."""

    factor: Factor = 4
    """Image over rendering resolution."""
    channels: tuple[Count, ...] = (64, 32)
    """Widths of the blocks of both renderers, one for each doubling."""
    shape_layers: Count = 2
    """First convolutions of the objects' renderer that get the style of the shape; the others get
    that of the appearance."""

    def __post_init__(self) -> None:
        """Check the number of blocks."""
        num = self.factor.bit_length() - 1
        if len(self.channels) != num:
            raise ConfigError(
                f"generator.head.channels={list(self.channels)}: factor={self.factor} needs {num} "
                "numbers, one for each doubling",
                field="head",
            )


class StyleRenderer(nn.Module):
    """StyleGAN2 blocks that start from rendered features; each doubles the size."""

    def __init__(
        self, in_dim: int, widths: Sequence[int], sizes: list[int], out_dim: int, w_dim: int
    ) -> None:
        """Build one block for each size."""
        super().__init__()
        dims = zip([in_dim, *widths[:-1]], widths, sizes, strict=True)
        options = LayerOptions(w_dim)
        self.blocks = nn.ModuleList(SynthesisBlock(a, b, r, out_dim, options) for a, b, r in dims)

    def forward(
        self,
        x: Float[Tensor, "v i h w"],
        styles: Float[Tensor, "v convs w_dim"],
        noise_mode: NoiseMode,
        draws: Draws | None,
    ) -> tuple[Float[Tensor, "v c r r"], Float[Tensor, "v o r r"]]:
        """Return features and output; `styles`: one for each of two convolutions per block."""
        out = None
        for i, block in enumerate(self.blocks):
            own = styles[:, [2 * i, 2 * i + 1, 2 * i + 1]]
            x, out = block(x, out, own, noise_mode, draws and draws.scope(f"block{i}"))
        assert out is not None, "there is at least one block"
        return x, out


class GiraffeHdHead(Head):
    """Renders objects and background separately in 2D, and composites them by learned masks.

    image = tanh(objects + refinement) m + tanh(background) (1 - m). The refinement gets the style
    of the background, so that objects fit into it. Objects share the weights. GIRAFFE HD has one;
    masks of several are normalised by their sum.
    """

    needs_masks = True

    def __init__(
        self,
        cfg: GiraffeHdConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,
        codes: Sequence[Code],
    ) -> None:
        """Build for scenes of parts with a background."""
        super().__init__()
        self.cfg, self.sizes = cfg, _doublings(cfg.factor, resolution)
        self.rows, self.num_ws = _style_rows(codes), sum(code.num_ws for code in codes)
        inner, width = scene.feature_dim, cfg.channels[-1]
        self.objects = StyleRenderer(inner, cfg.channels, self.sizes, 4, w_dim)
        self.background = StyleRenderer(inner, cfg.channels, self.sizes, 3, w_dim)
        options = LayerOptions(w_dim)
        self.refine = nn.ModuleList(
            SynthesisLayer(width, width, resolution, options) for _ in range(2)
        )
        self.refine_rgb = ToRGB(width, 3, options)

    def forward(
        self,
        rendering: Rendering,
        ws: Float[Tensor, "v num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Upscaled:
        """Return the images of renderings, and the mask of each object.

        With added objects, `ws` is [latent k, ..., latent 1, own]; the own latent, with the
        background, is last.
        """
        layers = rendering.layers
        assert layers is not None, "the renderer of scenes of parts returns layers"
        num, size = layers.objects.shape[1], self.sizes[0] // 2
        of_background = ws[:, self.rows[-1][0]]
        behind = self._background(resize(layers.background, size), of_background, noise_mode, draws)
        if not num:
            return Upscaled(behind, rendering.feature[:, :3])
        x = resize(rearrange(layers.objects, "v n c h w -> (v n) c h w"), size)
        of_objects = [self._object_styles(ws, code) for code in layers.codes]
        styles = torch.stack(of_objects, dim=1)
        own = draws and draws.scope("objects")
        x, out = self.objects(x, rearrange(styles, "v n k d -> (v n) k d"), noise_mode, own)
        style = repeat(of_background, "v d -> (v n) d", n=num)
        for i, layer in enumerate(self.refine):
            x = layer(x, style, noise_mode, draws and draws.scope(f"refine{i}"))
        rgb = torch.tanh(out[:, :3] + self.refine_rgb(x, style))
        rgb = rearrange(rgb, "(v n) c h w -> v n c h w", n=num)
        mask = torch.sigmoid(rearrange(out[:, 3], "(v n) h w -> v n h w", n=num))
        if num > 1:
            covered = 1 - (1 - mask).prod(dim=1, keepdim=True)
            mask = mask * (covered / mask.sum(dim=1, keepdim=True).clamp(min=1e-6))
        rest = 1 - mask.sum(dim=1, keepdim=True)
        image = (mask[:, :, None] * rgb).sum(dim=1) + rest * behind
        return Upscaled(image, rendering.feature[:, :3], mask)

    def _background(
        self,
        x: Float[Tensor, "v c h w"],
        style: Float[Tensor, "v w_dim"],
        noise_mode: NoiseMode,
        draws: Draws | None,
    ) -> Float[Tensor, "v 3 r r"]:
        styles = repeat(style, "v d -> v k d", k=2 * len(self.sizes))
        own = draws and draws.scope("background")
        return torch.tanh(self.background(x, styles, noise_mode, own)[1])

    def _object_styles(
        self, ws: Float[Tensor, "v num_ws w_dim"], code: int
    ) -> Float[Tensor, "v convs w_dim"]:
        latent, index = divmod(code, len(self.rows) - 1)
        shape, appearance = (row - latent * self.num_ws for row in self.rows[index])
        first = self.cfg.shape_layers
        rows = [shape if k < first else appearance for k in range(2 * len(self.sizes))]
        return ws[:, rows]


def _style_rows(codes: Sequence[Code]) -> list[tuple[int, int]]:
    """Rows of `ws` from the end: shape and appearance of each object; then the background."""
    first, rows = -sum(code.num_ws for code in codes), {}
    for code in codes:
        rows[code.name] = first
        first += code.num_ws
    if "background" not in rows:
        raise ConfigError(
            "generator.head.kind=giraffe_hd: needs a scene with background; set "
            "generator.representation.kind=composed and its background",
            field="head",
        )
    objects = [name.removesuffix(".shape") for name in rows if name.endswith(".shape")]
    pairs = [(rows[f"{x}.shape"], rows.get(f"{x}.appearance", rows[f"{x}.shape"])) for x in objects]
    return [*pairs, (rows["background"], rows["background"])]


HEADS: dict[str, tuple[type, type]] = {
    "alias_free": (AliasFreeConfig, AliasFreeHead),
    "giraffe": (GiraffeConfig, GiraffeHead),
    "giraffe_hd": (GiraffeHdConfig, GiraffeHdHead),
}
"""Heads by name: configuration and class."""

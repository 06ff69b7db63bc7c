"""The discriminator: StyleGAN2's residual network on image and raw rendering, given the label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.cameras import LABEL_DIM
from lightning_gan3d.config import POWER_OF_TWO, ConfigError, NonNegative, Positive
from lightning_gan3d.images import Images, at_level
from lightning_gan3d.networks.layers import Conv2dLayer, FullyConnected, normalize_second_moment
from lightning_gan3d.networks.mapping import camera_or_class
from lightning_gan3d.networks.precision import MixedPrecision, without_autocast
from lightning_gan3d.networks.resample import resize
from lightning_gan3d.networks.synthesis import ChannelsConfig


@dataclass(frozen=True)
class ObjectDiscriminatorConfig:
    """A second, unconditional discriminator, of objects (DiscoScene, Xu et al. 2023).

    It sees square crops around the projected boxes of generated objects and around the boxes of
    real ones, `placements` of `dataset.json`. Its loss is the non-saturating one. Objects outside
    the image do not count.
    """

    resolution: Annotated[int, POWER_OF_TWO, Ge(8)] = 64
    """Side of the crops in pixels; DiscoScene: a half or a quarter of the images'."""
    weight: Positive = 1.0
    """Weight in the generator's loss."""
    r1_gamma: NonNegative = 1.0
    """R1 weight at real crops before augmentation, in the steps of `loss.r1_gamma`."""
    padding: NonNegative = 0.1
    """Enlargement of a crop, as a share of the longer side of the box."""


@dataclass(frozen=True)
class DiscriminatorConfig(ChannelsConfig):
    """Widths and options of the discriminator."""

    dual: bool = True
    """Dual discrimination (Chan et al. 2022): judge the raw rendering beside the image."""
    mbstd_group: Annotated[int, Ge(0)] = 4
    """Images of a minibatch-deviation group. 0: none."""
    conditioning: Literal["projection", "predict", "none"] = "projection"
    """`projection` (Miyato & Koyama 2018) conditions on the camera, or on the class with
    data.labels=class. `predict` does not know the camera and estimates its viewing direction
    (pi-GAN, Chan et al. 2021): see `loss.camera_fake`."""
    mapping_layers: Annotated[int, Ge(0)] = 8
    """Layers from the label to the projection."""
    unconditional_term: bool = False
    """Add an unconditional logit to the projection, which steadies tiny networks."""
    patch: Literal["none", "modulate"] = "none"
    """`modulate`: scale and offset of a patch of `training.patch` modulate the input of each block
    after the first (EpiGRAF)."""
    conv_clamp: Positive | None = None
    """Clamp activations to this magnitude; EG3D's 16-bit layers use 256."""
    objects: ObjectDiscriminatorConfig | None = None
    """Discriminate objects too, by a network of the same widths. None: whole images only."""
    architecture: Literal["residual", "progan"] = "residual"
    """Blocks: StyleGAN2's, or two convolutions and means of 2 x 2 pixels (Karras et al. 2018)."""

    def of_objects(self, resolution: int) -> "DiscriminatorConfig":
        """Options of the discriminator of crops.

        It has no minibatch deviation: logits do not depend on the crops of missing objects.
        """
        return DiscriminatorConfig(
            self.channel_base,
            self.channel_max,
            self.channels and self.channels[: resolution.bit_length() - 2],
            dual=False,
            mbstd_group=0,
            conditioning="none",
            conv_clamp=self.conv_clamp,
            architecture=self.architecture,
        )

    def __post_init__(self) -> None:
        """Check combinations of fields."""
        if self.unconditional_term and self.conditioning != "projection":
            raise ConfigError(
                "discriminator.unconditional_term=true: without conditioning the logit is "
                "unconditional already; set it to false, or conditioning to projection",
                field="unconditional_term",
            )


def minibatch_deviation(
    x: Float[Tensor, "v c h w"], group: int, batches: int = 1
) -> Float[Tensor, "v c1 h w"]:
    """Append the deviation within groups of images (Karras et al. 2018, section 3).

    It is averaged over features and pixels. Of n groups, image i belongs to group i mod n, as in
    StyleGAN2. A batch smaller than `group` is one group; a batch that groups do not divide is an
    error. `x` may be several `batches` of equal size, each with its own groups.
    """
    size = x.shape[0] // batches
    group = min(group, size)
    if size % group:
        raise ValueError(
            f"minibatch deviation: a batch of {size} is not divisible into groups of {group}"
        )
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    y = y.reshape(batches, group, size // group, -1)
    # `var` takes ten times as long for such axes.
    std = ((y - y.mean(1, keepdim=True)).square().mean(1) + 1e-8).sqrt()
    mean = std.mean(-1)[:, None].expand(-1, group, -1)
    channel = mean.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:]).to(x.dtype)
    return torch.cat([x, channel], dim=1)


class ResBlock(MixedPrecision):
    """Two convolutions, the second halving, beside a linear shortcut; each scaled by sqrt(1/2).

    `progan`: two convolutions, then means of 2 x 2 pixels, without a shortcut.
    """

    def __init__(
        self, in_dim: int, out_dim: int, cfg: DiscriminatorConfig, image_dim: int = 0
    ) -> None:
        """Build; `image_dim` > 0 adds the layer that reads an image."""
        super().__init__()
        conv_clamp, residual = cfg.conv_clamp, cfg.architecture == "residual"
        self.fromrgb = (
            Conv2dLayer(image_dim, in_dim, 1, conv_clamp=conv_clamp) if image_dim else None
        )
        self.conv0 = Conv2dLayer(in_dim, in_dim, 3, conv_clamp=conv_clamp)
        self.conv1 = Conv2dLayer(in_dim, out_dim, 3, residual=residual, conv_clamp=conv_clamp)
        self.skip = Conv2dLayer(in_dim, out_dim, 1, "linear", residual=True) if residual else None

    def forward(self, x: Float[Tensor, "v i h w"]) -> Float[Tensor, "v o h2 w2"]:
        """Halve the size, in this block's precision."""
        x = self.enter(x)
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        if self.skip is None:
            return F.avg_pool2d(self.conv1(self.conv0(x)), 2)
        y: Tensor = self.skip(x) + self.conv1(self.conv0(x))
        return y


class Epilogue(nn.Module):
    """Minibatch deviation and the last layers, from 4x4 features to `out_dim` numbers."""

    def __init__(
        self, in_dim: int, out_dim: int, cfg: DiscriminatorConfig, image_dim: int = 0
    ) -> None:
        """Build; `image_dim` > 0 if the image itself is 4x4."""
        super().__init__()
        self.mbstd_group = cfg.mbstd_group
        self.fromrgb = (
            Conv2dLayer(image_dim, in_dim, 1, conv_clamp=cfg.conv_clamp) if image_dim else None
        )
        self.conv = Conv2dLayer(
            in_dim + (cfg.mbstd_group > 0), in_dim, 3, conv_clamp=cfg.conv_clamp
        )
        self.fc = FullyConnected(in_dim * 16, in_dim, activation="lrelu")
        self.out = FullyConnected(in_dim, out_dim)
        self.plain = FullyConnected(in_dim, 1) if cfg.unconditional_term else None

    def forward(
        self, x: Float[Tensor, "v c 4 4"], batches: int = 1
    ) -> tuple[Float[Tensor, "v o"], Float[Tensor, "v 1"] | None]:
        """Return the vector to project, and the unconditional logit if configured."""
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        if self.mbstd_group:
            x = minibatch_deviation(x, self.mbstd_group, batches)
        x = self.fc(self.conv(x).flatten(1))
        return self.out(x), None if self.plain is None else self.plain(x)


class PatchModulation(nn.Module):
    """Factors on input channels of blocks, from scale and offset of patches (EpiGRAF)."""

    def __init__(self, channels: Sequence[int], hidden_dim: int = 64, num_octaves: int = 6) -> None:
        """Build one output per block, of `channels`; the factors start at 1."""
        super().__init__()
        self.num_octaves = num_octaves
        self.hidden = FullyConnected(6 * num_octaves, hidden_dim, activation="lrelu")
        for i, dim in enumerate(channels):
            out = FullyConnected(hidden_dim, dim)
            nn.init.zeros_(out.weight)
            self.add_module(f"out{i}", out)

    def forward(self, patch: Float[Tensor, "v 3"]) -> list[Float[Tensor, "v c 1 1"]]:
        """Return the factors of each block, in (0, 2)."""
        octaves = math.pi * 2.0 ** torch.arange(self.num_octaves, device=patch.device)
        angles = (patch[:, :, None] * octaves).flatten(1)
        x = self.hidden(torch.cat([angles.sin(), angles.cos()], dim=1))
        outs = [getattr(self, f"out{i}")(x) for i in range(len(self._modules) - 1)]
        return [1 + out.tanh()[:, :, None, None] for out in outs]


class LabelMapping(nn.Module):
    """Label to the vector to project on; learning-rate multiplier 0.01, as EG3D."""

    def __init__(self, label_dim: int, out_dim: int, num_layers: int) -> None:
        """Build `num_layers` layers after the embedding."""
        super().__init__()
        self.num_layers = num_layers
        self.embed = FullyConnected(label_dim, out_dim)
        for i in range(num_layers):
            self.add_module(
                f"fc{i}", FullyConnected(out_dim, out_dim, activation="lrelu", lr_mul=0.01)
            )

    def forward(self, label: Float[Tensor, "v label_dim"]) -> Float[Tensor, "v o"]:
        """Embed, normalise, map."""
        x = normalize_second_moment(self.embed(label))
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x


class Judgement(NamedTuple):
    """The output of a discriminator."""

    logits: Float[Tensor, "v 1"]
    direction: Float[Tensor, "v 3"] | None
    """Estimate of the camera's viewing direction in the world; None unless it predicts."""

    def chunk(self, batches: int) -> list["Judgement"]:
        """Split into batches of equal size."""
        if self.direction is None:
            return [Judgement(x, None) for x in self.logits.chunk(batches)]
        pairs = zip(self.logits.chunk(batches), self.direction.chunk(batches), strict=True)
        return [Judgement(*pair) for pair in pairs]


class Discriminator(nn.Module):
    """Logit of (images, label): higher is more real. Differentiable twice, for R1 and R2."""

    lod: float = 0.0
    """Halvings of the images in progressive growing; its fraction is the weight of the next lower
    level in a fade (ProGAN, Karras et al. 2018)."""

    def __init__(
        self,
        cfg: DiscriminatorConfig,
        resolution: int,
        num_classes: int = 0,
        levels: Sequence[int] = (),
    ) -> None:
        """Build for images of `resolution`, a power of two, and for growing, of lower `levels`.

        `num_classes`: condition on the class of the label instead of its camera.
        """
        super().__init__()
        channels = cfg.widths("discriminator", resolution)
        self.cfg, self.resolutions = cfg, list(channels)[:0:-1]
        image_dim = 6 if cfg.dual else 3
        for r in self.resolutions:
            rgb = image_dim if r == resolution else 0
            self.add_module(f"b{r}", ResBlock(channels[r], channels[r // 2], cfg, rgb))
        if cfg.patch == "modulate":
            self.modulation = PatchModulation([channels[r] for r in (*self.resolutions[1:], 4)])
        self.out_dim = {"projection": channels[4], "predict": 4, "none": 1}[cfg.conditioning]
        self.b4 = Epilogue(channels[4], self.out_dim, cfg, image_dim if resolution == 4 else 0)
        if cfg.conditioning == "projection":
            self.num_classes = num_classes
            self.mapping = LabelMapping(num_classes or LABEL_DIM, self.out_dim, cfg.mapping_layers)
        self.objects: Discriminator | None = None
        """The discriminator of objects; `forward` does not call it."""
        if cfg.objects is not None:  # last: it does not change the other initial weights
            size = cfg.objects.resolution
            self.objects = Discriminator(cfg.of_objects(size), size)
        if levels:
            self.fromrgb = nn.ModuleDict()
            for r in levels:
                layer = Conv2dLayer(image_dim, channels[r], 1, conv_clamp=cfg.conv_clamp)
                self.fromrgb[str(r)] = layer

    def forward(
        self,
        images: Images,
        label: Float[Tensor, "v label_dim"],
        patch: Float[Tensor, "v 3"] | None = None,
        batches: int = 1,
    ) -> Float[Tensor, "v 1"]:
        """Return one logit per image, in the precision of the label; arguments of `judge`."""
        return self.judge(images, label, patch, batches).logits

    def judge(
        self,
        images: Images,
        label: Float[Tensor, "v label_dim"],
        patch: Float[Tensor, "v 3"] | None = None,
        batches: int = 1,
    ) -> Judgement:
        """Return logits and estimated directions, in the precision of the label.

        `patch`: scale, left and top of patches; None for whole images. `batches`: parts of equal
        size that do not share groups of the minibatch deviation.
        """
        with without_autocast(label.device):  # the blocks have their own precision
            return self._judge(images, label, patch, batches)

    def _judge(
        self, images: Images, label: Tensor, patch: Tensor | None, batches: int
    ) -> Judgement:
        x = images.image
        if self.cfg.dual:
            x = torch.cat([x, resize(images.image_raw, (x.shape[-2], x.shape[-1]))], dim=1)
        factors = []
        if self.cfg.patch == "modulate":
            whole = label.new_tensor([[1.0, 0.0, 0.0]]).expand(len(label), -1)
            factors = self.modulation(whole if patch is None else patch.to(label))
        image, fade = x, self.lod % 1
        if self.lod >= 1:
            side = [*self.resolutions, 4][int(self.lod)]
            image = at_level(image, side)  # of full size after training
            x = self.fromrgb[str(side)](image)
        for i, r in enumerate(self.resolutions[int(self.lod) :]):
            x = getattr(self, f"b{r}")(x)
            x = x * factors[i].to(x.dtype) if factors else x
            if i == 0 and fade > 0:
                below = self.fromrgb[str(r // 2)](F.avg_pool2d(image, 2))
                x = x.lerp(below.to(x.dtype), fade)
        logits: Tensor
        # In full precision: small, and the deviation needs all digits.
        logits, plain = self.b4(x.to(label.dtype), batches)
        if self.cfg.conditioning == "projection":
            given = camera_or_class(label, self.num_classes > 0)
            logits = (logits * self.mapping(given)).sum(dim=1, keepdim=True)
            logits = logits / math.sqrt(self.out_dim)
        elif self.cfg.conditioning == "predict":
            return Judgement(logits[:, :1], logits[:, 1:])
        return Judgement(logits if plain is None else logits + plain, None)

"""The pure NeRF MLP: pi-GAN's FiLM-SIREN (Chan et al. 2021), or ReLU with GRAF's encoding.

Both consist of layers a(scale * (W x + b) + shift); scale and shift are affine in one style each,
and are the scene. The scale is multiplied into the weights, so that a layer is one `baddbmm` over
all points of a scene, channels first.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.contract import Field, FieldSample, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.networks.lowering import SDF_NOT_LOWERED, Lowered, LoweredMlp
from lightning_gan3d.networks.precision import without_autocast
from lightning_gan3d.ranges import Count, Positive
from representations.grids import full_precision


@dataclass(frozen=True)
class NerfMlpConfig:
    """Size and kind of the MLP."""

    variant: Literal["film_siren", "posenc_relu"] = "film_siren"
    """`film_siren`: sines, as pi-GAN. `posenc_relu`: encoding and ReLU, as GRAF (Schwarz et al.
    2020), but conditioned like the other."""
    hidden_dim: Count = 256
    """Width of every layer."""
    num_layers: Count = 8
    """Layers before the density; one more, which may read the direction, before the features."""
    omega: Positive = 30.0
    """`film_siren`: scale = omega * (1 + f / 2), f affine in a style; 30 is pi-GAN's 15 f + 30."""
    octaves: Count = 10
    """`posenc_relu`: frequencies pi, 2 pi, ..., 2^(octaves - 1) pi, on positions in [-1, 1]."""
    view_dirs: bool = False
    """Let features depend on the ray direction. Those of explicit representations never do."""


class FilmNet(nn.Module):
    """The weights that all latents share: layers and two heads.

    Stored weights are of order 1 and scaled when used (equalised learning rate): at omega = 30 a
    learning rate of 2e-3 moves the weights in use by 1e-5, about pi-GAN's own.
    """

    compiles = True
    """For `torch.compile`: one graph of products with fused sines."""

    def __init__(self, cfg: NerfMlpConfig, feature_dim: int) -> None:
        """Draw the weights: uniform as SIREN's and pi-GAN's, or normal as He et al. (2015)."""
        super().__init__()
        self.cfg = cfg
        self.siren = cfg.variant == "film_siren"
        dims = [3 if self.siren else 3 + 6 * cfg.octaves] + [cfg.hidden_dim] * cfg.num_layers
        if cfg.view_dirs:
            dims[-1] += 3
        draw = _uniform if self.siren else torch.randn
        self.weights = nn.ParameterList(nn.Parameter(draw(cfg.hidden_dim, d)) for d in dims)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(cfg.hidden_dim)) for _ in dims)
        self.gains = [math.sqrt(2 / d) for d in dims]
        if self.siren:
            # sqrt(6 / n) / omega is SIREN's bound (Sitzmann et al. 2020); pi-GAN divides by 25.
            self.gains = [1 / 3] + [math.sqrt(6 / d) * 1.2 / cfg.omega for d in dims[1:]]
        self.to_sigma = FullyConnected(cfg.hidden_dim, 1)
        self.to_feature = FullyConnected(cfg.hidden_dim, feature_dim)

    def layer(
        self,
        i: int,
        x: Float[Tensor, "b i n"],
        scale: Float[Tensor, "b o"],
        shift: Float[Tensor, "b o"],
    ) -> Float[Tensor, "b o n"]:
        """Apply layer i: activation(scale * (W x + b) + shift), scale folded into W and b."""
        weight = scale[:, :, None] * (self.weights[i] * self.gains[i])
        bias = torch.addcmul(shift, scale, self.biases[i] * self.gains[i])
        out = torch.baddbmm(bias[:, :, None], weight, x)
        return torch.sin(out) if self.siren else torch.relu(out)

    def trunk(
        self,
        x: Float[Tensor, "b 3 n"],
        scale: Float[Tensor, "b l o"],
        shift: Float[Tensor, "b l o"],
    ) -> Float[Tensor, "b o n"]:
        """Apply the layers that density and features share to positions in [-1, 1]."""
        x = self.encode(x)
        for i in range(self.cfg.num_layers):
            x = self.layer(i, x, scale[:, i], shift[:, i])
        return x

    def forward(
        self,
        x: Float[Tensor, "b 3 n"],
        dirs: Float[Tensor, "b 3 n"] | None,
        scale: Float[Tensor, "b l o"],
        shift: Float[Tensor, "b l o"],
    ) -> tuple[Float[Tensor, "b 1 n"], Float[Tensor, "b c n"]]:
        """Return raw density and features: a whole query, for `torch.compile`."""
        h = self.trunk(x, scale, shift)
        sigma_raw = _head(self.to_sigma, h)
        if dirs is not None:
            h = torch.cat([h, dirs], dim=1)
        last = self.cfg.num_layers
        h = self.layer(last, h, scale[:, last], shift[:, last])
        return sigma_raw, torch.sigmoid(_head(self.to_feature, h))

    def encode(self, x: Float[Tensor, "b 3 n"]) -> Float[Tensor, "b i n"]:
        """Encode positions in [-1, 1] by sines and cosines; not for a SIREN."""
        if self.siren:
            return x
        octave = math.pi * 2.0 ** torch.arange(self.cfg.octaves, device=x.device, dtype=x.dtype)
        angle = rearrange(x[:, :, None] * octave[:, None], "b c o n -> b (c o) n")
        return torch.cat([x, angle.sin(), angle.cos()], dim=1)

    def lower(self, scale: Float[Tensor, "b l o"], shift: Float[Tensor, "b l o"]) -> LoweredMlp:
        """Multiply the scale into weights and biases, as `layer`."""
        hidden, layers = self.cfg.hidden_dim, range(self.cfg.num_layers + 1)
        first, *weights = (self.weights[i] * self.gains[i] for i in layers)
        biases = torch.stack([self.biases[i] * self.gains[i] for i in layers])
        density, out = self.to_sigma, self.to_feature
        return LoweredMlp(
            scale[:, 0, :, None] * first,
            scale[:, 1:, :, None] * torch.stack([w[:, :hidden] for w in weights]),
            torch.addcmul(shift, scale, biases),
            scale[:, -1, :, None] * weights[-1][:, hidden:],
            density.weight * density.weight_gain,
            density.bias * density.bias_gain,
            out.weight * out.weight_gain,
            out.bias * out.bias_gain,
            "sine" if self.siren else "relu",
            0 if self.siren else self.cfg.octaves,
        )


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape).mul_(2).sub_(1)


def _head(head: FullyConnected, x: Float[Tensor, "b h n"]) -> Float[Tensor, "b c n"]:
    """Apply a linear layer channels first, without copying the points."""
    weight = (head.weight * head.weight_gain).expand(len(x), -1, -1)
    return torch.baddbmm((head.bias * head.bias_gain)[:, None], weight, x)


@dataclass(frozen=True, eq=False)
class NerfField(Field):
    """A shared MLP whose layers are scaled and shifted by each latent."""

    scale: Float[Tensor, "b l h"]
    shift: Float[Tensor, "b l h"]
    net: FilmNet
    scene_cfg: SceneConfig
    sdf_beta: Float[Tensor, " b"] | None = None

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Query density and features, in float32: half precision would blur a sine's phase."""
        with without_autocast(points.device):
            assert dirs is not None or not self.needs_dirs, "this field needs directions"
            toward = dirs.mT if dirs is not None and self.needs_dirs else None
            position = points.mT * (2 / self.box)
            sigma_raw, feature = self.net(position, toward, self.scale, self.shift)
            return FieldSample(sigma_raw.mT + self.prior(points), feature.mT)

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Raw density, without computing features."""
        with without_autocast(points.device):
            x = self.net.trunk(points.mT * (2 / self.box), self.scale, self.shift)
            return _head(self.net.to_sigma, x).mT + self.prior(points)

    def lower(self) -> Lowered:
        """The layers of each scene."""
        if self.sdf_beta is not None:
            return SDF_NOT_LOWERED
        with without_autocast(self.scale.device):
            return self.net.lower(self.scale, self.shift)


@dataclass(frozen=True, eq=False)
class ViewNerfField(NerfField):
    """The same, with features that depend on the direction of the ray."""

    needs_dirs: ClassVar[bool] = True


class NerfMlp(Representation):
    """Computes scale and shift of every layer, each affine in one style."""

    scene_type: type[NerfField] = NerfField

    def __init__(
        self,
        cfg: NerfMlpConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,  # noqa: ARG002  # of the image: an MLP has none
    ) -> None:
        """Build the MLP and its affine maps."""
        super().__init__()
        self.cfg = cfg
        self.scene_cfg = scene
        self.field_type = ViewNerfField if cfg.view_dirs else NerfField
        self.scene_type = self.field_type
        self.num_ws = cfg.num_layers + 1
        self.net = FilmNet(cfg, scene.feature_dim)
        self.start_sdf(scene.density, self.net.to_sigma)
        self.affines = nn.ModuleList(
            FullyConnected(w_dim, 2 * cfg.hidden_dim) for _ in range(self.num_ws)
        )

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # an MLP has no noise
        draws: Draws | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> NerfField:
        """Compute the FiLM parameters of a batch of style vectors."""
        styles = zip(self.affines, ws.unbind(dim=1), strict=True)
        film = full_precision(torch.stack([affine(w) for affine, w in styles], dim=1))
        # A quarter, as pi-GAN scales its last layer: styles start as small changes of one network.
        f, shift = (0.25 * film).chunk(2, dim=-1)
        scale = self.cfg.omega * (1 + f / 2) if self.net.siren else 1 + f
        return self.field_type(scale, shift, self.net, self.scene_cfg, self.sdf_beta(len(ws)))

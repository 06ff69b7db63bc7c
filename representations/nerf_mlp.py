"""The pure NeRF MLP: pi-GAN's FiLM-SIREN (Chan et al. 2021), or GRAF's encoding with ReLU (Schwarz et al. 2020).

Both are layers a(scale * (W x + b) + shift) whose scale and shift are affine in one style each. The scene is those
numbers alone. Scale folds into the weights, so that a layer is one `baddbmm` over all points of a scene.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Field, FieldSample, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.layers import FullyConnected


@dataclass(frozen=True)
class NerfMlpConfig:
    """Size and kind of the MLP."""

    variant: Literal["film_siren", "posenc_relu"] = "film_siren"
    """`film_siren`: sines, as pi-GAN. `posenc_relu`: positional encoding and ReLU, as GRAF, conditioned alike."""
    hidden_dim: int = 256
    """Width of every layer."""
    num_layers: int = 8
    """Layers before density; one more, which may see the direction, leads to the features."""
    omega: float = 30.0
    """`film_siren`: scale = omega * (1 + f / 2) with f affine in the style; 30 gives pi-GAN's 15 f + 30."""
    octaves: int = 10
    """`posenc_relu`: frequencies pi 2^0 ... pi 2^(octaves - 1) of the encoding, on positions in [-1, 1]."""
    view_dirs: bool = False
    """Let features depend on the direction of the ray. The explicit representations' never do."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("hidden_dim", "num_layers", "octaves"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"representation.{name}={getattr(self, name)}: use 1 or more", name
                )
        if not self.omega > 0:
            raise ConfigError(
                f"representation.omega={self.omega}: use a positive number, e.g. 30", "omega"
            )


class FilmNet(nn.Module):
    """What all latents share: the layers' weights and the two heads."""

    def __init__(self, cfg: NerfMlpConfig, feature_dim: int) -> None:
        """Draw the weights: as SIREN's and pi-GAN's, or as He et al. (2015), all at equalised learning rates."""
        super().__init__()
        self.cfg = cfg
        siren = cfg.variant == "film_siren"
        in_dim = 3 if siren else 3 + 6 * cfg.octaves
        dims = [in_dim] + [cfg.hidden_dim] * cfg.num_layers
        dims[-1] += 3 if cfg.view_dirs else 0
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.gains: list[float] = []
        for i, dim in enumerate(dims):
            raw = (
                torch.rand(cfg.hidden_dim, dim) * 2 - 1
                if siren
                else torch.randn(cfg.hidden_dim, dim)
            )
            self.weights.append(nn.Parameter(raw))
            self.biases.append(nn.Parameter(torch.zeros(cfg.hidden_dim)))
            self.gains.append(_siren_bound(i, dim, cfg.omega) if siren else math.sqrt(2 / dim))
        self.to_sigma = FullyConnected(cfg.hidden_dim, 1)
        self.to_feature = FullyConnected(cfg.hidden_dim, feature_dim)

    def layer(
        self,
        i: int,
        x: Float[Tensor, "b i n"],
        scale: Float[Tensor, "b o"],
        shift: Float[Tensor, "b o"],
    ) -> Float[Tensor, "b o n"]:
        """Apply layer i: activation(scale * (W x + b) + shift), with scale folded into W and b."""
        gain = self.gains[i]
        weight = scale[:, :, None] * (self.weights[i] * gain)
        bias = torch.addcmul(shift, scale, self.biases[i] * gain)
        out = torch.baddbmm(bias[:, :, None], weight, x)
        return torch.sin(out) if self.cfg.variant == "film_siren" else torch.relu(out)

    def encode(self, x: Float[Tensor, "b 3 n"]) -> Float[Tensor, "b i n"]:
        """Encode positions in [-1, 1]; a SIREN takes them as they are."""
        if self.cfg.variant == "film_siren":
            return x
        octave = math.pi * 2.0 ** torch.arange(self.cfg.octaves, device=x.device, dtype=x.dtype)
        angle = rearrange(x[:, :, None] * octave[:, None], "b c o n -> b (c o) n")
        return torch.cat([x, angle.sin(), angle.cos()], dim=1)


def _siren_bound(layer: int, in_dim: int, omega: float) -> float:
    """Range of a layer's initial weights: SIREN's, which at omega = 30 is pi-GAN's sqrt(6 / n) / 25."""
    return 1 / in_dim if layer == 0 else math.sqrt(6 / in_dim) * 1.2 / omega


@dataclass(frozen=True, eq=False)
class NerfField(Field):
    """A shared MLP whose layers are scaled and shifted by each latent."""

    scale: Float[Tensor, "b l h"]
    shift: Float[Tensor, "b l h"]
    net: FilmNet
    scene_cfg: SceneConfig

    def trunk(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b h n"]:
        """Run the layers that density and features share."""
        x = self.net.encode(points.mT * (2 / self.box))
        for i in range(self.scale.shape[1] - 1):
            x = self.net.layer(i, x, self.scale[:, i], self.shift[:, i])
        return x

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Query density and features."""
        x = self.trunk(points)
        sigma_raw = _head(self.net.to_sigma, x) + self.prior(points)
        if self.needs_dirs:
            assert dirs is not None, "this field needs directions"
            x = torch.cat([x, dirs.mT], dim=1)
        x = self.net.layer(self.scale.shape[1] - 1, x, self.scale[:, -1], self.shift[:, -1])
        return FieldSample(sigma_raw, torch.sigmoid(_head(self.net.to_feature, x)))

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Raw density alone, without the layer and head of the features."""
        return _head(self.net.to_sigma, self.trunk(points)) + self.prior(points)


@dataclass(frozen=True, eq=False)
class ViewNerfField(NerfField):
    """The same, with features that depend on the direction of the ray."""

    needs_dirs: ClassVar[bool] = True


def _head(head: FullyConnected, x: Float[Tensor, "b h n"]) -> Float[Tensor, "b n c"]:
    out: Tensor = head(x.mT)
    return out


class NerfMlp(Representation):
    """Makes the scales and shifts of every layer, each affine in one style."""

    scene_type: type[NerfField] = NerfField

    def __init__(self, cfg: NerfMlpConfig, scene: SceneConfig, w_dim: int, resolution: int) -> None:  # noqa: ARG002
        """Build the MLP and its affine maps. `resolution`, the image's, has no part in it."""
        super().__init__()
        self.cfg = cfg
        self.scene_cfg = scene
        self.scene_type = ViewNerfField if cfg.view_dirs else NerfField
        self.num_ws = cfg.num_layers + 1
        self.net = FilmNet(cfg, scene.feature_dim)
        self.affines = nn.ModuleList(
            FullyConnected(w_dim, 2 * cfg.hidden_dim) for _ in range(self.num_ws)
        )

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",  # noqa: ARG002  # an MLP has no noise
        draws: Draws | None = None,  # noqa: ARG002
    ) -> NerfField:
        """Make the FiLM parameters of a batch of styles."""
        # A quarter, as pi-GAN scales the last weights of its mapping: styles start as small changes of one network.
        film = 0.25 * torch.stack(
            [affine(w) for affine, w in zip(self.affines, ws.unbind(1), strict=True)], dim=1
        )
        f, shift = film.chunk(2, dim=-1)
        scale = self.cfg.omega * (1 + f / 2) if self.cfg.variant == "film_siren" else 1 + f
        return self.scene_type(scale, shift, self.net, self.scene_cfg)

"""3D Gaussians on a template, generated as one UV map (GGHead, Kirschstein et al. 2024)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from lightning_gan3d.contract import DensityScene, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.layers import FullyConnected
from lightning_gan3d.networks.synthesis import Synthesis2d, SynthesisConfig
from lightning_gan3d.ranges import Count, Positive
from representations.gaussian_sums import Gaussians, sum_at, sum_layers
from representations.grids import GridSize, check_widths, full_precision, sample_plane
from representations.templates import make_template

GEOMETRY = 3 + 3 + 3 + 1
"""Channels of the map before the features: position, scale, rotation, opacity."""
LARGEST = 2.0
"""Logarithm of the largest standard deviation over the initial one."""


@dataclass(frozen=True)
class SplatsConfig:
    """Template, number of Gaussians, and the network that generates the map."""

    resolution: GridSize = 64
    """Texels along each side of the UV map; a power of two."""
    side: Count | None = None
    """The map is read at side x side points, one Gaussian each; None: at its texels."""
    template: str = "sphere"
    """Where Gaussians are while their offsets are zero: `sphere`, `hemisphere` (z >= 0), `plane`
    (z = 0), or the path of a mesh in world units (OBJ, PLY, GLB; UV coordinates are optional)."""
    size: Annotated[float, Interval(gt=0, le=2)] = 0.6
    """Radius, or half edge of the plane, as a share of half the box."""
    offset: Positive = 0.25
    """Largest offset from the template along each axis, as a share of the box."""
    harmonics: Literal[0, 1] = 0
    """Degree of the spherical harmonics of the colours. 0: they do not depend on the direction."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """The StyleGAN2 network of the map."""

    def __post_init__(self) -> None:
        """Check across fields."""
        check_widths(self.synthesis, self.resolution)


@dataclass(frozen=True, eq=False)
class Splats(DensityScene):
    """Anisotropic Gaussians with opacity (Kerbl et al. 2023).

    They are no `Field`: renderers do not integrate their density along rays. A Gaussian's
    covariance is R diag(scale)^2 R^T, with R the rotation of its quaternion.
    """

    means: Float[Tensor, "b n 3"]
    """In world units."""
    scales: Float[Tensor, "b n 3"]
    """Standard deviations along the Gaussian's own axes, in world units."""
    rotations: Float[Tensor, "b n 4"]
    """Quaternions w, x, y, z, of any length but zero."""
    opacities: Float[Tensor, "b n"]
    """In [0, 1], at the mean."""
    features: Float[Tensor, "b n c"]
    """In [0, 1], rgb first."""
    scene_cfg: SceneConfig
    harmonics: Float[Tensor, "b n 3 3"] | None = None
    """Coefficients of degree 1 (m = -1, 0, 1) of each colour, as 3D Gaussian splatting has them."""
    raw_squares: Float[Tensor, "b 2"] | None = None
    """Mean square of the raw offsets and of the raw scales, for loss terms."""

    def gaussians(self, values: Float[Tensor, "b n c"]) -> Gaussians:
        """Return Gaussians with these values at the means, as functions of position."""
        return Gaussians(self.means, self.scales, self.rotations, values)

    def density(self, points: Float[Tensor, "b p 3"]) -> Float[Tensor, "b p 1"]:
        """Sum the opacities of all Gaussians at points, as SuGaR (Guédon and Lepetit 2024)."""
        return sum_at(points, self.gaussians(self.opacities[..., None]))

    def density_layers(self, axes: Sequence[Float[Tensor, " _"]]) -> Iterator[Float[Tensor, "y z"]]:
        """Yield the density of one scene on a grid, a layer for each x; `axes`: x, y and z."""
        return sum_layers(self.gaussians(self.opacities[..., None]), axes)

    def statistics(self) -> dict[str, Tensor]:
        """Return the mean opacity and the mean standard deviation."""
        return {
            "scene/gaussian_opacity": self.opacities.detach().mean(),
            "scene/gaussian_scale": self.scales.detach().mean(),
        }


class SplatMap(Representation):
    """Generates Gaussians: reads attributes from a UV map, and adds them to a template.

    Untrained, they cover the template: standard deviations are about the distance of neighbours.
    """

    scene_type = Splats
    uv: Tensor
    positions: Tensor
    start: Tensor

    def __init__(
        self,
        cfg: SplatsConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,  # noqa: ARG002  # of the image: the map has its own
    ) -> None:
        """Build the network and read the template."""
        super().__init__()
        self.cfg = cfg
        self.scene_cfg = scene
        channels = GEOMETRY + scene.feature_dim + (9 if cfg.harmonics else 0)
        self.synthesis = Synthesis2d(cfg.synthesis, w_dim, cfg.resolution, channels)
        self.num_ws = self.synthesis.num_ws
        # Zero, so that training starts from the template.
        self.to_offset = FullyConnected(3, 3)
        nn.init.zeros_(self.to_offset.weight)
        side = cfg.side or cfg.resolution
        template = make_template(cfg.template, side, cfg.size * scene.box / 2)
        self.register_buffer("uv", template.uv, persistent=False)
        self.register_buffer("positions", template.positions, persistent=False)
        # Logarithm of the standard deviations, for raw values of 0 and before `LARGEST`.
        self.register_buffer("start", template.spacing.log()[:, None], persistent=False)

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Splats:
        """Generate the Gaussians of a batch of style vectors."""
        image = full_precision(self.synthesis(ws, noise_mode, draws))
        raw = sample_plane(image, self.uv.mT.expand(len(ws), -1, -1)).mT
        sizes = [3, 3, 3, 1, self.scene_cfg.feature_dim, 9 if self.cfg.harmonics else 0]
        position, scale, rotation, opacity, feature, harmonics = torch.split(raw, sizes, dim=-1)
        offset = self.cfg.offset * self.scene_cfg.box * torch.tanh(self.to_offset(position))
        highest = self.start + LARGEST
        return Splats(
            self.positions + offset,
            torch.exp(highest - softplus(highest - (self.start + scale))),
            quaternions(2 * math.pi * torch.tanh(rotation)),
            widened(torch.sigmoid(opacity[..., 0])),
            widened(torch.tanh(feature) / 2 + 0.5),
            self.scene_cfg,
            self._harmonics(harmonics),
            torch.stack([position.square().mean((1, 2)), scale.square().mean((1, 2))], dim=1),
        )

    def _harmonics(self, raw: Float[Tensor, "b n m"]) -> Float[Tensor, "b n 3 3"] | None:
        """As the constant term, bounded by 1 / (2 C0)."""
        if self.cfg.harmonics == 0:
            return None
        return rearrange(torch.tanh(raw) * math.sqrt(math.pi), "b n (m c) -> b n m c", m=3)


def widened(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Let a sigmoid reach 0 and 1, as EG3D's and GGHead's colours."""
    return (x * 1.002 - 0.001).clamp(0, 1)


def quaternions(turns: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s 4"]:
    """Quaternions (w, x, y, z) of rotations about an axis, whose length is the angle."""
    angle = (turns.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    # sin(angle / 2) / angle, which is 1 / 2 at 0.
    share = torch.sinc(angle / (2 * math.pi)) / 2
    return torch.cat([torch.cos(angle / 2), share * turns], dim=-1)

"""Solids: voxels with occupancy and colour, for exact renderers (IG-GAN, Lunz et al. 2020)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Field, FieldSample, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.synthesis import Synthesis3d, Synthesis3dConfig
from representations.grids import GridSize, check_widths, full_precision, sample_volume

ABSORBED = 0.999
"""Opacity of a voxel of occupancy 1 in the soft rendering: below 1, so that the density is finite
and the gradient of the occupancy nowhere zero."""
START_SLOPE = 10.0
"""Logit of the occupancy per half box edge, at the surface of the ball from which training starts.
An untrained network adds about 0.7, which moves the surface by 0.07 of half the box."""
EMPTY = 1e-5
"""Absorption of a voxel below which a colour has no meaning."""


@dataclass(frozen=True)
class SolidConfig:
    """Size of the grid, and the network that generates it."""

    resolution: GridSize = 32
    """Voxels along each side; a power of two."""
    synthesis: Synthesis3dConfig = Synthesis3dConfig()
    """The StyleGAN2 network with 3D convolutions."""
    colour: Literal["generated", "white"] = "generated"
    """Colours of the voxels: generated, or all white, so that images show shape and light alone."""

    def __post_init__(self) -> None:
        """Check across fields."""
        check_widths(self.synthesis, self.resolution)


@dataclass(frozen=True, eq=False)
class Solid(Field):
    """Voxels that exact renderers threshold, and that are soft as a field.

    Density: -log(1 - ABSORBED * occupancy) per voxel edge at the centres, at most 6.9, interpolated
    trilinearly, so that a ray along a row of voxels passes a share of prod(1 - ABSORBED *
    occupancy) of the light: PlatonicGAN's absorption-only model. Colours are interpolated with
    these densities as weights, so that empty voxels do not stain the surface. `scene_cfg.density`
    is not used.
    """

    activated: ClassVar[bool] = False
    occupancy: Float[Tensor, "b 1 n n n"]
    """In [0, 1]; spatial axes are z, y, x."""
    colour: Float[Tensor, "b 3 n n n"]
    """In [0, 1]."""
    scene_cfg: SceneConfig

    @property
    def voxel(self) -> float:
        """Edge of a voxel in world units."""
        return self.box / self.occupancy.shape[-1]

    def statistics(self) -> dict[str, Tensor]:
        """Return the shares of filled voxels, and of those that are neither empty nor full."""
        occupancy = self.occupancy.detach()
        undecided = (occupancy > 0.1) & (occupancy < 0.9)
        filled = occupancy > 0.5
        return {"scene/filled": filled.float().mean(), "scene/undecided": undecided.float().mean()}

    def absorption(self) -> Float[Tensor, "b 1 n n n"]:
        """Optical depth of each voxel along its edge."""
        return -torch.log1p(-ABSORBED * full_precision(self.occupancy))

    def soft_occupancy(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        """Interpolate the occupancy trilinearly; it fades to zero outside the box."""
        return sample_volume(full_precision(self.occupancy), points.mT * (2 / self.box))[:, 0]

    def density(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 1"]:
        """Query the density per world unit, >= 0."""
        return sample_volume(self.absorption(), points.mT * (2 / self.box)).mT / self.voxel

    def __call__(
        self,
        points: Float[Tensor, "b n 3"],
        dirs: Float[Tensor, "b n 3"] | None = None,  # noqa: ARG002  # same call for all fields
    ) -> FieldSample:
        """Query the density per world unit, and the colour."""
        absorption = self.absorption()
        grid = torch.cat([absorption, absorption * full_precision(self.colour)], dim=1)
        values = sample_volume(grid, points.mT * (2 / self.box)).mT
        total, colour = values[..., :1], values[..., 1:]
        return FieldSample(total / self.voxel, colour / (total + EMPTY))

    def sigma(self, sigma_raw: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """`sigma_raw` is the density; noise may have made it negative."""
        return sigma_raw.clamp_min(0)


class SolidGrid(Representation):
    """Generates solids, at first noisy balls of `density.prior_radius`.

    An exact rendering that is empty or full would have nothing to learn from.
    """

    scene_type = Solid
    ball: Tensor

    def __init__(
        self,
        cfg: SolidConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,  # noqa: ARG002  # of the image: the grid has its own
    ) -> None:
        """Build the network."""
        super().__init__()
        if scene.feature_dim != 3:
            raise ConfigError(
                f"generator.scene.feature_dim={scene.feature_dim}: a solid has a colour only; use 3"
            )
        self.cfg = cfg
        self.scene_cfg = scene
        num = 1 if cfg.colour == "white" else 1 + 3
        self.synthesis = Synthesis3d(cfg.synthesis, w_dim, cfg.resolution, num)
        self.num_ws = self.synthesis.num_ws
        ball = START_SLOPE * (scene.density.prior_radius - radii(cfg.resolution))
        self.register_buffer("ball", ball, persistent=False)

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> Solid:
        """Generate the solids of a batch of style vectors."""
        logits = full_precision(self.synthesis(ws, noise_mode, draws))
        occupancy = torch.sigmoid(logits[:, :1] + self.ball)
        if self.cfg.colour == "white":
            return Solid(
                occupancy, torch.ones_like(occupancy).expand(-1, 3, -1, -1, -1), self.scene_cfg
            )
        return Solid(occupancy, torch.sigmoid(logits[:, 1:]), self.scene_cfg)


def randomised(solid: Solid, radius: float, draws: Draws) -> Solid:
    """Replace the shapes by random ones: balls of `radius`, a share of half the box, with dents.

    Some are sharp and others soft, so that a proxy learns to render both.
    """
    b, _, n = solid.occupancy.shape[:3]
    device = solid.occupancy.device
    noise = draws.normal("shape", (b, 1, 6, 6, 6), device)
    smooth = interpolate(noise, (n, n, n), mode="trilinear", align_corners=True)
    slope = START_SLOPE * torch.exp2(4 * draws.uniform("slope", (b, 1, 1, 1, 1), device) - 2)
    occupancy = torch.sigmoid(slope * (radius - radii(n).to(device) + 0.5 * smooth))
    return replace(solid, occupancy=occupancy.to(solid.occupancy))


def radii(n: int) -> Float[Tensor, "n n n"]:
    """Distance of the voxels' centres from that of the grid, in half edges of the box."""
    centre = (torch.arange(n) + 0.5) / n * 2 - 1
    distance: Tensor = torch.stack(torch.meshgrid(centre, centre, centre, indexing="ij")).norm(
        dim=0
    )
    return distance

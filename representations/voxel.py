"""The dense voxel grid: C x R^3 features from modulated 3D convolutions, and a small decoder."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import Field, FieldSample, NoiseMode, Representation, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.decoder import Decoder
from lightning_gan3d.networks.lowering import SDF_NOT_LOWERED, Lowered
from lightning_gan3d.networks.synthesis import Synthesis3d, Synthesis3dConfig
from lightning_gan3d.ranges import Count
from representations.grids import (
    GridSize,
    check_widths,
    full_precision,
    sample_volume,
)


@dataclass(frozen=True)
class VoxelConfig:
    """Size of the grid, and the network that generates it."""

    resolution: GridSize = 64
    """Voxels along each side; a power of two. Memory grows with its cube."""
    channels: Count = 32
    """Channels of a voxel."""
    synthesis: Synthesis3dConfig = Synthesis3dConfig()
    """The StyleGAN2 network with 3D convolutions."""

    def __post_init__(self) -> None:
        """Check across fields."""
        check_widths(self.synthesis, self.resolution)


@dataclass(frozen=True, eq=False)
class VoxelField(Field):
    """A field that interpolates features trilinearly."""

    voxels: Float[Tensor, "b c d h w"]
    """Spatial axes are z, y, x."""
    decoder: Decoder
    scene_cfg: SceneConfig
    sdf_beta: Float[Tensor, " b"] | None = None

    def features(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n c"]:
        """Gather the feature of the grid, before decoding."""
        return sample_volume(self.voxels, points.mT * (2 / self.box)).mT

    def __call__(
        self,
        points: Float[Tensor, "b n 3"],
        dirs: Float[Tensor, "b n 3"] | None = None,  # noqa: ARG002  # same call for all fields
    ) -> FieldSample:
        """Query density and features."""
        sigma_raw, feature = self.decoder(self.features(points))
        return FieldSample(sigma_raw + self.prior(points), feature)

    def lower(self) -> Lowered:
        """The grid with its channels last, and the decoder."""
        if self.sdf_beta is not None:
            return SDF_NOT_LOWERED
        grids = rearrange(self.voxels, "b c d h w -> b 1 d h w c")
        return self.decoder.lower(grids, ((0, 1, 2),))


class Voxel(Representation):
    """Generates a voxel grid."""

    scene_type = VoxelField

    def __init__(
        self,
        cfg: VoxelConfig,
        scene: SceneConfig,
        w_dim: int,
        resolution: int,  # noqa: ARG002  # of the image: the grid has its own
    ) -> None:
        """Build backbone and decoder."""
        super().__init__()
        self.cfg = cfg
        self.scene_cfg = scene
        self.synthesis = Synthesis3d(cfg.synthesis, w_dim, cfg.resolution, cfg.channels)
        self.decoder = Decoder(scene.decoder, cfg.channels, scene.feature_dim)
        self.start_sdf(scene.density, self.decoder.head)
        self.num_ws = self.synthesis.num_ws

    def forward(
        self,
        ws: Float[Tensor, "b num_ws w_dim"],
        noise_mode: NoiseMode = "const",
        draws: Draws | None = None,
    ) -> VoxelField:
        """Generate the voxel grids of a batch of style vectors."""
        voxels = full_precision(self.synthesis(ws, noise_mode, draws, self.lod))
        return VoxelField(voxels, self.decoder, self.scene_cfg, self.sdf_beta(len(ws)))

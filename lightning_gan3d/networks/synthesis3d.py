"""The 3D synthesis network: StyleGAN2's design with modulated 3D convolutions, for voxel grids."""

from dataclasses import dataclass

from lightning_gan3d.networks.synthesis import Synthesis, check_channels, widths


@dataclass(frozen=True)
class Synthesis3dConfig:
    """Widths and options of a 3D synthesis network."""

    channel_base: int = 2048
    """Channels at resolution r are channel_base / r, at most `channel_max`."""
    channel_max: int = 256
    """Most channels of a layer."""
    channels: tuple[int, ...] | None = None
    """Channels at 4, 8, 16, ... up to the resolution, instead of the two above."""
    use_noise: bool = True
    """Add noise of learned strength to every layer."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_channels("synthesis", self.channel_base, self.channel_max, self.channels)


class Synthesis3d(Synthesis):
    """The design of `Synthesis2d` in 3D: styles to (b, out_channels, r, r, r)."""

    def __init__(
        self, cfg: Synthesis3dConfig, w_dim: int, resolution: int, out_channels: int
    ) -> None:
        """Build for a resolution that is a power of two."""
        channels = widths("synthesis", resolution, cfg.channel_base, cfg.channel_max, cfg.channels)
        super().__init__(channels, w_dim, out_channels, 3, cfg.use_noise)

"""What the explicit representations share: a check of their size, and features read at points.

Grids are sampled multilinearly with the half-texel convention (`align_corners=False`) and fade to zero outside. The
gather is torch's `grid_sample`, which is twice differentiable.
"""

from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError


def check_resolution(resolution: int) -> None:
    """Refuse sizes that a synthesis network, which doubles from 4, cannot make."""
    if resolution < 4 or resolution & (resolution - 1):
        nearest = 1 << max(2, resolution.bit_length() - 1) if resolution > 0 else 4
        raise ConfigError(
            f"representation.resolution={resolution}: use a power of two from 4 on, e.g. {nearest}",
            "resolution",
        )


def check_channels(channels: int) -> None:
    """Refuse grids without channels."""
    if channels < 1:
        raise ConfigError(f"representation.channels={channels}: use 1 or more", "channels")


def sample_grid(
    grid: Float[Tensor, "b c *size"], coords: Float[Tensor, "b n d"]
) -> Float[Tensor, "b c n"]:
    """Read a grid with d = 2 or 3 axes at coordinates in [-1, 1], given from its last axis (x, width) to its first."""
    index = coords.reshape(coords.shape[0], *[1] * (coords.shape[2] - 1), *coords.shape[1:])
    out = nn.functional.grid_sample(
        grid.to(coords.dtype), index, padding_mode="zeros", align_corners=False
    )
    return out.reshape(*out.shape[:2], -1)

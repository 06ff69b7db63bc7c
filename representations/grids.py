"""Shared code of the explicit representations: their sizes, and interpolation at points.

Grids are read multilinearly with the half-texel convention (`align_corners=False`) and fade to zero
outside. All reads are twice differentiable, in the grid and in the points.
"""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lightning_gan3d.config import ConfigError
from lightning_gan3d.networks.band_limits import StyleGAN3Config, layer_signals
from lightning_gan3d.networks.stylegan3 import StyleGAN3Synthesis
from lightning_gan3d.networks.synthesis import Synthesis2d, Synthesis3dConfig, SynthesisConfig
from lightning_gan3d.ranges import POWER_OF_TWO

GridSize = Annotated[int, Ge(4), POWER_OF_TWO]
"""Sizes that a synthesis network, which doubles from 4, can generate."""
MAX_SLICED_ROWS = 4096
"""Rows of a stack of slices that float32 coordinates address to 1e-4 of a texel."""


def check_widths(synthesis: SynthesisConfig | Synthesis3dConfig, resolution: int) -> None:
    """Check that there is one width for each resolution of the network."""
    try:
        synthesis.widths("synthesis", resolution)
    except ConfigError as error:
        raise ConfigError(f"representation.{error}", "synthesis.channels") from None


def check_backbone(cfg: Any, resolution: int | None = None) -> None:
    """Check that `cfg.network` can have the resolution, and reads the options.

    Other networks than StyleGAN2 ignore its `synthesis`, so that the network of a preset can be
    changed alone.
    """
    if not cfg.network.startswith("stylegan3") and cfg.stylegan3 != StyleGAN3Config():
        raise ConfigError(
            f"representation.stylegan3: network={cfg.network} does not read it; set "
            "network=stylegan3-t or stylegan3-r, or leave it out",
            field="stylegan3",
        )
    if resolution is not None and cfg.network == "stylegan2":
        check_widths(cfg.synthesis, resolution)
    elif resolution is not None:
        layer_signals(cfg.stylegan3, resolution)


def make_backbone(cfg: Any, w_dim: int, resolution: int, out_channels: int) -> Any:
    """Build `cfg.network`, from styles to (b, out_channels, resolution, resolution)."""
    if cfg.network == "stylegan2":
        return Synthesis2d(cfg.synthesis, w_dim, resolution, out_channels)
    variant = cfg.network.removeprefix("stylegan3-")
    return StyleGAN3Synthesis(cfg.stylegan3, variant, w_dim, resolution, out_channels)


def full_precision(grid: Tensor) -> Tensor:
    """Convert the output of a mixed-precision network: gradients add up over many points."""
    return grid.to(torch.promote_types(grid.dtype, torch.float32))


def sample_plane(
    plane: Float[Tensor, "b c h w"], coords: Float[Tensor, "b 2 n"]
) -> Float[Tensor, "b c n"]:
    """Read planes at (x, y) in [-1, 1], x along the width."""
    # A view of contiguous rows: the fastest order for the CPU's vectorised gather.
    index = rearrange(coords, "b a n -> b 1 n a")
    out = nn.functional.grid_sample(plane.to(coords.dtype), index, align_corners=False)
    return rearrange(out, "b c 1 n -> b c n")


def sample_volume(
    volume: Float[Tensor, "b c d h w"], coords: Float[Tensor, "b 3 n"]
) -> Float[Tensor, "b c n"]:
    """Read volumes at (x, y, z) in [-1, 1], x along the last axis (the width), z along the first.

    On a CPU torch's 3D gather is a scalar loop, and two of its vectorised 2D gathers are faster.
    """
    depth, height = volume.shape[2:4]
    if volume.is_cpu and volume.is_contiguous() and depth * height <= MAX_SLICED_ROWS:
        return _sample_slices(volume, coords)
    index = rearrange(coords, "b a n -> b 1 1 n a")
    out = nn.functional.grid_sample(volume.to(coords.dtype), index, align_corners=False)
    return rearrange(out, "b c 1 1 n -> b c n")


def _sample_slices(
    volume: Float[Tensor, "b c d h w"], coords: Float[Tensor, "b 3 n"]
) -> Float[Tensor, "b c n"]:
    """Interpolate bilinearly in the two slices around each point, then between them.

    The slices lie above one another in one tall image, a view of the volume. The row is clamped, so
    that a read stays within its slice; a factor fades it to zero outside.
    """
    depth, height = volume.shape[2:4]
    x, y, z = coords.unbind(dim=1)
    row, layer = ((y + 1) * height - 1) / 2, ((z + 1) * depth - 1) / 2
    within = row.clamp(0, height - 1)
    fade = (1 - (row - within).abs()).clamp_min(0)
    first = layer.detach().floor()
    share = layer - first
    layers = torch.stack([first, first + 1], dim=1)
    weights = torch.stack([1 - share, share], dim=1) * fade[:, None]
    weights = torch.where((layers >= 0) & (layers <= depth - 1), weights, 0.0)
    rows = layers.clamp(0, depth - 1) * height + within[:, None]
    tall = (2 * rows + 1) / (depth * height) - 1
    index = torch.stack([x[:, None].expand_as(tall), tall], dim=1)
    out = nn.functional.grid_sample(
        rearrange(volume, "b c d h w -> b c (d h) w").to(coords.dtype),
        rearrange(index, "b a k n -> b k n a"),
        align_corners=False,
    )
    return (out * weights[:, None]).sum(dim=2)

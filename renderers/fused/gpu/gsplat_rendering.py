"""Splatting on CUDA by the package gsplat (Ye et al. 2024): tiles, sorting and compositing.

Projection stays ours, so that all paths see the same footprints. gsplat compiles its kernels at the
first use.
"""

import torch
from torch import Tensor

from renderers.footprints import MAX_ALPHA, Footprints
from renderers.footprints import project as project  # of PyTorch, also for gsplat
from renderers.splat import SplatSums

TILE = 16
"""Edge of a tile in pixels."""


def describe() -> str:
    """Describe the kernels: `gsplat 1.5.3`."""
    import gsplat

    return f"gsplat {gsplat.__version__}"


def composite(footprints: Footprints, resolution: int) -> SplatSums:
    """Composite as `renderers.splat.composite`."""
    try:
        from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'lightning-gan3d[gsplat]'") from error

    f, across = footprints, -(-resolution // TILE)
    mean = f.mean.mT.contiguous()
    with torch.no_grad():
        radii = f.reach.mT.ceil().int().contiguous()
        _, keys, order = isect_tiles(mean, radii, f.depth_z, TILE, across, across)
        starts = isect_offset_encode(keys, len(mean), across, across)
    channels = torch.cat([f.feature, f.distance[:, None]], dim=1).mT.contiguous()
    # gsplat cuts the opacity of a pixel at 0.999. Ours is at most MAX_ALPHA; it is, at the mean.
    opacity = f.opacity.clamp(max=MAX_ALPHA).contiguous()
    sums, alpha = rasterize_to_pixels(
        mean,
        f.conic.mT.contiguous(),
        channels,
        opacity,
        resolution,
        resolution,
        TILE,
        starts,
        order,
    )
    rows: Tensor = sums.flatten(1, 2).mT
    return SplatSums(rows[:, :-1], rows[:, -1:], alpha.flatten(1, 2).mT)

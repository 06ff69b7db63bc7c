"""The geometry of reprojection: depth at the image's size, depth edges, and the warp."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig

FAINT = 0.1
"""Opacity from which a pixel is visible at all."""
EDGE = 1e-3
"""Tolerance in pixels for rounding, beyond the outermost pixel centres."""


class Surfaces(NamedTuple):
    """Images with the geometry that reprojection needs, all of one size."""

    image: Float[Tensor, "v c h w"]
    cameras: Cameras
    z: Float[Tensor, "v 1 h w"]
    """Camera z."""
    opacity: Float[Tensor, "v 1 h w"]
    usable: Bool[Tensor, "v 1 h w"]
    """Foreground pixels that are not at a depth edge."""

    def select(self, views: Tensor) -> "Surfaces":
        """Select views."""
        image, cameras, *maps = self
        return Surfaces(image[views], cameras.select(views), *(x[views] for x in maps))


def join(parts: Sequence[Surfaces]) -> Surfaces:
    """Concatenate batches of views."""
    images, cameras, *maps = zip(*parts, strict=True)
    joined = Cameras(*(torch.cat(x) for x in zip(*cameras, strict=True)))
    return Surfaces(torch.cat(images), joined, *map(torch.cat, maps))


class Warp(NamedTuple):
    """The source images, warped into the target views."""

    image: Float[Tensor, "v c h w"]
    """0 at pixels that are not valid."""
    valid: Bool[Tensor, "v 1 h w"]
    """Pixels that can be compared with the target."""
    depth_error: Float[Tensor, "v 1 h w"]
    """|z / z' - 1|: camera z of the target's point in the source over the source's own z; 0 at
    pixels that are not valid."""


def surfaces(
    image: Float[Tensor, "v 3 h w"],
    views: Images,
    cameras: Cameras,
    cfg: ConsistencyConfig,
    depth_pixels: int | None = None,
) -> Surfaces:
    """Resize the geometry of views to `image`, one of their images.

    `depth_pixels`: depth of a higher resolution is reduced to it before.
    """
    assert views.depth is not None, "reprojection needs depth"
    assert views.opacity is not None, "reprojection needs opacity"
    size = image.shape[-1]
    z, opacity = cameras.depth_z(views.depth), views.opacity
    if depth_pixels is not None and depth_pixels < z.shape[-1]:
        z, opacity = resize_depth_z(z, opacity, depth_pixels)
    smooth = on_surface(z, cfg.tolerance, size)
    z, opacity = resize_depth_z(z, opacity, size)
    return Surfaces(image, cameras, z, opacity, (opacity >= cfg.foreground) & smooth)


def resize_depth_z(
    depth_z: Float[Tensor, "v 1 h w"], opacity: Float[Tensor, "v 1 h w"], size: int
) -> tuple[Float[Tensor, "v 1 s s"], Float[Tensor, "v 1 s s"]]:
    """Resample camera z and opacity to another image size.

    Interpolates 1 / z, which is affine in image coordinates on a plane. Weights are opacities, so
    that the far plane behind a silhouette does not bias its depth.
    """
    if depth_z.shape[-1] == size:
        return depth_z, opacity

    def resample(x: Tensor) -> Tensor:
        if size < x.shape[-1]:
            return adaptive_avg_pool2d(x, size)
        return interpolate(x, (size, size), mode="bilinear", align_corners=False)

    weight = opacity + 1e-6
    return resample(weight) / resample(weight / depth_z), resample(opacity)


def on_surface(
    depth_z: Float[Tensor, "v 1 h w"], tolerance: float, size: int
) -> Bool[Tensor, "v 1 s s"]:
    """Mask of the pixels that are not at a depth edge, for an image of `size` pixels.

    A pixel at an edge mixes two colours and two depths. At an edge, the second difference of 1 / z
    along a row or column exceeds `tolerance` of 1 / z: on a plane it is zero.
    """
    inverse = 1 / depth_z
    around = pad(inverse, (1, 1, 1, 1), mode="replicate")
    rows = around[..., 1:-1, 2:] + around[..., 1:-1, :-2] - 2 * inverse
    columns = around[..., 2:, 1:-1] + around[..., :-2, 1:-1] - 2 * inverse
    rows[..., [0, -1]] = 0.0  # a single neighbour cannot distinguish a slope from an edge
    columns[..., [0, -1], :] = 0.0
    smooth = torch.maximum(rows.abs(), columns.abs()) <= tolerance * inverse
    if depth_z.shape[-1] == size:
        return smooth
    share = interpolate(smooth.float(), (size, size), mode="bilinear", align_corners=False)
    return share > 0.999


def warp(source: Surfaces, target: Surfaces, tolerance: float) -> Warp:
    """Warp the source images into the target views (backward warping).

    Each usable target pixel is unprojected by its camera z and projected into the source, whose
    colour is interpolated bilinearly. The pixel is valid if

    - the four source pixels are inside the image and usable;
    - the point is not behind the nearest of the four by more than `tolerance` of its z;
    - no other target point on the same source pixel is in front of it (z-buffer).
    """
    h, w = source.image.shape[-2:]
    cosine = target.cameras.depth_z(torch.ones_like(target.z))
    points = target.cameras.unproject(target.z / cosine)
    uv, z = source.cameras.project(points)
    x, y = uv[..., 0] * w - 0.5, uv[..., 1] * h - 0.5
    inside = (x > -EDGE) & (x < w - 1 + EDGE) & (y > -EDGE) & (y < h - 1 + EDGE) & (z > 0)
    inside &= target.usable.flatten(1)
    left = x.nan_to_num().clamp(0, w - 1).floor().clamp(max=w - 2)
    top = y.nan_to_num().clamp(0, h - 1).floor().clamp(max=h - 2)
    first = (top * w + left).long()
    corners = torch.stack([first, first + 1, first + w, first + w + 1], dim=-1)  # v n 4
    fx, fy = x - left, y - top
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], dim=-1)

    def gather(values: Tensor) -> Tensor:
        flat = values.flatten(2)
        index = repeat(corners, "v n k -> v c (n k)", c=flat.shape[1])
        return rearrange(flat.gather(2, index), "v c (n k) -> v c n k", k=4)

    source_usable = gather(source.usable).all(dim=-1)[:, 0]
    source_z = gather(source.z)[:, 0]
    not_behind = z <= source_z.amin(dim=-1) * (1 + tolerance)
    pixel = (y.round().clamp(0, h - 1) * w + x.round().clamp(0, w - 1)).nan_to_num().long()
    buffer = torch.full_like(z, torch.inf).scatter_reduce(
        1, pixel, torch.where(inside, z, torch.inf), "amin"
    )
    first_hit = z <= buffer.gather(1, pixel) * (1 + tolerance)
    valid = inside & source_usable & not_behind & first_hit
    warped = (gather(source.image) * weights[:, None]).sum(-1) * valid[:, None]
    # As in resize_depth_z, interpolate 1 / z.
    depth_error = (z * (weights / source_z).sum(-1) - 1).abs()
    return Warp(
        warped.view_as(source.image),
        rearrange(valid, "v (h w) -> v 1 h w", h=h),
        rearrange(torch.where(valid, depth_error, 0.0), "v (h w) -> v 1 h w", h=h),
    )

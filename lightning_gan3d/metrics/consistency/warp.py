"""The geometry of reprojection: cameras on an arc, depth maps of other sizes, and the warp."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

from lightning_gan3d.cameras import Cameras

FAINT = 0.1
"""Opacity from which a pixel shows anything."""
EDGE = 1e-3
"""Pixels by which rounding may move a point over the outermost pixel centres."""


class Warp(NamedTuple):
    """Colour at each pixel of a target view, and where it may be compared."""

    image: Float[Tensor, "v c h w"]
    valid: Bool[Tensor, "v 1 h w"]
    depth_error: Float[Tensor, "v 1 h w"]
    """|z / z' - 1| of the target's point, z being its camera z in the source and z' what the source
    sees there; 0 where it may not be compared."""


def carry(cameras: Cameras, azimuth: Float[Tensor, " k"]) -> Cameras:
    """Carry each camera around the world's y axis to k places: v = b * k.

    Angles are in radians and grow from +z toward +x.
    """
    c, s, zero, one = azimuth.cos(), azimuth.sin(), azimuth * 0, azimuth * 0 + 1
    turn = torch.stack([c, zero, s, zero, zero, one, zero, zero, -s, zero, c, zero], dim=-1)
    last = azimuth.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(azimuth), 4)
    turn = rearrange(torch.cat([turn, last], dim=-1), "k (i j) -> 1 k i j", i=4)
    cam2world = rearrange(turn @ cameras.cam2world[:, None], "b k i j -> (b k) i j")
    return Cameras(cam2world, repeat(cameras.intrinsics, "b i j -> (b k) i j", k=len(azimuth)))


def resize_depth_z(
    depth_z: Float[Tensor, "v 1 h w"], opacity: Float[Tensor, "v 1 h w"], size: int
) -> tuple[Float[Tensor, "v 1 s s"], Float[Tensor, "v 1 s s"]]:
    """Resample camera z and opacity to another image size.

    It is 1 / z that is interpolated, since that is affine in image coordinates on a plane; and with
    the opacity as weight, so that the far plane behind a silhouette does not pull its depth back.
    """
    if depth_z.shape[-1] == size:
        return depth_z, opacity

    def resample(x: Tensor) -> Tensor:
        return interpolate(x, (size, size), mode="bilinear", align_corners=False)

    weight = opacity + 1e-6
    return resample(weight) / resample(weight / depth_z), resample(opacity)


def on_surface(
    depth_z: Float[Tensor, "v 1 h w"], tolerance: float, size: int
) -> Bool[Tensor, "v 1 s s"]:
    """Where an image of `size` pixels shows one surface, and not the edge between two.

    A pixel at such an edge mixes two colours and two depths, and lies on neither surface. It is
    found by the second difference of 1 / z along rows and columns: nothing on a plane, however
    steep, and the height of the step at an edge, here more than `tolerance` of 1 / z.
    """
    inverse = 1 / depth_z
    around = pad(inverse, (1, 1, 1, 1), mode="replicate")
    rows = around[..., 1:-1, 2:] + around[..., 1:-1, :-2] - 2 * inverse
    columns = around[..., 2:, 1:-1] + around[..., :-2, 1:-1] - 2 * inverse
    rows[..., [0, -1]] = 0.0  # one neighbour alone tells slopes from edges in no way
    columns[..., [0, -1], :] = 0.0
    smooth = torch.maximum(rows.abs(), columns.abs()) <= tolerance * inverse
    if depth_z.shape[-1] == size:
        return smooth
    share = interpolate(smooth.float(), (size, size), mode="bilinear", align_corners=False)
    return share > 0.999


def warp(
    image: Float[Tensor, "v c h w"],
    source: Cameras,
    source_z: Float[Tensor, "v 1 h w"],
    source_opaque: Bool[Tensor, "v 1 h w"],
    target: Cameras,
    target_z: Float[Tensor, "v 1 h w"],
    target_opaque: Bool[Tensor, "v 1 h w"],
    tolerance: float,
) -> Warp:
    """Show the source images as the target cameras see them.

    Each foreground pixel of a target is unprojected by the target's camera z and projected into the
    source, where colour is interpolated between the four pixels around it. It may be compared where

    - these four lie in the image and are all foreground;
    - the point is not behind the nearest of the four by more than `tolerance` of its z, so that the
      source sees it;
    - no other point of the target falls on the same source pixel in front of it (a z-buffer).
    """
    h, w = image.shape[-2:]
    cosine = target.depth_z(torch.ones_like(target_z))
    points = target.unproject(target_z / cosine)
    uv, z = source.project(points)
    x, y = uv[..., 0] * w - 0.5, uv[..., 1] * h - 0.5
    inside = (x > -EDGE) & (x < w - 1 + EDGE) & (y > -EDGE) & (y < h - 1 + EDGE) & (z > 0)
    inside &= target_opaque.flatten(1)
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

    seen = gather(source_opaque).all(dim=-1)[:, 0]
    around = gather(source_z)[:, 0]
    visible = z <= around.amin(dim=-1) * (1 + tolerance)
    nearest = (y.round().clamp(0, h - 1) * w + x.round().clamp(0, w - 1)).nan_to_num().long()
    in_front = torch.full_like(z, torch.inf).scatter_reduce(
        1, nearest, torch.where(inside, z, torch.inf), "amin"
    )
    first_hit = z <= in_front.gather(1, nearest) * (1 + tolerance)
    valid = inside & seen & visible & first_hit
    # Where it may not be compared, the image is 0 rather than an extrapolation.
    warped = (gather(image) * weights[:, None]).sum(-1) * valid[:, None]
    # As in resize_depth_z, it is 1 / z that may be interpolated.
    apart = (z * (weights / around).sum(-1) - 1).abs()
    return Warp(
        warped.view_as(image),
        rearrange(valid, "v (h w) -> v 1 h w", h=h),
        rearrange(torch.where(valid, apart, 0.0), "v (h w) -> v 1 h w", h=h),
    )

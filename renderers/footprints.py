"""Elliptical footprints of Gaussians in the image plane (EWA splatting, Zwicker et al. 2001).

As 3D Gaussian splatting (Kerbl et al. 2023) and gsplat (Ye et al. 2024): the projection is
linearised at each mean, and pixels act as a Gaussian filter. Coordinates come first, so that each
operation reads whole rows; everything is differentiable, also by the cameras.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from representations.gaussian_sums import rotation_rows
from representations.splats import Splats

PIXEL_VARIANCE = 0.3
"""Variance of the pixel filter, in pixels squared; it hides gaps between small Gaussians."""
MIN_ALPHA = 1 / 255
"""Smaller opacities in a pixel are dropped."""
MAX_ALPHA = 0.99
"""Larger opacities in a pixel are cut, so that light always passes."""
MARGIN = 0.3
"""The projection is linearised at most this share of half the image beyond its edge."""
MIN_AREA_RATIO = 2.5e-5
"""Smallest ratio of the areas (squared) without and with the pixel filter, for `antialias`."""
C1 = 0.4886025119029199
"""Of the spherical harmonics of degree 1: sqrt(3 / (4 pi))."""


class Footprints(NamedTuple):
    """What v cameras see of n Gaussians, in pixels of the image."""

    mean: Float[Tensor, "v 2 n"]
    """x to the right, y down; the centre of the first pixel is (0.5, 0.5)."""
    conic: Float[Tensor, "v 3 n"]
    """a, b, c of the inverse covariance [[a, b], [b, c]]."""
    opacity: Float[Tensor, "v n"]
    """At the mean; 0 for Gaussians that no pixel sees."""
    feature: Float[Tensor, "v c n"]
    distance: Float[Tensor, "v n"]
    """Of the mean from the camera, in world units."""
    depth_z: Float[Tensor, "v n"]
    """Order from front to back; it has no gradient."""
    reach: Float[Tensor, "v 2 n"]
    """Half extent of the pixels in which it is not dropped, along x and y; it has no gradient."""


def project(
    scene: Splats, cameras: Cameras, resolution: int, near: float, antialias: bool
) -> Footprints:
    """Project the Gaussians of b scenes to v = b * k views; camera i sees scene i // k.

    `antialias` lowers the opacity of a Gaussian by the ratio in which the pixel filter enlarges it
    (Mip-Splatting, Yu et al. 2024): else small ones grow brighter from afar.
    """
    views = len(cameras.cam2world) // scene.batch
    axes = rotation_rows(scene.rotations) * scene.scales.mT[:, None]  # b row column n
    rotation, origins = cameras.cam2world[:, :3, :3], cameras.origins
    to_camera = rearrange(rotation.mT, "(b k) r c -> b k r c", k=views)
    axes = to_camera @ rearrange(axes, "b r c n -> b 1 r (c n)")
    axes = rearrange(axes, "b k r (c n) -> (b k) r c n", c=3)
    means = scene.means.repeat_interleave(views, dim=0).mT
    local = rotation.mT @ (means - origins[:, :, None])
    x, y, z = local.unbind(dim=1)
    seen = z.detach() > near
    z = torch.where(seen, z, 1.0)
    k = cameras.intrinsics[:, :, :, None] * resolution  # v 3 3 1
    u, v = x / z, y / z
    mean = torch.stack(
        [k[:, 0, 0] * u + k[:, 0, 1] * v + k[:, 0, 2], k[:, 1, 1] * v + k[:, 1, 2]], dim=1
    )
    # Far outside the image, the linearised projection would be wrong by any amount.
    (left, right), (top, bottom) = limits(cameras)
    u, v = u.clamp(left, right), v.clamp(top, bottom)
    down = (axes[:, 1] - v[:, None] * axes[:, 2]) / z[:, None]  # v c n
    across = (axes[:, 0] - u[:, None] * axes[:, 2]) / z[:, None]
    across, down = k[:, 0, :1] * across + k[:, 0, 1:2] * down, k[:, 1, 1:2] * down
    xx, xy, yy = ((p * q).sum(1) for p, q in ((across, across), (across, down), (down, down)))
    # xx * yy - xy * xy, but without cancellation for long thin Gaussians.
    area = torch.linalg.cross(across, down, dim=1).square().sum(1)
    filtered = area + PIXEL_VARIANCE * (xx + yy) + PIXEL_VARIANCE**2
    xx, yy = xx + PIXEL_VARIANCE, yy + PIXEL_VARIANCE
    opacity = scene.opacities.repeat_interleave(views, dim=0)
    if antialias:
        opacity = opacity * (area / filtered).clamp_min(MIN_AREA_RATIO).sqrt()
    conic = torch.stack([yy, -xy, xx], dim=1) / filtered[:, None]
    with torch.no_grad():
        # Where opacity * exp(-q) reaches MIN_ALPHA: q = ln(opacity / MIN_ALPHA).
        squared = 2 * torch.log((opacity / MIN_ALPHA).clamp_min(1))
        reach = (squared[:, None] * torch.stack([xx, yy], dim=1)).sqrt()
        inside = (mean + reach > 0.5) & (mean - reach < resolution - 0.5)
        visible = seen & (squared > 0) & inside.all(dim=1)
    return Footprints(
        mean,
        conic,
        torch.where(visible, opacity, 0.0),
        colours(scene, origins),
        local.norm(dim=1),
        z.detach(),
        torch.where(visible[:, None], reach, 0.0),
    )


def limits(cameras: Cameras) -> Float[Tensor, "2 2 v 1"]:
    """Slopes x / z and y / z, from and to which the projection is linearised."""
    k = cameras.intrinsics.detach()[:, :, :, None]
    focal = torch.stack([k[:, 0, 0], k[:, 1, 1]])
    centre = torch.stack([k[:, 0, 2], k[:, 1, 2]])
    half = 0.5 * (1 + MARGIN) / focal
    middle = (0.5 - centre) / focal
    return torch.stack([middle - half, middle + half], dim=1)


def colours(scene: Splats, origins: Float[Tensor, "v 3"]) -> Float[Tensor, "v c n"]:
    """Features as seen from the camera centres: harmonics of degree 1 add to the colours."""
    views = len(origins) // scene.batch
    feature = scene.features.mT.repeat_interleave(views, dim=0)
    if scene.harmonics is None:
        return feature
    offset = scene.means.repeat_interleave(views, dim=0).mT - origins[:, :, None]
    x, y, z = torch.nn.functional.normalize(offset, dim=1)[:, :, None].unbind(1)
    first, second, third = scene.harmonics.repeat_interleave(views, dim=0).permute(2, 0, 3, 1)
    rgb = feature[:, :3] + C1 * (z * second - y * first - x * third)
    return torch.cat([rgb.clamp_min(0), feature[:, 3:]], dim=1)

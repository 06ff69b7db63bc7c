"""View consistency by reprojection: views of an item, warped into one another by their depth."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Images
from lightning_gan3d.measure import Measure, missing
from lightning_gan3d.metrics.sources import ViewSource
from lightning_gan3d.metrics.summary import mean_of

KINDS = {"psnr": "dB", "gain": "dB", "coverage": "share"}
"""What is measured, with its unit."""
EDGE = 1e-3
"""Pixels by which rounding may move a point over the outermost pixel centres."""
LEAST_ERROR = 1e-10
"""Squared error at which PSNR stops, 100 dB: two equal images have no finite one."""


@dataclass(frozen=True)
class ConsistencyConfig:
    """The protocol of the reprojection measure."""

    items: int = 32
    """Latents whose views are compared."""
    angle: float = 0.25
    """Radians between neighbouring views; the camera is carried around the world's y axis."""
    steps: int = 2
    """Neighbours on either side of the label's own camera: 2 * steps + 1 views a latent."""
    tolerance: float = 0.02
    """A point is hidden where it lies behind what the other view sees by more than this share of
    its camera z."""
    foreground: float = 0.9
    """Opacity from which a pixel is foreground. Half-transparent ones mix in what lies behind."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field in ("items", "steps"):
            if getattr(self, field) < 1:
                raise ConfigError(
                    f"consistency.{field}={getattr(self, field)}: use a whole number from 1, e.g. "
                    "2",
                    field=field,
                )
        for field, high in (("angle", 1.5), ("tolerance", 1.0), ("foreground", 1.0)):
            if not 0 < getattr(self, field) <= high:
                raise ConfigError(
                    f"consistency.{field}={getattr(self, field)}: use a number in (0, {high}]",
                    field=field,
                )


class Warp(NamedTuple):
    """Colour at each pixel of a target view, and where it may be compared."""

    image: Float[Tensor, "v c h w"]
    valid: Bool[Tensor, "v 1 h w"]


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
    visible = z <= gather(source_z).amin(dim=-1)[:, 0] * (1 + tolerance)
    nearest = (y.round().clamp(0, h - 1) * w + x.round().clamp(0, w - 1)).nan_to_num().long()
    in_front = torch.full_like(z, torch.inf).scatter_reduce(
        1, nearest, torch.where(inside, z, torch.inf), "amin"
    )
    first_hit = z <= in_front.gather(1, nearest) * (1 + tolerance)
    valid = inside & seen & visible & first_hit
    # Where it may not be compared, the image is 0 rather than an extrapolation.
    warped = (gather(image) * weights[:, None]).sum(-1) * valid[:, None]
    return Warp(warped.view_as(image), rearrange(valid, "v (h w) -> v 1 h w", h=h))


class PairErrors(NamedTuple):
    """Sums over the pairs of each item: squared errors of [0, 1] images, and counts of pixels."""

    warped: Float[Tensor, " b"]
    unwarped: Float[Tensor, " b"]
    compared: Float[Tensor, " b"]
    foreground: Float[Tensor, " b"]


def neighbour_pairs(k: int) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Sources and targets of the pairs of adjacent views, in both directions."""
    first, second = torch.arange(k - 1), torch.arange(1, k)
    return torch.cat([first, second]), torch.cat([second, first])


def pair_errors(
    image: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "v 1 h0 w0"],
    opacity: Float[Tensor, "v 1 h0 w0"],
    k: int,
    cfg: ConsistencyConfig,
) -> PairErrors:
    """Compare the k views of each item with their neighbours.

    Images in [-1, 1]; depth along the rays.
    """
    z, opacity = resize_depth_z(cameras.depth_z(depth), opacity, image.shape[-1])
    opaque = opacity >= cfg.foreground
    first, second = neighbour_pairs(k)
    offset = torch.arange(0, len(image), k)[:, None]
    a, b = ((offset + side).flatten().to(image.device) for side in (first, second))
    result = warp(
        image[a],
        cameras.select(a),
        z[a],
        opaque[a],
        cameras.select(b),
        z[b],
        opaque[b],
        cfg.tolerance,
    )

    def total(x: Tensor) -> Tensor:
        return rearrange(x, "(b p) c h w -> b (p c h w)", p=len(first)).sum(dim=1)

    valid = result.valid.float()
    return PairErrors(
        total((result.image - image[b]).square() / 12 * valid),  # / 4 for [0, 1], / 3 channels
        total((image[a] - image[b]).square() / 12 * valid),
        total(valid),
        total(opaque[b].float()),
    )


def psnr(squared_error: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Peak signal-to-noise ratio in dB of a mean squared error in [0, 1] images; at most 100."""
    return -10 * squared_error.clamp(min=LEAST_ERROR).log10()


def reproject(
    source: ViewSource, cfg: ConsistencyConfig, batch: int
) -> dict[str, PairErrors] | None:
    """Take the errors of all items, `raw` and `image`; None where no depth is rendered."""
    k = 2 * cfg.steps + 1
    azimuth = (torch.arange(k) - cfg.steps) * cfg.angle
    parts: dict[str, list[PairErrors]] = {"raw": [], "image": []}
    for items in torch.split(torch.arange(cfg.items), max(1, batch // k)):
        base = source.base(items)
        cameras = carry(base, azimuth.to(base.cam2world))
        views: Images = source.views(items, cameras)
        if views.depth is None or views.opacity is None:
            return None
        for name, image in (("raw", views.image_raw), ("image", views.image)):
            errors = pair_errors(
                image.clamp(-1, 1).float(), cameras, views.depth, views.opacity, k, cfg
            )
            parts[name].append(PairErrors(*(e.cpu() for e in errors)))
    return {name: PairErrors(*map(torch.cat, zip(*p, strict=True))) for name, p in parts.items()}


def measure_consistency(
    source: ViewSource, cfg: ConsistencyConfig, batch: int = 32, suffix: str = ""
) -> list[Measure]:
    """Measure PSNR after warping, its gain over not warping, and coverage.

    Each is taken before (`_raw`) and after super-resolution. `suffix` goes to the end of the
    metrics' names.
    """
    protocol = (
        f"{2 * cfg.steps + 1} views {cfg.angle:g} rad apart around the world's y axis, label "
        "fixed; neighbours, both "
        "directions; bilinear backward warp by camera z, z-buffer, occlusion tolerance "
        f"{cfg.tolerance:g}, opacity >= "
        f"{cfg.foreground:g}, pixels outside excluded; mean over latents of the PSNR over their "
        "pixels"
    )
    found = reproject(source, cfg, batch)
    result = []
    for name, words, end in (
        ("image", "images", suffix),
        ("raw", "renderings before super-resolution", f"_raw{suffix}"),
    ):
        names = [(f"consistency.{kind}{end}", unit) for kind, unit in KINDS.items()]
        if found is None:
            why = "no depth is rendered, so nothing can be warped"
            result += [missing(metric, why, unit) for metric, unit in names]
            continue
        errors = found[name]
        some = errors.compared > 0
        after = psnr(errors.warped[some] / errors.compared[some])
        before = psnr(errors.unwarped[some] / errors.compared[some])
        shares = (errors.compared / errors.foreground.clamp(min=1))[errors.foreground > 0]
        for (metric, unit), values in zip(names, (after, after - before, shares), strict=True):
            empty = "no foreground pixel is seen by two views"
            result.append(mean_of(metric, values, unit, f"{words}: {protocol}", empty))
    return result

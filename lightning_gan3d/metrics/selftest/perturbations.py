"""Perturbations of views, and the metrics that must notice each of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.sources import ViewSource

Change = Callable[[ViewSource, Tensor, Cameras, float], Images]
"""Maps source, items, cameras and amount to perturbed views; amount 0 changes nothing."""


@dataclass(frozen=True, eq=False)
class Perturbed(ViewSource):
    """Another source with perturbed views."""

    source: ViewSource
    change: Change
    amount: float

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the unperturbed cameras."""
        return self.source.base(items)

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Perturb the views."""
        return self.change(self.source, items, cameras, self.amount)


def _per_view(cameras: Cameras, purpose: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Draw normal numbers for each view; a function of its camera alone, not of the batch."""
    keys = (cameras.origins * 1e4).round().long()
    key = (keys * torch.tensor([1, 10_007, 100_003])).sum(-1).abs()
    return torch.stack([Draws(11).at(int(i)).normal(purpose, shape) for i in key])


def with_image(views: Images, image: Float[Tensor, "v 3 h w"]) -> Images:
    """Replace the image, and the rendering before super-resolution."""
    image = image.clamp(-1, 1)
    return views._replace(image=image, image_raw=image)


def _odd(items: Tensor, cameras: Cameras) -> Bool[Tensor, "v 1 1 1"]:
    """Mark every second view of each item."""
    v = len(cameras.cam2world)
    return (torch.arange(v) % (v // len(items)) % 2 == 1)[:, None, None, None]


def scale_depth(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Increase depth by a share."""
    views = source.views(items, cameras)
    assert views.depth is not None
    return views._replace(depth=views.depth * (1 + amount))


def turn_views(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Rotate each camera about the y axis by its own normal angle (radians)."""
    angle = amount * _per_view(cameras, "turn", ())
    turned = [cameras.select(slice(i, i + 1)).rotate_y(angle[i : i + 1]) for i in range(len(angle))]
    return source.views(items, Cameras(*(torch.cat(x) for x in zip(*turned, strict=True))))


def slide_texture(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Slide the image over its depth as the camera turns, by image widths per radian."""
    views = source.views(items, cameras)
    k = len(cameras.cam2world) // len(items)
    angle = azimuth_of(cameras) - azimuth_of(source.base(items)).repeat_interleave(k)
    angle = torch.atan2(angle.sin(), angle.cos())
    shift = torch.eye(2, 3).repeat(len(angle), 1, 1)
    shift[:, 0, 2] = 2 * amount * angle
    grid = affine_grid(shift, list(views.image.shape), align_corners=False)
    return with_image(
        views, grid_sample(views.image, grid, padding_mode="border", align_corners=False)
    )


def azimuth_of(cameras: Cameras) -> Float[Tensor, " v"]:
    """Angle about the world's y axis in radians, 0 for the frontal camera."""
    return torch.atan2(cameras.origins[:, 0], cameras.origins[:, 2])


def add_noise(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Add normal noise to each view, as a share of the range of colours."""
    views = source.views(items, cameras)
    noise = _per_view(cameras, "noise", tuple(views.image.shape[1:]))
    return with_image(views, views.image + 2 * amount * noise)


def tint_views(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Tint each view of an item differently."""
    views = source.views(items, cameras)
    assert views.opacity is not None
    tint = 2 * amount * _per_view(cameras, "tint", (3, 1, 1))
    return with_image(views, views.image + tint * (views.opacity > 0))


def swap_items(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Show the next item in every second view."""
    views = source.views(items, cameras)
    if not amount:
        return views
    other, odd = source.views(items + 1, cameras), _odd(items, cameras)
    pairs = zip(other, views, strict=True)
    return Images(*(torch.where(odd, a, b) for a, b in pairs if a is not None and b is not None))


def mirror_views(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Mirror every second view, image and depth."""
    views = source.views(items, cameras)
    if not amount:
        return views
    odd = _odd(items, cameras)
    return Images(*(torch.where(odd, x.flip(-1), x) for x in views if x is not None))


def flatten_depth(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Interpolate depth to a plane that faces the camera: a billboard at amount 1."""
    views = source.views(items, cameras)
    assert views.depth is not None
    return views._replace(depth=views.depth.lerp(facing_plane(views.depth, cameras), amount))


def facing_plane(depth: Float[Tensor, "v 1 h w"], cameras: Cameras) -> Float[Tensor, "v 1 h w"]:
    """Return the depth of planes through the origin that face the cameras."""
    cosine = cameras.depth_z(torch.ones_like(depth))
    distance: Tensor = cameras.origins.norm(dim=-1)[:, None, None, None]
    return distance / cosine


def ignore_camera(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Return the image of the item's own camera for every camera."""
    if not amount:
        return source.views(items, cameras)
    views = source.views(items, source.base(items))
    k = len(cameras.cam2world) // len(items)
    return Images(*(x.repeat_interleave(k, 0) for x in views if x is not None))


def paint_over(source: ViewSource, items: Tensor, cameras: Cameras, amount: float) -> Images:
    """Blend towards one colour, which cannot be inconsistent."""
    views = source.views(items, cameras)
    return with_image(views, views.image.lerp(torch.full_like(views.image, 0.3), amount))


@dataclass(frozen=True)
class Perturbation:
    """A change of the views, and the expected response of each metric."""

    name: str
    change: Change
    amounts: tuple[float, ...]
    """Increasing; with several, `notices` must get worse at each."""
    notices: tuple[str, ...]
    """Metrics that must get worse by their margin at the last amount."""
    blind: tuple[str, ...] = ()
    """Metrics that must not change."""

    @property
    def strict(self) -> tuple[str, ...]:
        """Metrics that must get worse at each amount."""
        return self.notices if len(self.amounts) > 1 else ()


_WARPED = ("psnr", "gain", "ssim")
_DEPTH = (*_WARPED, "depth_error")
_ALL = (*_DEPTH, "refit", "pose")
_SHARES = (0.01, 0.02, 0.04, 0.08)
PERTURBATIONS = (
    Perturbation("depth too large", scale_depth, _SHARES, _DEPTH, ("pose", "refit")),
    Perturbation("views turned at random (rad)", turn_views, (0.05, 0.1, 0.2, 0.4), _ALL),
    Perturbation(
        "texture slides with the screen",
        slide_texture,
        (0.02, 0.04, 0.08, 0.16),
        (*_WARPED, "refit"),
        ("depth_error",),
    ),
    Perturbation(
        "noise in every view", add_noise, _SHARES, ("flicker", *_WARPED), ("depth_error",)
    ),
    Perturbation(
        "each view in another tint",
        tint_views,
        (0.08,),
        ("psnr", "gain", "flicker", "refit"),
        ("depth_error",),
    ),
    Perturbation("every second view of another item", swap_items, (1.0,), (*_DEPTH, "refit")),
    Perturbation("every second view mirrored", mirror_views, (1.0,), _ALL),
    Perturbation("flat depth (billboard)", flatten_depth, (1.0,), _WARPED, ("pose", "refit")),
    Perturbation("one picture for all cameras", ignore_camera, (1.0,), _ALL),
)
"""Expected responses. Metrics that an entry does not name are shown but not checked."""

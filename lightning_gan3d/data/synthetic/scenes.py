"""Procedural scenes: one to three animals on a floor, with instance masks, boxes and pure edits.

Objects are placed as in GIRAFFE (Niemeyer and Geiger 2021): x = R s p + t for a point p of the
object, with R a rotation about the world's y axis. The light comes from straight above, so the
colours of an object do not depend on its rotation.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.synthetic.animals import ATTRIBUTES, build_animals
from lightning_gan3d.data.synthetic.backdrops import Backdrops, draw_backdrops
from lightning_gan3d.data.synthetic.ellipsoids import (
    SUPERSAMPLING,
    Ellipsoids,
    ObjectView,
    level_of,
    mean_depth,
    mean_of_pixels,
    nearest_hits,
    view_chunks,
)
from lightning_gan3d.draws import Draws
from representations.parts import along_y, box_corners

_UP = (0.0, 1.0, 0.0)
"""Direction to the light."""
_DEFAULTS = {1: ((0.45, 0.6), 0.25), 2: ((0.3, 0.42), 0.5), 3: ((0.25, 0.35), 0.6)}
"""Scales and spread by the largest number of objects."""
_FARTHEST = {2: math.sqrt(8), 3: math.sqrt(24) - math.sqrt(8)}
"""Largest possible distance between the nearest two of 2 or 3 points in a square of half side 1."""
_TRIES = 2048
"""1 % of the tries succeed at worst, see `ScenesConfig`."""
Coordinate = Annotated[float, Interval(ge=-1, le=1)]
Extent = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class ScenesConfig:
    """Objects of procedural scenes. All fit the box of side 2 at any rotation."""

    objects_min: Annotated[int, Interval(ge=1, le=3)] = 1
    """Least number of objects in a scene; each number is equally frequent."""
    objects_max: Annotated[int, Interval(ge=1, le=3)] = 1
    """Greatest number of objects."""
    scale_min: Extent | None = None
    """Smallest scale: half the side of an object's cube, in world units. Null: 0.45 for one object,
    0.3 for up to two, 0.25 for up to three."""
    scale_max: Extent | None = None
    """Largest scale. Null: 0.6, 0.42 or 0.35."""
    spread: Annotated[float, Interval(ge=0, le=1)] | None = None
    """x and z of the objects are uniform within +-spread. Null: 0.25, 0.5 or 0.6."""
    rotation_min: float = -math.pi
    """Least rotation about the y axis in radians: 0 faces +z, positive turns toward +x."""
    rotation_max: float = math.pi
    """Greatest rotation."""
    floor: Coordinate = -0.5
    """Height on which all objects stand."""

    def __post_init__(self) -> None:
        """Check that ranges are ordered, and that the objects fit the box and beside each other."""
        low, high = self.scale
        for name, first, last in (
            ("objects", self.objects_min, self.objects_max),
            ("scale", low, high),
            ("rotation", self.rotation_min, self.rotation_max),
        ):
            if first > last:
                raise ConfigError(
                    f"scenes.{name}_min={first}: use {name}_max={last} or less", field=f"{name}_min"
                )
        width, most = self.width, self.objects_max
        room = min(1 - width, (1 - self.floor) / 2)
        if high > room + 1e-6:
            raise ConfigError(
                f"scenes.scale_max={high} with spread={width}, floor={self.floor}: objects leave "
                f"the box [-1, 1]; use scale_max={room:.3g} or less, or a smaller spread",
                field="scale_max",
            )
        # Beyond 70 % of the densest packing, fewer than 1 % of the random positions are free.
        needed = 2 * high / (0.7 * _FARTHEST[most]) if most > 1 else 0.0
        if width < needed - 1e-6:
            raise ConfigError(
                f"scenes.spread={width}: {most} objects with scale_max={high} do not fit beside "
                f"each other; use spread={needed:.3g} or more, or a smaller scale_max",
                field="spread",
            )

    @property
    def scale(self) -> tuple[float, float]:
        """Smallest and largest scale."""
        low, high = _DEFAULTS[self.objects_max][0]
        return self.scale_min or low, self.scale_max or high

    @property
    def width(self) -> float:
        """Largest |x| and |z| of the objects."""
        return _DEFAULTS[self.objects_max][1] if self.spread is None else self.spread


class SceneView(NamedTuple):
    """Views of scenes: image, depth and mask of all objects, and the share of each one."""

    objects: ObjectView
    """The image has the background; depth and mask are those of the objects."""
    shares: Float[Tensor, "v n h w"]
    """Share of each pixel that shows object i. They sum up to `objects.mask`."""

    @property
    def instances(self) -> Int64[Tensor, "v 1 h w"]:
        """What covers most of each pixel: 0 for the background, i + 1 for object i.

        The lower number has the pixel if two cover the same share.
        """
        background = 1 - self.objects.mask
        return torch.cat([background, self.shares], 1).argmax(1, keepdim=True)

    @property
    def boxes(self) -> Float[Tensor, "v n 4"]:
        """Tight boxes of the pixels that show an object; NaN if none does.

        x0, y0, x1, y1 as shares of the image size.
        """
        seen = self.shares > 0
        size = seen.shape[-1]
        index = torch.arange(size)
        ends = []
        for line in (seen.any(2), seen.any(3)):  # columns, rows
            low = torch.where(line, index, size).amin(-1)
            high = torch.where(line, index + 1, 0).amax(-1)
            ends.append(torch.stack([low, high], -1) / size)
        boxes = torch.stack(ends, -1).flatten(-2)
        return torch.where(seen.any(3).any(2)[..., None], boxes, math.nan)


@dataclass(frozen=True)
class Scenes:
    """m scenes with up to n objects. Edits return other scenes; object numbers count from 0."""

    objects: tuple[Ellipsoids, ...]
    """n objects of all scenes, in their own coordinates."""
    attributes: dict[str, Float[Tensor, "m n"]]
    """Of the drawn objects, see `animals.ATTRIBUTES`."""
    scale: Float[Tensor, "m n"]
    """Half the side of the objects' cubes, in world units."""
    rotation: Float[Tensor, "m n"]
    """About the world's y axis, in radians: 0 faces +z, positive turns toward +x."""
    translation: Float[Tensor, "m n 3"]
    """Centres of the cubes, in world units."""
    present: Bool[Tensor, "m n"]
    """Whether the object exists; the other values of missing ones have no effect."""
    backdrops: Backdrops | None
    """None: white."""

    def select(self, indices: Int[Tensor, " k"]) -> "Scenes":
        """Select scenes by index."""
        return Scenes(
            tuple(x.select(indices) for x in self.objects),
            {name: x[indices] for name, x in self.attributes.items()},
            self.scale[indices],
            self.rotation[indices],
            self.translation[indices],
            self.present[indices],
            None if self.backdrops is None else self.backdrops.select(indices),
        )

    def turned(self, i: int, angle: float | Float[Tensor, " m"]) -> "Scenes":
        """Turn object i about its vertical axis by an angle in radians."""
        return dataclasses.replace(
            self, rotation=_changed(self.rotation, i, self.rotation[:, i] + angle)
        )

    def moved(self, i: int, offset: Float[Tensor, "*m 3"]) -> "Scenes":
        """Move object i by an offset in world units."""
        moved = _changed(self.translation, i, self.translation[:, i] + offset)
        return dataclasses.replace(self, translation=moved)

    def resized(self, i: int, factor: float | Float[Tensor, " m"]) -> "Scenes":
        """Scale object i on the spot: it keeps standing at the same height."""
        scale = self.scale[:, i] * factor
        up = torch.zeros_like(self.translation[:, i])
        up[:, 1] = scale - self.scale[:, i]
        return dataclasses.replace(self.moved(i, up), scale=_changed(self.scale, i, scale))

    def removed(self, i: int) -> "Scenes":
        """Remove object i; the others keep their numbers."""
        return dataclasses.replace(self, present=_changed(self.present, i, False))

    def in_world(self, i: int) -> Ellipsoids:
        """Return object i of all scenes in world coordinates."""
        axes = torch.eye(3).expand(len(self.scale), -1, -1)
        turn = along_y(axes, self.rotation[:, i]).mT[:, None]
        scale = self.scale[:, i, None, None]
        own = self.objects[i]
        centre = scale * (turn @ own.centre[..., None])[..., 0] + self.translation[:, i, None]
        return Ellipsoids(centre, own.axes @ turn.mT / scale[..., None], own.colour)

    def render(self, cameras: Cameras, resolution: int, far: float) -> SceneView:
        """Render scene i from camera i with 2x2 rays per pixel; the depth of misses is `far`.

        A pixel without an object is a function of background and camera alone, bit by bit.
        """
        views = [
            self.select(chunk)._render(cameras.select(chunk), resolution, far)
            for chunk in view_chunks(len(self.scale), resolution)
        ]
        parts = zip(*(view.objects for view in views), strict=True)
        return SceneView(
            ObjectView(*map(torch.cat, parts)), torch.cat([view.shares for view in views])
        )

    def _render(self, cameras: Cameras, resolution: int, far: float) -> SceneView:
        num = len(self.objects)
        hits = [nearest_hits(self.in_world(i), cameras, resolution, _UP) for i in range(num)]
        hit = torch.stack([h.hit for h in hits], -1) & self.present[:, None]
        t = torch.stack([h.t for h in hits], -1).masked_fill(~hit, math.inf)
        nearest = t.argmin(-1, keepdim=True)
        shown = hit & (nearest == torch.arange(num))
        colour = torch.ones(*nearest.shape[:2], 3)
        if self.backdrops is not None:
            dirs = cameras.rays(SUPERSAMPLING * resolution).dirs
            colour = self.backdrops.colours(cameras.origins, dirs)
        for i, h in enumerate(hits):
            colour = torch.where(shown[..., i, None], h.colour, colour)
        t = t.masked_fill(~shown, 0).sum(-1, keepdim=True)
        mean = mean_of_pixels(torch.cat([colour, t, shown.float()], -1))
        shares = mean[:, 4:]
        mask = shares.sum(1, keepdim=True)
        view = ObjectView(2 * mean[:, :3] - 1, mean_depth(mean[:, 3:4], mask, far), mask)
        return SceneView(view, shares)

    def boxes(self, cameras: Cameras) -> Float[Tensor, "m n 4"]:
        """Project the objects' cubes into camera i of scene i: tight boxes of the 8 corners.

        x0, y0, x1, y1 as shares of the image size, not clipped to the image; NaN for missing
        objects. They hold all of an object, hidden parts too.
        """
        rotation, centre = self.rotation.flatten(), self.translation.flatten(0, 1)
        # Scaled after the rotation: the bits of older data sets.
        corners = box_corners(torch.ones_like(rotation), rotation, 0 * centre)
        corners = corners * self.scale.view(-1, 1, 1) + centre[:, None]
        points, _ = cameras.project(corners.view(len(self.scale), -1, 3))
        points = points.view(*self.scale.shape, 8, 2)
        boxes = torch.cat([points.amin(2), points.amax(2)], -1)
        return torch.where(self.present[..., None], boxes, math.nan)

    def level(self, points: Float[Tensor, "m n 3"]) -> Float[Tensor, "m n"]:
        """Level function of all objects at points, see `level_of`."""
        levels = [
            level_of(self.in_world(i), points).masked_fill(~self.present[:, i, None], -math.inf)
            for i in range(len(self.objects))
        ]
        return torch.stack(levels).amax(0)


def describe(scenes: Scenes, cameras: Cameras, view: SceneView) -> list[list[dict[str, Any]]]:
    """Return the entries of `placements` of the objects of each scene, rounded to 1e-6.

    `visible` (`SceneView.boxes`) is null for an object that no pixel shows.
    """
    values = {name: getattr(scenes, name) for name in ("scale", "rotation", "translation")}
    values |= {"box": scenes.boxes(cameras), "visible": view.boxes}
    rounded = {key: v.double().mul(1e6).round().div(1e6).tolist() for key, v in values.items()}
    rounded["visible"] = [[None if math.isnan(b[0]) else b for b in s] for s in rounded["visible"]]
    return [
        [{key: v[i][j] for key, v in rounded.items()} for j, present in enumerate(row) if present]
        for i, row in enumerate(scenes.present.tolist())
    ]


def _changed(values: Tensor, i: int, new: Tensor | bool) -> Tensor:
    changed = values.clone()
    changed[:, i] = new
    return changed


def draw_scenes(cfg: ScenesConfig, num: int, radius: float, seed: int) -> Scenes:
    """Draw `num` scenes for cameras at distance `radius`; scene i does not depend on `num`.

    Objects stand apart: the circles around them on the floor, of radius `scale`, are disjoint.
    """
    draws, most = Draws(seed).scope("scenes"), cfg.objects_max
    each = [draws.at(i) for i in range(num)]
    u = torch.stack([d.uniform("attributes", (most, len(ATTRIBUTES))) for d in each])
    ranges = ATTRIBUTES.items()
    attributes = {k: low + (high - low) * u[..., i] for i, (k, (low, high)) in enumerate(ranges)}
    placing = torch.stack([d.uniform("placement", (2, most)) for d in each])
    (least, greatest), turns = cfg.scale, (cfg.rotation_min, cfg.rotation_max)
    scale = least + (greatest - least) * placing[:, 0]
    choices = most - cfg.objects_min + 1
    count = cfg.objects_min + torch.cat([d.integers("count", choices, (1,)) for d in each])
    present = torch.arange(most) < count[:, None]
    spots = [_positions(cfg.width, *row) for row in zip(scale, present, each, strict=True)]
    x, z = torch.stack(spots).unbind(-1)
    return Scenes(
        tuple(build_animals({k: v[:, i] for k, v in attributes.items()}) for i in range(most)),
        attributes,
        scale,
        turns[0] + (turns[1] - turns[0]) * placing[:, 1],
        torch.stack([x, cfg.floor + scale, z], -1),
        present,
        draw_backdrops(num, cfg.floor, radius, draws),
    )


def _positions(
    width: float, scale: Float[Tensor, " n"], present: Bool[Tensor, " n"], draws: Draws
) -> Float[Tensor, "n 2"]:
    """Return the first of many random x and z at which no two of the objects present overlap."""
    spots = width * (
        2 * draws.uniform("positions", (_TRIES if len(scale) > 1 else 1, len(scale), 2)) - 1
    )
    gap = torch.cdist(spots, spots) - (scale + scale[:, None])
    pairs = torch.ones(len(scale), len(scale)).triu(1).bool() & present & present[:, None]
    free = (gap.masked_fill(~pairs, math.inf) > 0).flatten(1).all(1)
    assert free.any(), "the options leave room for all objects"
    return spots[free.int().argmax()]

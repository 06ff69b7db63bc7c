"""Propose box, near and far from the cameras of a data set, and tell what is unusual about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import yaml
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.normalise import SURROUND, azimuth_gap

_MARGIN = 1.1
"""Room around the points, as a share of their extent."""
_MOST_OF_POINTS = 99.0
"""Percentile of the points' extents that the box holds: some are always astray."""
_MIN_POINTS = 50
_ASTRAY = 0.1
"""Share of the distance by which axes may miss the origin (root mean square) without a warning."""
_VARIED = 1.5
"""Ratio of the far to the near cameras (95th and 5th percentile) that is worth a warning."""
_LEVEL = 0.3
"""Cosine of the elevation above which a roll can be told."""
_ROLLED = 20.0
"""Degrees of roll (root mean square) that are worth a warning."""


@dataclass(frozen=True)
class Framing:
    """What an experiment should state for a data set, in its world's units."""

    box: float
    """Edge of the cube around the origin that is worth representing."""
    near: float
    """No camera is nearer to that cube."""
    far: float
    """No corner of that cube is farther from a camera."""
    radius: float
    """Median distance of the cameras from the origin."""
    focal: float
    """Median horizontal focal length, in image widths."""
    fov: float
    """The field of view of that, in degrees."""
    visible: float
    """Radius of the largest ball around the origin that the median camera sees whole."""
    points_inside: float | None
    """Share of the points that lie in the cube; None without points."""

    def tree(self, background: float | None = None) -> dict[str, object]:
        """Return the part of an experiment that follows from it."""
        renderer = {"near": self.near, "far": self.far}
        if background is not None:
            renderer["background"] = background
        return {"generator": {"scene": {"box": self.box}, "renderer": renderer}}


def snippet(tree: dict[str, object]) -> str:
    """Return a tree as the YAML that is pasted into an experiment."""
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, allow_unicode=True)


def find_framing(
    cam2world: Float[np.ndarray, "n 4 4"],
    intrinsics: Float[np.ndarray, "n 3 3"],
    points: Float[np.ndarray, "p 3"],
) -> Framing:
    """Propose the framing of cameras whose intrinsics are divided by the image size.

    The box is the cube around the ball that the median camera sees whole. Where enough points lie
    in that ball, and leave room, the box shrinks to them: what is around them was not found.
    """
    places = cam2world[:, :3, 3]
    seen = visible_radius(cam2world, intrinsics)
    visible = float(np.median(seen))
    if visible <= 0:
        raise DataError(
            f"{int((seen <= 0).sum()):,} of {len(seen):,} cameras do not have the centre of the "
            "world in their picture: were the images taken from inside out, or is `centre` wrong? "
            "A box around the origin needs cameras that look at it; choose another centre"
        )
    half = visible
    extents = np.abs(points).max(axis=1, initial=0.0)
    near_points = extents[np.linalg.norm(points, axis=1) < visible]
    if len(near_points) >= _MIN_POINTS:
        half = min(half, _MARGIN * float(np.percentile(near_points, _MOST_OF_POINTS)))
    box = _round(2 * half, math.ceil)
    beyond = np.maximum(np.abs(places) - box / 2, 0)
    nearest = float(np.linalg.norm(beyond, axis=1).min())
    farthest = float(np.linalg.norm(np.abs(places) + box / 2, axis=1).max())
    radius = float(np.median(np.linalg.norm(places, axis=1)))
    focal = float(np.median(intrinsics[:, 0, 0]))
    return Framing(
        box=box,
        # a camera within the box still needs a first sample in front of it
        near=_round(max(nearest, 0.01 * radius), math.floor),
        far=_round(farthest, math.ceil),
        radius=radius,
        focal=focal,
        fov=math.degrees(2 * math.atan(0.5 / focal)),
        visible=visible,
        points_inside=float((extents <= box / 2).mean()) if len(points) else None,
    )


def visible_radius(
    cam2world: Float[np.ndarray, "n 4 4"], intrinsics: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, " n"]:
    """Return the radius of the largest ball around the origin that each camera sees whole.

    It is the distance of the origin from the nearest of the four planes through the camera and the
    edges of its picture, for 0 <= u <= 1 means (fx, s, cx) . p >= 0 and (-fx, -s, 1 - cx) . p >= 0
    for a point p before the camera. Negative where the origin is out of the picture, or behind.
    """
    k, z = intrinsics, np.zeros(len(intrinsics))
    rows = [
        (k[:, 0, 0], k[:, 0, 1], k[:, 0, 2]),
        (-k[:, 0, 0], -k[:, 0, 1], 1 - k[:, 0, 2]),
        (z, k[:, 1, 1], k[:, 1, 2]),
        (z, -k[:, 1, 1], 1 - k[:, 1, 2]),
    ]
    planes = np.stack([np.stack(row, axis=-1) for row in rows], axis=1)  # n 4 3
    origin = np.einsum("nij,ni->nj", cam2world[:, :3, :3], -cam2world[:, :3, 3])
    return np.asarray(
        np.min((planes @ origin[:, :, None])[..., 0] / np.linalg.norm(planes, axis=-1), axis=1)
    )


def unusual(
    cam2world: Float[np.ndarray, "n 4 4"],
    intrinsics: Float[np.ndarray, "n 3 3"],
    framing: Framing,
) -> list[str]:
    """Return what is allowed, but makes a scene hard to learn or a framing poor."""
    places, forward = cam2world[:, :3, 3], cam2world[:, :3, 2]
    distance = np.linalg.norm(places, axis=1)
    found = []
    ahead = -(places * forward).sum(axis=1)
    away = int((ahead < 0).sum())
    if away:
        found.append(f"{away:,} of {len(places):,} cameras look away from the origin")
    miss = np.linalg.norm(places + ahead[:, None] * forward, axis=1) / np.maximum(distance, 1e-9)
    share = float(np.sqrt((miss**2).mean()))
    if share > _ASTRAY:
        found.append(
            f"the cameras look at no common point: their axes miss the origin by {share:.0%} of "
            "their distance (root mean square)"
        )
    gap = azimuth_gap(places)
    if gap > SURROUND:
        found.append(
            f"no camera stands in {gap:.0f} degrees of azimuth: what is seen only from there "
            "will be made up"
        )
    low, high = np.percentile(distance, [5, 95])
    if high > _VARIED * max(low, 1e-9):
        found.append(
            f"camera distances vary from {low:.2f} to {high:.2f}: near and far must hold for all, "
            "and take samples from each"
        )
    seen = visible_radius(cam2world, intrinsics)
    tight = int((seen < 0.5 * framing.box / 2).sum())
    if tight:
        found.append(
            f"{tight:,} of {len(places):,} images show less than half of the box around the origin"
        )
    rolled = _roll(cam2world)
    if rolled > _ROLLED:
        found.append(
            f"the cameras are rolled by {rolled:.0f} degrees (root mean square): is `up` right?"
        )
    if framing.near <= 0.02 * framing.radius:
        found.append("a camera stands in or right before the box: make the box smaller")
    if framing.points_inside is not None and framing.points_inside < 0.5:
        found.append(
            f"only {framing.points_inside:.0%} of the points are in the box: the rest is "
            "background, or the object is larger than the pictures; see the sheet"
        )
    return found


def _roll(cam2world: Float[np.ndarray, "n 4 4"]) -> float:
    """Return the cameras' roll about their axes, root mean square in degrees; 180 upside down.

    Cameras that look nearly straight up or down have none, and are left out.
    """
    right, up = cam2world[:, 1, 0], -cam2world[:, 1, 1]
    clear = np.hypot(right, up) > _LEVEL
    roll = np.degrees(np.arctan2(right, up))[clear]
    return float(np.sqrt((roll**2).mean())) if clear.any() else 0.0


def _round(value: float, way: Callable[[float], int]) -> float:
    """Round to three digits, up or down."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{way(round(value / step, 6)) * step:.12g}")

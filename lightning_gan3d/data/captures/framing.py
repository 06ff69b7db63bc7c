"""Normalise the coordinate system of a capture; propose box, near and far; warn about cameras."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras, fov_from_focal, spherical, widest_gap
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.camera_checks import aim
from lightning_gan3d.data.captures.posed_images import Centre, FromPosesConfig

SURROUND = 90.0
"""Degrees: cameras surround the object if no gap between their azimuths is larger."""
_AXES = "if the poses have other axes, set convention=opencv or poses=world2cam"
_RIDGE = 0.001
"""Weight of the cameras' mean up vector against their right vectors: sin^2 of about 2 degrees."""
_MIN_UP = 0.2
"""Length of the mean up vector below which the cameras do not define up."""
_MIN_SPREAD = 1.0
"""Degrees (root mean square) by which optical axes must differ to have a nearest point."""
_MIN_FRONT = 0.3
"""Length of the mean horizontal direction below which the cameras do not define a front."""


@dataclass(frozen=True)
class Similarity:
    """x' = scale * rotation @ (x - centre), from the user's coordinate system to the data set's."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, "3"]

    def points(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Map points."""
        return np.asarray(self.scale * (points - self.centre) @ self.rotation.T)

    def poses(self, cam2world: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
        """Map cameras; their images stay the same."""
        mapped = cam2world.copy()
        mapped[:, :3, :3] = self.rotation @ cam2world[:, :3, :3]
        mapped[:, :3, 3] = self.points(cam2world[:, :3, 3])
        return mapped

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """The similarity as a matrix."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = -self.scale * self.rotation @ self.centre
        return matrix


def find_similarity(
    cam2world: Float[np.ndarray, "n 4 4"], points: Float[np.ndarray, "p 3"], cfg: FromPosesConfig
) -> Similarity:
    """Find the similarity of a coordinate system from its cameras and points."""
    up = _find_up(cam2world) if cfg.up == "auto" else _axis(cfg.up)
    centre = _find_centre(cam2world, points, cfg.centre)
    rotation = _rotation(up, None if cfg.front in ("auto", "none") else _axis(cfg.front))
    offsets = cam2world[:, :3, 3] - centre
    if cfg.front == "auto":
        front = _mean_front(offsets @ rotation.T)
        rotation = rotation if front is None else _rotation(up, rotation.T @ front)
    distance = float(np.median(np.linalg.norm(offsets, axis=1)))
    if not distance > 1e-9 * float(np.abs(centre).max() + 1):
        raise DataError(
            f"centre={cfg.centre}: the cameras are at the centre; use another centre; {_AXES}"
        )
    return Similarity(1.0 if cfg.radius is None else cfg.radius / distance, rotation, centre)


def _find_up(cam2world: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "3"]:
    """Return the cameras' up direction.

    Cameras without roll have horizontal right vectors: up is orthogonal to all of them. Their mean
    up vector, which tilts with elevation, resolves the remaining ambiguity (ridge regression).
    """
    right, mean = cam2world[:, :3, 0], -cam2world[:, :3, 1].mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < _MIN_UP:
        raise DataError(
            "up=auto: the cameras disagree about up (the mean of their up vectors has length "
            f"{length:.2f}); set up=y, or x, z, -x, -y, -z of your coordinate system"
        )
    moment = right.T @ right / len(right)
    up = np.linalg.solve(moment + _RIDGE * np.eye(3), mean)
    return np.asarray(up / np.linalg.norm(up))


def _find_centre(
    cam2world: Float[np.ndarray, "n 4 4"], points: Float[np.ndarray, "p 3"], kind: Centre
) -> Float[np.ndarray, "3"]:
    """Return the point that becomes the origin; see `FromPosesConfig.centre`."""
    origins, forward = cam2world[:, :3, 3], cam2world[:, :3, 2]
    if kind == "origin":
        return np.zeros(3)
    if kind == "cameras":
        return np.asarray(origins.mean(axis=0))
    if kind == "points":
        if not len(points):
            raise DataError("centre=points: there are no points; only COLMAP's points3D has them")
        return np.asarray(np.median(points, axis=0))
    # Least squares: (I - f f') projects out an axis. The smallest eigenvalue of the sum is about
    # the variance of the axes' angles, and 0 if they are parallel.
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.sum(axis=0)
    spread = float(np.degrees(np.sqrt(max(np.linalg.eigvalsh(normal)[0], 0.0) / len(origins))))
    if spread < _MIN_SPREAD:
        raise DataError(
            f"centre=axes: the cameras look in parallel (spread {spread:.2g} degrees), so no point "
            "is nearest to all axes; set centre=origin (yours), centre=points (COLMAP's) or "
            "centre=cameras"
        )
    return np.asarray(np.linalg.solve(normal, (across @ origins[:, :, None]).sum(axis=0)[:, 0]))


def azimuth_gap(offsets: Float[Tensor, "n 3"]) -> float:
    """Return the widest gap between the azimuths of cameras, in degrees."""
    return math.degrees(widest_gap(spherical(offsets).azimuth)[0])


def _mean_front(offsets: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3"] | None:
    """Return the mean horizontal direction of cameras; None if they surround the origin."""
    level = offsets * (1.0, 0.0, 1.0)
    level = level / np.maximum(np.linalg.norm(offsets, axis=1, keepdims=True), 1e-12)
    mean = level.mean(axis=0)
    if azimuth_gap(torch.from_numpy(offsets)) < SURROUND or np.linalg.norm(mean) < _MIN_FRONT:
        return None
    return np.asarray(mean)


def _rotation(
    up: Float[np.ndarray, "3"], front: Float[np.ndarray, "3"] | None
) -> Float[np.ndarray, "3 3"]:
    """Return the rotation of `up` to +y, and of `front`, as far as possible, to +z.

    Without a front, x stays to the right as far as possible; if z is up, the front is -y.
    """
    if front is None:
        level = np.array([1.0, 0.0, 0.0]) - up[0] * up
        if np.linalg.norm(level) < 0.1:
            return _rotation(up, np.array([0.0, 0.0, 1.0]))
        right = level / np.linalg.norm(level)
        return np.stack([right, up, np.cross(right, up)])
    level = front - (front @ up) * up
    if np.linalg.norm(level) < 1e-3 * np.linalg.norm(front):
        raise DataError("front and up are the same direction: use another front, or front=none")
    ahead = level / np.linalg.norm(level)
    return np.stack([np.cross(up, ahead), up, ahead])


def _axis(name: str) -> Float[np.ndarray, "3"]:
    axis = np.zeros(3)
    axis["xyz".index(name[-1])] = -1.0 if name.startswith("-") else 1.0
    return axis


_MARGIN = 1.1
"""Room around the points, relative to their extent."""
_PERCENTILE = 99.0
"""Percentile of the points' extents that the box contains; the rest are outliers."""
_MIN_POINTS = 50
_MAX_MISS = 0.1
"""Warn if the RMS distance of the axes from the origin exceeds this share of the distance."""
_MAX_RATIO = 1.5
"""Warn if the 95th percentile of the distances exceeds the 5th by this factor."""
_LEVEL = 0.3
"""Cosine of the elevation above which roll is defined."""
_MAX_ROLL = 20.0
"""Warn if the RMS roll exceeds this many degrees."""


@dataclass(frozen=True)
class Framing:
    """Proposed settings of an experiment, in units of the data set."""

    box: float
    """Edge of the cube around the origin to represent."""
    near: float
    """Lower bound of the distance from any camera to that cube."""
    far: float
    """Upper bound of the distance from any camera to a corner of that cube."""
    radius: float
    """Median distance of the cameras from the origin."""
    focal: float
    """Median horizontal focal length, in image widths."""
    fov: float
    """Field of view of that focal length, in degrees."""
    visible: float
    """Radius of the largest ball around the origin that is inside the median camera's image."""
    points_inside: float | None
    """Share of the points inside the cube; None without points."""

    def tree(self, background: float | None = None) -> dict[str, object]:
        """Return the settings as part of an experiment."""
        renderer = {"near": self.near, "far": self.far}
        if background is not None:
            renderer["background"] = background
        return {"generator": {"scene": {"box": self.box}, "renderer": renderer}}


def snippet(tree: dict[str, object]) -> str:
    """Return the settings as YAML to paste into an experiment."""
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, allow_unicode=True)


def find_framing(cameras: Cameras, points: Float[np.ndarray, "p 3"]) -> Framing:
    """Propose the framing of a data set from its cameras and points.

    The box is the cube around the ball that is inside the median camera's image. It shrinks to the
    points inside that ball if there are enough.
    """
    origins, radii = cameras.origins.numpy(), visible_radius(cameras)
    visible = float(np.median(radii))
    if visible <= 0:
        raise DataError(
            f"{int((radii <= 0).sum()):,} of {len(radii):,} cameras do not see the origin: a box "
            "around the origin needs cameras that look at it. Use another `centre`; captures from "
            f"the inside of a room do not fit; {_AXES}"
        )
    half = visible
    extents = np.abs(points).max(axis=1, initial=0.0)
    near_points = extents[np.linalg.norm(points, axis=1) < visible]
    if len(near_points) >= _MIN_POINTS:
        half = min(half, _MARGIN * float(np.percentile(near_points, _PERCENTILE)))
    box = _round(2 * half, math.ceil)
    beyond = np.maximum(np.abs(origins) - box / 2, 0)
    nearest = float(np.linalg.norm(beyond, axis=1).min())
    farthest = float(np.linalg.norm(np.abs(origins) + box / 2, axis=1).max())
    radius = float(np.median(np.linalg.norm(origins, axis=1)))
    focal = float(np.median(cameras.intrinsics[:, 0, 0].numpy()))
    return Framing(
        box=box,
        # near is above 0 for a camera inside the box
        near=_round(max(nearest, 0.01 * radius), math.floor),
        far=_round(farthest, math.ceil),
        radius=radius,
        focal=focal,
        fov=math.degrees(fov_from_focal(focal)),
        visible=visible,
        points_inside=float((extents <= box / 2).mean()) if len(points) else None,
    )


def visible_radius(cameras: Cameras) -> Float[np.ndarray, " n"]:
    """Radius of the largest ball around the origin that is inside each camera's image.

    The distance of the origin from the nearest of the four planes through the camera and the edges
    of its image: 0 <= u <= 1 means (fx, s, cx) . p >= 0 and (-fx, -s, 1 - cx) . p >= 0 for a point
    p in front of the camera. Negative if the origin is outside the image or behind the camera.
    """
    pose, k = (x.numpy() for x in cameras)
    zero = np.zeros(len(k))
    rows = [
        (k[:, 0, 0], k[:, 0, 1], k[:, 0, 2]),
        (-k[:, 0, 0], -k[:, 0, 1], 1 - k[:, 0, 2]),
        (zero, k[:, 1, 1], k[:, 1, 2]),
        (zero, -k[:, 1, 1], 1 - k[:, 1, 2]),
    ]
    planes = np.stack([np.stack(row, axis=-1) for row in rows], axis=1)  # n 4 3
    origin = np.einsum("nij,ni->nj", pose[:, :3, :3], -pose[:, :3, 3])
    return np.asarray(
        np.min((planes @ origin[:, :, None])[..., 0] / np.linalg.norm(planes, axis=-1), axis=1)
    )


def camera_warnings(cameras: Cameras, framing: Framing) -> list[str]:
    """Warn about cameras that make the scene hard to learn or the framing poor."""
    num, warnings = len(cameras.origins), []
    ahead, miss = aim(cameras)
    away = int((ahead < 0).sum())
    if away:
        warnings.append(f"{away:,} of {num:,} cameras look away from the origin; {_AXES}")
    rms = float(miss.square().mean().sqrt())
    if rms > _MAX_MISS:
        warnings.append(
            f"the cameras look at no common point: their axes miss the origin by {rms:.0%} of "
            "their distance (root mean square)"
        )
    gap = azimuth_gap(cameras.origins)
    if gap > SURROUND:
        warnings.append(
            f"no camera covers {gap:.0f} degrees of azimuth: that side of the object is unseen"
        )
    low, high = np.percentile(cameras.origins.norm(dim=1).numpy(), [5, 95])
    if high > _MAX_RATIO * max(low, 1e-9):
        warnings.append(
            f"camera distances vary from {low:.2f} to {high:.2f}: a common near and far wastes "
            "samples"
        )
    tight = int((visible_radius(cameras) < 0.5 * framing.box / 2).sum())
    if tight:
        warnings.append(
            f"{tight:,} of {num:,} images show less than half of the box around the origin"
        )
    roll = _roll(cameras)
    if roll > _MAX_ROLL:
        warnings.append(
            f"the cameras are rolled by {roll:.0f} degrees (root mean square): is `up` correct?"
        )
    if framing.near <= 0.02 * framing.radius:
        warnings.append("a camera is inside the box or close to it: use a smaller box")
    if framing.points_inside is not None and framing.points_inside < 0.5:
        warnings.append(
            f"only {framing.points_inside:.0%} of the points are in the box: the rest is "
            "background, or the object exceeds the images; see the sheet"
        )
    return warnings


def _roll(cameras: Cameras) -> float:
    """Roll of the cameras about their axes, root mean square in degrees; 180 is upside down.

    Cameras that look nearly straight up or down have no roll and are left out.
    """
    right, up = cameras.cam2world[:, 1, 0].numpy(), -cameras.cam2world[:, 1, 1].numpy()
    clear = np.hypot(right, up) > _LEVEL
    roll = np.degrees(np.arctan2(right, up))[clear]
    return float(np.sqrt((roll**2).mean())) if clear.any() else 0.0


def _round(value: float, rounding: Callable[[float], int]) -> float:
    """Round to three digits with `math.floor` or `math.ceil`."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{rounding(round(value / step, 6)) * step:.12g}")

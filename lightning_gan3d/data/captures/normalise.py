"""Normalise a user's coordinate system: y up, the object at the origin, a common distance.

One similarity, x' = scale * rotation @ (x - centre), for all cameras of a coordinate system.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import spherical, widest_gap
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.posed_images import Centre, FromPosesConfig

SURROUND = 90.0
"""Degrees: cameras surround the object if no gap between their azimuths is larger."""
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
        raise DataError(f"centre={cfg.centre}: the cameras are at the centre; use another centre")
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

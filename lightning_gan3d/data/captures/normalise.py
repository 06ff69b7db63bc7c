"""Bring a world of someone's own to ours: y up, the object at the origin, cameras at one distance.

One similarity, x' = scale * rotation @ (x - centre), is found for all cameras of a world.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError

Axis = Literal["x", "y", "z", "-x", "-y", "-z"]
Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
Front = Literal["auto", "none", "x", "y", "z", "-x", "-y", "-z"]
Centre = Literal["axes", "points", "cameras", "origin"]

_RIDGE = 0.001
"""Weight of the cameras' mean up against their right vectors; sin^2 of about 2 degrees."""
_LEAST_UP = 0.2
"""Length of the mean of the cameras' up vectors below which they tell nothing."""
_LEAST_SPREAD = 1.0
"""Degrees (root mean square) by which optical axes must differ to have a nearest point."""
SURROUND = 90.0
"""Degrees: cameras surround the object if no gap between their azimuths is larger."""
_LEAST_FRONT = 0.3
"""Length of the mean of horizontal directions below which there is no front side."""


@dataclass(frozen=True)
class Similarity:
    """x' = scale * rotation @ (x - centre), from the user's world to the data set's."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, "3"]

    def points(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Map points."""
        return np.asarray(self.scale * (points - self.centre) @ self.rotation.T)

    def poses(self, cam2world: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
        """Map cameras: the size of a world does not show in its pictures."""
        mapped = cam2world.copy()
        mapped[:, :3, :3] = self.rotation @ cam2world[:, :3, :3]
        mapped[:, :3, 3] = self.points(cam2world[:, :3, 3])
        return mapped

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """As a matrix; its inverse brings results back to the user's world."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = -self.scale * self.rotation @ self.centre
        return matrix


def find_similarity(
    cam2world: Float[np.ndarray, "n 4 4"],
    points: Float[np.ndarray, "p 3"],
    up: Up = "auto",
    centre: Centre = "axes",
    front: Front = "auto",
    radius: float | None = 2.7,
) -> Similarity:
    """Find the similarity of a world; `radius` None keeps its size."""
    upward = find_up(cam2world) if up == "auto" else _axis(up)
    middle = find_centre(cam2world, points, centre)
    rotation = _rotation(upward, None if front in ("auto", "none") else _axis(front))
    places = cam2world[:, :3, 3] - middle
    if front == "auto":
        ahead = _mean_front(places @ rotation.T)
        rotation = rotation if ahead is None else _rotation(upward, rotation.T @ ahead)
    distance = float(np.median(np.linalg.norm(places, axis=1)))
    if not distance > 1e-9 * float(np.abs(middle).max() + 1):
        raise DataError(f"centre={centre}: the cameras stand in the centre; choose another centre")
    return Similarity(1.0 if radius is None else radius / distance, rotation, middle)


def find_up(cam2world: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "3"]:
    """Return the direction that is up for the cameras, unit length.

    Cameras that are not rolled have their right vectors level, wherever they look: up is orthogonal
    to all of them. Their up vectors tilt with the elevation, so that their mean only decides what
    the right vectors leave open (ridge regression).
    """
    right, mean = cam2world[:, :3, 0], -cam2world[:, :3, 1].mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < _LEAST_UP:
        raise DataError(
            f"up=auto: the cameras disagree about what is up (their up vectors add up to "
            f"{length:.2f} of their number); say it: up=y, or x, z, -x, -y, -z of your world"
        )
    moment = right.T @ right / len(right)
    upward = np.linalg.solve(moment + _RIDGE * np.eye(3), mean)
    return np.asarray(upward / np.linalg.norm(upward))


def find_centre(
    cam2world: Float[np.ndarray, "n 4 4"], points: Float[np.ndarray, "p 3"], how: Centre
) -> Float[np.ndarray, "3"]:
    """Return the point that becomes the origin.

    `axes`: nearest to all optical axes (least squares); `points`: their median; `cameras`: the mean
    of their centres; `origin`: the user's own.
    """
    origins, forward = cam2world[:, :3, 3], cam2world[:, :3, 2]
    if how == "origin":
        return np.zeros(3)
    if how == "cameras":
        return np.asarray(origins.mean(axis=0))
    if how == "points":
        if not len(points):
            raise DataError("centre=points: there are no points; only COLMAP's points3D has them")
        return np.asarray(np.median(points, axis=0))
    # (I - f f') takes the distance from an axis; the sum over all cameras has a zero eigenvalue
    # where the axes are parallel, and about the variance of their angles where nearly so.
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.sum(axis=0)
    spread = float(np.degrees(np.sqrt(max(np.linalg.eigvalsh(normal)[0], 0.0) / len(origins))))
    if spread < _LEAST_SPREAD:
        raise DataError(
            f"centre=axes: the cameras look in parallel (they differ by {spread:.2g} degrees), no "
            "point is nearest to all; say it: centre=origin (your world's), centre=points "
            "(COLMAP's) or centre=cameras"
        )
    return np.asarray(np.linalg.solve(normal, (across @ origins[:, :, None]).sum(axis=0)[:, 0]))


def azimuth_gap(places: Float[np.ndarray, "n 3"]) -> float:
    """Return the largest angle between neighbouring azimuths, in degrees; y is up."""
    azimuth = np.sort(np.degrees(np.arctan2(places[:, 0], places[:, 2])))
    return float(np.diff(np.append(azimuth, azimuth[0] + 360)).max())


def _mean_front(places: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3"] | None:
    """Return the mean level direction of cameras on one side; None where they surround."""
    level = places * (1.0, 0.0, 1.0)
    level = level / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12)
    mean = level.mean(axis=0)
    if azimuth_gap(places) < SURROUND or np.linalg.norm(mean) < _LEAST_FRONT:
        return None
    return np.asarray(mean)


def _rotation(
    up: Float[np.ndarray, "3"], front: Float[np.ndarray, "3"] | None
) -> Float[np.ndarray, "3 3"]:
    """Return the rotation that takes `up` to +y, and `front` (or what is near it) to +z.

    Without a front, the world's x stays to the right as far as `up` lets it; -y is thus the front
    where z is up.
    """
    if front is None:
        level = np.array([1.0, 0.0, 0.0]) - up[0] * up
        if np.linalg.norm(level) < 0.1:
            return _rotation(up, np.array([0.0, 0.0, 1.0]))
        right = level / np.linalg.norm(level)
        return np.stack([right, up, np.cross(right, up)])
    level = front - (front @ up) * up
    if np.linalg.norm(level) < 1e-3 * np.linalg.norm(front):
        raise DataError("front and up are the same direction: give another front, or front=none")
    ahead = level / np.linalg.norm(level)
    return np.stack([np.cross(up, ahead), up, ahead])


def _axis(name: str) -> Float[np.ndarray, "3"]:
    axis = np.zeros(3)
    axis["xyz".index(name[-1])] = -1.0 if name.startswith("-") else 1.0
    return axis

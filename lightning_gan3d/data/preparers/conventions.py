"""Poses in other axes to ours, and signs that they were in yet others."""

import numpy as np
import torch
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.preparers.config import Convention, WorldUp

_CAMERA = {"opencv": (1.0, 1.0, 1.0), "opengl": (1.0, -1.0, -1.0)}
"""Signs of the camera's axes."""
_WORLD = {
    "y": np.eye(3),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}
"""Rotations of the world that turn the axis up to y."""


def to_opencv(
    pose: Float[np.ndarray, "n 4 4"], convention: Convention, world_up: WorldUp
) -> Float[np.ndarray, "n 4 4"]:
    """Return cam2world in OpenCV axes with y up; a turn of the world also turns the positions."""
    out = pose.copy()
    out[:, :3, :3] = _WORLD[world_up] @ pose[:, :3, :3] * np.array(_CAMERA[convention])
    out[:, :3, 3] = pose[:, :3, 3] @ _WORLD[world_up].T
    return out


def check_directions(pose: Float[np.ndarray, "n 4 4"], where: str) -> None:
    """Refuse cameras most of which look away from the origin, or whose mean up is not y.

    Raises:
        DataError: with what the poses look like instead.
    """
    forward, origin = pose[:, :3, 2], pose[:, :3, 3]
    up = -pose[:, :3, 1].mean(axis=0)
    axis = int(np.abs(up).argmax())
    away = int(((forward * origin).sum(axis=1) > 0).sum())
    if 2 * away > len(pose):
        raise DataError(
            f"{away:,} of {len(pose):,} cameras of {where} look away from the origin: give "
            "`convention=opengl` if their z points backward; poses must be cam2world"
        )
    if axis != 1 or up[1] < 0:
        sign = "-" if up[axis] < 0 else "+"
        remedy = {"+z": "`world_up=z`", "-y": "`convention=opengl`"}.get(
            f"{sign}{'xyz'[axis]}", "`convention` and `world_up`"
        )
        raise DataError(
            f"up in the images of {where} is {sign}{'xyz'[axis]} of the world in the mean, must be "
            f"+y: see {remedy}"
        )


def azimuth(labels: Float[torch.Tensor, "n 25"]) -> Float[np.ndarray, " n"]:
    """Return from where each camera looks, in radians: 0 from +z, growing toward +x."""
    backward = -labels[:, :16].reshape(-1, 4, 4)[:, :3, 2]
    return torch.atan2(backward[:, 0], backward[:, 2]).numpy()

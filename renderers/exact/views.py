"""What the backends of the exact renderer take and return: one scene and its views."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

NORMALS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
"""Outward normals of the faces of a voxel, in the order of `shade`."""


class Views(NamedTuple):
    """A thresholded solid, and the cameras that see it."""

    filled: Bool[np.ndarray, "n n n"]
    """Axes are z, y, x."""
    colour: Float[np.ndarray, "3 n n n"]
    """In [0, 1], float32."""
    box: float
    cam2world: Float[np.ndarray, "k 4 4"]
    """float64, as the intrinsics."""
    intrinsics: Float[np.ndarray, "k 3 3"]
    shade: Float[np.ndarray, "k 6"]
    """Brightness of each face, float32."""
    size: int
    """Pixels along each side."""
    spp: int
    """Paths per pixel, of a path tracer."""


class Hits(NamedTuple):
    """The first face in front of each pixel; the camera sees no face from behind."""

    colour: Float[np.ndarray, "k h w 3"]
    """Shaded, in [0, 1]; unspecified without a face."""
    t: Float[np.ndarray, "k h w"]
    """Distance along the ray in world units; infinite without a face."""

"""Walk of rays from voxel to voxel (Amanatides and Woo 1987), in numba."""

import functools
from typing import NamedTuple

import numpy as np
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.simd import entry, run
from renderers.exact.views import Hits, Views

TILE = 1024
"""Rays per task of a thread."""


class Walk(NamedTuple):
    """The arrays that the kernel reads and writes; r = k h w rays, view after view."""

    filled: np.ndarray
    low: np.ndarray
    """(3,), int64: index along x, y, z of the first filled voxel; rays are walked from there."""
    high: np.ndarray
    """(3,), int64: index after the last one."""
    colour: np.ndarray
    half: float
    """Half the edge of the box."""
    origins: np.ndarray
    """(k, 3), float64."""
    dirs: np.ndarray
    """(r, 3), float64."""
    shade: np.ndarray
    out_colour: np.ndarray
    """(r, 3), float32."""
    out_t: np.ndarray
    """(r,), float32."""


@entry
def walk_tile(walk: Walk, first: int, last: int) -> None:
    """Find the first exposed face along the rays first, ..., last - 1.

    Planes are computed from their index, without adding up steps. A camera inside a filled voxel
    sees what lies behind the solid around it, since faces are seen from outside only.
    """
    filled, half, low, high = walk.filled, walk.half, walk.low, walk.high
    cell = 2 * half / filled.shape[0]
    per_view = walk.dirs.shape[0] // walk.origins.shape[0]
    at, step, beyond = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3)
    for ray in range(first, last):
        origin, direction = walk.origins[ray // per_view], walk.dirs[ray]
        walk.out_t[ray] = np.inf
        t, leave, axis = 0.0, np.inf, -1
        for a in range(3):
            start, end = low[a] * cell - half, high[a] * cell - half
            if direction[a] == 0:  # half-open, as voxels are
                if not start <= origin[a] < end:
                    leave = -1.0
                continue
            near, far = (start - origin[a]) / direction[a], (end - origin[a]) / direction[a]
            if near > far:
                near, far = far, near
            if near > t:
                t, axis = near, a
            leave = min(leave, far)
        if t >= leave:
            continue
        for a in range(3):
            step[a] = 1 if direction[a] > 0 else -1
            if a == axis:
                at[a] = low[a] if direction[a] > 0 else high[a] - 1
            else:
                place = (origin[a] + t * direction[a] + half) / cell
                at[a] = min(max(int(np.floor(place)), low[a]), high[a] - 1)
            beyond[a] = np.inf
            if direction[a] != 0:
                plane = (at[a] + (step[a] > 0)) * cell - half
                beyond[a] = (plane - origin[a]) / direction[a]
        inside = axis < 0 and filled[at[2], at[1], at[0]]
        while True:
            now = filled[at[2], at[1], at[0]]
            if now and not inside:
                brightness = walk.shade[ray // per_view, 2 * axis + (step[axis] < 0)]
                for c in range(3):
                    albedo = walk.colour[c, at[2], at[1], at[0]]
                    walk.out_colour[ray, c] = albedo * brightness
                walk.out_t[ray] = t
                break
            inside = now
            axis = 0 if beyond[0] <= beyond[1] else 1
            axis = axis if beyond[axis] <= beyond[2] else 2
            t = beyond[axis]
            at[axis] += step[axis]
            if at[axis] < low[axis] or at[axis] >= high[axis]:
                break
            plane = (at[axis] + (step[axis] > 0)) * cell - half
            beyond[axis] = (plane - origin[axis]) / direction[axis]


def describe() -> str:
    """Describe the backend."""
    threads = torch.get_num_threads()
    return f"grid walk, numba, {threads} thread{'s' if threads > 1 else ''}"


def render(views: Views) -> Hits:
    """Find the first face along the ray of each pixel; threads share the rays."""
    cameras = Cameras(torch.from_numpy(views.cam2world), torch.from_numpy(views.intrinsics))
    rays = cameras.rays(views.size)
    # Another layout would compile the kernel again.
    read = views.filled, views.colour, cameras.origins, rays.dirs.reshape(-1, 3), views.shade
    filled, albedo, origins, dirs, shade = (np.ascontiguousarray(x) for x in read)
    colour = np.empty((len(dirs), 3), np.float32)
    t = np.full(len(dirs), np.inf, np.float32)
    if filled.any():
        rows = [np.flatnonzero(filled.any(axis=other)) for other in ((0, 1), (0, 2), (1, 2))]
        low, high = np.array([r[0] for r in rows]), np.array([r[-1] + 1 for r in rows])
        walk = Walk(filled, low, high, albedo, views.box / 2, origins, dirs, shade, colour, t)
        run(functools.partial(_tile, walk), -(-len(dirs) // TILE))
    shape = len(origins), views.size, views.size
    return Hits(colour.reshape(*shape, 3), t.reshape(shape))


def _tile(walk: Walk, worker: int, tile: int) -> None:
    del worker  # no scratch memory
    walk_tile(walk, tile * TILE, min((tile + 1) * TILE, len(walk.dirs)))

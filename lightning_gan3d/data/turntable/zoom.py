"""Recover the zoom and shift of each view of a rotating object from its silhouettes.

The object rotates on a turntable in front of a fixed camera; each photograph was then cropped to
the object and scaled, which hides the object's size and position. The silhouettes recover them: a
plane through two camera centres that touches the object touches its silhouette in both views
(epipolar tangency; Cipolla and Giblin, "Visual Motion of Curves and Surfaces", 2000, ch. 4). Each
pair of views gives two equations. All pairs fix the zoom and shift of all views except for five
numbers: the size and the position of the object's centre, which is set to the cameras' target.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from scipy.spatial import ConvexHull

from lightning_gan3d.cameras import sphere_axes
from lightning_gan3d.data.archive import DataError

_BORDER = 3
_DARK = 60
"""Border pixels above this brightness belong to an object that touches the border."""
_SPECK = 0.03
"""Components below this share of the largest one are noise."""
_STEPS = (1 / 72, 3 / 72, 6 / 72, 13 / 72, 24 / 72, 36 / 72)
"""Distances of paired views, in turns: neighbours fix the height, opposite views the width."""
_ROBUST = 1.0
"""Residuals far above this many pixels have little weight: silhouettes lack black parts."""
_CAP = 5.0
_GAUGE = 1e7
_DAMPING = 1e-3
_FIRST_EXTENT = 0.53
_ITERATIONS = 7


class Views(NamedTuple):
    """Views in the image of one fixed camera: pixel p of view k is at scale[k] * p + shift[k].

    The mean scale is 1.
    """

    scale: Float[np.ndarray, " k"]
    shift: Float[np.ndarray, "k 2"]
    extent: float
    """Largest distance from the centre of the fixed camera's image, in its pixels."""
    residual: float
    """Root mean square of the tangency residuals, each capped at 5 pixels."""


class _Axes(NamedTuple):
    back: Float[np.ndarray, "k 3"]
    right: Float[np.ndarray, "k 3"]
    up: Float[np.ndarray, "k 3"]


class _Pairs(NamedTuple):
    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    ahead: Float[np.ndarray, "n 3"]
    aside: Float[np.ndarray, "n 3"]


def background_of(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3"]:
    """Return the background colour: the median of the dark pixels along the border."""
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    ring = pixels[border].astype(np.float64)
    dark = ring[ring.max(axis=1) < _DARK]
    if len(dark) == 0:
        raise DataError("no dark background along the border")
    return np.asarray(np.median(dark, axis=0))


def brightness(
    pixels: UInt8[np.ndarray, "h w 3"], background: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "h w"]:
    """Return the excess of the brightest channel over the background; shadows are negative."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32) - background.astype(np.float32), 2, 0)
    return np.asarray(np.maximum(np.maximum(red, green), blue))


def silhouette(above: Float[np.ndarray, "h w"], threshold: float) -> Bool[np.ndarray, "h w"]:
    """Return the mask of `brightness` above a threshold, without specks."""
    mask = ndimage.binary_opening(above > threshold)
    pieces, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        mask = np.isin(pieces, 1 + np.flatnonzero(sizes > _SPECK * sizes.max()))
    return np.asarray(mask)


def outline(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "p 2"] | None:
    """Return the corners of the convex hull in pixels from the centre, x right and y up.

    None if the mask is too small.
    """
    h, w = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) < 3:
        return None
    left = mask[rows].argmax(axis=1) - w / 2
    right = w / 2 - mask[rows, ::-1].argmax(axis=1)
    up = h / 2 - rows
    edges = [(left, up), (left, up - 1), (right, up), (right, up - 1)]
    points = np.concatenate([np.stack(edge, axis=1) for edge in edges])
    return np.asarray(points[ConvexHull(points).vertices], dtype=np.float64)


def solve_views(
    outlines: Sequence[Float[np.ndarray, "_ 2"]],
    angles: Float[np.ndarray, " k"],
    elevation: float,
    distance: float,
) -> Views:
    """Find zoom and shift of every view by Gauss-Newton.

    `outlines`: corners of the silhouettes' hulls; see `outline`. `angles`: azimuths of the camera,
    evenly spaced over one turn, and its `elevation`, in radians. `distance`: of the camera, in
    extents of the object, the largest horizontal or vertical distance from its centre in any view.
    """
    num = len(outlines)
    axes = _axes(angles, elevation)
    pairs = _pairs(axes, num)
    longest = max(len(o) for o in outlines)
    corners = np.stack(
        [np.concatenate([o, np.repeat(o[:1], longest - len(o), axis=0)]) for o in outlines]
    )
    middle = (corners.max(axis=1) + corners.min(axis=1)) / 2
    gauge = _gauge(axes, middle)
    size = float(np.ptp(corners.reshape(-1, 2), axis=0).max())
    x = np.concatenate([np.ones(num), -middle[:, 0], -middle[:, 1]])
    extent = _FIRST_EXTENT * size
    for _ in range(_ITERATIONS):
        jacobian, residuals = _tangency(x, corners, axes, pairs, distance * extent)
        weight = 1 / (1 + (residuals / _ROBUST) ** 2)
        weighted = (jacobian * weight[:, None]).T
        normal = weighted @ jacobian + _GAUGE * gauge.T @ gauge + _DAMPING * np.eye(3 * num)
        target = np.eye(len(gauge))[0]
        x = x + np.linalg.solve(
            normal, _GAUGE * gauge.T @ (target - gauge @ x) - weighted @ residuals
        )
        scale, shift = x[:num], np.stack([x[num : 2 * num], x[2 * num :]], axis=1)
        extent = float(np.abs(scale[:, None, None] * corners + shift[:, None]).max())
    residuals = _tangency(x, corners, axes, pairs, distance * extent)[1]
    rms = float(np.sqrt(np.minimum(residuals**2, _CAP**2).mean()))
    return Views(scale, shift, extent, rms)


def _axes(angles: Float[np.ndarray, " k"], elevation: float) -> _Axes:
    azimuth = torch.as_tensor(angles)
    axes = sphere_axes(azimuth, torch.full_like(azimuth, elevation))
    back, right = (x.numpy() for x in axes)
    return _Axes(back, right, np.cross(back, right))


def _pairs(axes: _Axes, num: int) -> _Pairs:
    steps = sorted({max(1, round(share * num)) for share in _STEPS})
    firsts = [np.arange(num // 2 if 2 * s == num else num) for s in steps]
    first = np.concatenate(firsts)
    second = (
        first + np.concatenate([np.full(len(f), s) for f, s in zip(firsts, steps, strict=True)])
    ) % num
    baseline = axes.back[second] - axes.back[first]
    baseline /= np.linalg.norm(baseline, axis=-1, keepdims=True)
    ahead = -(axes.back[first] + axes.back[second])
    ahead -= (ahead * baseline).sum(-1, keepdims=True) * baseline
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    return _Pairs(first, second, ahead, np.cross(baseline, ahead))


def _gauge(axes: _Axes, middle: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "5 m"]:
    """Constraints that silhouettes do not give: mean scale 1, and the object at the centre."""
    num = len(middle)
    rows = np.zeros((5, 3, num))
    rows[0, 0] = 1
    for row, weight in (
        (1, np.stack([np.ones(num), np.zeros(num)], 1)),
        (2, np.stack([np.zeros(num), np.ones(num)], 1)),
        (3, np.stack([axes.right[:, 0], axes.up[:, 0]], 1)),
        (4, np.stack([axes.right[:, 2], axes.up[:, 2]], 1)),
    ):
        rows[row, 0] = (weight * middle).sum(1)
        rows[row, 1:] = weight.T
    return np.asarray(rows.reshape(5, 3 * num) / num)


def _tangency(
    x: Float[np.ndarray, " m"],
    corners: Float[np.ndarray, "k p 2"],
    axes: _Axes,
    pairs: _Pairs,
    distance: float,
) -> tuple[Float[np.ndarray, "e m"], Float[np.ndarray, " e"]]:
    """Return Jacobian and residuals, in pixels.

    A residual is the difference of a tangent plane's angle about the baseline between two views.
    """
    num, n = len(corners), len(pairs.first)
    shift = np.stack([x[num : 2 * num], x[2 * num :]], axis=1)
    position = x[:num, None, None] * corners + shift[:, None]
    jacobian, residuals = np.zeros((2, n, 3 * num)), np.zeros((2, n))
    rows = np.arange(n)
    for view, sign in ((pairs.first, 1.0), (pairs.second, -1.0)):
        right, up = axes.right[view], axes.up[view]
        parts = []
        for base in (pairs.aside, pairs.ahead):
            along = np.einsum("nc,nc->n", base, right)[:, None] * position[view, :, 0]
            along += np.einsum("nc,nc->n", base, up)[:, None] * position[view, :, 1]
            parts.append(along / distance - np.einsum("nc,nc->n", base, axes.back[view])[:, None])
        angle = np.arctan2(*parts)
        for end, touch in enumerate((angle.argmax(axis=1), angle.argmin(axis=1))):
            s, c = parts[0][rows, touch], parts[1][rows, touch]
            slope = (c[:, None] * pairs.aside - s[:, None] * pairs.ahead) / (s * s + c * c)[:, None]
            to_right, to_up = (slope * right).sum(-1), (slope * up).sum(-1)
            corner = corners[view, touch]
            residuals[end] += sign * distance * angle[rows, touch]
            jacobian[end, rows, view] += sign * (corner[:, 0] * to_right + corner[:, 1] * to_up)
            jacobian[end, rows, num + view] += sign * to_right
            jacobian[end, rows, 2 * num + view] += sign * to_up
    return jacobian.reshape(2 * n, 3 * num), residuals.reshape(2 * n)

"""Recover the zoom and shift of each view of a turning object from its silhouettes.

An object turns on a table before a fixed camera, and each photograph was then cropped to the object
and scaled, which hides how large and where the object was. The silhouettes tell: a plane through
two camera centres that touches the object touches its silhouette in both views (epipolar tangency;
Cipolla and Giblin, "Visual Motion of Curves and Surfaces", 2000, ch. 4). Each pair of views gives
two such equations; all pairs together fix zoom and shift of all views up to five numbers that no
silhouette shows: the size, and where the object's middle is. We take the middle as the point that
the cameras look at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_STEPS = (1 / 72, 3 / 72, 6 / 72, 13 / 72, 24 / 72, 36 / 72)
"""Which views are paired.

Neighbours fix the height, opposite ones the width, those between the shape.
"""
_ROBUST = 1.0
"""Residuals far above this many pixels count little: black parts are missing in silhouettes."""
_CAP = 5.0
_GAUGE = 1e7
_DAMPING = 1e-3
_FIRST_EXTENT = 0.53
_ITERATIONS = 7


@dataclass(frozen=True)
class Turntable:
    """How the camera stands to the table.

    Angles are in radians, the distance in extents of the object: the extent is the largest
    excursion, sideways or up, from the middle over all views.
    """

    elevation: float
    distance: float
    direction: int = 1
    """+1: the azimuth of the camera grows with the angle (seen from above, clockwise turning)."""


class Views(NamedTuple):
    """Where views lie in the picture of one fixed camera.

    Pixel p of view k is at scale[k] * p + shift[k]; the mean scale is 1.
    """

    scale: Float[np.ndarray, " k"]
    shift: Float[np.ndarray, "k 2"]
    extent: float
    """Largest excursion from the centre of the fixed camera's picture, in its pixels."""
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


def solve_views(
    outlines: Sequence[Float[np.ndarray, "_ 2"]], angles: Float[np.ndarray, " k"], table: Turntable
) -> Views:
    """Find zoom and shift of every view by Gauss-Newton.

    `angles`: of the table, radians, evenly spaced over one turn.

    `outlines`: corners of the silhouettes' hulls, in pixels from the image's centre, y up.
    """
    num = len(outlines)
    axes = _axes(angles, table)
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
        jacobian, residuals = _tangency(x, corners, axes, pairs, table.distance * extent)
        weight = 1 / (1 + (residuals / _ROBUST) ** 2)
        weighted = (jacobian * weight[:, None]).T
        normal = weighted @ jacobian + _GAUGE * gauge.T @ gauge + _DAMPING * np.eye(3 * num)
        target = np.eye(len(gauge))[0]
        x = x + np.linalg.solve(
            normal, _GAUGE * gauge.T @ (target - gauge @ x) - weighted @ residuals
        )
        scale, shift = x[:num], np.stack([x[num : 2 * num], x[2 * num :]], axis=1)
        extent = float(np.abs(scale[:, None, None] * corners + shift[:, None]).max())
    residuals = _tangency(x, corners, axes, pairs, table.distance * extent)[1]
    rms = float(np.sqrt(np.minimum(residuals**2, _CAP**2).mean()))
    return Views(scale, shift, extent, rms)


def _axes(angles: Float[np.ndarray, " k"], table: Turntable) -> _Axes:
    azimuth, e = table.direction * angles, table.elevation
    level = np.zeros_like(azimuth)
    back = np.stack(
        [np.sin(azimuth) * np.cos(e), level + np.sin(e), np.cos(azimuth) * np.cos(e)], axis=-1
    )
    right = np.stack([np.cos(azimuth), level, -np.sin(azimuth)], axis=-1)
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
    """Rows that fix what silhouettes leave open: mean scale 1, and the middle at the centre."""
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

    A residual is the angle of a tangent plane about the baseline in one view less the other.
    """
    num, n = len(corners), len(pairs.first)
    place = (
        x[:num, None, None] * corners + np.stack([x[num : 2 * num], x[2 * num :]], axis=1)[:, None]
    )
    jacobian, residuals = np.zeros((2, n, 3 * num)), np.zeros((2, n))
    rows = np.arange(n)
    for view, sign in ((pairs.first, 1.0), (pairs.second, -1.0)):
        right, up = axes.right[view], axes.up[view]
        parts = []
        for base in (pairs.aside, pairs.ahead):
            along = np.einsum("nc,nc->n", base, right)[:, None] * place[view, :, 0]
            along += np.einsum("nc,nc->n", base, up)[:, None] * place[view, :, 1]
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

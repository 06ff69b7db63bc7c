"""Silhouettes of bright things before a dark, even background."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from lightning_gan3d.data.archive import DataError

_BORDER = 3
_DARK = 60
"""Border pixels above this belong to an object that touches the border."""
_SPECK = 0.03
"""Pieces below this share of the largest one are noise."""


def background_of(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3"]:
    """Return the colour behind the object: the median of the dark pixels along the border."""
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    ring = pixels[border].astype(np.float64)
    dark = ring[ring.max(axis=1) < _DARK]
    if len(dark) == 0:
        raise DataError("no dark background along the border")
    return np.asarray(np.median(dark, axis=0))


def silhouette(
    pixels: UInt8[np.ndarray, "h w 3"], background: Float[np.ndarray, "3"], threshold: float
) -> Bool[np.ndarray, "h w"]:
    """Return where a channel is brighter than the background by more than `threshold` (shadows are darker)."""
    above = (pixels.astype(np.float64) - background).max(axis=-1) > threshold
    mask = ndimage.binary_opening(above)
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    if count > 1:
        mask = np.isin(pieces, 1 + np.flatnonzero(sizes > _SPECK * sizes.max()))
    return np.asarray(mask)


def outline(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "p 2"] | None:
    """Return the corners of the convex hull, in pixels from the image's centre, x right and y up; None if too small."""
    ys, xs = np.nonzero(mask)
    if len(xs) < 9:
        return None
    h, w = mask.shape
    corners = [
        np.stack([xs + dx - w / 2, h / 2 - ys - dy], axis=1) for dx in (0, 1) for dy in (0, 1)
    ]
    points = np.concatenate(corners)
    try:
        return np.asarray(points[ConvexHull(points).vertices], dtype=np.float64)
    except QhullError:
        return None

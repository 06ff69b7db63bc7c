"""Silhouettes of bright things before a dark, even background."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from scipy.spatial import ConvexHull

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


def brightness(
    pixels: UInt8[np.ndarray, "h w 3"], background: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "h w"]:
    """Return by how much the brightest channel exceeds the background; shadows fall below it."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32) - background.astype(np.float32), 2, 0)
    return np.asarray(np.maximum(np.maximum(red, green), blue))


def silhouette(above: Float[np.ndarray, "h w"], threshold: float) -> Bool[np.ndarray, "h w"]:
    """Return where `brightness` exceeds a threshold, without specks."""
    mask = ndimage.binary_opening(above > threshold)
    pieces, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        mask = np.isin(pieces, 1 + np.flatnonzero(sizes > _SPECK * sizes.max()))
    return np.asarray(mask)


def outline(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "p 2"] | None:
    """Return the corners of the convex hull, in pixels from the centre, x right and y up.

    None where the mask is too small to have one.
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

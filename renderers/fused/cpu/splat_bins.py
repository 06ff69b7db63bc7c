"""Gaussians in tiles of the image, ordered by depth within each tile, for `splat_kernels`.

Each visible Gaussian is packed into one row of floats. The Gaussians of a view are sorted once, by
a stable radix sort. Scattered to the tiles in that order, they are sorted there too.
"""

from typing import NamedTuple

import numpy as np

from lightning_gan3d.simd import entry, helper
from renderers.footprints import MIN_ALPHA

TILE = 16
"""Edge of a tile in pixels."""

# Floats of a packed Gaussian. Power: the exponent of its falloff, xx dx^2 + xy dx dy + yy dy^2.
(
    MEAN_X,
    MEAN_Y,
    XX,
    XY,
    YY,
    OPACITY,
    LOWEST,  # power below which it is dropped for certain
    RIDGE_X,  # dx / dy where the power is highest for a given dy
    RIDGE_Y,  # dy / dx where it is highest for a given dx
    CHANNELS,  # distance, then features
) = range(10)
# Integers of a packed Gaussian.
VIEW, INDEX, SLOT, LEFT, TOP, COLUMNS, ROWS = range(7)
NUM_PLACES = 8
"""View, index in the view, first of its `Bins.slots`; the tiles that it touches."""
SLACK = np.float32(0.01)
"""LOWEST lies below the power that gives MIN_ALPHA by this much, for rounding."""
DIGIT = 11
"""Bits of a digit of the radix sort."""


class FootprintArrays(NamedTuple):
    """`Footprints` as arrays, contiguous."""

    mean: np.ndarray
    conic: np.ndarray
    opacity: np.ndarray
    feature: np.ndarray
    distance: np.ndarray
    depth_bits: np.ndarray
    """Camera z as int32."""
    reach: np.ndarray


class Bins(NamedTuple):
    """Visible Gaussians of all views, and those of each tile."""

    rows: np.ndarray
    """(m, floats); the views follow one another."""
    places: np.ndarray
    """(m, NUM_PLACES), int32."""
    entries: np.ndarray
    """Rows by tile, from front to back; int32."""
    slots: np.ndarray
    """Where the entries of each Gaussian are: those of a row follow one another; int32."""
    tiles: np.ndarray
    """Where the entries of each tile of each view start, and the end; int64."""
    across: int
    """Tiles along an edge of the image."""


@helper
def _tiles_within(centre: np.float32, reach: np.float32, resolution: int) -> tuple[int, int]:
    """Return the first tile, and the end of the tiles, of the pixels within reach; NaN: none."""
    low, high = centre - reach, centre + reach
    if not (low < resolution and high > 0):
        return 0, 0
    first = int(np.ceil(max(low, np.float32(0)) - np.float32(0.5)))
    last = int(np.floor(min(high, np.float32(resolution)) - np.float32(0.5)))
    if first > last:
        return 0, 0
    return first // TILE, last // TILE + 1


@helper
def _span(
    x: np.float32, y: np.float32, reach_x: np.float32, reach_y: np.float32, resolution: int
) -> tuple[int, int, int, int]:
    """Return the tiles of a Gaussian: left, top, columns, rows; zeros if there are none."""
    left, right = _tiles_within(x, reach_x, resolution)
    top, bottom = _tiles_within(y, reach_y, resolution)
    if right == left or bottom == top:
        return 0, 0, 0, 0
    return left, top, right - left, bottom - top


@entry
def count_tiles(
    f: FootprintArrays,
    first: int,
    end: int,
    resolution: int,
    visible: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Count the visible Gaussians of each view, and those of each of its tiles: (v, tiles)."""
    across = (resolution + TILE - 1) // TILE
    for view in range(first, end):
        mean, reach = f.mean[view], f.reach[view]
        for i in range(f.opacity.shape[1]):
            if not f.opacity[view, i] > MIN_ALPHA:
                continue
            left, top, columns, rows = _span(
                mean[0, i], mean[1, i], reach[0, i], reach[1, i], resolution
            )
            visible[view] += columns > 0
            for y in range(top, top + rows):
                for x in range(left, left + columns):
                    sizes[view, y * across + x] += 1


@helper
def _pack(
    f: FootprintArrays, view: int, resolution: int, start: int, bins: Bins, keys: np.ndarray
) -> None:
    """Write the rows and places of a view, from row `start` on, and keys for `_sort`."""
    half, row, slot = np.float32(0.5), start, bins.tiles[view * bins.across * bins.across]
    mean, conic, reach = f.mean[view], f.conic[view], f.reach[view]
    for i in range(f.opacity.shape[1]):
        opacity = f.opacity[view, i]
        if not opacity > MIN_ALPHA:
            continue
        left, top, columns, rows = _span(
            mean[0, i], mean[1, i], reach[0, i], reach[1, i], resolution
        )
        if columns == 0:
            continue
        packed, place = bins.rows[row], bins.places[row]
        a, b, c = conic[0, i], conic[1, i], conic[2, i]
        packed[MEAN_X], packed[MEAN_Y] = mean[0, i], mean[1, i]
        packed[XX], packed[XY], packed[YY] = -half * a, -b, -half * c
        packed[OPACITY] = opacity
        packed[LOWEST] = np.log(np.float32(MIN_ALPHA) / opacity) - SLACK
        packed[RIDGE_X], packed[RIDGE_Y] = -b / a, -b / c
        packed[CHANNELS] = f.distance[view, i]
        for k in range(f.feature.shape[1]):
            packed[CHANNELS + 1 + k] = f.feature[view, k, i]
        place[VIEW], place[INDEX], place[SLOT] = view, i, slot
        place[LEFT], place[TOP], place[COLUMNS], place[ROWS] = left, top, columns, rows
        # Bits of a float32 in the order of integers: flip the sign bit, or all if negative.
        bits = np.int64(f.depth_bits[view, i])
        keys[row - start] = ((bits + (1 << 31) if bits >= 0 else -1 - bits) << 32) | row
        slot += columns * rows
        row += 1


@helper
def _sort(keys: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Sort by the upper 32 bits, stable: returns one of the two arrays."""
    for shift, bits in ((32, DIGIT), (32 + DIGIT, DIGIT), (32 + 2 * DIGIT, 32 - 2 * DIGIT)):
        counts = np.zeros(1 << DIGIT, np.int64)
        mask = (1 << bits) - 1
        for i in range(keys.size):
            counts[(keys[i] >> shift) & mask] += 1
        at = 0
        for digit in range(1 << bits):
            number = counts[digit]
            counts[digit] = at
            at += number
        for i in range(keys.size):
            digit = (keys[i] >> shift) & mask
            spare[counts[digit]] = keys[i]
            counts[digit] += 1
        keys, spare = spare, keys
    return keys


@helper
def _scatter(keys: np.ndarray, bins: Bins, ends: np.ndarray) -> None:
    """Append sorted Gaussians to the entries of their tiles, which end at `ends`."""
    entries, places, slots, across = bins.entries, bins.places, bins.slots, bins.across
    for key in keys:
        row = key & 0xFFFFFFFF
        left, columns, slot = places[row, LEFT], places[row, COLUMNS], places[row, SLOT]
        for y in range(places[row, TOP], places[row, TOP] + places[row, ROWS]):
            for tile in range(y * across + left, y * across + left + columns):
                at = ends[tile]
                entries[at], slots[slot] = row, at
                ends[tile], slot = at + 1, slot + 1


@entry
def fill_tiles(
    f: FootprintArrays,
    first: int,
    end: int,
    resolution: int,
    row_starts: np.ndarray,
    cursors: np.ndarray,
    bins: Bins,
) -> None:
    """Pack the Gaussians of each view, sort them, and write the entries of its tiles.

    `row_starts`: first row of each view, and the end. `cursors`: (v, tiles), where the next entry
    of each tile is written.
    """
    for view in range(first, end):
        number = row_starts[view + 1] - row_starts[view]
        keys, spare = np.empty(number, np.int64), np.empty(number, np.int64)
        _pack(f, view, resolution, row_starts[view], bins, keys)
        _scatter(_sort(keys, spare), bins, cursors[view])

"""Splatting in tiles of 16 x 16 pixels: values and gradients, as `renderers.splat.composite`.

A Gaussian is composited in those blocks of a tile in which some pixel can see it.
"""

from typing import NamedTuple

import numpy as np

from lightning_gan3d.simd import entry, helper
from lightning_gan3d.simd.wide import LANES
from renderers.fused.cpu.splat_bins import (
    COLUMNS,
    INDEX,
    OPACITY,
    ROWS,
    SLOT,
    TILE,
    VIEW,
    XX,
    XY,
    YY,
    Bins,
)
from renderers.fused.cpu.splat_blocks import (
    BLOCK,
    FEW,
    HISTORY,
    MOMENTS,
    PLANE,
    Planes,
    blend,
    blend_gradient,
    open_blocks,
    record,
    sum_parts,
    visible_blocks,
)

BATCH = 16
"""Gaussians of a tile per batch. After each batch, a tile without open pixels ends."""
TRANS, OFFSETS, OPACITY_SUM, BEHIND, WEIGHTS, FIRST_CHANNEL = range(6)
"""Planes of a worker's memory, in the order of `Planes`."""


class Sums(NamedTuple):
    """`SplatSums`, or gradients by them, as arrays."""

    feature: np.ndarray
    distance: np.ndarray
    opacity: np.ndarray


class FootprintGradients(NamedTuple):
    """Gradients by `Footprints`, as arrays."""

    mean: np.ndarray
    conic: np.ndarray
    opacity: np.ndarray
    feature: np.ndarray
    distance: np.ndarray


class History(NamedTuple):
    """Memory of a worker for the entries of one tile, from front to back."""

    blocks: np.ndarray
    """Blocks in which an entry is composited, one bit each; int64."""
    numbers: np.ndarray
    """Rows of `HISTORY` bytes."""


@helper
def _planes(memory: np.ndarray) -> Planes:
    at = memory.ctypes.data
    return Planes(
        at + TRANS * PLANE,
        at + OFFSETS * PLANE,
        at + OPACITY_SUM * PLANE,
        at + BEHIND * PLANE,
        at + WEIGHTS * PLANE,
        at + FIRST_CHANNEL * PLANE,
        memory.shape[0] - FIRST_CHANNEL - FEW,
    )


@helper
def _start_tile(memory: np.ndarray, width: int, height: int) -> None:
    """Open the pixels of a tile that lie in the image."""
    for i in range(LANES):
        block = memory[TRANS, LANES * i : LANES * (i + 1)]
        left, top = BLOCK * (i % BLOCK), BLOCK * (i // BLOCK)
        memory[OFFSETS, 2 * i], memory[OFFSETS, 2 * i + 1] = left, top
        for k in range(LANES):
            inside = left + k % BLOCK < width and top + k // BLOCK < height
            block[k] = 1 if inside else -1


@helper
def _runs(k: int) -> tuple[int, int]:
    """Return x and y of a run of BLOCK pixels in a tile, which are contiguous in a plane."""
    block, row = k // BLOCK, k % BLOCK
    return block % BLOCK * BLOCK, block // BLOCK * BLOCK + row


@helper
def _to_image(plane: np.ndarray, image: np.ndarray, resolution: int, left: int, top: int) -> None:
    """Write a plane to its tile of an image, without the pixels outside."""
    for k in range(TILE * BLOCK):
        x, y = _runs(k)
        if top + y < resolution:
            start = (top + y) * resolution + left + x
            for i in range(min(BLOCK, resolution - left - x)):
                image[start + i] = plane[BLOCK * k + i]


@helper
def _from_image(plane: np.ndarray, image: np.ndarray, resolution: int, left: int, top: int) -> None:
    """Read a plane from its tile of an image; zeros outside."""
    for k in range(TILE * BLOCK):
        x, y = _runs(k)
        start = (top + y) * resolution + left + x
        number = min(BLOCK, resolution - left - x) if top + y < resolution else 0
        for i in range(BLOCK):
            plane[BLOCK * k + i] = image[start + i] if i < number else 0


@entry
def tiles_forward(
    first: int, end: int, resolution: int, bins: Bins, sums: Sums, memory: np.ndarray
) -> None:
    """Composite tiles `first` to `end` of all views."""
    planes, hits = _planes(memory), np.empty(BATCH, np.int64)
    rows, stride = bins.rows.ctypes.data, 4 * bins.rows.shape[1]
    for tile in range(first, end):
        view, within = tile // bins.across**2, tile % bins.across**2
        left, top = TILE * (within % bins.across), TILE * (within // bins.across)
        x, y = np.float32(left + 0.5), np.float32(top + 0.5)
        _start_tile(memory, resolution - left, resolution - top)
        memory[OPACITY_SUM] = 0
        memory[FIRST_CHANNEL:] = 0
        stop = bins.tiles[tile + 1]
        for start in range(bins.tiles[tile], stop, BATCH):
            unfinished = open_blocks(planes.trans)
            if unfinished == 0:
                break
            number = min(BATCH, stop - start)
            for i in range(number):
                hits[i] = visible_blocks(rows + stride * bins.entries[start + i], x, y)
            for i in range(number):
                blocks = hits[i] & unfinished
                if blocks != 0:
                    blend(rows + stride * bins.entries[start + i], x, y, blocks, planes)
        _to_image(memory[OPACITY_SUM], sums.opacity[view, 0], resolution, left, top)
        _to_image(memory[FIRST_CHANNEL], sums.distance[view, 0], resolution, left, top)
        for k in range(sums.feature.shape[1]):
            plane = memory[FIRST_CHANNEL + 1 + k]
            _to_image(plane, sums.feature[view, k], resolution, left, top)


@helper
def _record_tile(
    tile: int, x: np.float32, y: np.float32, bins: Bins, planes: Planes, log: History
) -> int:
    """Store the history of the entries of a tile until it is finished; return their number."""
    rows, stride, first = bins.rows.ctypes.data, 4 * bins.rows.shape[1], bins.tiles[tile]
    number: int = bins.tiles[tile + 1] - first
    unfinished = 0
    for i in range(number):
        if i % BATCH == 0:
            unfinished = open_blocks(planes.trans)
            if unfinished == 0:
                return i
        row = rows + stride * bins.entries[first + i]
        log.blocks[i] = visible_blocks(row, x, y) & unfinished
        record(row, x, y, log.blocks[i], planes, log.numbers.ctypes.data + HISTORY * i)
    return number


@entry
def tiles_backward(
    first: int,
    end: int,
    resolution: int,
    bins: Bins,
    d_sums: Sums,
    memory: np.ndarray,
    history: History,
    parts: np.ndarray,
) -> None:
    """Compute the gradients of tiles `first` to `end`: one row of `parts` per entry."""
    planes, rows, stride = _planes(memory), bins.rows.ctypes.data, 4 * bins.rows.shape[1]
    for tile in range(first, end):
        view, within = tile // bins.across**2, tile % bins.across**2
        left, top = TILE * (within % bins.across), TILE * (within // bins.across)
        x, y = np.float32(left + 0.5), np.float32(top + 0.5)
        _start_tile(memory, resolution - left, resolution - top)
        memory[BEHIND] = 0
        _from_image(memory[OPACITY_SUM], d_sums.opacity[view, 0], resolution, left, top)
        _from_image(memory[FIRST_CHANNEL], d_sums.distance[view, 0], resolution, left, top)
        for k in range(d_sums.feature.shape[1]):
            plane = memory[FIRST_CHANNEL + 1 + k]
            _from_image(plane, d_sums.feature[view, k], resolution, left, top)
        start, stop = bins.tiles[tile], bins.tiles[tile + 1]
        number = _record_tile(tile, x, y, bins, planes, history)
        parts[start + number : stop] = 0
        for i in range(number - 1, -1, -1):
            row, blocks = rows + stride * bins.entries[start + i], history.blocks[i]
            at = history.numbers.ctypes.data + HISTORY * i
            blend_gradient(row, x, y, blocks, planes, at, parts[start + i].ctypes.data)


@entry
def gather_gradients(
    first: int, end: int, bins: Bins, parts: np.ndarray, gradients: FootprintGradients
) -> None:
    """Sum the parts of the Gaussians `first` to `end`, and write their gradients."""
    total, half = np.empty(parts.shape[1], np.float32), np.float32(0.5)
    data, slots, vectors = parts.ctypes.data, bins.slots.ctypes.data, parts.shape[1] // LANES
    for i in range(first, end):
        row, place = bins.rows[i], bins.places[i]
        view, index = place[VIEW], place[INDEX]
        number = place[COLUMNS] * place[ROWS]
        sum_parts(data, slots + 4 * place[SLOT], number, vectors, total.ctypes.data)
        p, px, py, pxx, pxy, pyy = total[0], total[1], total[2], total[3], total[4], total[5]
        gradients.mean[view, 0, index] = row[XX] * 2 * px + row[XY] * py
        gradients.mean[view, 1, index] = row[XY] * px + row[YY] * 2 * py
        gradients.conic[view, 0, index] = -half * pxx
        gradients.conic[view, 1, index] = -pxy
        gradients.conic[view, 2, index] = -half * pyy
        gradients.opacity[view, index] = p / row[OPACITY]
        gradients.distance[view, index] = total[MOMENTS]
        for k in range(gradients.feature.shape[1]):
            gradients.feature[view, k, index] = total[MOMENTS + 1 + k]

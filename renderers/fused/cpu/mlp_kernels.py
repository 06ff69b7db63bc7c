"""The CPU kernels of fields that are MLPs: a tile of rays forward, and a tile backward.

Rays are processed in groups, whose points are the rows of the products.
"""

from typing import NamedTuple

import numpy as np

from lightning_gan3d.simd import FEW_ROWS, WIDTH, entry, helper
from renderers.fused.cpu import film_layers as film
from renderers.fused.cpu import quadrature, ray_samples
from renderers.fused.cpu.film_layers import Activations, NetworkGradient
from renderers.fused.cpu.ray_stages import clear, composite, place_fine, ray_of, start_ray
from renderers.fused.cpu.workspace import (
    D_SIGMA,
    FEATURE,
    OMEGA,
    RAY,
    SIGMA,
    SORTED_T,
    TILE,
    MlpScene,
    Q,
    SumArrays,
    T,
)


class GroupScratch(NamedTuple):
    """Memory of one worker: the samples of a group of rays."""

    scalars: np.ndarray
    """(rays, NUM_SCALARS, columns)."""
    indices: np.ndarray
    numbers: np.ndarray
    """Numbers of the rays."""
    ends: np.ndarray
    """Ends of their strata."""
    points: Activations


@helper
def _start_group(scene: MlpScene, tile: int, first: int, scratch: GroupScratch) -> int:
    """Start the rays of a tile from the one numbered `first` on; return how many there are."""
    count = 0
    for k in range(first, min(first + scratch.numbers.size, TILE)):
        r = ray_of(tile, k, scene.rays)
        if r >= 0:
            scratch.numbers[count] = r
            scratch.ends[count] = start_ray(scene, r, scratch.scalars[count])
            count += 1
    return count


@helper
def _pad(points: int) -> int:
    return (points + FEW_ROWS - 1) // FEW_ROWS * FEW_ROWS


@helper
def _query(
    scene: MlpScene, count: int, sample: int, number: int, scratch: GroupScratch, gradient: bool
) -> int:
    """Compute the density of `number` samples of each ray, from the one numbered `sample` on.

    Returns the row of the first point; a ray's points follow each other.
    """
    network, points = scene.network, scratch.points
    first = _pad(count * sample)
    row = 4 * scratch.scalars.shape[2]
    for g in range(count):
        scalars = scratch.scalars[g]
        r = scratch.numbers[g]
        ray_samples.start_density(scalars, sample, number, scene.rays.noise, r, scene.options)
        at = scalars.ctypes.data
        t, per_half_box = at + T * row + 4 * sample, 1 / scene.options.half
        place = first + g * number
        film.place_points(network, at + RAY * row, t, number, per_half_box, points, place)
    film.end_points(network, points, first + count * number)
    film.hidden_forward(network, points, first, _pad(count * number), gradient)
    vectors = (number + WIDTH - 1) // WIDTH
    for g in range(count):
        sigma = scratch.scalars[g].ctypes.data + SIGMA * row + 4 * sample
        film.add_vectors(points.sigma + 4 * (first + g * number), sigma, vectors)
    return first


@helper
def _start_last(
    scene: MlpScene, count: int, first: int, number: int, scratch: GroupScratch
) -> None:
    """Give the last layer the directions of the rays, if it reads them."""
    if scene.network.has_dirs:
        row = 4 * scratch.scalars.shape[2]
        for g in range(count):
            ray = scratch.scalars[g].ctypes.data + RAY * row
            rows = number if g < count - 1 else _pad(count * number) - g * number
            film.start_last(scene.network, scratch.points, ray, first + g * number, rows)


@helper
def _tile_forward(
    scene: MlpScene, tile: int, sums: SumArrays, fine: np.ndarray, scratch: GroupScratch
) -> None:
    """Render a tile into rows of `sums`; store its fine depths in `fine`, if this has rows."""
    s, options, network, points = scene.sizes, scene.options, scene.network, scratch.points
    coarse, num, row = options.coarse, s.samples, 4 * scratch.scalars.shape[2]
    width, vectors = 4 * network.columns, network.columns // WIDTH
    for group in range(0, TILE, scratch.numbers.size):
        count = _start_group(scene, tile, group, scratch)
        if count == 0:
            continue
        _query(scene, count, 0, coarse, scratch, False)
        _start_last(scene, count, 0, coarse, scratch)
        first, rows = 0, _pad(count * coarse)
        if options.fine > 0:
            for g in range(count):
                scalars, r = scratch.scalars[g], scratch.numbers[g]
                place_fine(scene, r, scratch.ends[g], scalars, scratch.indices[g])
                if fine.shape[0] > 0:
                    for i in range(options.fine):
                        fine[r, i] = scalars[T, coarse + i]
            first = _query(scene, count, coarse, options.fine, scratch, False)
            _start_last(scene, count, first, options.fine, scratch)
            rows = first + _pad(count * options.fine)
        film.features_forward(network, points, rows, False)
        for g in range(count):
            scalars, r = scratch.scalars[g], scratch.numbers[g]
            composite(scene, r, scratch.ends[g], scalars, scratch.indices[g])
            clear(scalars, FEATURE, 0, network.columns)
            at = scalars.ctypes.data
            omega, total = at + OMEGA * row, at + FEATURE * row
            out = points.out + width * g * coarse
            film.sum_features(out, omega, vectors, coarse, total)
            if options.fine > 0:
                out = points.out + width * (first + g * options.fine)
                film.sum_features(out, omega + 4 * coarse, vectors, options.fine, total)
            for i in range(s.features):
                sums.feature[r, i] = scalars[FEATURE, i]
            opacity, depth = quadrature.sum_weights(scalars, num, options)
            sums.depth[r, 0], sums.opacity[r, 0] = depth, opacity
            sums.nearest[r, 0] = scalars[SORTED_T, 0]
            sums.farthest[r, 0] = scalars[SORTED_T, num - 1]


@helper
def _tile_backward(
    scene: MlpScene,
    tile: int,
    fine: np.ndarray,
    d_sums: SumArrays,
    offsets: NetworkGradient,
    flat: np.ndarray,
    scratch: GroupScratch,
) -> None:
    """Add a tile's part of the network's gradient to `flat`; `offsets` in bytes.

    The last number of `flat` is the gradient of the density's bias.
    """
    s, options, network, points = scene.sizes, scene.options, scene.network, scratch.points
    coarse, num, row = options.coarse, s.samples, 4 * scratch.scalars.shape[2]
    width, vectors, start = 4 * network.columns, network.columns // WIDTH, flat.ctypes.data
    d = NetworkGradient(
        start + offsets.first,
        start + offsets.hidden,
        start + offsets.biases,
        start + offsets.dirs,
        start + offsets.density,
        start + offsets.out,
        start + offsets.out_bias,
    )
    for group in range(0, TILE, scratch.numbers.size):
        count = _start_group(scene, tile, group, scratch)
        if count == 0:
            continue
        for g in range(count):
            for i in range(options.fine):
                scratch.scalars[g, T, coarse + i] = fine[scratch.numbers[g], i]
        rows = _pad(count * num)
        _query(scene, count, 0, num, scratch, True)
        _start_last(scene, count, 0, num, scratch)
        film.features_forward(network, points, rows, True)
        for g in range(count):
            scalars, indices, r = scratch.scalars[g], scratch.indices[g], scratch.numbers[g]
            composite(scene, r, scratch.ends[g], scalars, indices)
            clear(scalars, FEATURE, s.features, network.columns)
            for i in range(s.features):
                scalars[FEATURE, i] = d_sums.feature[r, i]
            at, out = scalars.ctypes.data, points.out + width * g * num
            omega, gradient, q = at + OMEGA * row, at + FEATURE * row, at + Q * row
            film.features_backward(out, omega, gradient, vectors, num, q, d.out_bias)
            flat[flat.size - 1] += quadrature.find_weights_backward(
                scalars, indices, num, d_sums.depth[r, 0], d_sums.opacity[r, 0], options
            )
            film.copy_floats(at + D_SIGMA * row, points.sigma + 4 * g * num, num)
        unused = rows - count * num
        film.copy_floats(network.zeros, points.sigma + 4 * count * num, unused)
        film.copy_floats(network.zeros, points.out + width * count * num, unused * network.columns)
        film.out_backward(network, points, rows, d)
        for g in range(count):
            ray = scratch.scalars[g].ctypes.data + RAY * row
            film.last_backward(network, points, ray, g * num, num, d)
        film.hidden_backward(network, points, rows, d)


@entry
def mlp_forward(
    scene: MlpScene, first: int, end: int, sums: SumArrays, fine: np.ndarray, scratch: GroupScratch
) -> None:
    """Render tiles `first` to `end`."""
    for tile in range(first, end):
        _tile_forward(scene, tile, sums, fine, scratch)


@entry
def mlp_backward(
    scene: MlpScene,
    first: int,
    fine: np.ndarray,
    d_sums: SumArrays,
    offsets: NetworkGradient,
    flat: np.ndarray,
    scratch: GroupScratch,
) -> None:
    """Add the parts of tiles from `first` on to the rows of `flat`."""
    for i in range(flat.shape[0]):
        _tile_backward(scene, first + i, fine, d_sums, offsets, flat[i], scratch)

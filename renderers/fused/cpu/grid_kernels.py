"""The CPU kernels of fields of grids: a tile of rays forward or backward, the scatter to texels.

The backward kernel stores the gradients of gathered features, and sums those of the decoder. Texels
are added to afterwards, in the order of rays, each by one thread: no copies of the grids' gradient
per thread, and the same bits for any number of threads.
"""

from typing import NamedTuple

import numpy as np

from lightning_gan3d.simd import entry, helper
from renderers.fused.cpu import decoder_layers, quadrature, ray_samples, texels
from renderers.fused.cpu.ray_stages import clear, composite, place_fine, ray_of, start_ray
from renderers.fused.cpu.workspace import (
    D_SIGMA,
    FEATURE,
    OMEGA,
    RAY,
    SIGMA,
    SORTED_T,
    TILE,
    Q,
    Scene,
    Scratch,
    SumArrays,
    T,
)

WIDER, LOWER = np.float32(1.002), np.float32(0.001)
"""feature = WIDER * sigmoid - LOWER."""


class TileGradients(NamedTuple):
    """Gradients of a tile."""

    decoder: np.ndarray
    """Flat, padded, to add to: hidden weight and bias, density weight, output weight and bias,
    density bias."""
    features: np.ndarray
    """Of gathered features: (rays, samples, channels)."""
    needs_decoder: bool
    needs_grids: bool


class Gradients(NamedTuple):
    """The same of several tiles, one per row."""

    decoder: np.ndarray
    features: np.ndarray
    """One row that is not used, if the grids need no gradient."""
    needs_decoder: bool
    needs_grids: bool


@helper
def decode(scene: Scene, r: int, first: int, number: int, scratch: Scratch) -> None:
    """Gather samples `first` to `first + number` of ray r; compute hidden units and raw density."""
    s, layer, scalars = scene.sizes, scene.decoder.hidden, scratch.scalars
    ray_samples.start_density(scalars, first, number, scene.rays.noise, r, scene.options)
    row = 4 * scalars.shape[1]
    at, ray = scalars.ctypes.data + 4 * first, scalars.ctypes.data + RAY * row
    corners, corner_row = scratch.corners + 4 * first, scratch.corner_row
    for p in range(s.grids):
        of_grid = texels.Corners(corners + 2 * corner_row * s.corners * p, corner_row, s.corners)
        table = scene.grids.table + p * texels.ROW
        texels.find_corners(ray, at + T * row, number, table, of_grid)
    of_all = texels.Corners(corners, corner_row, s.grids * s.corners)
    features = scratch.buffers.features + 4 * layer.channels * first
    texels.gather(scene.grids, of_all, number, layer.channels, features)
    decoder_layers.hidden_forward(scratch.buffers, first, number, layer, at + SIGMA * row)


@helper
def tile_forward(
    scene: Scene, tile: int, sums: SumArrays, fine: np.ndarray, scratch: Scratch
) -> None:
    """Render a tile into rows of `sums`; store its fine depths in `fine`, if this has rows."""
    s, options, out = scene.sizes, scene.options, scene.decoder.out
    scalars, indices = scratch.scalars, scratch.indices
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    num = s.samples
    for k in range(TILE):
        r = ray_of(tile, k, scene.rays)
        if r < 0:
            continue
        end = start_ray(scene, r, scalars)
        decode(scene, r, 0, options.coarse, scratch)
        if options.fine > 0:
            place_fine(scene, r, end, scalars, indices)
            decode(scene, r, options.coarse, options.fine, scratch)
            if fine.shape[0] > 0:
                for i in range(options.fine):
                    fine[r, i] = scalars[T, options.coarse + i]
        composite(scene, r, end, scalars, indices)
        clear(scalars, FEATURE, 0, out.features)
        decoder_layers.accumulate_features(
            scratch.buffers, num, out, at + OMEGA * row, at + FEATURE * row
        )
        opacity, depth = quadrature.sum_weights(scalars, num, options)
        for i in range(s.features):
            sums.feature[r, i] = WIDER * scalars[FEATURE, i] - LOWER * opacity
        sums.depth[r, 0], sums.opacity[r, 0] = depth, opacity
        sums.nearest[r, 0], sums.farthest[r, 0] = scalars[SORTED_T, 0], scalars[SORTED_T, num - 1]


@helper
def tile_backward(
    scene: Scene,
    tile: int,
    fine: np.ndarray,
    d_sums: SumArrays,
    gradients: TileGradients,
    scratch: Scratch,
) -> None:
    """Compute the gradients of a tile from those of its sums and from the fine depths."""
    s, w, options = scene.sizes, scene.decoder, scene.options
    scalars, indices, buffers = scratch.scalars, scratch.indices, scratch.buffers
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    num = s.samples
    omega, d_feature, d_sigma = at + OMEGA * row, at + FEATURE * row, at + D_SIGMA * row
    d_hidden = gradients.decoder.ctypes.data
    d_hidden_bias = d_hidden + 4 * w.hidden.channels * w.hidden.units
    d_out = d_hidden_bias + 8 * w.hidden.units  # after the density's weights
    d_out_bias = d_out + 4 * w.out.units * w.out.features
    d_features = gradients.features.ctypes.data
    for k in range(TILE):
        r = ray_of(tile, k, scene.rays)
        if r < 0:
            continue
        end = start_ray(scene, r, scalars)
        for i in range(options.fine):
            scalars[T, options.coarse + i] = fine[r, i]
        decode(scene, r, 0, num, scratch)
        composite(scene, r, end, scalars, indices)
        d_feature_total = np.float32(0)
        clear(scalars, FEATURE, s.features, w.out.features)
        for i in range(s.features):
            scalars[FEATURE, i] = WIDER * d_sums.feature[r, i]
            d_feature_total += d_sums.feature[r, i]
        decoder_layers.weight_gradients(buffers, num, w.out, d_feature, at + Q * row)
        for i in range(num):
            scalars[Q, i] -= LOWER * d_feature_total
        d_depth, d_opacity = d_sums.depth[r, 0], d_sums.opacity[r, 0]
        d_bias = quadrature.find_weights_backward(
            scalars, indices, num, d_depth, d_opacity, options
        )
        clear(scalars, D_SIGMA, num, s.blocks)
        decoder_layers.out_backward(buffers.out, num, w.out.features, omega, d_feature, d_out_bias)
        if gradients.needs_decoder:
            gradients.decoder[gradients.decoder.size - 1] += d_bias
            decoder_layers.add_out_gradient(buffers, num, w.out, d_out)
        decoder_layers.hidden_backward(buffers, num, w, d_sigma, d_hidden_bias)
        if gradients.needs_decoder:
            decoder_layers.add_hidden_gradient(buffers, num, w.hidden, d_hidden)
        if gradients.needs_grids:
            block = d_features + k * 4 * s.blocks * w.hidden.channels
            decoder_layers.feature_gradient(buffers, s.blocks, w, block)


@entry
def scatter_tiles(
    scene: Scene,
    band: texels.Band,
    first: int,
    fine: np.ndarray,
    d_features: np.ndarray,
    scratch: Scratch,
) -> None:
    """Add the features' gradients of tiles from `first` on to the texels of a band.

    `d_features`: (tiles, rays, samples, channels).
    """
    s, options, scalars = scene.sizes, scene.options, scratch.scalars
    channels = scene.decoder.hidden.channels
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    corners = texels.Corners(scratch.corners, scratch.corner_row, s.corners)
    for tile in range(d_features.shape[0]):
        for k in range(TILE):
            r = ray_of(first + tile, k, scene.rays)
            if r < 0:
                continue
            start_ray(scene, r, scalars)
            for i in range(options.fine):
                scalars[T, options.coarse + i] = fine[r, i]
            texels.find_corners(at + RAY * row, at + T * row, s.samples, band.table, corners)
            block = d_features.ctypes.data + (tile * TILE + k) * 4 * s.blocks * channels
            texels.scatter(band, corners, s.samples, channels, block)


@entry
def tiles_forward(
    scene: Scene, first: int, end: int, sums: SumArrays, fine: np.ndarray, scratch: Scratch
) -> None:
    """Render tiles `first` to `end`."""
    for tile in range(first, end):
        tile_forward(scene, tile, sums, fine, scratch)


@entry
def tiles_backward(
    scene: Scene,
    first: int,
    fine: np.ndarray,
    d_sums: SumArrays,
    gradients: Gradients,
    scratch: Scratch,
) -> None:
    """Compute the gradients of tiles from `first` on, as many as those of the decoder have rows."""
    for i in range(gradients.decoder.shape[0]):
        decoder, features = (
            gradients.decoder[i],
            gradients.features[min(i, gradients.features.shape[0] - 1)],
        )
        of_tile = TileGradients(decoder, features, gradients.needs_decoder, gradients.needs_grids)
        tile_backward(scene, first + i, fine, d_sums, of_tile, scratch)

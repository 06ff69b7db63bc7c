"""Stages of a ray in the CPU kernels of any field: number, coarse samples, fine ones, weights."""

import numpy as np

from lightning_gan3d.simd import helper
from renderers.fused.cpu import quadrature, ray_samples
from renderers.fused.cpu.workspace import (
    OMEGA,
    RAY,
    SIDE,
    TILE,
    AnyScene,
    RayArrays,
)


@helper
def ray_of(tile: int, k: int, rays: RayArrays) -> int:
    """Return the k-th ray of a tile, or -1 beyond the image or the last ray.

    Also -1 for a ray that misses the bounds, where it starts and ends: nothing is computed.
    """
    ray, side = tile * TILE + k, rays.side
    if side > 0:
        across = (side + SIDE - 1) // SIDE
        view, within = tile // (across * across), tile % (across * across)
        y, x = within // across * SIDE + k // SIDE, within % across * SIDE + k % SIDE
        if y >= side or x >= side:
            return -1
        ray = (view * side + y) * side + x
    if ray >= rays.near.shape[0] or rays.far[ray, 0] <= rays.near[ray, 0]:
        return -1
    return ray


@helper
def clear(scalars: np.ndarray, row: int, start: int, stop: int) -> None:
    """Zero a part of a row."""
    for i in range(start, stop):
        scalars[row, i] = 0


@helper
def start_ray(scene: AnyScene, r: int, scalars: np.ndarray) -> np.float32:
    """Load ray r and place its coarse samples; return the end of its strata."""
    rays = scene.rays
    for a in range(3):
        scalars[RAY, a] = rays.origins[r, a]
        scalars[RAY, 3 + a] = rays.dirs[r, a]
    near, far = rays.near[r, 0], rays.far[r, 0]
    return ray_samples.stratify(scalars, near, far, rays.jitter, r, scene.options)


@helper
def place_fine(
    scene: AnyScene, r: int, end: np.float32, scalars: np.ndarray, indices: np.ndarray
) -> None:
    """Place the fine samples of ray r by the weights of the coarse ones."""
    options, near = scene.options, scene.rays.near[r, 0]
    if options.nucleus > 0:
        num = ray_samples.split_intervals(scalars, near, end, options)
        quadrature.find_weights(scalars, num, options)
        ray_samples.keep_nucleus(scalars, num, options.nucleus)
    else:
        ray_samples.sort(scalars, indices, options.coarse, 0, True)
        ray_samples.find_edges(scalars, options.coarse, near, end)
        num = quadrature.find_weights(scalars, options.coarse, options)
        if options.eg3d:
            num = ray_samples.pool(scalars, options.coarse)
        ray_samples.spread(scalars, num)
    ray_samples.invert_cdf(scalars, indices, num, scene.rays.u, r, options)


@helper
def composite(
    scene: AnyScene, r: int, end: np.float32, scalars: np.ndarray, indices: np.ndarray
) -> None:
    """Sort all samples of ray r and compute their weights."""
    s, options = scene.sizes, scene.options
    ordered = ray_samples.ascends(options)
    ray_samples.sort(scalars, indices, options.coarse, options.fine, ordered)
    if not options.eg3d:
        ray_samples.find_edges(scalars, s.samples, scene.rays.near[r, 0], end)
    quadrature.find_weights(scalars, s.samples, options)
    quadrature.share_weights(scalars, indices, s.samples, options)
    clear(scalars, OMEGA, s.samples, s.blocks)

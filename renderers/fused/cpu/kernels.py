"""The kernels: a tile of rays forward, the same backward, and the scatter of texels' gradients.

Backward, a tile leaves the gradients of gathered features in a buffer, and sums of the decoder's.
Texels are added to afterwards, in the order of rays, each by one thread: no copies of the grids'
gradient for threads, and the same bits for any number of them.
"""

import numpy as np

from lightning_gan3d.simd import WIDTH, entry, helper, matmul
from renderers.fused.cpu.grid_lookup import TABLE, find_corners, gather, scatter
from renderers.fused.cpu.mlp import blend, hide, project, unblend, unhide
from renderers.fused.cpu.quadrature import share, sums, unweigh, weigh
from renderers.fused.cpu.ray_samples import ascends, begin, cut, invert, pool, sort, stratify
from renderers.fused.cpu.row_layout import D_SIGMA, OMEGA, SHADE, SIGMA, SORTED_T, Q, Rules, T
from renderers.fused.cpu.workspace import SIDE, TILE, Along, Scratch, Seen, Sizes, Weights

WIDER, LOWER = np.float32(1.002), np.float32(0.001)
"""feature = WIDER * sigmoid - LOWER."""
ROW = 8 * len(TABLE)
"""Bytes of a grid's row of the table."""


@helper
def ray_of(tile: int, k: int, side: int, rays: int) -> int:
    """Return the k-th ray of a tile, or -1 where the image or the row of rays ends before it."""
    if side == 0:
        ray = tile * TILE + k
        return ray if ray < rays else -1
    across = (side + SIDE - 1) // SIDE
    view, within = tile // (across * across), tile % (across * across)
    y, x = within // across * SIDE + k // SIDE, within % across * SIDE + k % SIDE
    return (view * side + y) * side + x if y < side and x < side else -1


@helper
def clear(lines: np.ndarray, line: int, start: int, stop: int) -> None:
    """Zero a part of a line."""
    for i in range(start, stop):
        lines[line, i] = 0


@helper
def decode(
    grid: int,
    half: bool,
    table: int,
    first: int,
    number: int,
    along: Along,
    r: int,
    sizes: Sizes,
    weights: Weights,
    rules: Rules,
    scratch: Scratch,
) -> None:
    """Read some samples of a ray, and compute their hidden units and raw density."""
    s, lines = sizes, scratch.lines
    ray = scratch.ray.ctypes.data
    begin(ray, lines, first, number, weights.density_bias, along.noise, r, rules)
    at, row = lines.ctypes.data + 4 * first, 4 * lines.shape[1]
    offsets = scratch.offsets + 4 * first
    corner_weights = scratch.weights + 4 * first
    stride = scratch.stride
    for p in range(s.grids):
        find_corners(
            scratch.ray.ctypes.data,
            at + T * row,
            number,
            table + p * ROW,
            s.corners,
            s.per_box,
            s.share,
            offsets + p * s.corners * stride,
            corner_weights + p * s.corners * stride,
            stride,
        )
    features = scratch.features + 4 * s.channels * first
    corners, vectors = s.grids * s.corners, s.channels // WIDTH
    gather(grid, half, offsets, corner_weights, stride, corners, number, vectors, features)
    hide(
        features,
        s.channels,
        weights.hidden,
        weights.hidden_bias,
        weights.density,
        rules.softplus_hidden,
        scratch.hidden + 4 * s.hidden * first,
        s.hidden // WIDTH,
        number,
        at + SIGMA * row,
    )


@helper
def aim(along: Along, ray: int, scratch: Scratch, rules: Rules) -> np.float32:
    """Fetch a ray and its coarse samples; return where its strata end."""
    for a in range(3):
        scratch.ray[a] = along.origins[ray, a]
        scratch.ray[3 + a] = along.dirs[ray, a]
    near, far = along.near[ray], along.far[ray]
    return stratify(scratch.lines, near, far, along.jitter, ray, rules)


@helper
def composite(num: int, near: np.float32, end: np.float32, scratch: Scratch, rules: Rules) -> None:
    """Sort all samples and weigh them."""
    sort(scratch.lines, scratch.marks, rules.coarse, rules.fine, ascends(rules))
    if not rules.pair_weights:
        cut(scratch.lines, num, near, end)
    weigh(scratch.lines, num, rules.pair_weights, rules)
    share(scratch.lines, scratch.marks, num, rules.pair_weights)


@entry
def march_tile(
    grid: int,
    half: bool,
    table: int,
    sizes: Sizes,
    weights: Weights,
    rules: Rules,
    along: Along,
    tile: int,
    seen: Seen,
    fine: np.ndarray,
    keep: bool,
    scratch: Scratch,
) -> None:
    """Render a tile into rows of `seen`.

    `grid` is the address of the scene's first texel. `fine` takes the fine depths if `keep`.
    """
    lines, marks, s = scratch.lines, scratch.marks, sizes
    num, vectors = s.samples, s.out // WIDTH
    at, row = lines.ctypes.data, 4 * lines.shape[1]
    for k in range(TILE):
        r = ray_of(tile, k, along.side, along.near.shape[0])
        if r < 0:
            continue
        near, end = along.near[r], aim(along, r, scratch, rules)
        decode(grid, half, table, 0, rules.coarse, along, r, s, weights, rules, scratch)
        if rules.fine > 0:
            sort(lines, marks, rules.coarse, 0, True)
            cut(lines, rules.coarse, near, end)
            masses = weigh(lines, rules.coarse, rules.pair_importance, rules)
            if rules.pair_importance:
                masses = pool(lines, rules.coarse)
            invert(lines, marks, masses, along.u, r, rules)
            decode(
                grid, half, table, rules.coarse, rules.fine, along, r, s, weights, rules, scratch
            )
            if keep:
                for i in range(rules.fine):
                    fine[r, i] = lines[T, rules.coarse + i]
        composite(num, near, end, scratch, rules)
        clear(lines, OMEGA, num, s.rows)
        clear(lines, SHADE, 0, s.out)
        blend(
            scratch.hidden,
            s.hidden,
            weights.out,
            weights.out_bias,
            scratch.out,
            vectors,
            num,
            at + OMEGA * row,
            at + SHADE * row,
        )
        opacity, depth = sums(lines, num, rules.pair_weights)
        for i in range(s.features):
            seen.feature[r, i] = WIDER * lines[SHADE, i] - LOWER * opacity
        seen.depth[r], seen.opacity[r] = depth, opacity
        seen.nearest[r], seen.farthest[r] = lines[SORTED_T, 0], lines[SORTED_T, num - 1]


@entry
def unmarch_tile(
    grid: int,
    half: bool,
    table: int,
    sizes: Sizes,
    weights: Weights,
    rules: Rules,
    along: Along,
    tile: int,
    fine: np.ndarray,
    d_seen: Seen,
    d_weights: np.ndarray,
    d_gathered: np.ndarray,
    wants_weights: bool,
    wants_grids: bool,
    scratch: Scratch,
) -> None:
    """Differentiate a tile, from the gradients of its rays and the fine depths.

    Adds to `d_weights` (hidden weight and bias, density weight, output weight and bias, density
    bias: as `Weights`, flat). Leaves in `d_gathered` a block of rows per ray of the tile.
    """
    lines, s = scratch.lines, sizes
    num, vectors, units = s.samples, s.out // WIDTH, s.hidden // WIDTH
    at, row = lines.ctypes.data, 4 * lines.shape[1]
    omega, d_shade, d_sigma = at + OMEGA * row, at + SHADE * row, at + D_SIGMA * row
    hidden, features = scratch.hidden, scratch.features
    out, d_hidden = scratch.out, scratch.d_hidden
    d_weight = d_weights.ctypes.data
    block, block_bytes = d_gathered.ctypes.data, 4 * s.rows * s.channels
    d_hidden_bias = d_weight + 4 * s.channels * s.hidden
    d_density = d_hidden_bias + 4 * s.hidden
    d_out_weight = d_density + 4 * s.hidden
    d_out_bias = d_out_weight + 4 * s.hidden * s.out
    for k in range(TILE):
        r = ray_of(tile, k, along.side, along.near.shape[0])
        if r < 0:
            continue
        near, end = along.near[r], aim(along, r, scratch, rules)
        for i in range(rules.fine):
            lines[T, rules.coarse + i] = fine[r, i]
        decode(grid, half, table, 0, num, along, r, s, weights, rules, scratch)
        composite(num, near, end, scratch, rules)
        clear(lines, OMEGA, num, s.rows)
        d_opacity = d_seen.opacity[r]
        offset = np.float32(0)
        clear(lines, SHADE, s.features, s.out)
        for i in range(s.features):
            lines[SHADE, i] = WIDER * d_seen.feature[r, i]
            offset += d_seen.feature[r, i]
        out_weight, out_bias = weights.out, weights.out_bias
        q = at + Q * row
        project(hidden, s.hidden, out_weight, out_bias, out, vectors, num, d_shade, q)
        for i in range(num):
            lines[Q, i] -= LOWER * offset
        pairs = rules.pair_weights
        total = unweigh(lines, scratch.marks, num, d_seen.depth[r], d_opacity, pairs, rules)
        clear(lines, D_SIGMA, num, s.rows)
        unblend(out, vectors, num, omega, d_shade, d_out_bias)
        if wants_weights:
            d_weights[(d_out_bias - d_weight) // 4 + s.out] += total
            width = 4 * s.out
            matmul(
                hidden,
                4,
                4 * s.hidden,
                out,
                width,
                num,
                d_out_weight,
                width,
                d_out_weight,
                width,
                s.hidden,
                vectors,
            )
        unhide(
            out,
            s.out,
            weights.out_t,
            weights.zeros,
            hidden,
            d_hidden,
            units,
            num,
            d_sigma,
            weights.density,
            rules.softplus_hidden,
            d_density,
            d_hidden_bias,
        )
        if wants_weights:
            width = 4 * s.hidden
            matmul(
                features,
                4,
                4 * s.channels,
                d_hidden,
                width,
                num,
                d_weight,
                width,
                d_weight,
                width,
                s.channels,
                units,
            )
        if wants_grids:
            width = 4 * s.channels
            matmul(
                d_hidden,
                4 * s.hidden,
                4,
                weights.hidden_t,
                width,
                s.hidden,
                weights.zeros,
                0,
                block + k * block_bytes,
                width,
                s.rows,
                s.channels // WIDTH,
            )


@entry
def scatter_tiles(
    target: int,
    table: int,
    low: int,
    high: int,
    sizes: Sizes,
    rules: Rules,
    along: Along,
    first: int,
    tiles: int,
    fine: np.ndarray,
    d_gathered: np.ndarray,
    scratch: Scratch,
) -> None:
    """Add what `tiles` tiles left in `d_gathered` to one grid's texels with offsets in [low, high).

    `target` is the address of the gradient's first texel, `table` that of the grid's row, by the
    strides of the gradient.
    """
    lines, s = scratch.lines, sizes
    stride, block = scratch.stride, d_gathered.ctypes.data
    for tile in range(tiles):
        for k in range(TILE):
            r = ray_of(first + tile, k, along.side, along.near.shape[0])
            if r < 0:
                continue
            aim(along, r, scratch, rules)
            for i in range(rules.fine):
                lines[T, rules.coarse + i] = fine[r, i]
            find_corners(
                scratch.ray.ctypes.data,
                lines.ctypes.data + 4 * T * lines.shape[1],
                s.samples,
                table,
                s.corners,
                s.per_box,
                s.share,
                scratch.offsets,
                scratch.weights,
                stride,
            )
            scatter(
                target,
                scratch.offsets,
                scratch.weights,
                stride,
                s.corners,
                low,
                high,
                s.samples,
                s.channels // WIDTH,
                block + (tile * TILE + k) * 4 * s.rows * s.channels,
            )

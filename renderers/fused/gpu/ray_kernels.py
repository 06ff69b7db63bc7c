"""Triton: kernels over rays, on one number per sample: depths, densities, weights.

A program serves a few rays, each a row of the block; rows are padded to a power of two. Tables are
(rays, samples), coarse samples before fine ones; `order` lists each row's columns by depth. A raw
density of -inf marks a sample outside the box: it absorbs nothing, has no slope, and makes the
intervals that it bounds empty.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl


class Block(NamedTuple):
    """Compile-time constants of a block of rays."""

    rows: int
    columns: int
    """Samples, padded."""
    density: str
    """Activation of the density."""
    eg3d: bool
    """Whether intervals lie between samples."""
    sorted: bool
    """Whether `order` is given."""


class Search(NamedTuple):
    """Compile-time constants of `fine_kernel`."""

    drawn: bool
    """Whether u is drawn, within its stratum except under EG3D's rules; else it is its middle."""
    eg3d: bool
    steps: int
    """Of the bisection, enough for all masses."""
    size: int
    """Samples of a program."""
    parts: int
    """Parts of the interval of a coarse sample: bins of the distribution."""


class Rays(NamedTuple):
    """Tables of all rays, and the factor of the density."""

    t: Any
    sigma: Any
    near: Any
    far: Any
    order: Any
    scale: Any
    num_rays: Any
    samples: Any


class Counts(NamedTuple):
    """Coarse samples, fine samples, and bins of the distribution of a ray."""

    coarse: Any
    fine: Any
    masses: Any
    nucleus: Any
    """Share of the weight that the fine samples cover."""


class Sums(NamedTuple):
    """Sums along rays, except of features, and the depths of the first and last sample."""

    depth: Any
    opacity: Any
    nearest: Any
    farthest: Any


class WeightGradients(NamedTuple):
    """Gradients of the weights through the features, of depth sums, and of opacities."""

    q: Any
    depth: Any
    opacity: Any


@triton.jit
@no_type_check
def shifted(x, BY: tl.constexpr, BLOCK: tl.constexpr):
    """Each row's element BY columns on; 0 beyond the ends."""
    column = tl.arange(0, BLOCK.columns)[None, :] + BY
    inside = (column >= 0) & (column < BLOCK.columns)
    index = tl.where(inside, column, 0) + tl.zeros_like(x).to(tl.int32)
    return tl.where(inside, tl.gather(x, index, 1), 0.0)


@triton.jit
@no_type_check
def absorbed(tau):
    """1 - exp(-tau), to float32's relative precision for small tau, too."""
    small = tau * (1 - tau / 2 * (1 - tau / 3 * (1 - tau / 4 * (1 - tau / 5 * (1 - tau / 6)))))
    return tl.where(tau < 0.25, small, 1 - tl.exp(-tau))


@triton.jit
@no_type_check
def density(raw, scale, DENSITY: tl.constexpr):
    """Density per world unit (`Field.sigma`)."""
    if DENSITY == "softplus":
        x = raw - 1
        y = tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))
    elif DENSITY == "relu":
        y = tl.maximum(raw, 0.0)
    else:
        y = tl.exp(tl.minimum(raw, 15.0))
    return scale * y


@triton.jit
@no_type_check
def density_slope(raw, scale, DENSITY: tl.constexpr):
    """Derivative of `density`."""
    if DENSITY == "softplus":
        y = tl.sigmoid(raw - 1)
    elif DENSITY == "relu":
        y = tl.where(raw > 0, 1.0, 0.0)
    else:
        y = tl.where(raw <= 15, tl.exp(tl.minimum(raw, 15.0)), 0.0)
    return scale * y


@triton.jit
@no_type_check
def intervals(rays, num, BLOCK: tl.constexpr):
    """Intervals of the first `num` samples of a block of rays.

    Returns rows and whether they exist; columns and whether they exist; and depth, raw density,
    length and optical depth of each interval. Interval k surrounds sample k of the order; under
    EG3D's rules it lies between samples k and k + 1, and its raw density is their mean.
    """
    t, sigma, order = rays.t, rays.sigma, rays.order
    row = tl.program_id(0) * BLOCK.rows + tl.arange(0, BLOCK.rows)
    row_ok = row < rays.num_rays
    k = tl.arange(0, BLOCK.columns)[None, :]
    ok = row_ok[:, None] & (k < num)
    after = ok & (k + 1 < num)
    at = row[:, None] * rays.samples
    column, next_column, last_column = k, k + 1, k - 1
    if BLOCK.sorted:
        column = tl.load(order + at + k, mask=ok, other=0).to(tl.int32)
        next_column = tl.load(order + at + k + 1, mask=after, other=0).to(tl.int32)
        last_column = tl.load(order + at + k - 1, mask=ok & (k > 0), other=0).to(tl.int32)
    depth = tl.load(t + at + column, mask=ok, other=0.0)
    raw = tl.load(sigma + at + column, mask=ok, other=float("-inf"))
    next_depth = tl.load(t + at + next_column, mask=after, other=0.0)
    if BLOCK.eg3d:
        next_raw = tl.load(sigma + at + next_column, mask=after, other=float("-inf"))
        raw = (raw + next_raw) / 2
        length = tl.where(after, next_depth - depth, 0.0)
    else:
        last_depth = tl.load(t + at + last_column, mask=ok & (k > 0), other=0.0)
        begin = tl.load(rays.near + row, mask=row_ok, other=0.0)[:, None]
        end = tl.load(rays.far + row, mask=row_ok, other=0.0)[:, None]
        begin = tl.where(k > 0, (last_depth + depth) / 2, begin)
        end = tl.where(after, (depth + next_depth) / 2, end)
        length = tl.where(ok, end - begin, 0.0)
    tau = density(raw, rays.scale, BLOCK.density) * length
    return row, row_ok, column, ok, depth, raw, length, tau


@triton.jit
@no_type_check
def cdf_kernel(rays, cdf, counts, BLOCK: tl.constexpr):
    """Cumulative distribution of the fine samples, over the coarse ones, without its 0.

    EG3D's is over weights between samples, pooled and averaged.
    """
    masses = counts.masses
    row, row_ok, _, _, _, _, _, tau = intervals(rays, counts.coarse, BLOCK)
    weight = absorbed(tau) * tl.exp(tau - tl.cumsum(tau, 1))
    if BLOCK.eg3d:
        pooled = tl.maximum(weight, shifted(weight, 1, BLOCK))
        weight = (pooled + shifted(pooled, 1, BLOCK)) / 2 + 0.01
    k = tl.arange(0, BLOCK.columns)[None, :]
    mass = tl.where(k < masses, weight + 1e-5, 0.0)
    total = tl.cumsum(mass / tl.sum(mass, 1)[:, None], 1)
    tl.store(cdf + row[:, None] * masses + k, total, mask=row_ok[:, None] & (k < masses))


@triton.jit
@no_type_check
def nucleus_kernel(rays, cdf, counts, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """Cumulative distribution of the fine samples, uniform over the parts of intervals it keeps.

    As `sampling.split_intervals` and `sampling.nucleus`; columns are parts.
    """
    coarse, masses = counts.coarse, counts.masses
    row = tl.program_id(0) * BLOCK.rows + tl.arange(0, BLOCK.rows)[:, None]
    k = tl.arange(0, BLOCK.columns)[None, :]
    ok = (row < rays.num_rays) & (k < masses)
    i = k // PARTS + tl.zeros_like(row)
    length = part_edge(rays, row, k + 1, coarse, ok, PARTS)
    start = part_edge(rays, row, k, coarse, ok, PARTS)
    length -= start
    at = row * rays.samples
    t = tl.load(rays.t + at + i, mask=ok, other=0.0)
    raw = tl.load(rays.sigma + at + i, mask=ok, other=float("-inf"))
    offset = start + length / 2 - t
    other = at + tl.where(offset < 0, tl.maximum(i - 1, 0), tl.minimum(i + 1, coarse - 1))
    distance = tl.load(rays.t + other, mask=ok, other=0.0) - t
    other_raw = tl.load(rays.sigma + other, mask=ok, other=float("-inf"))
    both = (distance != 0) & (raw > float("-inf")) & (other_raw > float("-inf"))
    rise = tl.where(both, other_raw - raw, 0.0)
    raw += rise * offset / tl.where(distance == 0, 1.0, distance)
    tau = density(raw, rays.scale, BLOCK.density) * length
    weight = tl.where(ok, absorbed(tau) * tl.exp(tau - tl.cumsum(tau, 1)), 0.0)
    heavier = tl.zeros_like(weight)
    for j in range(masses):
        one = tl.sum(tl.where(k == j, weight, 0.0), 1)[:, None]
        before = (one > weight) | ((one == weight) & (j < k))
        heavier += tl.where(before, one, 0.0)
    whole = tl.sum(weight, 1)[:, None]
    kept = (heavier < counts.nucleus * whole) | (whole <= 0)
    mass = tl.where(ok & kept, tl.maximum(length, 1e-6), 0.0)
    total = tl.cumsum(mass / tl.sum(mass, 1)[:, None], 1)
    tl.store(cdf + row * masses + k, total, mask=ok)


@triton.jit
@no_type_check
def part_edge(rays, row, k, num, ok, PARTS: tl.constexpr):
    """Edge k of the parts of the intervals around `num` coarse samples."""
    i = k // PARTS
    start = edge(rays, row, i, num, ok, False)
    stop = edge(rays, row, tl.minimum(i + 1, num), num, ok, False)
    return start + (stop - start) * ((k % PARTS) / PARTS)


@triton.jit
@no_type_check
def edge(rays, row, k, num, ok, EG3D: tl.constexpr):
    """Edge k of the bins of the distribution over `num` coarse samples."""
    t = rays.t + row * rays.samples
    if EG3D:
        low = tl.load(t + k, mask=ok, other=0.0)
        result = (low + tl.load(t + k + 1, mask=ok, other=0.0)) / 2
    else:
        low = tl.load(t + k - 1, mask=ok & (k > 0), other=0.0)
        result = (low + tl.load(t + k, mask=ok & (k < num), other=0.0)) / 2
        result = tl.where(k > 0, result, tl.load(rays.near + row, mask=ok, other=0.0))
        result = tl.where(k < num, result, tl.load(rays.far + row, mask=ok, other=0.0))
    return result


@triton.jit
@no_type_check
def fine_kernel(rays, cdf, drawn, counts, SEARCH: tl.constexpr):
    """Depths of the fine samples, after the coarse ones: the inverse distribution at u."""
    fine, masses = counts.fine, counts.masses
    index = tl.program_id(0) * SEARCH.size + tl.arange(0, SEARCH.size)
    ok = index < rays.num_rays * fine
    row = index // fine
    stratum = index % fine
    if SEARCH.drawn:
        u = tl.load(drawn + index, mask=ok, other=0.0)
        if not SEARCH.eg3d:
            u = (stratum + u) / fine
    else:
        u = (stratum + 0.5) / fine
    low = tl.zeros((SEARCH.size,), tl.int32)
    high = tl.zeros((SEARCH.size,), tl.int32) + masses
    for _ in tl.static_range(SEARCH.steps):  # the first entry above u lies in [low, high]
        middle = (low + high) // 2
        busy = ok & (low < high)
        below = tl.load(cdf + row * masses + middle, mask=busy, other=2.0) <= u
        low = tl.where(busy & below, middle + 1, low)
        high = tl.where(busy & ~below, middle, high)
    low = tl.minimum(low, masses - 1)
    left = tl.load(cdf + row * masses + low - 1, mask=ok & (low > 0), other=0.0)
    right = tl.load(cdf + row * masses + low, mask=ok, other=1.0)
    share = tl.minimum(tl.maximum((u - left) / tl.maximum(right - left, 1e-8), 0.0), 1.0)
    if SEARCH.parts > 1:
        start = part_edge(rays, row, low, counts.coarse, ok, SEARCH.parts)
        stop = part_edge(rays, row, low + 1, counts.coarse, ok, SEARCH.parts)
    else:
        start = edge(rays, row, low, counts.coarse, ok, SEARCH.eg3d)
        stop = edge(rays, row, low + 1, counts.coarse, ok, SEARCH.eg3d)
    result = rays.t + row * rays.samples + counts.coarse + stratum
    tl.store(result, start + share * (stop - start), mask=ok)


@triton.jit
@no_type_check
def order_kernel(t, order, num_rays, samples, BLOCK: tl.constexpr):
    """Order of the samples by depth, by counting how many come before each."""
    row = tl.program_id(0) * BLOCK.rows + tl.arange(0, BLOCK.rows)
    k = tl.arange(0, BLOCK.columns)[None, :]
    row_ok = row < num_rays
    ok = row_ok[:, None] & (k < samples)
    at = t + row[:, None] * samples
    # As integers, depths (>= 0) have the same order, and even NaN has a place: ranks are unique, so
    # that every entry of the order is written.
    own = tl.load(at + k, mask=ok, other=0.0).to(tl.int32, bitcast=True)
    rank = tl.zeros((BLOCK.rows, BLOCK.columns), tl.int32)
    for j in range(samples):
        other = tl.load(t + row * samples + j, mask=row_ok, other=0.0)
        other = other.to(tl.int32, bitcast=True)[:, None]
        rank += ((other < own) | ((other == own) & (j < k))).to(tl.int32)
    column = (k + tl.zeros_like(rank)).to(tl.int16)
    tl.store(order + row[:, None] * samples + rank, column, mask=ok)


@triton.jit
@no_type_check
def weight_kernel(rays, omega, sums, BLOCK: tl.constexpr):
    """Weight of each sample, and all sums along rays except that of features."""
    row, row_ok, column, ok, depth, _, _, tau = intervals(rays, rays.samples, BLOCK)
    weight = absorbed(tau) * tl.exp(tau - tl.cumsum(tau, 1))
    if BLOCK.eg3d:
        total = tl.sum(weight, 1)
        weight = (weight + shifted(weight, -1, BLOCK)) / 2
    else:
        total = absorbed(tl.sum(tau, 1))
    weight = tl.where(ok, weight, 0.0)
    tl.store(omega + row[:, None] * rays.samples + column, weight, mask=ok)
    tl.store(sums.depth + row, tl.sum(weight * depth, 1), mask=row_ok)
    tl.store(sums.opacity + row, total, mask=row_ok)
    tl.store(sums.nearest + row, tl.min(tl.where(ok, depth, float("inf")), 1), mask=row_ok)
    tl.store(sums.farthest + row, tl.max(tl.where(ok, depth, 0.0), 1), mask=row_ok)


@triton.jit
@no_type_check
def weight_backward_kernel(rays, gradients, omega, d_sigma, BLOCK: tl.constexpr):
    """Weights again, and the gradient of each sample's raw density.

    With d_i the gradient of weight w_i = T_i (1 - exp(-tau_i)): that of tau_i is d_i T_i+1 less the
    sum of d_j w_j behind it.
    """
    row, row_ok, column, ok, depth, raw, length, tau = intervals(rays, rays.samples, BLOCK)
    through = tl.cumsum(tau, 1)
    weight = absorbed(tau) * tl.exp(tau - through)
    at = row[:, None] * rays.samples + column
    d_weight = tl.load(gradients.q + at, mask=ok, other=0.0)
    d_weight += tl.load(gradients.depth + row, mask=row_ok, other=0.0)[:, None] * depth
    d_total = tl.load(gradients.opacity + row, mask=row_ok, other=0.0)[:, None]
    if BLOCK.eg3d:
        d_weight = (d_weight + shifted(d_weight, 1, BLOCK)) / 2 + d_total
        last = tl.arange(0, BLOCK.columns)[None, :] + 1 < rays.samples
        d_weight = tl.where(ok & last, d_weight, 0.0)
        d_total = tl.zeros_like(d_total)
    passed = d_weight * weight
    d_tau = d_weight * tl.exp(-through) - (tl.cumsum(passed, 1, reverse=True) - passed)
    d_tau += d_total * tl.exp(-tl.sum(tau, 1))[:, None]
    d_raw = tl.where(ok, d_tau * length * density_slope(raw, rays.scale, BLOCK.density), 0.0)
    if BLOCK.eg3d:
        d_raw = (d_raw + shifted(d_raw, -1, BLOCK)) / 2
        weight = (weight + shifted(weight, -1, BLOCK)) / 2
    tl.store(omega + at, weight, mask=ok)
    tl.store(d_sigma + at, d_raw, mask=ok)

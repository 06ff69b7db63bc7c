"""Placement and order of a ray's samples, as `renderers.sampling`."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_gan3d.simd import WIDTH, helper, simd
from lightning_gan3d.simd.vector import (
    Float,
    Int,
    Registers,
    Vec,
    absolute,
    broadcast,
    constant,
    fma,
    lanes,
    load,
    load_ints,
    loop,
    maximum,
    select,
    square_root,
    store,
)
from renderers.fused.cpu.workspace import (
    CDF,
    COUNT,
    EDGES,
    HALF,
    INSIDE,
    ONE,
    RANK,
    RAY,
    SIGMA,
    SORTED_INSIDE,
    SORTED_SIGMA,
    SORTED_T,
    WEIGHT,
    Options,
    T,
    U,
)
from renderers.sampling import PARTS


@simd
def _quotient(x: Float, y: Float) -> Float:
    return Float(x.builder, x.builder.fdiv(x.value, y.value))


@helper
def divide(x: np.float32, y: np.float32) -> np.float32:
    """Divide exactly: a helper with SIMD code is not inlined, so no reciprocal is hoisted."""
    quotient: np.float32 = _quotient(x, y)
    return quotient


@simd
def _mask(scalars: Int, row: Int, column: Int, half: Float, strength: Float, radius: Float) -> None:
    """Set INSIDE of W samples, and add the density prior to SIGMA; `column` in bytes."""
    ray, samples = scalars + row * RAY, scalars + column
    at = load(samples + row * T)
    x = [fma(broadcast(ray + 12 + 4 * a), at, broadcast(ray + 4 * a)) for a in range(3)]
    largest = maximum(maximum(absolute(x[0]), absolute(x[1])), absolute(x[2]))
    inside = select(largest <= half.splat(), constant(scalars, 1.0), 0.0)
    store(inside, samples + row * INSIDE)
    squared = fma(x[0], x[0], fma(x[1], x[1], fma(x[2], x[2], 1e-12)))
    prior = strength.splat() * (radius.splat() - square_root(squared) / half.splat())
    sigma = samples + row * SIGMA
    store(load(sigma) + prior, sigma)


def _make_count(compare: Callable[[Vec, Vec], Vec]) -> Any:
    @simd
    def count(values: Int, number: Int, x: Int, counts: Int) -> None:
        """Add to `counts`, for W values at `x`, how many of the values precede."""
        at, total = load(x), Registers([load_ints(counts)])
        with loop(number) as i:
            total[0] = total[0] - compare(broadcast(values + i * 4), at).as_ints()
        store(total[0], counts)

    return count


_count_up_to, _count_below = _make_count(operator.le), _make_count(operator.lt)


@simd
def _count_among(x: Int, counts: Int) -> None:
    """Add to `counts`, for W values at `x`, how many of these come before; equals in turn."""
    at, count = load(x), load_ints(counts)
    for i in range(WIDTH):
        one = broadcast(x + 4 * i)
        count = count - select(lanes(x) > i, one <= at, one < at).as_ints()
    store(count, counts)


@helper
def stratify(
    scalars: np.ndarray,
    near: np.float32,
    far: np.float32,
    jitter: np.ndarray,
    r: int,
    options: Options,
) -> np.float32:
    """Place the coarse samples of ray r in T; return the end of the strata."""
    num = options.coarse
    step = divide(far - near, np.float32(num - 1 if options.eg3d else num))
    for i in range(num):
        within = jitter[r, i] if options.has_jitter else HALF
        scalars[T, i] = near + (np.float32(i) + within) * step
    return far + step if options.eg3d else far


@helper
def ascends(options: Options) -> bool:
    """Whether fine samples come in order: always except under EG3D's independent draws."""
    return not (options.eg3d and options.has_u)


@helper
def start_density(
    scalars: np.ndarray, first: int, number: int, noise: np.ndarray, r: int, options: Options
) -> None:
    """Initialise SIGMA (bias, noise, prior) and INSIDE of samples `first` to `first + number`."""
    for i in range(first, first + number):
        scalars[SIGMA, i] = options.bias
        scalars[INSIDE, i] = ONE
    if options.has_noise:
        for i in range(first, first + number):
            scalars[SIGMA, i] += noise[r, i]
    if options.masked or options.prior != 0:
        at, row = scalars.ctypes.data, 4 * scalars.shape[1]
        for i in range(4 * first, 4 * (first + number), 4 * WIDTH):
            _mask(at, row, i, options.half, options.prior, options.radius)
    if not options.masked:
        for i in range(first, first + number):
            scalars[INSIDE, i] = ONE


@helper
def sort(scalars: np.ndarray, indices: np.ndarray, coarse: int, fine: int, ordered: bool) -> None:
    """Sort samples by distance: RANK, and SORTED_* in that order; equals in the order of T.

    Ranks are counted, without branches, in vectors of comparisons. The coarse samples are in order,
    and so are the fine ones if `ordered`: their ranks among their own kind are known.
    """
    num = coarse + fine
    for i in range(num):
        indices[RANK, i] = i
    if fine > 0:
        t = scalars.ctypes.data + 4 * T * scalars.shape[1]
        rank = indices.ctypes.data + 4 * RANK * indices.shape[1]
        for i in range(num, num + WIDTH):
            scalars[T, i] = np.inf
        for i in range(0, coarse, WIDTH):
            _count_below(t + 4 * coarse, fine, t + 4 * i, rank + 4 * i)
        for i in range(coarse, num + WIDTH):  # the last vector wrote beyond the coarse ones
            indices[RANK, i] = i - coarse if ordered else 0
        for i in range(coarse, num, WIDTH):
            _count_up_to(t, coarse, t + 4 * i, rank + 4 * i)
            if not ordered:
                _count_up_to(t + 4 * coarse, i - coarse, t + 4 * i, rank + 4 * i)
                _count_among(t + 4 * i, rank + 4 * i)
                after = t + 4 * (i + WIDTH)
                _count_below(after, max(num - i - WIDTH, 0), t + 4 * i, rank + 4 * i)
    for i in range(num):
        k = indices[RANK, i]
        scalars[SORTED_T, k] = scalars[T, i]
        scalars[SORTED_SIGMA, k] = scalars[SIGMA, i]
        scalars[SORTED_INSIDE, k] = scalars[INSIDE, i]


@helper
def find_edges(scalars: np.ndarray, num: int, near: np.float32, far: np.float32) -> None:
    """Compute EDGES, of one interval per sorted sample, as `sampling.interval_edges`."""
    scalars[EDGES, 0] = near
    for i in range(1, num):
        scalars[EDGES, i] = HALF * (scalars[SORTED_T, i - 1] + scalars[SORTED_T, i])
    scalars[EDGES, num] = far


@helper
def _slope(scalars: np.ndarray, i: int, other: int) -> np.float32:
    """Slope of the raw density from sample i to another; 0 to itself and to one outside the box."""
    distance = scalars[T, other] - scalars[T, i]
    if distance == 0 or scalars[INSIDE, other] == 0:
        return np.float32(0)
    return np.float32((scalars[SIGMA, other] - scalars[SIGMA, i]) / distance)


@helper
def split_intervals(
    scalars: np.ndarray, near: np.float32, far: np.float32, options: Options
) -> int:
    """Divide the intervals of the coarse samples, as `sampling.split_intervals`.

    Fills EDGES, SORTED_SIGMA and SORTED_INSIDE; returns the number of parts.
    """
    num = options.coarse
    for i in range(num):
        t, raw = scalars[T, i], scalars[SIGMA, i]
        start = HALF * (scalars[T, i - 1] + t) if i > 0 else near
        stop = HALF * (t + scalars[T, i + 1]) if i < num - 1 else far
        before, after = _slope(scalars, i, max(i - 1, 0)), _slope(scalars, i, min(i + 1, num - 1))
        length = (stop - start) / np.float32(PARTS)
        for part in range(PARTS):
            k, edge = PARTS * i + part, start + np.float32(part) * length
            offset = edge + HALF * length - t
            scalars[EDGES, k] = edge
            scalars[SORTED_SIGMA, k] = raw + offset * (before if offset < 0 else after)
            scalars[SORTED_INSIDE, k] = scalars[INSIDE, i]
    scalars[EDGES, PARTS * num] = far
    return PARTS * num


@helper
def pool(scalars: np.ndarray, num: int) -> int:
    """Turn EG3D's pair weights of `num` samples into masses, in WEIGHT, and their EDGES.

    As `sampling.eg3d_importance`. Returns the number of masses.
    """
    for i in range(num - 2):
        a, b = scalars[WEIGHT, i], scalars[WEIGHT, i + 1]
        scalars[CDF, i] = b if b > a else a
    for i in range(num - 3):
        scalars[WEIGHT, i] = HALF * (scalars[CDF, i] + scalars[CDF, i + 1]) + np.float32(0.01)
    for i in range(num - 2):
        scalars[EDGES, i] = HALF * (scalars[SORTED_T, i] + scalars[SORTED_T, i + 1])
    return num - 3


@simd
def _sum_heavier(weights: Int, number: Int, x: Int, first: Int, sums: Int) -> None:
    """Store, for the W weights at `x`, the sum of those before them in the order by weight.

    `x` starts at weight `first`. Of equal weights, the earlier comes before.
    """
    at, index = load(x), lanes(x) + first.splat()
    heavier = Registers([at * 0.0])
    with loop(number) as j:
        other = broadcast(weights + j * 4)
        before = select(j.splat() < index, at <= other, at < other)
        heavier[0] = heavier[0] + select(before, other, 0.0)
    store(heavier[0], sums)


@helper
def keep_nucleus(scalars: np.ndarray, num: int, share: float) -> None:
    """Turn the weights of intervals, in WEIGHT, into masses, as `sampling.nucleus`."""
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    for i in range(0, num, WIDTH):
        x = at + WEIGHT * row + 4 * i
        _sum_heavier(at + WEIGHT * row, num, x, i, at + CDF * row + 4 * i)
    total = np.float32(0)
    for i in range(num):
        total += scalars[WEIGHT, i]
    for i in range(num):
        kept = scalars[CDF, i] < np.float32(share) * total or total <= 0
        length = max(scalars[EDGES, i + 1] - scalars[EDGES, i], np.float32(1e-6))
        scalars[WEIGHT, i] = length if kept else np.float32(0)


@helper
def spread(scalars: np.ndarray, num: int) -> None:
    """Turn the weights of intervals, in WEIGHT, into masses, as `sampling.spread`."""
    for i in range(num):
        scalars[WEIGHT, i] += np.float32(1e-5)


@helper
def invert_cdf(
    scalars: np.ndarray, indices: np.ndarray, masses: int, u: np.ndarray, r: int, options: Options
) -> None:
    """Place the fine samples by the masses in WEIGHT between EDGES, as `sampling.invert_cdf`."""
    num = options.fine
    for j in range(num):
        if not options.has_u:
            scalars[U, j] = (np.float32(j) + HALF) / np.float32(num)
        elif options.eg3d:
            scalars[U, j] = u[r, j]
        else:
            scalars[U, j] = (np.float32(j) + u[r, j]) / np.float32(num)
    total = np.float64(0)
    for i in range(masses):
        total += np.float64(scalars[WEIGHT, i])
    cumulative = np.float64(0)
    scalars[CDF, 0] = np.float32(0)
    for i in range(masses):
        cumulative += np.float64(scalars[WEIGHT, i] / np.float32(total))
        scalars[CDF, i + 1] = np.float32(cumulative)
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    count = indices.ctypes.data + COUNT * row
    for j in range(0, num, WIDTH):
        for k in range(j, j + WIDTH):
            indices[COUNT, k] = 0
        _count_up_to(at + CDF * row, masses + 1, at + U * row + 4 * j, count + 4 * j)
    for j in range(num):
        below = min(max(indices[COUNT, j] - 1, 0), masses - 1)
        left, right = scalars[CDF, below], scalars[CDF, below + 1]
        start, length = scalars[EDGES, below], scalars[EDGES, below + 1] - scalars[EDGES, below]
        mass = right - left
        if mass < np.float32(1e-8):
            mass = np.float32(1e-8)
        share = (scalars[U, j] - left) / mass
        if share < 0:
            share = np.float32(0)
        if share > ONE:
            share = ONE
        scalars[T, options.coarse + j] = start + share * length
    if ascends(options):
        # `sort` relies on the order, which rounding can break.
        for j in range(options.coarse + 1, options.coarse + num):
            if scalars[T, j] < scalars[T, j - 1]:
                scalars[T, j] = scalars[T, j - 1]

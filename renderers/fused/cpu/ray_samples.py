"""Where a ray is sampled, and in which order: `renderers.sampling`, fused."""

import numpy as np

from lightning_gan3d.simd import (
    WIDTH,
    Float,
    Int,
    Registers,
    absolute,
    broadcast,
    constant,
    fma,
    helper,
    lanes,
    load,
    load_float,
    load_ints,
    loop,
    maximum,
    select,
    simd,
    square_root,
    store,
)
from renderers.fused.cpu.row_layout import (
    CDF,
    COUNT,
    EDGES,
    HALF,
    INSIDE,
    ONE,
    RANK,
    SIGMA,
    SORTED_INSIDE,
    SORTED_SIGMA,
    SORTED_T,
    WEIGHT,
    Rules,
    T,
    U,
)


@simd
def _place(
    ray: Int, t: Int, half: Float, strength: Float, radius: Float, sigma: Int, inside: Int
) -> None:
    at = load(t)
    x = [fma(broadcast(ray + 12 + 4 * a), at, broadcast(ray + 4 * a)) for a in range(3)]
    largest = maximum(maximum(absolute(x[0]), absolute(x[1])), absolute(x[2]))
    store(select(largest <= half.splat(), constant(t, 1.0), 0.0), inside)
    squared = fma(x[0], x[0], fma(x[1], x[1], fma(x[2], x[2], 1e-12)))
    prior = strength.splat() * (radius.splat() - square_root(squared) / half.splat())
    store(load(sigma) + prior, sigma)


@simd
def _count_up_to(values: Int, number: Int, x: Int, counts: Int) -> None:
    at, found = load(x), Registers([load_ints(counts)])
    with loop(number) as i:
        found[0] = found[0] - (load_float(values + i * 4).splat() <= at).as_ints()
    store(found[0], counts)


@simd
def _count_below(values: Int, number: Int, x: Int, counts: Int) -> None:
    at, found = load(x), Registers([load_ints(counts)])
    with loop(number) as i:
        found[0] = found[0] - (load_float(values + i * 4).splat() < at).as_ints()
    store(found[0], counts)


@simd
def _count_among(x: Int, counts: Int) -> None:
    """Count, for W values at `x`, those of themselves that come before: equals in turn."""
    at, found = load(x), load_ints(counts)
    for i in range(WIDTH):
        one = broadcast(x + 4 * i)
        found = found - select(lanes(x) > i, one <= at, one < at).as_ints()
    store(found, counts)


@helper
def stratify(
    lines: np.ndarray, near: np.float32, far: np.float32, jitter: np.ndarray, ray: int, rules: Rules
) -> np.float32:
    """Place the coarse samples in T; return where the strata end."""
    num = rules.coarse
    step = (far - near) / np.float32(num - 1 if rules.pair_strata else num)
    for i in range(num):
        within = jitter[ray, i] if rules.has_jitter else HALF
        lines[T, i] = near + (np.float32(i) + within) * step
    return far + step if rules.pair_strata else far


@helper
def ascends(rules: Rules) -> bool:
    """Whether fine depths come in order: all but EG3D's, which are drawn independently."""
    return not (rules.pair_importance and rules.has_u)


@helper
def begin(
    ray: int,
    lines: np.ndarray,
    first: int,
    number: int,
    bias: float,
    noise: np.ndarray,
    row_of_noise: int,
    rules: Rules,
) -> None:
    """Begin the raw density of some samples: bias, prior, noise; mark those inside the box.

    `noise` is that of all samples of the ray.
    """
    for i in range(first, first + number):
        lines[SIGMA, i] = bias
        lines[INSIDE, i] = ONE
    if rules.has_noise:
        for i in range(first, first + number):
            lines[SIGMA, i] += noise[row_of_noise, i]
    if rules.masked or rules.prior != 0:
        at, row = lines.ctypes.data + 4 * first, 4 * lines.shape[1]
        for i in range(0, 4 * number, 4 * WIDTH):
            _place(
                ray,
                at + T * row + i,
                rules.half,
                rules.prior,
                rules.radius,
                at + SIGMA * row + i,
                at + INSIDE * row + i,
            )
    if not rules.masked:
        for i in range(first, first + number):
            lines[INSIDE, i] = ONE


@helper
def sort(lines: np.ndarray, marks: np.ndarray, coarse: int, fine: int, ordered: bool) -> None:
    """Sort samples by distance: RANK, and SORTED_* in that order; equals as they come in T.

    Ranks are counted: no branches, and vectors of comparisons. The coarse samples are in order,
    and so are the fine ones if `ordered`: what comes before among their own kind is known.
    """
    num = coarse + fine
    for i in range(num):
        marks[RANK, i] = i
    if fine > 0:
        at = lines.ctypes.data + 4 * T * lines.shape[1]
        row = marks.ctypes.data + 4 * RANK * marks.shape[1]
        for i in range(num, num + WIDTH):
            lines[T, i] = np.inf
        for i in range(0, coarse, WIDTH):
            _count_below(at + 4 * coarse, fine, at + 4 * i, row + 4 * i)
        for i in range(coarse, num + WIDTH):  # the last vector has written beyond the coarse ones
            marks[RANK, i] = i - coarse if ordered else 0
        for i in range(coarse, num, WIDTH):
            _count_up_to(at, coarse, at + 4 * i, row + 4 * i)
            if not ordered:
                _count_up_to(at + 4 * coarse, i - coarse, at + 4 * i, row + 4 * i)
                _count_among(at + 4 * i, row + 4 * i)
                after = at + 4 * (i + WIDTH)
                _count_below(after, max(num - i - WIDTH, 0), at + 4 * i, row + 4 * i)
    for i in range(num):
        k = marks[RANK, i]
        lines[SORTED_T, k] = lines[T, i]
        lines[SORTED_SIGMA, k] = lines[SIGMA, i]
        lines[SORTED_INSIDE, k] = lines[INSIDE, i]


@helper
def cut(lines: np.ndarray, num: int, near: np.float32, far: np.float32) -> None:
    """Cut the ray into an interval per sorted sample: EDGES, as `sampling.edges_of`."""
    lines[EDGES, 0] = near
    for i in range(1, num):
        lines[EDGES, i] = HALF * (lines[SORTED_T, i - 1] + lines[SORTED_T, i])
    lines[EDGES, num] = far


@helper
def pool(lines: np.ndarray, num: int) -> int:
    """Turn EG3D's pair weights of `num` samples into its masses, in WEIGHT; EDGES too.

    Returns how many masses there are. As `sampling.eg3d_importance`.
    """
    for i in range(num - 2):
        a, b = lines[WEIGHT, i], lines[WEIGHT, i + 1]
        lines[CDF, i] = b if b > a else a
    for i in range(num - 3):
        lines[WEIGHT, i] = HALF * (lines[CDF, i] + lines[CDF, i + 1]) + np.float32(0.01)
    for i in range(num - 2):
        lines[EDGES, i] = HALF * (lines[SORTED_T, i] + lines[SORTED_T, i + 1])
    return num - 3


@helper
def invert(
    lines: np.ndarray, marks: np.ndarray, masses: int, u: np.ndarray, ray: int, rules: Rules
) -> None:
    """Place the fine samples by the masses in WEIGHT between EDGES, as `sampling.invert_cdf`."""
    num = rules.fine
    for j in range(num):
        if not rules.has_u:
            lines[U, j] = (np.float32(j) + HALF) / np.float32(num)
        elif rules.pair_importance:
            lines[U, j] = u[ray, j]
        else:
            lines[U, j] = (np.float32(j) + u[ray, j]) / np.float32(num)
    whole = np.float64(0)
    for i in range(masses):
        lines[WEIGHT, i] += np.float32(1e-5)
        whole += np.float64(lines[WEIGHT, i])
    so_far = np.float64(0)
    lines[CDF, 0] = np.float32(0)
    for i in range(masses):
        so_far += np.float64(lines[WEIGHT, i] / np.float32(whole))
        lines[CDF, i + 1] = np.float32(so_far)
    row, counts = 4 * lines.shape[1], marks.ctypes.data + 4 * COUNT * marks.shape[1]
    for j in range(0, num, WIDTH):
        for k in range(j, j + WIDTH):
            marks[COUNT, k] = 0
        at = lines.ctypes.data
        _count_up_to(at + CDF * row, masses + 1, at + U * row + 4 * j, counts + 4 * j)
    for j in range(num):
        below = min(max(marks[COUNT, j] - 1, 0), masses - 1)
        left, right = lines[CDF, below], lines[CDF, below + 1]
        start, length = lines[EDGES, below], lines[EDGES, below + 1] - lines[EDGES, below]
        mass = right - left
        if mass < np.float32(1e-8):
            mass = np.float32(1e-8)
        part = (lines[U, j] - left) / mass
        if part < 0:
            part = np.float32(0)
        if part > ONE:
            part = ONE
        lines[T, rules.coarse + j] = start + part * length
    if ascends(rules):
        # Rounding aside they are in order, and `sort` relies on it.
        for j in range(rules.coarse + 1, rules.coarse + num):
            if lines[T, j] < lines[T, j - 1]:
                lines[T, j] = lines[T, j - 1]

"""What samples of a ray weigh, and the gradient of that: `renderers.compositing`, fused."""

from typing import Any

import numpy as np

from lightning_gan3d.simd import (
    WIDTH,
    Float,
    Int,
    Vec,
    exp,
    expm1,
    helper,
    load,
    maximum,
    minimum,
    select,
    sigmoid,
    simd,
    softplus,
    store,
)
from renderers.fused.cpu.row_layout import (
    ALPHA,
    COUNTS,
    D_RAW,
    D_SIGMA,
    EDGES,
    EXP,
    HALF,
    LENGTH,
    OMEGA,
    ONE,
    RANK,
    RAW,
    RELU,
    SOFTPLUS,
    SORTED_INSIDE,
    SORTED_Q,
    SORTED_SIGMA,
    SORTED_T,
    TRANS,
    WEIGHT,
    Q,
    Rules,
)

REST, ZERO = np.float32(1e-10), np.float32(0)
"""REST: EG3D's addition to what passes an interval."""


def _density(activation: int, x: Vec) -> Vec:
    if activation == SOFTPLUS:
        return softplus(x - 1.0)
    if activation == RELU:
        return maximum(x, 0.0)
    return exp(minimum(x, 15.0))


def _density_slope(activation: int, x: Vec) -> Vec:
    if activation == SOFTPLUS:
        return sigmoid(x - 1.0)
    if activation == RELU:
        return select(x > 0.0, x * 0.0 + 1.0, 0.0)
    return select(x <= 15.0, exp(minimum(x, 15.0)), 0.0)


def _make_absorb(activation: int) -> Any:
    @simd
    def absorb(raw: Int, length: Int, counts: Int, scale: Float, alpha: Int) -> None:
        sigma = _density(activation, load(raw)) * scale.splat()
        sigma = select(load(counts) > 0.0, sigma, 0.0)
        store(-expm1(-(sigma * load(length))), alpha)

    return absorb


def _make_unabsorb(activation: int) -> Any:
    @simd
    def unabsorb(raw: Int, length: Int, counts: Int, scale: Float, d_raw: Int) -> None:
        slope = _density_slope(activation, load(raw)) * scale.splat()
        x = load(d_raw) * load(length) * slope
        store(select(load(counts) > 0.0, x, 0.0), d_raw)

    return unabsorb


_absorb_softplus, _absorb_relu, _absorb_exp = (_make_absorb(a) for a in (SOFTPLUS, RELU, EXP))
_unabsorb_softplus, _unabsorb_relu, _unabsorb_exp = (
    _make_unabsorb(a) for a in (SOFTPLUS, RELU, EXP)
)


@helper
def weigh(lines: np.ndarray, num: int, pairs: bool, rules: Rules) -> int:
    """Weigh the first `num` sorted samples; return the number of intervals.

    `pairs`: EG3D's intervals between samples; else one around each, which needs EDGES. Fills RAW,
    LENGTH, COUNTS, ALPHA, TRANS (what reaches an interval), WEIGHT.
    """
    if pairs:
        intervals = num - 1
        for i in range(intervals):
            lines[RAW, i] = HALF * (lines[SORTED_SIGMA, i] + lines[SORTED_SIGMA, i + 1])
            lines[LENGTH, i] = lines[SORTED_T, i + 1] - lines[SORTED_T, i]
            lines[COUNTS, i] = lines[SORTED_INSIDE, i] * lines[SORTED_INSIDE, i + 1]
    else:
        intervals = num
        for i in range(intervals):
            lines[RAW, i] = lines[SORTED_SIGMA, i]
            lines[LENGTH, i] = lines[EDGES, i + 1] - lines[EDGES, i]
            lines[COUNTS, i] = lines[SORTED_INSIDE, i]
    at, row = lines.ctypes.data, 4 * lines.shape[1]
    for i in range(0, 4 * intervals, 4 * WIDTH):
        raw, length, counts = at + RAW * row + i, at + LENGTH * row + i, at + COUNTS * row + i
        alpha = at + ALPHA * row + i
        if rules.activation == SOFTPLUS:
            _absorb_softplus(raw, length, counts, rules.scale, alpha)
        elif rules.activation == RELU:
            _absorb_relu(raw, length, counts, rules.scale, alpha)
        else:
            _absorb_exp(raw, length, counts, rules.scale, alpha)
    rest = REST if pairs else ZERO
    trans = ONE
    for i in range(intervals):
        alpha = lines[ALPHA, i]
        lines[TRANS, i] = trans
        lines[WEIGHT, i] = alpha * trans
        trans *= ONE - alpha + rest
    return intervals


@helper
def share(lines: np.ndarray, marks: np.ndarray, num: int, pairs: bool) -> None:
    """Bring weights of sorted intervals to samples in the order of T: OMEGA."""
    for i in range(num):
        k = marks[RANK, i]
        if pairs:
            before = lines[WEIGHT, k - 1] if k > 0 else ZERO
            after = lines[WEIGHT, k] if k < num - 1 else ZERO
            lines[OMEGA, i] = HALF * (before + after)
        else:
            lines[OMEGA, i] = lines[WEIGHT, k]


@helper
def sums(lines: np.ndarray, num: int, pairs: bool) -> tuple[np.float32, np.float32]:
    """Return the sum of weights, and of weights times distance, over the sorted samples."""
    opacity, depth = ZERO, ZERO
    if pairs:
        for i in range(num - 1):
            weight = lines[WEIGHT, i]
            opacity += weight
            depth += weight * (HALF * (lines[SORTED_T, i] + lines[SORTED_T, i + 1]))
    else:
        for i in range(num):
            weight = lines[WEIGHT, i]
            opacity += weight
            depth += weight * lines[SORTED_T, i]
    return opacity, depth


@helper
def unweigh(
    lines: np.ndarray,
    marks: np.ndarray,
    num: int,
    d_depth: float,
    d_opacity: float,
    pairs: bool,
    rules: Rules,
) -> np.float32:
    """From Q, the features' part of the gradient of OMEGA, to D_SIGMA; return the sum of that.

    Weights are those that `weigh` left. d w_i alpha_i T_i reaches tau_j: by alpha for i = j, by
    T for i > j, which a sum from the far end holds.
    """
    for i in range(num):
        lines[SORTED_Q, marks[RANK, i]] = lines[Q, i]
    for i in range(num):
        lines[SORTED_Q, i] += d_depth * lines[SORTED_T, i]
    intervals = num - 1 if pairs else num
    behind = ZERO
    for k in range(intervals):
        i = intervals - 1 - k
        passed = ONE - lines[ALPHA, i]
        gradient = lines[SORTED_Q, i] + d_opacity
        kept = behind
        if pairs:
            gradient = HALF * (lines[SORTED_Q, i] + lines[SORTED_Q, i + 1]) + d_opacity
            kept = passed / (passed + REST) * behind
        lines[D_RAW, i] = passed * gradient * lines[TRANS, i] - kept
        behind += gradient * lines[WEIGHT, i]
    at, row = lines.ctypes.data, 4 * lines.shape[1]
    for i in range(0, 4 * intervals, 4 * WIDTH):
        raw, length, counts = at + RAW * row + i, at + LENGTH * row + i, at + COUNTS * row + i
        d_raw = at + D_RAW * row + i
        if rules.activation == SOFTPLUS:
            _unabsorb_softplus(raw, length, counts, rules.scale, d_raw)
        elif rules.activation == RELU:
            _unabsorb_relu(raw, length, counts, rules.scale, d_raw)
        else:
            _unabsorb_exp(raw, length, counts, rules.scale, d_raw)
    total = ZERO
    for i in range(num):
        k = marks[RANK, i]
        if pairs:
            before = lines[D_RAW, k - 1] if k > 0 else ZERO
            after = lines[D_RAW, k] if k < num - 1 else ZERO
            gradient = HALF * (before + after)
        else:
            gradient = lines[D_RAW, k]
        lines[D_SIGMA, i] = gradient
        total += gradient
    return total

"""Weights of a ray's samples and their gradient, as `renderers.compositing`."""

from typing import Any

import numpy as np

from lightning_gan3d.simd import WIDTH, exp, expm1, helper, sigmoid, simd, softplus
from lightning_gan3d.simd.vector import Float, Int, Vec, load, maximum, minimum, select, store
from renderers.fused.cpu.workspace import (
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
    Options,
    Q,
)

REST, ZERO = np.float32(1e-10), np.float32(0)
"""REST: EG3D's addition to the transmittance of an interval."""


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


def _make_alpha(activation: int) -> Any:
    @simd
    def alpha(intervals: Int, row: Int, scale: Float) -> None:
        """Compute ALPHA of W intervals; `intervals`: address of their column, `row`: bytes."""
        sigma = _density(activation, load(intervals + row * RAW)) * scale.splat()
        sigma = select(load(intervals + row * COUNTS) > 0.0, sigma, 0.0)
        store(-expm1(-(sigma * load(intervals + row * LENGTH))), intervals + row * ALPHA)

    return alpha


def _make_alpha_backward(activation: int) -> Any:
    @simd
    def alpha_backward(intervals: Int, row: Int, scale: Float) -> None:
        """Turn D_RAW of W intervals, the gradient of their optical depth, into that of RAW."""
        d_raw = intervals + row * D_RAW
        slope = _density_slope(activation, load(intervals + row * RAW)) * scale.splat()
        x = load(d_raw) * load(intervals + row * LENGTH) * slope
        store(select(load(intervals + row * COUNTS) > 0.0, x, 0.0), d_raw)

    return alpha_backward


_alpha_softplus, _alpha_relu, _alpha_exp = (_make_alpha(a) for a in (SOFTPLUS, RELU, EXP))
_alpha_softplus_backward, _alpha_relu_backward, _alpha_exp_backward = (
    _make_alpha_backward(a) for a in (SOFTPLUS, RELU, EXP)
)


@helper
def find_weights(scalars: np.ndarray, num: int, options: Options) -> int:
    """Compute the weights of the first `num` sorted samples; return the number of intervals.

    Intervals lie between samples under EG3D's rules, else around them, between EDGES. Fills RAW,
    LENGTH, COUNTS, ALPHA, TRANS and WEIGHT.
    """
    if options.eg3d:
        intervals = num - 1
        for i in range(intervals):
            scalars[RAW, i] = HALF * (scalars[SORTED_SIGMA, i] + scalars[SORTED_SIGMA, i + 1])
            scalars[LENGTH, i] = scalars[SORTED_T, i + 1] - scalars[SORTED_T, i]
            scalars[COUNTS, i] = scalars[SORTED_INSIDE, i] * scalars[SORTED_INSIDE, i + 1]
    else:
        intervals = num
        for i in range(intervals):
            scalars[RAW, i] = scalars[SORTED_SIGMA, i]
            scalars[LENGTH, i] = scalars[EDGES, i + 1] - scalars[EDGES, i]
            scalars[COUNTS, i] = scalars[SORTED_INSIDE, i]
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    for i in range(0, 4 * intervals, 4 * WIDTH):
        if options.activation == SOFTPLUS:
            _alpha_softplus(at + i, row, options.scale)
        elif options.activation == RELU:
            _alpha_relu(at + i, row, options.scale)
        else:
            _alpha_exp(at + i, row, options.scale)
    rest = REST if options.eg3d else ZERO
    trans = ONE
    for i in range(intervals):
        opaque = scalars[ALPHA, i]
        scalars[TRANS, i] = trans
        scalars[WEIGHT, i] = opaque * trans
        trans *= ONE - opaque + rest
    return intervals


@helper
def share_weights(scalars: np.ndarray, indices: np.ndarray, num: int, options: Options) -> None:
    """Bring the weights of sorted intervals to samples in the order of T: OMEGA."""
    for i in range(num):
        k = indices[RANK, i]
        if options.eg3d:
            before = scalars[WEIGHT, k - 1] if k > 0 else ZERO
            after = scalars[WEIGHT, k] if k < num - 1 else ZERO
            scalars[OMEGA, i] = HALF * (before + after)
        else:
            scalars[OMEGA, i] = scalars[WEIGHT, k]


@helper
def sum_weights(scalars: np.ndarray, num: int, options: Options) -> tuple[np.float32, np.float32]:
    """Return the sum of weights, and of weights times distance, over the sorted samples."""
    opacity, depth = ZERO, ZERO
    if options.eg3d:
        for i in range(num - 1):
            weight = scalars[WEIGHT, i]
            opacity += weight
            depth += weight * (HALF * (scalars[SORTED_T, i] + scalars[SORTED_T, i + 1]))
    else:
        for i in range(num):
            weight = scalars[WEIGHT, i]
            opacity += weight
            depth += weight * scalars[SORTED_T, i]
    return opacity, depth


@helper
def find_weights_backward(
    scalars: np.ndarray,
    indices: np.ndarray,
    num: int,
    d_depth: float,
    d_opacity: float,
    options: Options,
) -> np.float32:
    """From Q, the features' part of the gradient of OMEGA, compute D_SIGMA; return its sum.

    Reads what `find_weights` wrote. d w_i = alpha_i T_i reaches tau_j by alpha if i = j, and by T
    if i > j: a sum from the far end.
    """
    for i in range(num):
        scalars[SORTED_Q, indices[RANK, i]] = scalars[Q, i]
    for i in range(num):
        scalars[SORTED_Q, i] += d_depth * scalars[SORTED_T, i]
    intervals = num - 1 if options.eg3d else num
    behind = ZERO
    for k in range(intervals):
        i = intervals - 1 - k
        passed = ONE - scalars[ALPHA, i]
        gradient = scalars[SORTED_Q, i] + d_opacity
        shadowed = behind
        if options.eg3d:
            gradient = HALF * (scalars[SORTED_Q, i] + scalars[SORTED_Q, i + 1]) + d_opacity
            shadowed = passed / (passed + REST) * behind
        scalars[D_RAW, i] = passed * gradient * scalars[TRANS, i] - shadowed
        behind += gradient * scalars[WEIGHT, i]
    at, row = scalars.ctypes.data, 4 * scalars.shape[1]
    for i in range(0, 4 * intervals, 4 * WIDTH):
        if options.activation == SOFTPLUS:
            _alpha_softplus_backward(at + i, row, options.scale)
        elif options.activation == RELU:
            _alpha_relu_backward(at + i, row, options.scale)
        else:
            _alpha_exp_backward(at + i, row, options.scale)
    total = ZERO
    for i in range(num):
        k = indices[RANK, i]
        if options.eg3d:
            before = scalars[D_RAW, k - 1] if k > 0 else ZERO
            after = scalars[D_RAW, k] if k < num - 1 else ZERO
            gradient = HALF * (before + after)
        else:
            gradient = scalars[D_RAW, k]
        scalars[D_SIGMA, i] = gradient
        total += gradient
    return total

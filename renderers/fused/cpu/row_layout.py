"""Where a ray's scalars lie while it is rendered, and the rules that they follow.

`lines` is a float32 matrix with a row for each quantity below and room for whole vectors beyond the
last sample; `marks` the same for int32.
"""

from typing import NamedTuple

import numpy as np

(
    T,  # distance: coarse samples, then fine ones
    SIGMA,  # raw density
    INSIDE,  # 1 where a sample counts, 0 where it lies outside of the box
    SORTED_T,
    SORTED_SIGMA,
    SORTED_INSIDE,
    EDGES,  # ends of intervals
    RAW,  # of intervals: raw density,
    LENGTH,
    COUNTS,  # 1 where an interval counts,
    ALPHA,  # what it absorbs,
    TRANS,  # what reaches it,
    WEIGHT,
    OMEGA,  # weight of each sample, in the order of T
    CDF,
    U,
    Q,  # gradient of a sample's weight, in the order of T
    SORTED_Q,
    D_RAW,
    D_SIGMA,  # gradient of the raw density, in the order of T
    SHADE,  # sum of weighted sigmoids over the ray, or its gradient
    NUM_LINES,
) = range(22)
RANK, COUNT, NUM_MARKS = range(3)

SOFTPLUS, RELU, EXP = range(3)
"""Activations of the density."""
ONE, HALF = np.float32(1), np.float32(0.5)


class Rules(NamedTuple):
    """The options that decide along a ray."""

    coarse: int
    fine: int
    pair_strata: bool
    """EG3D's strata; so below: EG3D's rules."""
    pair_weights: bool
    pair_importance: bool
    masked: bool
    """Samples outside of the box are empty."""
    activation: int
    scale: float
    prior: float
    """Strength of the density prior; 0: none."""
    radius: float
    half: float
    """Half the edge of the box."""
    softplus_hidden: bool
    """Activation of the hidden layer; else leaky ReLU."""
    has_jitter: bool
    has_u: bool
    has_noise: bool

"""Kernel distance of feature vectors (KID): squared maximum mean discrepancy, cubic kernel.

k(x, y) = (x.y / d + 1)^3. The estimate is unbiased for any number of images (Binkowski et al.
2018), and may be negative.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.distribution.feature_store import Features

BLOCK = 1024
"""Rows of the kernel matrix computed at a time."""
NORMAL_95 = 1.96
"""Standard deviations from the mean that hold 95 % of a normal distribution."""


class Estimate(NamedTuple):
    """A value with its standard deviation and 95 % interval."""

    value: float
    deviation: float
    low: float
    high: float


def cubic(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """The cubic polynomial kernel."""
    base = (x @ y.mT).double() / x.shape[1] + 1
    return base * base * base  # several times faster than a power


def mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Unbiased squared discrepancy of two sets in memory."""
    n, m = len(x), len(y)
    own = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (cubic(x, x), cubic(y, y))]
    return float(own[0] + own[1] - 2 * cubic(x, y).sum() / (n * m))


def subset_distances(
    real: Features, fake: Features, subsets: int, size: int, draws: Draws
) -> Float64[Tensor, " s"]:
    """Distances of random subsets of at most `size` vectors, drawn without replacement.

    One subset if it contains both sets: all others would be equal.
    """
    size = min(size, len(real), len(fake))
    if len(real) == len(fake) == size:
        subsets = 1
    values = []
    for i in range(subsets):
        keyed = draws.at(i)
        x = real.rows(keyed.permutation("real", len(real))[:size])
        y = fake.rows(keyed.permutation("fake", len(fake))[:size])
        values.append(mmd(x, y))
    return torch.tensor(values, dtype=torch.float64)


def whole_distance(real: Features, fake: Features) -> Estimate:
    """Distance of whole sets, with a jackknife interval over images: NaN for sets of two.

    Between equal distributions the interval is too wide, by up to 1.7: the first term of the
    statistic's expansion is zero there. Memory does not grow with the number of pairs.
    """
    n, m = len(real), len(fake)
    (own_real, _), (own_fake, _) = _sums(real, real), _sums(fake, fake)
    to_fake, to_real = _sums(real, fake)
    total_real, total_fake, cross = own_real.sum(), own_fake.sum(), to_fake.sum()
    mean_real, mean_fake = total_real / (n * (n - 1)), total_fake / (m * (m - 1))
    value = mean_real + mean_fake - 2 * cross / (n * m)
    # The value without each image in turn.
    without_real = (total_real - 2 * own_real) / ((n - 1) * (n - 2)) + mean_fake
    without_real -= 2 * (cross - to_fake) / ((n - 1) * m)
    without_fake = (total_fake - 2 * own_fake) / ((m - 1) * (m - 2)) + mean_real
    without_fake -= 2 * (cross - to_real) / (n * (m - 1))
    parts = [(len(x) - 1) * x.var(correction=0) for x in (without_real, without_fake)]
    deviation = float((parts[0] + parts[1]).sqrt())
    half = NORMAL_95 * deviation
    return Estimate(float(value), deviation, float(value) - half, float(value) + half)


def _sums(x: Features, y: Features) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
    """Sums of the kernel over y for each x, and over x for each y; in one set, without itself."""
    same, i = x is y, 0
    over_y = torch.zeros(len(x), dtype=torch.float64)
    over_x = over_y if same else torch.zeros(len(y), dtype=torch.float64)
    for a in x.blocks(BLOCK):
        j = 0
        for b in y.blocks(BLOCK):
            # By symmetry, blocks below the diagonal equal those above it.
            if not (same and j < i):
                k = cubic(a, b)
                if same and i == j:
                    k.fill_diagonal_(0)
                over_y[i : i + len(a)] += k.sum(1)
                if not (same and i == j):
                    over_x[j : j + len(b)] += k.sum(0)
            j += len(b)
        i += len(a)
    return over_y, over_x

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


class Estimate(NamedTuple):
    """A value with its standard deviation and 95 % interval by the bootstrap."""

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


def whole_distance(real: Features, fake: Features, draws: Draws, repeats: int = 200) -> Estimate:
    """Distance of whole sets, with a bootstrap interval over images.

    Pairs of an image with itself are excluded from each repeat, as from the estimate: a new sample
    would have no duplicates. Memory does not grow with the number of pairs.
    """
    weights = [_counts(len(s), repeats, draws, name) for s, name in ((real, "r"), (fake, "f"))]
    own = [_pair_sums(s, s, w, w) for s, w in zip((real, fake), weights, strict=True)]
    cross = _pair_sums(real, fake, *weights)
    totals = [w.sum(1) ** 2 - w.square().sum(1) for w in weights]
    n_real, n_fake = (w.sum(1) for w in weights)
    values = own[0] / totals[0] + own[1] / totals[1] - 2 * cross / (n_real * n_fake)
    bootstrap = values[1:]
    low, high = bootstrap.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(values[0]), float(bootstrap.std()), low, high)


def _counts(n: int, repeats: int, draws: Draws, name: str) -> Float64[Tensor, "b n"]:
    """Number of times each image is drawn in each repeat; the first row is the sample itself."""
    counts = torch.ones(1 + repeats, n, dtype=torch.float64)
    for i in range(repeats):
        drawn = draws.at(i).integers(f"bootstrap/{name}", n, (n,))
        counts[1 + i] = torch.bincount(drawn, minlength=n)
    return counts


def _pair_sums(
    x: Features, y: Features, w_x: Float64[Tensor, "b n"], w_y: Float64[Tensor, "b m"]
) -> Float64[Tensor, " b"]:
    """Weighted sum of the kernel over pairs, in blocks; within one set, over distinct pairs."""
    same, total, i = x is y, torch.zeros(len(w_x), dtype=torch.float64), 0
    for a in x.blocks(BLOCK):
        j = 0
        for b in y.blocks(BLOCK):
            # By symmetry, blocks below the diagonal equal those above it.
            if not (same and j < i):
                k = cubic(a, b)
                if same and i == j:
                    k.fill_diagonal_(0)
                part = ((w_x[:, i : i + len(a)] @ k) * w_y[:, j : j + len(b)]).sum(1)
                total += part * (2 if same and j > i else 1)
            j += len(b)
        i += len(a)
    return total

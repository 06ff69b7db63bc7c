"""Fréchet distance of feature vectors (FID), its limit for many images, and Inception score.

d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the distance between fitted Gaussians
(Dowson & Landau 1982; Heusel et al. 2017). Moments are summed in float64, block by block.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lightning_gan3d.metrics.distribution.feature_store import SHARD, Features


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of vectors."""

    n: int
    """Number of vectors."""
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]
    """Sum of the outer products of the differences from the mean."""

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """The unbiased covariance, as `numpy.cov`."""
        return self.scatter / (self.n - 1)

    def plus(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan et al. 1979), without cancellation."""
        n, step = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(step, step, alpha=self.n * other.n / n)  # in place: saves one d x d matrix
        return Moments(n, self.mean + step * (other.n / n), scatter)


def moments_of(vectors: Float[Tensor, "n d"]) -> Moments:
    """Moments of vectors in memory."""
    x = vectors.double()
    mean = x.mean(0)
    x = x - mean
    return Moments(len(x), mean, x.mT @ x)


def moments(blocks: Iterable[Float[Tensor, "_ d"]]) -> Moments:
    """Moments of blocks of vectors, each read once."""
    return reduce(Moments.plus, map(moments_of, blocks))


class Frechet:
    """Squared Fréchet distance to one set of real vectors; their covariance's root is cached."""

    def __init__(self, real: Moments) -> None:
        """Take the root; negative eigenvalues are rounding errors."""
        self.real = real
        values, vectors = torch.linalg.eigh(real.covariance)
        self._root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT

    def distance(self, fake: Moments) -> float:
        """Squared distance, as FID is defined.

        tr (C_a C_b)^(1/2) is the sum of the roots of the eigenvalues of A C_b A with A = C_a^(1/2).
        That matrix is symmetric, so the roots are real even with fewer vectors than dimensions.
        """
        other = fake.covariance
        product = self._root @ other @ self._root
        trace = self.real.covariance.trace() + other.trace()
        del other
        roots = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
        gap = (self.real.mean - fake.mean).square().sum()
        # Never negative but for rounding: roots of eigenvalues near 0 magnify it.
        return max(0.0, float(gap + trace - 2 * roots.sum()))


def at_sizes(frechet: Frechet, fake: Features, sizes: Sequence[int]) -> list[tuple[int, float]]:
    """Pairs of size and distance of the first `size` vectors, ascending; reads `fake` once."""

    def parts() -> Iterator[Tensor]:
        done = 0
        for block in fake.blocks():
            cuts = sorted({s - done for s in sizes if done < s < done + len(block)})
            yield from torch.tensor_split(block, cuts)
            done += len(block)

    totals = accumulate(map(moments_of, parts()), Moments.plus)
    return [(m.n, frechet.distance(m)) for m in totals if m.n in sizes]


def infinity_sizes(least: int, num: int, count: int = 15) -> list[int]:
    """Evenly spaced numbers of images from `least` to `num`, as in Chong and Forsyth (2020)."""
    return [int(n) for n in np.linspace(least, num, count).round()]


def extrapolate(points: Sequence[tuple[int, float]]) -> float:
    """Distance at infinitely many generated images: intercept of a line over 1/n (ibid.).

    The bias falls as 1/n and depends on the generator, so that equal counts do not make distances
    comparable. The number of real images is constant.
    """
    inverse = np.array([1 / n for n, _ in points])
    return float(np.polyfit(inverse, [d for _, d in points], 1)[1])


def inception_scores(
    fake: Features,
    probabilities: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]],
    splits: int = 10,
) -> Float64[Tensor, " s"]:
    """Exp E[KL(p(y | x) || p(y))] of consecutive parts of the images (Salimans et al. 2016).

    p(y) is each part's own. KL's mean is E[sum p log p] minus the same of the mean p.
    """
    splits = min(splits, len(fake))
    edges = [len(fake) * i // splits for i in range(splits + 1)]
    scores = []
    for start, stop in pairwise(edges):
        total, negentropy = torch.zeros(1, dtype=torch.float64), 0.0
        for items in torch.split(torch.arange(start, stop), SHARD):
            p = probabilities(fake.rows(items)).double()
            total = total + p.sum(0)
            negentropy += float(torch.special.xlogy(p, p).sum())
        mean = total / (stop - start)
        gain = negentropy / (stop - start) - float(torch.special.xlogy(mean, mean).sum())
        scores.append(gain)
    return torch.tensor(scores, dtype=torch.float64).exp()

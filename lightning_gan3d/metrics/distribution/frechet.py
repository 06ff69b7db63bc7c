"""Fréchet distance between Gaussians fitted to feature vectors, and its limit for many images.

d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017).
Means and covariances are gathered in float64 block by block, so that the vectors are never held.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lightning_gan3d.metrics.distribution.feature_store import Rows


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of vectors."""

    n: int
    """How many vectors."""
    mean: Float64[Tensor, " d"]
    """Their mean."""
    scatter: Float64[Tensor, "d d"]
    """Sum of the outer products of their differences from the mean."""

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """The unbiased covariance, as `numpy.cov` gives it."""
        return self.scatter / (self.n - 1)

    def plus(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan et al. 1979): no large sums are subtracted."""
        n, step = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(step, step, alpha=self.n * other.n / n)  # no outer product beside it
        return Moments(n, self.mean + step * (other.n / n), scatter)


def moments_of(vectors: Float[Tensor, "n d"]) -> Moments:
    """Moments of vectors in memory."""
    x = vectors.double()
    mean = x.mean(0)
    x = x - mean
    return Moments(len(x), mean, x.mT @ x)


def moments(blocks: Iterable[Float[Tensor, "_ d"]]) -> Moments:
    """Moments of blocks of vectors, read once."""
    result: Moments | None = None
    for block in blocks:
        new = moments_of(block)
        result = new if result is None else result.plus(new)
    if result is None:
        raise ValueError("moments of no vectors")
    return result


def root(symmetric: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    """Square root of a positive semi-definite matrix; negative eigenvalues are rounding errors."""
    values, vectors = torch.linalg.eigh(symmetric)
    result: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return result


class Frechet:
    """The squared Fréchet distance to one set of real vectors, whose root is taken once."""

    def __init__(self, real: Moments) -> None:
        """Take the root of the covariance."""
        self.real = real
        self._root = root(real.covariance)

    def distance(self, fake: Moments) -> float:
        """Squared distance, as FID is defined.

        tr (C_a C_b)^(1/2) is the sum of the roots of the eigenvalues of A C_b A with A = C_a^(1/2),
        a symmetric matrix, so that the roots are real also where there are fewer vectors than
        dimensions.
        """
        other = fake.covariance
        product = self._root @ other @ self._root
        trace = self.real.covariance.trace() + other.trace()
        del other
        # The solver reads one triangle: the mean of both is not taken.
        roots = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
        gap = (self.real.mean - fake.mean).square().sum()
        return float(gap + trace - 2 * roots.sum())


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance between two Gaussians."""
    return Frechet(a).distance(b)


def at_sizes(frechet: Frechet, fakes: Rows, sizes: Sequence[int]) -> list[tuple[int, float]]:
    """Distances of the first `size` vectors for each of the sizes, in one pass; ascending."""
    wanted, result, so_far = sorted(set(sizes)), [], None
    done = 0
    for block in fakes.blocks():
        cuts = [s - done for s in wanted if done < s < done + len(block)]
        for part in torch.tensor_split(block, cuts):
            new = moments_of(part)
            so_far = new if so_far is None else so_far.plus(new)
            done += len(part)
            if done in wanted:
                result.append((done, frechet.distance(so_far)))
    return result


def infinity_sizes(least: int, num: int, count: int = 15) -> list[int]:
    """Numbers of images from `least` to `num`, evenly spaced, as Chong and Forsyth take them."""
    return [int(n) for n in np.linspace(least, num, count).round()]


def extrapolate(points: Sequence[tuple[int, float]]) -> float:
    """Distance at infinitely many images: where a line over 1/n meets 0 (Chong and Forsyth 2020).

    The bias of the estimate falls as 1/n, and depends on the generator, so that equal counts alone
    do not make distances comparable. The real set stays as it is.
    """
    inverse = np.array([1 / n for n, _ in points])
    return float(np.polyfit(inverse, [d for _, d in points], 1)[1])

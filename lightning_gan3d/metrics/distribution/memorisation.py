"""Does a generator repeat its training images? Distances to them, against held-out images.

Two questions, whose answer is known for a generator that learnt the distribution and repeats
nothing:

- Is the image nearest to a sample a training image or a held-out one? Of n training and m held-out
  images it is a training image in n / (n + m) of the cases. The excess over that, as a share of
  what is possible, is 0, and 1 for a generator that only repeats.
- Is a sample nearer to the training images than a held-out image is? In half of the cases (Meehan
  et al. 2020); more often also where samples are plainer or more alike than real images, so that
  it is read together with the first.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lightning_gan3d.metrics.distribution.feature_store import Rows
from lightning_gan3d.metrics.distribution.precision_recall import nearest


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The images of a set nearest to each of some vectors, ascending."""

    distances: Float[Tensor, "n k"]
    """Euclidean distances over the root of the vectors' length: RMS differences."""
    indices: Int64[Tensor, "n k"]
    """Places in the set."""


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What was found."""

    samples: Neighbours
    """Training images nearest to the generated ones."""
    held_out: Neighbours
    """Training images nearest to the held-out ones."""
    nearer: float
    """Share of pairs of a sample and a held-out image in which the sample is nearer to training;
    0.5 without memorisation, 1 for copies."""
    excess: float
    """Samples whose nearest image is a training one, beyond what is expected, as a share of the
    possible; 0 without memorisation, 1 for copies, below 0 for samples near held-out images."""

    @property
    def distinct(self) -> int:
        """How many different training images are the nearest ones: few, where samples crowd."""
        return len(set(self.samples.indices[:, 0].tolist()))


def neighbours(x: Rows, train: Rows, k: int = 1) -> Neighbours:
    """Find the k nearest vectors of a set to each vector."""
    found = list(nearest(x, train, k))
    dim = train.rows(torch.zeros(1, dtype=torch.int64)).shape[1]
    distances = torch.cat([d for d, _ in found]) / dim**0.5
    return Neighbours(distances, torch.cat([i for _, i in found]))


def share_below(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    """Share of all pairs in which a's value is the smaller, ties by half (Mann-Whitney's U)."""
    ranked, a = b.sort().values, a.contiguous()
    above, below = torch.searchsorted(ranked, a, right=True), torch.searchsorted(ranked, a)
    return float((len(b) - (above + below) / 2).double().mean() / len(b))


def memorisation(samples: Rows, train: Rows, held_out: Rows, k: int = 3) -> Memorisation:
    """Compare samples with training and held-out images; see the module.

    `held_out` may be `samples` itself: an image is then not its own neighbour.
    """
    same, k = held_out is samples, min(k, len(train))
    of_samples = neighbours(samples, train, k)
    of_held_out = of_samples if same else neighbours(held_out, train, k)
    to_train = of_samples.distances[:, 0]
    to_held_out = neighbours(samples, held_out).distances[:, 0]
    share = (to_train < to_held_out).double() + (to_train == to_held_out).double() / 2
    expected = len(train) / (len(train) + len(held_out) - same)
    return Memorisation(
        of_samples,
        of_held_out,
        share_below(to_train, of_held_out.distances[:, 0]),
        float((share.mean() - expected) / (1 - expected)),
    )

"""Memorisation: are generated images nearer to training images than held-out images are?

Two statistics with known values for a generator that learnt the distribution:

- `excess`: share of samples whose nearest real image is a training image, above chance. With n
  training and m held-out images chance is n / (n + m). Rescaled: 0 without memorisation, 1 for a
  generator that only copies.
- `nearer`: share of pairs in which a sample is nearer to the training images than a held-out image
  is (Meehan et al. 2020): 0.5 without memorisation. Plain or similar samples raise it as well, so
  read it together with `excess`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lightning_gan3d.files import write_json
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.distribution.feature_store import Features
from lightning_gan3d.metrics.distribution.precision_recall import nearest

NEIGHBOURS = "neighbours.json"
"""File beside the metrics: the samples nearest to training images, and those images."""
NUM_NEIGHBOURS = 64
"""Samples in that file."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k images of a set nearest to each vector, ascending."""

    distances: Float[Tensor, "n k"]
    """RMS differences: Euclidean distances over the root of the vectors' length."""
    indices: Int64[Tensor, "n k"]


@dataclass(frozen=True, eq=False)
class Memorisation:
    """Distances of samples and held-out images to training images."""

    samples: Neighbours
    """Training images nearest to the generated ones."""
    held_out: Neighbours
    """Training images nearest to the held-out ones."""
    nearer: float
    """Share of pairs of a sample and a held-out image in which the sample is nearer to training;
    0.5 without memorisation, 1 for copies."""
    excess: float
    """Share of samples whose nearest image is a training one, beyond chance, over the largest
    possible; 0 without memorisation, 1 for copies, below 0 for samples near held-out images."""

    @property
    def distinct(self) -> int:
        """Number of distinct nearest training images: few if samples are alike."""
        return len(set(self.samples.indices[:, 0].tolist()))


def neighbours(x: Features, train: Features, k: int = 1) -> Neighbours:
    """Find the k nearest training vectors of each vector."""
    distances, indices = zip(*nearest(x, train, k), strict=True)
    dim = train.rows(torch.zeros(1, dtype=torch.int64)).shape[1]
    return Neighbours(torch.cat(distances) / dim**0.5, torch.cat(indices))


def share_below(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    """Share of all pairs in which a's value is smaller; ties count half (Mann-Whitney's U)."""
    ranked, a = b.sort().values, a.contiguous()
    above, below = torch.searchsorted(ranked, a, right=True), torch.searchsorted(ranked, a)
    return float((len(b) - (above + below) / 2).double().mean() / len(b))


def memorisation(
    samples: Features, train: Features, held_out: Features, k: int = 3
) -> Memorisation:
    """Compare samples with training and held-out images.

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


def missing_metrics(reason: str, network: str = "") -> list[Metric]:
    """Return the metrics as missing."""
    names = ("memorisation.excess", "memorisation.nearer")
    return [missing(name, reason, "share", network=network) for name in names]


def metrics_of(result: Memorisation, network: str, protocol: str) -> list[Metric]:
    """Return the metrics; `network` names the features, empty for pixels."""
    n, num_held_out = len(result.samples.indices), len(result.held_out.indices)
    against = (
        f"against {num_held_out:,} held-out images; the samples' nearest images are "
        f"{result.distinct:,} different training images; {protocol}"
    )
    excess = (
        "samples whose nearest image is a training one rather than a held-out one, beyond "
        f"chance, as a share of the possible (0 none, 1 all): {against}"
    )
    nearer = (
        "share of pairs in which a sample is nearer to the training images than a held-out "
        f"image is (0.5 none, 1 all; Meehan et al. 2020): {against}"
    )
    medians = [float(x.distances[:, 0].median()) for x in (result.samples, result.held_out)]
    distance = f"images to the nearest training image: {protocol}"
    of_samples, of_real = (
        f"median RMS distance of {x} {distance}" for x in ("generated", "held-out")
    )
    metrics = [
        Metric("memorisation.excess", result.excess, "share", n, note=excess),
        Metric("memorisation.nearer", result.nearer, "share", n, note=nearer),
        Metric("memorisation.distance", medians[0], "", n, note=of_samples),
        Metric("memorisation.distance_real", medians[1], "", num_held_out, note=of_real),
    ]
    return [replace(m, network=network) for m in metrics]


def write_neighbours(
    path: Path, result: Memorisation, items: Int64[Tensor, " n"], data: str, protocol: str
) -> None:
    """Write the samples nearest to training images, the nearest first.

    `items`: numbers of the samples. `data`: fingerprint of the training images that the indices
    refer to.
    """
    order = result.samples.distances[:, 0].argsort()[:NUM_NEIGHBOURS]
    table = {
        "protocol": protocol,
        "data": data,
        "items": items[order].tolist(),
        "training_images": result.samples.indices[order].tolist(),
        "distances": result.samples.distances[order].tolist(),
    }
    write_json(path, table)

"""Improved precision and recall (Kynkäänniemi et al. 2019), in blocks.

A set's manifold is the union of balls around its vectors, each reaching to the k-th nearest other
vector of the set. Precision is the share of generated vectors on the manifold of the real ones,
recall the share of real vectors on that of the generated ones.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.metrics.distribution.feature_store import Features

BLOCK = 1024
"""Vectors of each set compared at a time."""


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float
    recall: float


def distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], centre: Float[Tensor, " d"]
) -> Float[Tensor, "n m"]:
    """Euclidean distances, by a matrix product; subtracting `centre` first saves digits."""
    return torch.cdist(x - centre, y - centre, compute_mode="use_mm_for_euclid_dist")


def nearest(
    x: Features, y: Features, k: int, block: int = BLOCK
) -> Iterator[tuple[Float[Tensor, "n k"], Tensor]]:
    """Yield, for blocks of `x`, distances to the k nearest vectors of `y`, ascending, and indices.

    If `x` is `y`, a vector is not its own neighbour. `y` has at least k other vectors.
    """
    centre = next(iter(y.blocks(block))).mean(0)
    i = 0
    for a in x.blocks(block):
        best, best_indices = a.new_empty(len(a), 0), torch.empty(len(a), 0, dtype=torch.int64)
        j = 0
        for b in y.blocks(block):
            d = distances(a, b, centre)
            if x is y:
                own = torch.arange(len(a)) + i - j
                inside = (own >= 0) & (own < len(b))
                d[inside, own[inside]] = torch.inf
            indices = (torch.arange(len(b)) + j).expand_as(d)
            d, indices = torch.cat([best, d], 1), torch.cat([best_indices, indices], 1)
            best, columns = d.topk(min(k, d.shape[1]), largest=False)
            best_indices = indices.gather(1, columns)
            j += len(b)
        yield best, best_indices
        i += len(a)


def radii(x: Features, k: int) -> Float[Tensor, " n"]:
    """Distance of each vector to the k-th nearest other one."""
    return torch.cat([best[:, k - 1] for best, _ in nearest(x, x, k)])


def covered(x: Features, manifold: Features, radius: Float[Tensor, " m"]) -> float:
    """Share of `x` that lies in at least one ball around a vector of the manifold."""
    centre, inside = next(iter(manifold.blocks(BLOCK))).mean(0), []
    for a in x.blocks(BLOCK):
        hit, j = torch.zeros(len(a), dtype=torch.bool), 0
        for b in manifold.blocks(BLOCK):
            hit |= (distances(a, b, centre) <= radius[j : j + len(b)]).any(1)
            j += len(b)
        inside.append(hit)
    return float(torch.cat(inside).double().mean())


def coverage(real: Features, fake: Features, k: int = 3) -> float:
    """Share of real vectors whose ball holds a generated one (Naeem et al. 2020)."""
    to_fake = torch.cat([best[:, 0] for best, _ in nearest(real, fake, 1)])
    return float((to_fake <= radii(real, k)).double().mean())


def precision_recall(real: Features, fake: Features, k: int = 3) -> PrecisionRecall:
    """Return both shares; each set holds more than k vectors."""
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision and recall with k = {k} need more than {k} images of each set")
    return PrecisionRecall(covered(fake, real, radii(real, k)), covered(real, fake, radii(fake, k)))

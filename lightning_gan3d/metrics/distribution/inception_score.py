"""Inception score (Salimans et al. 2016): exp of the mean divergence of an image's classes."""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lightning_gan3d.metrics.distribution.feature_store import SHARD, Rows


def class_scores(
    fake: Rows,
    probabilities: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]],
    splits: int = 10,
) -> Float64[Tensor, " s"]:
    """Return exp E[KL(p(y | x) || p(y))] of consecutive parts of the images, p(y) each part's own.

    Only sums are kept: KL's mean is E[sum p log p] minus the mean class distribution's.
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

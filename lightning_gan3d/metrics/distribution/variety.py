"""Variety of images without downloaded weights: recall and coverage of reduced images.

SWD does not see missing variety: four objects, or 40 images that repeat, score almost as well as a
trained generator. Not the pose regressor's features: they hold the pose and little of the object.
"""

import torch

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.distribution.feature_store import Features, Subset
from lightning_gan3d.metrics.distribution.precision_recall import coverage, covered, radii

K = 3
"""The neighbour that sets the radii."""
NAMES = ("quality.recall_pixels", "quality.coverage_pixels")


def variety_metrics(
    samples: Features, train: Features, held_out: Features, protocol: str
) -> list[Metric]:
    """Return recall and coverage of held-out images by samples, and by training images.

    The latter (`_real`) are the ceiling. Equally many images of each set: the values depend on it.
    """
    n = min(len(samples), len(train), len(held_out))
    if n <= K:
        why = f"{n} images of each set are too few: set data.holdout and evaluation.num_images"
        return [missing(name, why, "share") for name in NAMES]
    real = _evenly(held_out, n)
    rows = []
    for suffix, images in (("", samples), ("_real", train)):
        fake = _evenly(images, n)
        recall = covered(real, fake, radii(fake, K)), "inside the balls of"
        cover = coverage(real, fake, K), "whose ball holds one of"
        for name, (value, what) in zip(NAMES, (recall, cover), strict=True):
            others = "training images" if suffix else "generated images"
            note = f"share of held-out images {what} {n:,} {others}, k = {K}; {protocol}"
            rows.append(Metric(name + suffix, value, "share", n, note=note))
    return rows


def _evenly(x: Features, n: int) -> Features:
    """Return n vectors, spread evenly over a set."""
    return Subset(x, torch.linspace(0, len(x) - 1, n).long())

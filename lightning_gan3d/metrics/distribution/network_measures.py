"""What is measured in the features of Inception and VGG16, for one set of generated images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from lightning_gan3d.draws import Draws
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import DistributionConfig
from lightning_gan3d.metrics.distribution.feature_store import Chosen, Rows
from lightning_gan3d.metrics.distribution.features import Network
from lightning_gan3d.metrics.distribution.frechet import (
    Frechet,
    at_sizes,
    extrapolate,
    infinity_sizes,
    moments,
)
from lightning_gan3d.metrics.distribution.inception_score import class_scores
from lightning_gan3d.metrics.distribution.kernel_distance import subset_distances, whole_distance
from lightning_gan3d.metrics.distribution.precision_recall import precision_recall


class Found(NamedTuple):
    """One value of one set of generated images."""

    metric: str
    """Name with the published network."""
    otherwise: str
    """Name with another network, to which its digest is added."""
    value: float | None
    """None: not to be had, and `note` says why."""
    n: int
    """What it is taken over."""
    note: str
    """How it is taken."""
    spread: float | None = None
    """Standard deviation, where one set gives one."""
    unit: str = ""
    """As in `Metric.unit`."""
    interval: str = ""
    """Interval and spread of this one set in words: said only where no other set was measured."""


def of_inception(
    network: Network, real: Rows, fake: Rows, cfg: DistributionConfig, draws: Draws
) -> list[Found]:
    """FID, its extrapolation, KID in both forms, Inception score, precision and recall."""
    frechet, n = Frechet(moments(real.blocks())), len(fake)
    few = min(n, len(real))
    rank = f"; covariance of rank {few - 1} of {network.dim}" if few <= network.dim else ""
    fid = Found(
        "quality.fid",
        "frechet",
        frechet.distance(moments(fake.blocks())),
        n,
        f"Fréchet distance (Heusel et al. 2017){rank}",
    )
    return [
        fid,
        _infinity(frechet, fake, cfg),
        *_kid(real, fake, cfg, draws),
        _score(network, fake, cfg),
        *_precision(real, fake, cfg, draws, "_inception", "Inception's features"),
    ]


def of_clip(
    network: Network, real: Rows, fake: Rows, cfg: DistributionConfig, draws: Draws
) -> list[Found]:
    """Fréchet and kernel distance, under names of their own."""
    del network
    frechet = Frechet(moments(real.blocks())).distance(moments(fake.blocks()))
    kernel = _kid(real, fake, cfg, draws)[0]
    words = "Fréchet distance of CLIP's features"
    return [
        Found("quality.frechet_clip", "frechet_clip", frechet, len(fake), words),
        kernel._replace(metric="quality.kernel_clip", otherwise="kernel_clip"),
    ]


def of_vgg16(
    network: Network, real: Rows, fake: Rows, cfg: DistributionConfig, draws: Draws
) -> list[Found]:
    """Precision and recall."""
    return _precision(real, fake, cfg, draws, "", f"{network.dim} features")


def _infinity(frechet: Frechet, fake: Rows, cfg: DistributionConfig) -> Found:
    names, n, least = ("quality.fid_infinity", "frechet_infinity"), len(fake), cfg.infinity_from
    if n < 2 * least:
        why = (
            f"{n:,} generated images are too few to extrapolate from: "
            f"evaluation.distribution.num_images={2 * least} is the least"
        )
        return Found(*names, None, n, why)
    sizes = infinity_sizes(least, n)
    words = (
        f"Fréchet distance at infinitely many generated images: a line over 1/N through "
        f"{len(sizes)} sizes from {least:,} to {n:,}, the first N images each (Chong and Forsyth "
        "2020); the real images stay as many as they are"
    )
    return Found(*names, extrapolate(at_sizes(frechet, fake, sizes)), n, words)


def _some(x: Rows, size: int, draws: Draws, name: str) -> Rows:
    """Pick at most `size` vectors at random, in their own order: a block lies in few shards."""
    if size >= len(x):
        return x
    return Chosen(x, draws.permutation(name, len(x))[:size].sort().values)


def _kid(real: Rows, fake: Rows, cfg: DistributionConfig, draws: Draws) -> list[Found]:
    subsets = subset_distances(real, fake, cfg.kid_subsets, cfg.kid_subset_size, draws.scope("kid"))
    size = min(cfg.kid_subset_size, len(real), len(fake))
    words = f"unbiased squared MMD, cubic kernel, not times 1000, mean of {len(subsets)} subsets"
    some, others = (
        _some(x, cfg.kid_whole, draws.scope("kid whole"), name)
        for x, name in ((real, "real"), (fake, "fake"))
    )
    whole = whole_distance(some, others, draws.scope("kid whole"))
    sizes = (
        f"unbiased squared MMD, cubic kernel, {len(some):,} real and {len(others):,} "
        "generated images"
    )
    interval = (
        f"95 % interval {whole.low:.4g} to {whole.high:.4g}, spread and interval from 200 "
        "bootstrap repeats over images"
    )
    return [
        Found(
            "quality.kid",
            "kernel",
            float(subsets.mean()),
            len(fake),
            f"{words} of {size:,} images (Binkowski et al. 2018)",
        ),
        Found(
            "quality.kid_whole",
            "kernel_whole",
            whole.value,
            len(others),
            sizes,
            whole.deviation,
            interval=interval,
        ),
    ]


def _score(network: Network, fake: Rows, cfg: DistributionConfig) -> Found:
    scores = class_scores(fake, network.probabilities, cfg.splits)
    words = (
        f"Inception score (Salimans et al. 2016), classes without bias, mean of {len(scores)} parts"
    )
    spread = float(scores.std()) if len(scores) > 1 else None
    return Found(
        "quality.inception_score", "class_score", float(scores.mean()), len(fake), words, spread
    )


def _precision(
    real: Rows, fake: Rows, cfg: DistributionConfig, draws: Draws, suffix: str, where: str
) -> list[Found]:
    size = min(len(real), len(fake))
    names = [f"{kind}{suffix}" for kind in ("precision", "recall")]
    if size <= cfg.k:
        why = f"{size} images of each set do not fill neighbourhoods of {cfg.k}"
        return [Found(f"quality.{x}", x, None, size, why, unit="share") for x in names]
    some, others = (
        _some(x, size, draws.scope("precision"), name)
        for x, name in ((real, "real"), (fake, "fake"))
    )
    values = precision_recall(some, others, cfg.k)
    words = f"Kynkaanniemi et al. 2019, k = {cfg.k}, {where}, {size:,} images of each set"
    return [
        Found(f"quality.{x}", x, value, size, words, unit="share")
        for x, value in zip(names, values, strict=True)
    ]


def summarised(name: str, found: Sequence[Found], protocol: str) -> Metric:
    """Make a measure of the values of several sets of generated images.

    The interval of several sets is Student's; of one set there is none, for resampling its images
    would say little about another one.
    """
    first, values = found[0], [f.value for f in found if f.value is not None]
    if len(values) < len(found):
        return missing(name, f"{first.note} ({protocol})", first.unit)
    if len(values) == 1:
        within = f"; {first.interval}" if first.interval else ""
        note = f"{first.note}{within}; one set of latents; {protocol}"
        return Metric.of_key(name, values[0], first.unit, first.n, first.spread, note)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    note = (
        f"{first.note}; mean of {len(values)} sets of other latents, spread over these, 95 % "
        f"interval of the mean {mean - reach:.5g} to {mean + reach:.5g} (Student); {protocol}"
    )
    return Metric.of_key(name, mean, first.unit, first.n, deviation, note)

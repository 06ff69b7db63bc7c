"""FID, KID, Inception score, precision, recall and memorisation of generated images.

Statistics of real images are those of all training images. Generated images are rendered from
training cameras (EG3D's `fid50k_full`), or from drawn ones. If the weights of a network are
missing, so are its metrics; their notes give the command that downloads them.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lightning_gan3d.draws import Draws
from lightning_gan3d.files import sha256_of_text
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import DistributionConfig
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.distribution import frechet, memorisation, variety
from lightning_gan3d.metrics.distribution.feature_store import (
    Features,
    Shards,
    Subset,
    compute_features,
)
from lightning_gan3d.metrics.distribution.features import (
    Extractor,
    clip,
    inception,
    reduced_pixels,
    vgg16,
)
from lightning_gan3d.metrics.distribution.kernel_distance import subset_distances, whole_distance
from lightning_gan3d.metrics.distribution.precision_recall import precision_recall
from lightning_gan3d.metrics.pretrained import WeightsError
from lightning_gan3d.metrics.process_group import from_main, rank
from lightning_gan3d.metrics.protocol import SCHEMA
from lightning_gan3d.metrics.sources import SAME_AS_OWN, PosedSource, ViewSource, frontal_source
from lightning_gan3d.metrics.stored_images import StoredImages
from lightning_gan3d.stats import mean_interval, why_none
from lightning_gan3d.version import __version__

_HEADLINES = {
    "inception": ("quality.fid", "quality.kid", "quality.inception_score"),
    "vgg16": ("quality.precision", "quality.recall"),
    "clip": ("quality.frechet_clip", "quality.kernel_clip"),
    "frontal": ("quality.fid",),
}
"""Metrics that are listed as missing without their network. `frontal`: Inception's features of
images whose mapping is conditioned on the frontal camera (FID_3D, Barthel et al. 2025)."""
_UNPUBLISHED = {
    "quality.fid": "quality.frechet",
    "quality.fid_infinity": "quality.frechet_infinity",
    "quality.kid": "quality.kernel",
    "quality.kid_whole": "quality.kernel_whole",
    "quality.inception_score": "quality.class_score",
}
"""Names if the network is not the published one."""


class FeatureSets(NamedTuple):
    """Features of real, generated and held-out images by one extractor."""

    extractor: Extractor
    real: Features
    fake: Features
    held_out: Features | None


def measure_distribution(context: EvaluationContext) -> list[Metric]:
    """Compute the metrics of `context.cfg.distribution`; ranks other than 0 return none.

    Features of real images stay in `context.cache`, by data set. `neighbours.json` is written to
    `context.folder`. Memorisation concerns single samples: it uses at most
    `context.cfg.num_images` of them; without any network, no more are generated.
    """
    cfg, source, train, test = context.cfg.distribution, context.source, context.train, context.test
    if cfg is None:
        return []
    networks = _load_networks(context, cfg)
    frontal = frontal_source(source) if context.cfg.frontal else ""
    extractors = {k: v for k, v in networks.items() if isinstance(v, Extractor)}
    n = cfg.num_images or context.cfg.num_images
    num_samples = min(n, context.cfg.num_images)
    num_fakes = n * cfg.repeats if extractors else num_samples
    if cfg.poses is not None:
        source = PosedSource(source, cfg.poses, context.seed)
    if test is not None:  # else memorisation has nothing to compare with
        extractors["pixels"] = reduced_pixels(cfg.pixels)
    keys = [extractor.key for extractor in extractors.values()]
    if from_main(keys) != keys:
        raise WeightsError(
            f"rank {rank()} has other weights than rank 0; give all machines the same files"
        )
    with tempfile.TemporaryDirectory(prefix="gan3d-features-") as temporary:
        cache = Path(temporary) if context.cache is None else context.cache / "features"
        stores_in = partial(_stores, context, extractors)
        real = stores_in(cache, train.fingerprint, len(train))
        held_out = {} if test is None else stores_in(cache, test.fingerprint, len(test))
        fake = stores_in(Path(temporary), "generated", num_fakes)
        fake_frontal = {}
        if isinstance(frontal, ViewSource) and "inception" in extractors:
            inception_only = {"frontal": extractors["inception"]}
            key = "generated" if frontal is source else "frontal"  # equal images are stored once
            fake_frontal = _stores(context, inception_only, Path(temporary), key, num_fakes)
        todo = ((train, real), (test, held_out), (source, fake), (frontal, fake_frontal))
        for images, stores in todo:
            if images is not None and not isinstance(images, str):
                compute_features(images, list(stores.values()), context.cfg.batch)
        if rank() != 0:
            return []
        sets = {k: FeatureSets(e, real[k], fake[k], held_out.get(k)) for k, e in extractors.items()}
        if fake_frontal:
            sets["frontal"] = sets["inception"]._replace(fake=fake_frontal["frontal"])
        if frontal:
            networks["frontal"] = frontal if isinstance(frontal, str) else networks["inception"]
        metrics: list[Metric] = []
        for kind, network in networks.items():
            if isinstance(network, str):
                variant = "3d" if kind == "frontal" else ""
                metrics += [missing(name, network, variant=variant) for name in _HEADLINES[kind]]
            else:
                of = frontal if kind == "frontal" and isinstance(frontal, ViewSource) else source
                protocol = _protocol(context, of, network, n)
                if kind == "frontal" and of is context.source:
                    protocol = f"{SAME_AS_OWN}; {protocol}"
                metrics += _network_metrics(kind, sets[kind], cfg, context.seed, protocol)
        return metrics + _memorisation_metrics(context, source, sets, num_samples)


def _load_networks(
    context: EvaluationContext, cfg: DistributionConfig
) -> dict[str, Extractor | str]:
    """Return each network, or why it is missing."""
    device, weights = context.device, context.weights
    name = "inception-pytorch" if cfg.mode == "legacy_pytorch" else "inception"
    loaders: dict[str, Callable[[], Extractor]] = {
        "inception": partial(inception, cfg.mode, device, weights.get(name)),
        "vgg16": partial(vgg16, device, weights.get("vgg16")),
    }
    if cfg.clip:
        loaders["clip"] = partial(clip, device, weights.get("clip"))
    networks: dict[str, Extractor | str] = {}
    for kind, load in loaders.items():
        try:
            networks[kind] = load()
        except WeightsError as error:
            networks[kind] = str(error)
    return networks


def _stores(
    context: EvaluationContext,
    extractors: Mapping[str, Extractor],
    folder: Path,
    key: str,
    num: int,
) -> dict[str, Shards]:
    """Return the store of each extractor for `num` images, which `key` identifies."""
    # Other versions, batches or devices may give other bits.
    code = [SCHEMA, __version__, *(version(x) for x in ("clean-fid", "pillow", "torch"))]
    code += [context.cfg.batch, context.device.type, torch.get_num_threads()]
    stores = {}
    for kind, extractor in extractors.items():
        text = json.dumps(["real", key, extractor.key, code], sort_keys=True)
        stores[kind] = Shards(folder / f"real-{sha256_of_text(text, 16)}", num, extractor)
    return stores


def _protocol(context: EvaluationContext, source: ViewSource, extractor: Extractor, n: int) -> str:
    train = context.train
    return (
        f"{extractor.protocol}; {n:,} generated images of {train.resolution}x{train.resolution} "
        f"pixels, {source.protocol}; all {len(train):,} training images (data {train.fingerprint})"
    )


def _network_metrics(
    kind: str, sets: FeatureSets, cfg: DistributionConfig, seed: int, protocol: str
) -> list[Metric]:
    """Metrics in the features of a pretrained network, over all sets of generated images."""
    network = sets.extractor
    n = len(sets.fake) // cfg.repeats
    few = min(n, len(sets.real)) < 2
    if few or not _finite(sets.fake):
        why = "one image of a set: use two or more" if few else NOT_FINITE
        metrics = [missing(name, f"{why} ({protocol})") for name in _HEADLINES[kind]]
    else:
        per_set = []
        for r in range(cfg.repeats):
            fake = Subset(sets.fake, torch.arange(r * n, (r + 1) * n))
            per_set.append(_METRICS[kind](sets._replace(fake=fake), cfg, Draws(seed).at(r)))
        metrics = [summary(of_sets, protocol) for of_sets in zip(*per_set, strict=True)]
    return [
        replace(
            m,
            name=m.name if network.published else _UNPUBLISHED.get(m.name, m.name),
            network=network.network,
            variant="3d" if kind == "frontal" else "" if cfg.poses is None else "posed",
        )
        for m in metrics
    ]


def _memorisation_metrics(
    context: EvaluationContext, source: ViewSource, sets: Mapping[str, FeatureSets], n: int
) -> list[Metric]:
    """Compare the first `n` samples with training and held-out images; variety in pixels, too."""
    if context.test is None:
        why = "no images are held out: set data.holdout, e.g. 0.1, or use a test split"
        return [
            *memorisation.missing_metrics(why),
            *(missing(name, why, "share") for name in variety.NAMES),
        ]
    rows: list[Metric] = []
    for kind in [k for k in ("pixels", "inception") if k in sets]:
        extractor, real, fake, held_out = sets[kind]
        assert held_out is not None
        network = "" if kind == "pixels" else extractor.network or "inception"
        protocol = _protocol(context, source, extractor, n)
        samples = Subset(fake, torch.arange(n))
        if not _finite(samples):
            why = f"{NOT_FINITE} ({protocol})"
            rows += memorisation.missing_metrics(why, network)
            rows += [missing(x, why, "share") for x in variety.NAMES if kind == "pixels"]
            continue
        result = memorisation.memorisation(samples, real, held_out)
        rows += memorisation.metrics_of(result, network, protocol)
        if kind == "pixels":
            rows += variety.variety_metrics(samples, real, held_out, protocol)
        if context.folder is not None and kind == "pixels":
            items = source.order if isinstance(source, StoredImages) else torch.arange(n)
            path = context.folder / memorisation.NEIGHBOURS
            memorisation.write_neighbours(path, result, items, context.train.fingerprint, protocol)
    return rows


def _finite(vectors: Features) -> bool:
    """Whether all images of these vectors were finite."""
    return all(bool(block.isfinite().all()) for block in vectors.blocks())


def _fid(sets: FeatureSets) -> tuple[frechet.Frechet, Metric]:
    network, fake = sets.extractor, sets.fake
    to_real = frechet.Frechet(frechet.moments(sets.real.blocks()))
    fid = to_real.distance(frechet.moments(fake.blocks()))
    fewest = min(len(fake), len(sets.real))
    note = "Fréchet distance (Heusel et al. 2017)"
    if fewest <= network.dim:
        note += f"; covariance of rank {fewest - 1} of {network.dim}"
    return to_real, Metric("quality.fid", fid, "", len(fake), note=note)


def _inception_metrics(sets: FeatureSets, cfg: DistributionConfig, draws: Draws) -> list[Metric]:
    network, fake = sets.extractor, sets.fake
    to_real, fid = _fid(sets)
    scores = frechet.inception_scores(fake, network.probabilities, cfg.splits)
    spread = float(scores.std()) if len(scores) > 1 else None
    of_parts = f"Inception score (Salimans et al. 2016), no bias, mean of {len(scores)} parts"
    return [
        fid,
        _fid_infinity(to_real, fake, cfg),
        *_kid(sets, cfg, draws),
        Metric("quality.inception_score", float(scores.mean()), "", len(fake), spread, of_parts),
        *_precision_recall(
            sets, cfg, draws, ("quality.precision_inception", "quality.recall_inception")
        ),
    ]


def _vgg16_metrics(sets: FeatureSets, cfg: DistributionConfig, draws: Draws) -> list[Metric]:
    return _precision_recall(sets, cfg, draws, ("quality.precision", "quality.recall"))


def _clip_metrics(sets: FeatureSets, cfg: DistributionConfig, draws: Draws) -> list[Metric]:
    real, fake = (frechet.moments(x.blocks()) for x in (sets.real, sets.fake))
    distance, note = frechet.Frechet(real).distance(fake), "Fréchet distance of CLIP features"
    return [
        Metric("quality.frechet_clip", distance, "", len(sets.fake), note=note),
        replace(_kid(sets, cfg, draws)[0], name="quality.kernel_clip"),
    ]


_METRICS = {
    "inception": _inception_metrics,
    "vgg16": _vgg16_metrics,
    "clip": _clip_metrics,
    "frontal": lambda sets, *_: [_fid(sets)[1]],
}
"""Metrics in the features of each network, under the names for the published one."""


def _fid_infinity(to_real: frechet.Frechet, fake: Features, cfg: DistributionConfig) -> Metric:
    name, n, least = "quality.fid_infinity", len(fake), cfg.infinity_from
    if n < 2 * least:
        reason = (
            f"{n:,} generated images are too few to extrapolate from: set "
            f"evaluation.distribution.num_images={2 * least} or more"
        )
        return Metric(name, None, note=reason)
    sizes = frechet.infinity_sizes(least, n)
    note = (
        f"Fréchet distance at infinitely many generated images: a line over 1/N through "
        f"{len(sizes)} sizes from {least:,} to {n:,}, the first N images each (Chong and Forsyth "
        "2020); the number of real images does not change"
    )
    points = frechet.at_sizes(to_real, fake, sizes)
    return Metric(name, frechet.extrapolate(points), "", n, note=note)


def _kid(sets: FeatureSets, cfg: DistributionConfig, draws: Draws) -> list[Metric]:
    """KID as the mean over subsets, and over whole sets."""
    real, fake, kernel = sets.real, sets.fake, "unbiased squared MMD, cubic kernel"
    size = min(cfg.kid_subset_size, len(real), len(fake))
    subsets = subset_distances(real, fake, cfg.kid_subsets, size, draws.scope("kid"))
    note = (
        f"{kernel}, not times 1000, mean of {len(subsets)} subsets of {size:,} images (Binkowski "
        "et al. 2018)"
    )
    x, y = _at_most(cfg.kid_whole, sets, draws.scope("kid whole"))
    whole = whole_distance(x, y)
    note_whole = f"{kernel}, {len(x):,} real and {len(y):,} generated images"
    enough = min(len(x), len(y)) > 2
    if cfg.repeats == 1 and enough:  # several sets have an interval over sets instead
        note_whole += (
            f"; 95 % interval {whole.low:.4g} to {whole.high:.4g}, spread and interval from the "
            "jackknife over images"
        )
    return [
        Metric("quality.kid", float(subsets.mean()), "", len(fake), note=note),
        Metric(
            "quality.kid_whole",
            whole.value,
            "",
            len(y),
            whole.deviation if enough else None,
            note_whole,
        ),
    ]


def _precision_recall(
    sets: FeatureSets, cfg: DistributionConfig, draws: Draws, names: tuple[str, str]
) -> list[Metric]:
    size = min(len(sets.real), len(sets.fake))
    if size <= cfg.k:
        reason = f"{size} images of each set are too few for neighbourhoods of {cfg.k}"
        return [Metric(name, None, "share", note=reason) for name in names]
    values = precision_recall(*_at_most(size, sets, draws.scope("precision")), cfg.k)
    note = (
        f"Kynkäänniemi et al. 2019, k = {cfg.k}, {sets.extractor.dim} features, {size:,} images of "
        "each set"
    )
    return [Metric(m, v, "share", size, note=note) for m, v in zip(names, values, strict=True)]


def _at_most(size: int, sets: FeatureSets, draws: Draws) -> tuple[Features, Features]:
    """Draw at most `size` real and generated vectors; in order, so that few shards are read."""

    def drawn(x: Features, name: str) -> Features:
        if size >= len(x):
            return x
        return Subset(x, draws.permutation(name, len(x))[:size].sort().values)

    return drawn(sets.real, "real"), drawn(sets.fake, "fake")


def summary(of_sets: Sequence[Metric], protocol: str) -> Metric:
    """Return one metric for one or several sets of generated images: their mean.

    Three or more sets have Student's interval. One set has none: resampling its images does not
    show how other latents would vary.
    """
    first, values = of_sets[0], [m.value for m in of_sets if m.value is not None]
    if len(values) < len(of_sets):
        return replace(first, value=None, note=f"{first.note} ({protocol})")
    if len(values) == 1:
        return replace(first, note=f"{first.note}; one set of latents; {protocol}")
    interval = mean_interval(values)
    text = why_none(len(values), "set")
    if interval is not None:
        text = f"95 % interval of the mean {interval.low:.5g} to {interval.high:.5g} (Student)"
    note = (
        f"{first.note}; mean of {len(values)} sets of other latents, spread over these, {text}; "
        f"{protocol}"
    )
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return replace(first, value=mean, spread=deviation, note=note)

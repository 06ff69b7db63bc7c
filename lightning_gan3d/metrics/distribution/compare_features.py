"""Distribution measures of one source: FID, KID, Inception score, precision, recall, memorisation.

Real statistics are those of all training images, generated images are seen from training cameras
(EG3D's `fid50k_full`) or from cameras drawn from a distribution. Measures whose network is not at
hand are missing, with the command that fetches it.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from lightning_gan3d.config import to_tree
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.cache import SCHEMA
from lightning_gan3d.metrics.config import DistributionConfig
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.distribution.crew import ALONE, Crew, crew_of
from lightning_gan3d.metrics.distribution.feature_store import Chosen, Pictures, Rows, collect
from lightning_gan3d.metrics.distribution.features import Extractor, Network, ReducedPixels
from lightning_gan3d.metrics.distribution.features import clip as load_clip
from lightning_gan3d.metrics.distribution.features import inception as load_inception
from lightning_gan3d.metrics.distribution.features import vgg16 as load_vgg16
from lightning_gan3d.metrics.distribution.memorisation import memorisation
from lightning_gan3d.metrics.distribution.memorised import (
    NEIGHBOURS,
    memorised,
    no_memorisation,
    write_neighbours,
)
from lightning_gan3d.metrics.distribution.network_measures import (
    Found,
    of_clip,
    of_inception,
    of_vgg16,
    summarised,
)
from lightning_gan3d.metrics.posed import PosedSource
from lightning_gan3d.metrics.pretrained import WeightsError
from lightning_gan3d.metrics.sources import ImageSet, ViewSource
from lightning_gan3d.metrics.stored_images import StoredImages
from lightning_gan3d.version import __version__


class _Kind(NamedTuple):
    """What is measured in the vectors of one network."""

    measure: Callable[[Network, Rows, Rows, DistributionConfig, Draws], list[Found]]
    chief: tuple[tuple[str, str], ...]
    """The measures that are reported as missing: names with the published network and another."""


_KINDS = {
    "inception": _Kind(
        of_inception,
        (
            ("quality.fid", "frechet"),
            ("quality.kid", "kernel"),
            ("quality.inception_score", "class_score"),
        ),
    ),
    "clip": _Kind(
        of_clip,
        (("quality.frechet_clip", "frechet_clip"), ("quality.kernel_clip", "kernel_clip")),
    ),
    "vgg16": _Kind(of_vgg16, (("quality.precision", "precision"), ("quality.recall", "recall"))),
}
_NOT_FINITE = "the generator's images are not finite"


class _Sets(NamedTuple):
    """Where the vectors of an extractor lie."""

    real: Rows
    fake: Rows
    held_out: Rows | None


def measure_distribution(context: EvaluationContext) -> list[Metric]:
    """Compute the metrics of `context.cfg.distribution`."""
    c = context
    if c.cfg.distribution is None:
        return []
    return _measure(
        c.source,
        c.train,
        c.test,
        c.cfg.distribution,
        c.cfg.num_images,
        c.cfg.batch,
        c.device,
        c.seed,
        c.cache,
        c.weights,
        c.folder,
        crew_of(),
    )


def _measure(
    source: ViewSource,
    train: ImageSet,
    test: ImageSet | None,
    cfg: DistributionConfig,
    num_images: int,
    batch: int = 32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    cache: Path | None = None,
    weights: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    crew: Crew = ALONE,
) -> list[Metric]:
    """Take the measures; `num_images` holds where the configuration names no number.

    It is also the most images in which memorisation is looked for, and so all that are generated
    where no network is at hand.

    `weights` are paths given by hand, by the names of `metrics.pretrained`. Features
    go to `cache`: those of real images stay, those of the source until all is measured, so that an
    evaluation that was broken off continues. `folder` is where `neighbours.json` is written.
    Of several processes, a `crew`, those that do not lead make their part of the features in
    `cache` and return no measures.
    """
    networks = _networks(cfg, device, weights or {})
    found = {k: v for k, v in networks.items() if isinstance(v, Network)}
    extractors: dict[str, Extractor] = dict(found)
    if test is not None:  # else there is nothing to compare with
        extractors["pixels"] = ReducedPixels(cfg.pixels)
    n = cfg.num_images or num_images
    seen = _posed(source, cfg, seed)
    told = seen.protocol
    compared = min(n, num_images)  # for memorisation, which is about single samples
    if not found:
        n, cfg = compared, replace(cfg, repeats=1)  # no more are looked at
    with _collected(
        source, train, test, extractors, cfg, n, batch, device, seed, cache, crew
    ) as sets:
        if not crew.leads:
            return []
        result: list[Metric] = []
        for kind, network in networks.items():
            if isinstance(network, str):
                result += [missing(metric, network) for metric, _ in _KINDS[kind].chief]
            else:
                protocol = _protocol(network, train, told, n)
                result += _in_network(_KINDS[kind], network, sets[kind], cfg, n, seed, protocol)
        if test is None:
            why = "no images are held out: set data.holdout, e.g. 0.1, or give a test split"
            return [*result, *no_memorisation(why, "")]
        for kind in [k for k in ("pixels", "inception") if k in sets]:
            suffix = "" if kind == "pixels" else f"_{extractors[kind].name or kind}"
            protocol = _protocol(extractors[kind], train, told, compared)
            fake, held_out = Chosen(sets[kind].fake, torch.arange(compared)), sets[kind].held_out
            if held_out is None or not finite(fake):
                result += no_memorisation(f"{_NOT_FINITE} ({protocol})", suffix)
                continue
            repeated = memorisation(fake, sets[kind].real, held_out)
            result += memorised(repeated, suffix, compared, len(test), protocol)
            if folder is not None and kind == "pixels":
                who = source.order if isinstance(source, StoredImages) else torch.arange(compared)
                write_neighbours(folder / NEIGHBOURS, repeated, who, train.fingerprint, protocol)
        return result


def _in_network(
    kind: _Kind,
    network: Network,
    sets: _Sets,
    cfg: DistributionConfig,
    n: int,
    seed: int,
    protocol: str,
) -> list[Metric]:
    """Measures in the vectors of a pretrained network, over the sets of generated images."""
    if not finite(sets.fake):
        why = f"{_NOT_FINITE} ({protocol})"
        return [missing(_named(*names, network, cfg), why) for names in kind.chief]
    per_set = [
        kind.measure(
            network,
            sets.real,
            Chosen(sets.fake, torch.arange(r * n, (r + 1) * n)),
            cfg,
            Draws(seed).at(r),
        )
        for r in range(cfg.repeats)
    ]
    return [
        summarised(_named(values[0].metric, values[0].otherwise, network, cfg), values, protocol)
        for values in zip(*per_set, strict=True)
    ]


def _networks(
    cfg: DistributionConfig, device: torch.device | str, given: Mapping[str, Path]
) -> dict[str, Network | str]:
    """The networks at hand; in place of another, why it is not."""
    name = "inception-pytorch" if cfg.mode == "legacy_pytorch" else "inception"
    networks = {
        "inception": _tried(lambda: load_inception(cfg.mode, device, given.get(name))),
        "vgg16": _tried(lambda: load_vgg16(device, given.get("vgg16"))),
    }
    if cfg.clip:
        networks["clip"] = _tried(lambda: load_clip(device, given.get("clip")))
    return networks


def _tried(load: Callable[[], Network]) -> Network | str:
    """Load a network, or say why it is not there."""
    try:
        return load()
    except WeightsError as error:
        return str(error)


def _named(metric: str, otherwise: str, extractor: Extractor, cfg: DistributionConfig) -> str:
    """Name a measure so that values of different protocols never stand in one column."""
    published = getattr(extractor, "published", True)
    posed = "posed" if cfg.poses is not None else ""
    stem = metric if published else f"quality.{otherwise}"
    return "_".join(part for part in (stem, extractor.name, posed) if part)


def _protocol(extractor: Extractor, train: ImageSet, told: str, n: int) -> str:
    return (
        f"{extractor.protocol}; {n:,} generated images of {train.resolution}x{train.resolution} "
        f"pixels, {told}; all {len(train):,} training images "
        f"(data {train.fingerprint})"
    )


def finite(vectors: Rows) -> bool:
    """Whether no image of these vectors held a value that was not finite."""
    return all(bool(block.isfinite().all()) for block in vectors.blocks())


@contextmanager
def _collected(
    source: ViewSource,
    train: ImageSet,
    test: ImageSet | None,
    extractors: Mapping[str, Extractor],
    cfg: DistributionConfig,
    n: int,
    batch: int,
    device: torch.device | str,
    seed: int,
    cache: Path | None,
    crew: Crew,
) -> Iterator[dict[str, _Sets]]:
    """Have all vectors on disk; those of the source go when all is measured.

    Processes share what lies in the cache: all that has a name there.
    """
    who = None
    seen = _posed(source, cfg, seed)
    every = list(extractors.values())
    where = [*_code(), batch, torch.device(device).type, torch.get_num_threads()]
    poses = to_tree(cfg.poses)
    temporary = Path(tempfile.mkdtemp(prefix="gan3d-features-"))

    def place(kind: str, key: object, keep: bool, extractor: Extractor) -> Path:
        text = json.dumps([kind, key, extractor.key, where], sort_keys=True, default=str)
        root = cache / "features" if keep and cache is not None else temporary
        return root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def stored(kind: str, images: ImageSet) -> list[Rows]:
        folders = [place(kind, images.fingerprint, True, e) for e in every]
        shared = (crew, cfg.wait_minutes) if cache is not None else ()
        return list(collect(_reader(images), len(images), every, folders, batch, *shared))

    own = [place("fake", [who, poses, seed], who is not None, e) for e in every]
    try:
        real = stored("real", train)
        held_out = [None] * len(every) if test is None else stored("real", test)
        mine = (crew, cfg.wait_minutes) if who is not None else ()
        fake = collect(_shown(seen), n * cfg.repeats, every, own, batch, *mine)
        yield {
            kind: _Sets(r, f, h)
            for kind, r, f, h in zip(extractors, real, fake, held_out, strict=True)
        }
        for used in own if crew.leads else ():
            shutil.rmtree(used, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _code() -> list[object]:
    """What turns pixels into features, beside the network: another version may do it otherwise."""
    return [SCHEMA, __version__, *(version(name) for name in ("clean-fid", "pillow", "torch"))]


def _posed(source: ViewSource, cfg: DistributionConfig, seed: int) -> ViewSource:
    """The source from the cameras that are asked for."""
    return source if cfg.poses is None else PosedSource(source, cfg.poses, seed)


def _reader(images: ImageSet) -> Callable[[Int64[Tensor, " n"]], Pictures]:
    def read(items: Tensor) -> Pictures:
        return Pictures(images.images(items), torch.ones(len(items), dtype=torch.bool))

    return read


def _shown(source: ViewSource) -> Callable[[Int64[Tensor, " n"]], Pictures]:
    """Generate items from their own cameras, as stored in 8 bits."""

    def read(items: Tensor) -> Pictures:
        image = source.views(items, source.base(items)).image.float().cpu()
        finite = image.isfinite().flatten(1).all(1)
        return Pictures(to_uint8(image.nan_to_num()), finite)

    return read

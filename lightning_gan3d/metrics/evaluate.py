"""All metrics of one evaluation, group by group."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from lightning_gan3d.data.camera_prior import FakeLabels
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import quantise
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metric_table import names_of
from lightning_gan3d.metrics.config import SEED, EvaluationConfig, SwdConfig
from lightning_gan3d.metrics.consistency.attribute_drift import measure_attributes
from lightning_gan3d.metrics.consistency.equivariance import measure_equivariance
from lightning_gan3d.metrics.consistency.flicker import measure_flicker
from lightning_gan3d.metrics.consistency.image_similarity import find_trunk
from lightning_gan3d.metrics.consistency.keypoint_tracks import measure_features
from lightning_gan3d.metrics.consistency.object_edits import measure_parts
from lightning_gan3d.metrics.consistency.object_masks import measure_masks
from lightning_gan3d.metrics.consistency.refit import measure_refit
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.consistency.sticking import measure_sticking
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution
from lightning_gan3d.metrics.distribution.sharpness import ImageAmplitude, sharpness_metrics
from lightning_gan3d.metrics.distribution.swd import Descriptors, ImageDistance
from lightning_gan3d.metrics.distribution.variety import measure_duplicates
from lightning_gan3d.metrics.geometry.head_depth import measure_depth
from lightning_gan3d.metrics.geometry.shape_statistics import measure_geometry
from lightning_gan3d.metrics.pose.accuracy import PoseReader, pose_readers, without_cameras
from lightning_gan3d.metrics.pose.estimators import measure_identity
from lightning_gan3d.metrics.process_group import rank, world_size
from lightning_gan3d.metrics.protocol import cached_metrics, keyed
from lightning_gan3d.metrics.samples_curve import measure_samples
from lightning_gan3d.metrics.sources import SAME_AS_OWN, GeneratorSource, ImageSet, frontal_source
from lightning_gan3d.progress import track


def measure_images(context: EvaluationContext) -> list[Metric]:
    """Measure SWD, sharpness and pose accuracy of images, each rendered from its own camera."""
    cfg, source = context.cfg, context.source
    distance, num_images = None, cfg.num_images
    metrics: list[Metric] = []
    if cfg.swd is not None and context.test is None and len(context.train) < 2:
        metrics.append(missing("quality.swd", "one real image: use two or more"))
    elif cfg.swd is not None:
        distance = ImageDistance(
            context.train, context.test, cfg.swd, num_images, context.seed, context.cache
        )
        num_images = distance.num_images
    readers: list[PoseReader] = []
    if why := context.without_poses:
        metrics += without_cameras(context, why)
    else:
        readers = pose_readers(context, num_images)
    if distance is None and not readers:
        return metrics
    descriptors = None if cfg.swd is None else Descriptors(cfg.swd, context.seed)
    amplitude = ImageAmplitude()
    for items in torch.split(torch.arange(num_images), cfg.batch):
        cameras = source.base(items)
        images = quantise(source.views(items, cameras).image)
        if descriptors is not None:
            descriptors.add(images)
            amplitude.add(images)
        for reader in readers:
            reader.add(images, cameras)
    if distance is not None and descriptors is not None:
        initial = None if context.initial is None else distance.of(context.initial, cfg.batch)
        metrics += swd_metrics(distance, distance.real.distance(descriptors), initial)
        if cfg.frontal and metrics[0].value is not None:
            metrics.append(frontal_swd(distance, metrics[0], context))
        metrics += sharpness_metrics(amplitude, context)
    for reader in readers:
        metrics += reader.metrics(context)
    return [
        m if m.value is None else replace(m, note=f"{m.note}; {source.protocol}") for m in metrics
    ]


def swd_metrics(
    distance: ImageDistance, values: dict[str, float], initial: dict[str, float] | None
) -> list[Metric]:
    """Return the distance by level, its floor (real images), and the progress from `initial`."""
    n, note = distance.num_images, distance.protocol
    if not math.isfinite(values["mean"]):
        return [missing("quality.swd", f"{NOT_FINITE} ({note})")]
    metrics = [Metric("quality.swd", values["mean"], "", n, note=note)]
    for level, value in values.items():
        if level != "mean":
            pixels = f"whole images reduced to {distance.cfg.coarsest} pixels"
            text = pixels if level == "pixels" else f"level {level} alone"
            metrics.append(Metric(f"quality.swd_{level}", value, "", n, note=f"{text}: {note}"))
    floor = distance.floor["mean"]
    real = "disjoint halves of the training images"
    if distance.held_out:
        real = "as many training images instead of generated ones"
    metrics.append(Metric("quality.swd_floor", floor, "", n, note=f"{real}: {note}"))
    progress = "progress from the untrained generator (0) to real images (1)"
    if initial is None or not math.isfinite(initial["mean"]):
        why = "the untrained generator was not measured (fine-tuned and imported ones have none)"
        return [
            *metrics,
            missing("quality.swd_init", why),
            missing("quality.swd_progress", f"{progress}: {why}", "share"),
        ]
    start = initial["mean"]
    metrics.append(Metric("quality.swd_init", start, "", n, note=f"before training: {note}"))
    if start <= floor:
        why = f"before training it was {start:.4g}, not above the floor of {floor:.4g}"
        return [*metrics, missing("quality.swd_progress", f"{progress}: {why}", "share")]
    share = (start - values["mean"]) / (start - floor)
    return [*metrics, Metric("quality.swd_progress", share, "share", n, note=f"{progress}: {note}")]


def frontal_swd(distance: ImageDistance, own: Metric, context: EvaluationContext) -> Metric:
    """SWD with the mapping conditioned on the frontal camera, as FID_3D (Barthel et al. 2025)."""
    source = frontal_source(context.source)
    if isinstance(source, str):
        return missing(own.name, source, variant="3d")
    if source is context.source:
        return replace(own, note=f"{SAME_AS_OWN}: {own.note}", variant="3d")
    value = distance.of(source, context.cfg.batch)["mean"]
    note = f"mapping conditioned on the frontal camera: {own.note}"
    return replace(own, value=value, note=note, variant="3d")


class MetricGroup(NamedTuple):
    """One group of metrics."""

    measure: Callable[[EvaluationContext], list[Metric]]
    block: str = ""
    """Its field of `EvaluationConfig`, if it has a ceiling."""
    ceiling: bool = False
    """Whether it is also measured on the data set's own objects, as the variant `truth`."""
    following: bool = False
    """Whether it is also measured with a label that follows the camera, as `following`."""


GROUPS = (
    MetricGroup(measure_distribution),  # first: all ranks compute features
    MetricGroup(measure_duplicates),
    MetricGroup(measure_images),
    MetricGroup(measure_consistency, "consistency", ceiling=True, following=True),
    MetricGroup(measure_flicker, "consistency", ceiling=True, following=True),
    MetricGroup(measure_equivariance),
    MetricGroup(measure_sticking, "motion", ceiling=True, following=True),
    MetricGroup(measure_refit, "refit", ceiling=True, following=True),
    MetricGroup(measure_features, "features", ceiling=True, following=True),
    MetricGroup(measure_identity),
    MetricGroup(measure_attributes, "attributes", ceiling=True, following=True),
    MetricGroup(measure_parts),
    MetricGroup(measure_masks),
    MetricGroup(measure_depth, "depth", ceiling=True, following=True),
    MetricGroup(measure_samples),
    MetricGroup(measure_geometry, "geometry", ceiling=True),
)
FOLLOWING = "each view conditioned on its own camera"
MAY_LACK = ("consistency.lpips", "motion.sticking", "motion.sticking_depth")
"""Metrics that the data set's own objects may lack, like the generator."""


def evaluate(
    context: EvaluationContext, keep: Callable[[list[Metric]], object] = lambda _: None
) -> list[Metric]:
    """Return all metrics; ranks other than 0 only compute features, and return none.

    `keep` is called with all metrics so far, after each part of a group. An error in one group does
    not stop the others; the first one is raised at the end.
    """
    metrics: list[Metric] = []
    errors: list[Exception] = []
    for group in track(GROUPS, "groups of metrics", enabled=rank() == 0):
        try:
            for part in _measured(group, context):
                if rank() != 0:
                    return []
                metrics += keyed(part, context)
                keep(metrics)
        except Exception as error:
            if world_size() > 1 and group is GROUPS[0]:  # the other ranks wait
                raise
            errors.append(error)
    if errors:
        raise errors[0]
    return metrics


def _measured(group: MetricGroup, context: EvaluationContext) -> Iterator[list[Metric]]:
    """Yield the metrics of a group, its ceiling, and those with a label that follows the camera."""
    own = group.measure(context)
    yield own
    if group.ceiling:
        yield _ceiling(group, context)
    if group.following and context.cfg.following:
        following = with_following_label(context)
        if isinstance(following, str):
            variants = [
                Metric(value=None, unit=m.unit, note=following, **m.id._asdict()) for m in own
            ]
        else:
            variants = [replace(m, note=f"{FOLLOWING}: {m.note}") for m in group.measure(following)]
        yield [replace(m, variant="following") for m in variants if m.at is None]


def _ceiling(group: MetricGroup, context: EvaluationContext) -> list[Metric]:
    """Measure the data set's own objects; cached by data, options, seed, weights and metrics."""
    options, truth = getattr(context.cfg, group.block), context.truth
    if truth is None or options is None:
        return []
    trunk = find_trunk(options.lpips) if group.block == "consistency" else ""
    digest = None if isinstance(trunk, str) else trunk.sha256
    key = [context.train.fingerprint, asdict(options), context.seed, digest, names_of(group.block)]

    def measure() -> list[Metric]:
        metrics = group.measure(replace(context, source=truth, device=torch.device("cpu")))
        # The generator's own metrics give the reason why they are missing.
        return [
            replace(m, variant="truth")
            for m in metrics
            if m.value is not None or not (m.name in MAY_LACK or m.stage in ("enlarged", "raw"))
        ]

    return cached_metrics(context.cache, f"{group.measure.__name__}-truth", key, measure)


def with_following_label(context: EvaluationContext) -> EvaluationContext | str:
    """Condition each view on its own camera; returns the reason if that makes no difference.

    A generator that is conditioned on the camera may change its subject as the camera moves. A
    fixed label hides this; an interactive viewer shows it (CGS-GAN, Barthel et al. 2025).
    """
    source = context.source
    if not isinstance(source, GeneratorSource):
        return "the source has no conditioning label"
    if isinstance(source.generator, Generator):
        cfg = source.generator.cfg
        if cfg.view_in_label:
            return "the label is the view, so it always follows the camera: see the metric itself"
        if cfg.mapping.condition != "camera":
            return f"the generator ignores the camera (mapping.condition={cfg.mapping.condition})"
    return replace(context, source=replace(source, follow=True), curves=False)


@contextmanager
def evaluating(generator: Generator) -> Iterator[None]:
    """Put a generator into evaluation mode, and back."""
    training = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(training)


def source_of(
    generator: Generator, fakes: FakeLabels, device: torch.device | str = "cpu", seed: int = SEED
) -> GeneratorSource:
    """Return the latents of a generator, with labels for them."""
    labels, cameras_from = fakes
    return GeneratorSource(generator, generator.cfg.z_dim, labels, seed, device, cameras_from)


def swd_of(source: GeneratorSource, images: ImageSet, cfg: EvaluationConfig) -> dict[str, float]:
    """Return the SWD to `num_images_training` real images, during training.

    Keys: `swd`, and the levels as `swd_32`, `swd_16`..., `swd_pixels`. Fewer images than in the
    evaluation make it larger.
    """
    num = cfg.num_images_training
    distance = ImageDistance(images, images, cfg.swd or SwdConfig(), num, source.seed)
    with evaluating(source.generator):
        values = distance.of(source, cfg.batch)
    return {"swd" if k == "mean" else f"swd_{k}": v for k, v in values.items()}

"""Metrics of single images, all on the same generated ones: SWD and pose accuracy."""

import math
from dataclasses import replace

import torch

from lightning_gan3d.images import quantise
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.distribution.swd import ImageDistance
from lightning_gan3d.metrics.pose.accuracy import PoseReader, pose_readers, without_cameras
from lightning_gan3d.metrics.stored_images import StoredImages


def measure_images(context: EvaluationContext) -> list[Metric]:
    """Measure SWD and pose accuracy of generated images, each seen from its own camera."""
    cfg, source = context.cfg, context.source
    distance = image_distance(context)
    num_images = cfg.num_images if distance is None else distance.num_images
    if isinstance(source, StoredImages) and source.labels is None:
        metrics = without_cameras(context, "the images come without cameras (dataset.json)")
        readers: list[PoseReader] = []
    else:
        metrics, readers = [], pose_readers(context, num_images)
    sources = [source] if distance is None or context.initial is None else [source, context.initial]
    if distance is None and not readers:
        return metrics
    distances = []
    for current in sources:
        descriptors = None if distance is None else distance.collect()
        for items in torch.split(torch.arange(num_images), cfg.batch):
            cameras = current.base(items)
            images = quantise(current.views(items, cameras).image)
            if descriptors is not None:
                descriptors.add(images)
            if current is source:
                for reader in readers:
                    reader.add(images, cameras)
        if distance is not None and descriptors is not None:
            distances.append(distance.real.distance(descriptors))
    if distance is not None:
        metrics += swd_metrics(distance, distances[0], *(d["mean"] for d in distances[1:]))
    for reader in readers:
        metrics += reader.metrics(context)
    return [
        m if m.value is None else replace(m, note=f"{m.note}; {source.protocol}") for m in metrics
    ]


def image_distance(context: EvaluationContext) -> ImageDistance | None:
    """Return the sliced Wasserstein distance to the real images; None without `cfg.swd`."""
    cfg = context.cfg
    if cfg.swd is None:
        return None
    return ImageDistance(
        context.train, context.test, cfg.swd, cfg.num_images, context.seed, context.cache
    )


def swd_metrics(
    distance: ImageDistance, values: dict[str, float], initial: float | None = None
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
    if initial is None or not math.isfinite(initial):
        why = "the untrained state was not measured (fine-tuned and imported generators have none)"
        return [
            *metrics,
            missing("quality.swd_init", why),
            missing("quality.swd_way", f"{progress}: {why}", "share"),
        ]
    metrics.append(Metric("quality.swd_init", initial, "", n, note=f"before training: {note}"))
    if initial <= floor:
        why = f"before training it was {initial:.4g}, not above the floor of {floor:.4g}"
        return [*metrics, missing("quality.swd_way", f"{progress}: {why}", "share")]
    share = (initial - values["mean"]) / (initial - floor)
    return [*metrics, Metric("quality.swd_way", share, "share", n, note=f"{progress}: {note}")]

"""Metrics of single images, all on the same generated ones: SWD and pose accuracy."""

import math
from dataclasses import replace

import torch

from lightning_gan3d.images import quantise
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.distribution.swd import Descriptors, ImageDistance
from lightning_gan3d.metrics.pose.accuracy import PoseReader, pose_readers, without_cameras
from lightning_gan3d.metrics.stored_images import StoredImages


def measure_images(context: EvaluationContext) -> list[Metric]:
    """Measure SWD and pose accuracy of generated images, each rendered from its own camera."""
    cfg, source = context.cfg, context.source
    distance, num_images = None, cfg.num_images
    if cfg.swd is not None:
        distance = ImageDistance(
            context.train, context.test, cfg.swd, num_images, context.seed, context.cache
        )
        num_images = distance.num_images
    metrics: list[Metric] = []
    readers: list[PoseReader] = []
    if isinstance(source, StoredImages) and source.labels is None:
        metrics = without_cameras(context, "the images come without cameras (dataset.json)")
    else:
        readers = pose_readers(context, num_images)
    if distance is None and not readers:
        return metrics
    descriptors = None if cfg.swd is None else Descriptors(cfg.swd, context.seed)
    for items in torch.split(torch.arange(num_images), cfg.batch):
        cameras = source.base(items)
        images = quantise(source.views(items, cameras).image)
        if descriptors is not None:
            descriptors.add(images)
        for reader in readers:
            reader.add(images, cameras)
    if distance is not None and descriptors is not None:
        initial = None if context.initial is None else distance.of(context.initial, cfg.batch)
        metrics += swd_metrics(distance, distance.real.distance(descriptors), initial)
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
            missing("quality.swd_way", f"{progress}: {why}", "share"),
        ]
    start = initial["mean"]
    metrics.append(Metric("quality.swd_init", start, "", n, note=f"before training: {note}"))
    if start <= floor:
        why = f"before training it was {start:.4g}, not above the floor of {floor:.4g}"
        return [*metrics, missing("quality.swd_way", f"{progress}: {why}", "share")]
    share = (start - values["mean"]) / (start - floor)
    return [*metrics, Metric("quality.swd_way", share, "share", n, note=f"{progress}: {note}")]

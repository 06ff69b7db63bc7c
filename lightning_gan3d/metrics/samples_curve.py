"""Images over the number of samples per ray: likeness to many samples, quality, and time."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import SamplesConfig
from lightning_gan3d.metrics.consistency.image_similarity import psnr
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext, mean_of
from lightning_gan3d.metrics.distribution.swd import ImageDistance
from lightning_gan3d.metrics.sources import GeneratorSource
from renderers.volume import VolumeRenderer, VolumeRendererConfig


def measure_samples(context: EvaluationContext) -> list[Metric]:
    """Measure a generator with other numbers of samples, each a point of the curves `samples.*`."""
    cfg, source = context.cfg.samples, context.source
    if cfg is None:
        return []
    generator = source.generator if isinstance(source, GeneratorSource) else None
    own = generator.cfg.renderer if isinstance(generator, Generator) else None
    if generator is None or not isinstance(own, VolumeRendererConfig):
        return [missing("samples.psnr", "needs a generator with renderer.kind=volume", "dB")]
    assert isinstance(source, GeneratorSource)
    options: dict[int, VolumeRendererConfig] = {}
    metrics: list[Metric] = []
    for count in cfg.counts:
        try:
            options[count] = with_samples(own, count, cfg)
        except ConfigError as error:
            why = missing("samples.psnr", str(error), "dB")
            metrics.append(replace(why, at=float(count)))
    metrics += _compare(source, own, options, cfg)
    for count, o in options.items():
        with rendered_by(generator, o):
            metrics += [replace(m, at=float(count)) for m in _quality(context, _describe(o))]
    return metrics


def with_samples(own: VolumeRendererConfig, count: int, cfg: SamplesConfig) -> VolumeRendererConfig:
    """Distribute `count` samples over both passes; raises `ConfigError` if the rules forbid it."""
    share, placement = cfg.coarse, own.importance
    if cfg.placement == "own":
        share = own.samples_coarse / (own.samples_coarse + own.samples_fine)
    elif cfg.placement == "stratified":
        share, placement = 1.0, "weights"
    else:
        placement = cfg.placement
    coarse = max(1, round(share * count))
    return replace(
        own,
        samples_coarse=coarse,
        samples_fine=count - coarse,
        importance=placement,
        oversample=1,
        chunk=None,
    )


@contextmanager
def rendered_by(generator: Generator, options: VolumeRendererConfig) -> Iterator[None]:
    """Replace a generator's renderer."""
    own = generator.renderer
    generator.renderer = VolumeRenderer(options)
    try:
        yield
    finally:
        generator.renderer = own


@torch.no_grad()
def _compare(
    source: GeneratorSource,
    own: VolumeRendererConfig,
    options: Mapping[int, VolumeRendererConfig],
    cfg: SamplesConfig,
) -> list[Metric]:
    """PSNR to the reference, and the time of a view; the numbers of samples alternate."""
    generator: Generator = source.generator
    reference = with_samples(own, cfg.reference, replace(cfg, placement="stratified"))
    errors: dict[int, list[float]] = {count: [] for count in options}
    seconds: dict[int, list[float]] = {count: [] for count in options}
    for item in torch.arange(cfg.images)[:, None]:
        cameras = source.base(item).to(source.device)
        ws = generator.mapping(source.latents(item), source.condition(item))
        scene = generator.scene(ws)
        with rendered_by(generator, reference):
            expected = generator.render(scene, ws, cameras).image.clamp(-1, 1)
        for count, o in options.items():
            with rendered_by(generator, o):
                if not seconds[count]:
                    generator.render(scene, ws, cameras)  # checks and compiles kernels
                float(expected.sum())  # waits until the device is idle
                start = time.perf_counter()
                image = generator.render(scene, ws, cameras).image.clamp(-1, 1)
                # Reading the error waits for the device, so that its time is included.
                errors[count].append(float((image - expected).square().mean()) / 4)
                seconds[count].append(time.perf_counter() - start)
    metrics = []
    for count, o in options.items():
        note = f"{_describe(o)}; PSNR to {cfg.reference} stratified samples, mean over views"
        values = psnr(torch.tensor(errors[count]))
        metrics.append(replace(mean_of("samples.psnr", values, "dB", note), at=float(count)))
        note = f"{_describe(o)}; one view of a given scene, median; the numbers alternate"
        value, n = 1e3 * median(seconds[count]), cfg.images
        metrics.append(Metric("samples.view_ms", value, "ms", n, note=note, at=float(count)))
    return metrics


def _quality(context: EvaluationContext, note: str) -> list[Metric]:
    """SWD and reprojection PSNR with the generator's present renderer, if they are measured."""
    cfg, source, metrics = context.cfg, context.source, list[Metric]()
    if cfg.swd is not None and (context.test is not None or len(context.train) > 1):
        images, num = (context.train, context.test), cfg.num_images_training
        distance = ImageDistance(*images, cfg.swd, num, context.seed, context.cache)
        value, n = distance.of(source, cfg.batch)["mean"], distance.num_images
        note_of_swd = f"{note}; {distance.protocol}"
        swd = Metric("samples.swd", value, "", n, note=note_of_swd)
        broken = missing("samples.swd", f"{NOT_FINITE} ({note_of_swd})")
        metrics.append(swd if math.isfinite(value) else broken)
    if cfg.consistency is not None:
        rows = measure_consistency(replace(context, curves=False))
        (row,) = (m for m in rows if m.name == "consistency.psnr" and not m.stage)
        metrics.append(replace(row, name="samples.consistency", note=f"{note}; {row.note}"))
    return metrics


def _describe(o: VolumeRendererConfig) -> str:
    if not o.samples_fine:
        return f"{o.samples_coarse} samples, stratified"
    return f"{o.samples_coarse} + {o.samples_fine} samples, fine ones by {o.importance}"

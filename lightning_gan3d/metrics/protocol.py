"""Protocol keys, and the cache of results that depend on the data alone."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lightning_gan3d.files import atomic_path, sha256_of_text, user_cache
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import KEY_DIGITS, Metric, read_metrics
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.sources import GeneratorSource

SCHEMA = 5
"""Increase it when the code of a protocol changes, to invalidate older files."""


def default_folder() -> Path:
    """Folder of the metrics below the user's cache."""
    return user_cache() / "lightning_gan3d" / "metrics"


def cached(
    folder: Path | None, name: str, key: Any, compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors from the cache; compute and store them if they are missing or damaged.

    `key`: all inputs of the tensors, as plain values. `folder`: None disables the cache; failures
    to write are ignored.
    """
    if folder is None:
        return compute()
    path = folder / f"{name}-{_digest(key)}.safetensors"
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = compute()
    _write(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    return tensors


def cached_metrics(
    folder: Path | None, name: str, key: Any, compute: Callable[[], list[Metric]]
) -> list[Metric]:
    """Return metrics from the cache; incomplete lists are not stored."""
    if folder is None:
        return compute()
    path = folder / f"{name}-{_digest(key)}.json"
    try:
        return read_metrics(path)
    except (OSError, ValueError):
        metrics = compute()
    if all(m.value is not None for m in metrics):
        _write(path, json.dumps([asdict(m) for m in metrics]).encode())
    return metrics


def _digest(key: Any) -> str:
    return sha256_of_text(json.dumps([SCHEMA, key], sort_keys=True), 16)


def _write(path: Path, content: bytes) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


PATHS = ("lpips", "estimator", "embedding")
"""Fields that name files. Only the file name counts: a moved file is the same protocol."""
IGNORED = {"distribution": ("repeats", "num_images")}
"""Number of repeats, and a field that repeats the metric's own n."""
WITH_DEPTH = ("consistency", "geometry", "motion.sticking_depth")
"""Blocks and metrics that depend on depth, which has the rendering resolution: fewer pixels hide
more edges."""
ANY_RESOLUTION = ("geometry.floaters", "geometry.filled", "geometry.shape_to_data",
                  "geometry.shape_from_data", "geometry.shape_coverage", "geometry.shape_accuracy",
                  "geometry.shape_iou", "consistency.gain", "consistency.hidden",
                  "consistency.ceiling", "consistency.deficit")  # fmt: skip
"""Metrics of these blocks that query the density, or reduce depth to a stated resolution."""
OF_SWD = ("quality.swd", "quality.sharpness", "quality.contrast")
"""Beginnings of the names of metrics that are computed from the images of the SWD."""
OF_KNOWN = ("features.score", "features.known", "features.shuffled", "features.track_known",
            "refit.ceiling", "refit.deficit", "consistency.gain", "consistency.hidden",
            "consistency.ceiling", "consistency.deficit")  # fmt: skip
"""Metrics that depend on which known objects there are."""
SETS = ("swd", "distribution", "pose")
"""Blocks whose metrics depend on the number of images."""


def keyed(metrics: Iterable[Metric], context: EvaluationContext) -> list[Metric]:
    """Return the metrics with their protocol keys; missing ones have none.

    A key is a digest of the options of the metric's block, the data (fingerprints, resolution) and
    the seed. Sets of images add their number; `raw` metrics and those with depth add the rendering
    resolution. Paths, batch sizes and the device do not count.
    """
    train, test, source = context.train, context.test, context.source
    held_out = None if test is None else test.fingerprint
    data = [train.fingerprint, held_out, train.resolution, context.seed]
    rendering_resolution = None
    if isinstance(source, GeneratorSource):
        rendering_resolution = source.generator.rendering_resolution
    result = []
    for m in metrics:
        block = block_of(m.name)
        parts = [block, _options(block, getattr(context.cfg, block, None)), *data]
        if block in SETS:
            parts.append(m.n)
        with_depth = m.name in WITH_DEPTH or (block in WITH_DEPTH and m.name not in ANY_RESOLUTION)
        if m.stage == "raw" or with_depth:
            parts.append(rendering_resolution)
        if m.name in OF_KNOWN:
            parts.append([context.truth is not None, context.multiview is not None])
        text = json.dumps([SCHEMA, parts], sort_keys=True)
        key = sha256_of_text(text, KEY_DIGITS)
        result.append(replace(m, protocol=key) if m.value is not None else m)
    return result


def block_of(name: str) -> str:
    """Return the field of `EvaluationConfig` that a metric belongs to."""
    family = name.partition(".")[0]
    if family == "quality":
        return "swd" if name.startswith(OF_SWD) else "distribution"
    if name.startswith("parts.mask"):
        return "masks"
    return "distribution" if family == "memorisation" else family


def _options(block: str, cfg: Any) -> Any:
    if cfg is None:
        return None
    values = {k: v for k, v in asdict(cfg).items() if k not in IGNORED.get(block, ())}
    return {k: Path(v).name if k in PATHS and v else v for k, v in values.items()}


def precision_of(generator: Generator) -> str:
    """Describe number formats and rendering path.

    Scenes of several views (consistency, refit) may be stored in fewer bits than those of single
    images (FID).
    """
    renderer = generator.cfg.renderer
    weights = str(next(generator.parameters()).dtype).removeprefix("torch.")
    text = f"weights {weights}, rendering {getattr(renderer, 'precision', 'fp32')}"
    stored = getattr(renderer, "cache_precision", "fp32")
    if stored != "fp32":
        text += f", scenes of several views {stored}"
    backend = getattr(generator.renderer, "backend", None)
    return text if backend is None else f"{text}, rays by {backend}"

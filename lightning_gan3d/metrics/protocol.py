"""The keys by which values of one protocol are told from others: digests of what was asked for."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning_gan3d.metric import KEY_DIGITS, Metric
from lightning_gan3d.metrics.cache import SCHEMA
from lightning_gan3d.metrics.sources import ImageSet, ViewSource

PATHS = ("lpips", "estimator", "embedding")
"""Fields that name files: another folder is no other protocol, so that the name alone counts."""
UNLIKE = {"distribution": ("repeats",)}
"""Fields that say how often a value was taken, not what it is: the mean of several sets of latents
estimates what one set estimates."""


def keyed(
    measures: Iterable[Metric],
    cfg: Any,
    source: ViewSource,
    train: ImageSet,
    test: ImageSet | None,
    seed: int,
) -> list[Metric]:
    """Return the measures, each with the key of its protocol; `cfg` is an `EvaluationConfig`.

    A key depends on the configuration of the measure's own block, the data (fingerprints of both
    parts, side in pixels), the seed, and where images are compared as sets, on their number; rows
    of the rendering before super-resolution also on its side. It does not depend on what was
    measured, on paths, batches or the device.
    """
    data = [train.fingerprint, None if test is None else test.fingerprint, train.resolution, seed]
    inner = getattr(getattr(source, "generator", None), "rendering_resolution", None)
    out = []
    for m in measures:
        block = block_of(m.metric)
        parts = [block, _plain(block, getattr(cfg, block, None)), *data]
        if block in ("swd", "distribution", "pose"):
            parts.append(m.n)
        if "_raw" in m.metric:
            parts.append(inner)
        out.append(replace(m, protocol=key_of(parts)) if m.value is not None else m)
    return out


def block_of(name: str) -> str:
    """Return the field of `EvaluationConfig` that a measure belongs to."""
    family = name.partition(".")[0]
    if family == "quality":
        return "swd" if name.startswith("quality.swd") else "distribution"
    return "distribution" if family == "memorisation" else family


def key_of(parts: Any) -> str:
    """Return the first digits of the SHA-256 of plain values and of the version of all measures."""
    text = json.dumps([SCHEMA, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def _plain(block: str, cfg: Any) -> Any:
    if cfg is None:
        return None
    values = {k: v for k, v in asdict(cfg).items() if k not in UNLIKE.get(block, ())}
    if block == "distribution":
        values.pop("num_images")  # a measure's own n says how many there were
    return {k: Path(v).name if k in PATHS and v else v for k, v in values.items()}

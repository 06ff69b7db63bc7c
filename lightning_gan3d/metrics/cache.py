"""Cache of results that depend on the data alone. File names contain a digest of all inputs."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lightning_gan3d.files import atomic_path, sha256_of_text, user_cache
from lightning_gan3d.metric import Metric

SCHEMA = 3
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
        return [Metric(**row) for row in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError):
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

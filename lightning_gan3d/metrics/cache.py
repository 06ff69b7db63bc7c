"""Cache of what all generators of a data set share. A file's name is a digest of its inputs."""

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
"""Increase it when the code of a protocol changes: then no older file is used."""


def default_folder() -> Path:
    """Folder of the metrics below the user's cache."""
    return user_cache() / "lightning_gan3d" / "metrics"


def cached(
    folder: Path | None, name: str, key: Any, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors from the cache; make and store them if they are missing or damaged.

    `key`: all inputs of the tensors, as plain values. `folder`: None caches nothing; a folder that
    cannot be written to costs only time.
    """
    if folder is None:
        return make()
    path = folder / f"{name}-{_digest(key)}.safetensors"
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = make()
    _write(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    return tensors


def cached_metrics(
    folder: Path | None, name: str, key: Any, make: Callable[[], list[Metric]]
) -> list[Metric]:
    """Return metrics in the same way; nothing is stored while one of them is missing."""
    if folder is None:
        return make()
    path = folder / f"{name}-{_digest(key)}.json"
    try:
        return [Metric(**row) for row in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError):
        metrics = make()
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

"""What is worth keeping between generators of one data set, named by all that it depends on."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lightning_gan3d.metric import Metric

SCHEMA = 3
"""Counts up when a protocol changes in the code, so that what was kept before is not used."""


def default_folder() -> Path:
    """Where measures keep what they reuse: under `XDG_CACHE_HOME`, or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lightning_gan3d" / "metrics"


def cached(
    folder: Path | None, name: str, key: Any, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors from the folder where they are there, else make and keep them.

    `key` holds whatever the tensors depend on, as plain values. A damaged file is made anew; a
    folder that cannot be written to costs only the time that keeping would have saved. `folder`
    None keeps nothing.
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
    """The same for measures; where one is missing nothing is kept, for it may be had next time."""
    if folder is None:
        return make()
    path = folder / f"{name}-{_digest(key)}.json"
    try:
        return [Metric(**row) for row in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError):
        measures = make()
    if all(m.value is not None for m in measures):
        _write(path, json.dumps([asdict(m) for m in measures]).encode())
    return measures


def _digest(key: Any) -> str:
    text = json.dumps([SCHEMA, key], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()

"""Index of a large data set: what the checks found, in a file that processes map and share.

A key of the content names the index, so a changed data set has another one.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_gan3d.data.archive import FolderListing
from lightning_gan3d.files import atomic_path, sha256_of_tensors, sha256_of_text, user_cache
from lightning_gan3d.version import __version__

log = logging.getLogger(__name__)

FORMAT = 2
"""Changes with what is stored."""
MIN_FILES = 10_000
"""Smaller data sets have no index: they are checked in a second each time they are opened."""
_SETTLED = 2.0
"""Seconds since the last change of a folder; within one tick of the clock, times do not show it."""
_ENTRIES, _BYTES, _POSITION = 4, 5, 9
"""Fields of the end of a zip: number of entries and size of its directory, position of the end."""
_RECORD64 = 76
"""Bytes between directory and end in large zips, which may or may not count as the end."""


class DataIndex:
    """Files of tensors that belong to one state of a data set."""

    def __init__(self, state: str, checks: str) -> None:
        """`state`: identifies the content. `checks`: what the checks depend on."""
        key = sha256_of_text(f"{FORMAT} {__version__} {state} {checks}", 32)
        self.folder = user_cache() / "lightning_gan3d" / "index" / key

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return mapped tensors and values; None if the file is missing or damaged."""
        try:
            with safe_open(self.folder / name, "pt") as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if sha256_of_tensors(tensors) != metadata["sha256"]:
                return None
            return tensors, json.loads(tensors.pop("values").numpy().tobytes())
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def write(self, name: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> bool:
        """Write a file atomically; whether it could be written. The last of two processes wins."""
        text = json.dumps(values).encode()
        tensors = {**tensors, "values": torch.from_numpy(np.frombuffer(text, np.uint8).copy())}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / name) as temporary:
                save_file(dict(tensors), temporary, {"sha256": sha256_of_tensors(tensors)})
        except (OSError, SafetensorError) as error:
            self._log(error)
            return False
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process check the data set while the others wait."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.folder / "lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                self._log(error)
            yield

    def _log(self, error: Exception) -> None:
        reason = getattr(error, "strerror", error)
        _log_once(
            f"no index in {self.folder.parent} ({reason}): every process checks large data sets "
            "again; set XDG_CACHE_HOME to a folder that can be written"
        )


@functools.cache
def _log_once(text: str) -> None:
    log.warning("%s", text)


def state_of(path: Path, listing: FolderListing | None) -> str | None:
    """Return what identifies the content of a data set; None if it is small, or just changed.

    `listing`: None for a zip. That of a zip are its size and directory, which has the checksums of
    all files; that of a folder are the names, sizes and times of its files.
    """
    if listing is None:
        return _zip_state(path)
    is_settled = listing.changed < time.time() - _SETTLED
    return listing.state if listing.num_files >= MIN_FILES and is_settled else None


def _zip_state(path: Path) -> str | None:
    """Hash the directory of a zip without parsing it; None if there are few entries."""
    try:
        with path.open("rb") as file:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # as `ZipFile` does
            if end is None or end[_ENTRIES] < MIN_FILES:
                return None
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, end[_POSITION] - end[_BYTES] - _RECORD64))
            return f"{size} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except (OSError, zipfile.BadZipFile):
        return None

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
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_gan3d.data.archive import FolderSource
from lightning_gan3d.files import atomic_path, sha256_of_tensors, sha256_of_text, user_cache
from lightning_gan3d.version import __version__

log = logging.getLogger(__name__)

FORMAT = 1
"""Changes with what is stored."""
MIN_FILES = 10_000
"""Smaller data sets have no index: they are checked in a second each time they are opened."""
_SETTLED = 2.0
"""Seconds since the last change of a folder; within one tick of the clock, times do not show it."""
_END = struct.Struct("<4s4xHHLLH")
"""End of a zip: signature, entries on this disk and in all, size and offset of the directory."""
_END64 = struct.Struct("<4s20xQQQQ")


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


def state_of(path: Path, folder: FolderSource | None) -> str | None:
    """Return what identifies the content of a data set; None if it is small, or just changed.

    `folder`: None for a zip. That of a zip are its size and directory, which has the checksums of
    all files; that of a folder are the names, sizes and times of its files.
    """
    if folder is None:
        return _zip_state(path) if os.access(path, os.R_OK) else None
    is_settled = folder.changed < time.time() - _SETTLED
    return folder.state if folder.num_files >= MIN_FILES and is_settled else None


def _zip_state(path: Path) -> str | None:
    """Hash the directory of a zip without parsing it; None if there are few entries."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail_start = file.seek(max(0, size - _END.size - 2**16 - 76))
        tail = file.read()
        end = len(tail) - _END.size
        if tail[end : end + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
            end = tail.rfind(b"PK\5\6")  # a comment follows
        if not 0 <= end <= len(tail) - _END.size:
            return None
        _, _, num_entries, num_bytes, _, _ = _END.unpack_from(tail, end)
        start = tail_start + end - num_bytes
        if tail[max(end - 20, 0) :][:4] == b"PK\6\7" and end >= 76:  # zip64
            signature, _, num_entries, num_bytes, _ = _END64.unpack_from(tail, end - 76)
            start = tail_start + end - 76 - num_bytes
            if signature != b"PK\6\6":
                return None
        if num_entries < MIN_FILES or start < 0:
            return None
        file.seek(start)
        return f"{size} {num_entries} {hashlib.file_digest(file, 'sha256').hexdigest()}"

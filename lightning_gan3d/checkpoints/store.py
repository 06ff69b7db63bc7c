"""Checkpoints on disk: whole or absent, checked by SHA-256, the newest few kept.

A checkpoint is a folder. It is written under a temporary name, flushed, and renamed at once; the
list of its files' checksums is among them. What is not listed, not whole, or not renamed does not
count. The order is that of the steps in the names, never that of clocks.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_gan3d.config import ConfigError

SCHEMA = 1
"""Version of the layout; a reader refuses others."""
INDEX = "checkpoint.json"
"""The file that lists the others, and says what the checkpoint is."""
_UNFINISHED = ".unfinished-"


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used; the message says which, and what to use instead."""


def name_of(step: int) -> str:
    """Name of the folder of a step."""
    return f"step{step:09d}"


def steps_in(folder: Path) -> list[tuple[int, Path]]:
    """Return finished checkpoints, oldest first, not yet verified."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else []:
        match = re.fullmatch(r"step(\d{9,})", path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def save(
    folder: Path, step: int, write: Callable[[Path], None], about: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint through `write(directory)`, then drop the oldest beyond `keep`.

    Raises what writing raises; then nothing has changed but a temporary folder, which neither is
    taken for a checkpoint nor stands in the way of the next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    target = folder / name_of(step)
    if target.exists():
        try:
            verify(target)
            return target
        except CheckpointError:
            shutil.rmtree(target)
    temporary = folder / f"{_UNFINISHED}{os.getpid()}-{step}"
    temporary.mkdir()
    write(temporary)
    seal(temporary, {"step": step, **about})
    temporary.rename(target)
    _flush(folder)
    for _, old in steps_in(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def seal(folder: Path, about: dict[str, Any]) -> None:
    """List the checksums of a folder's files, with what it is, and flush all of it to the disk."""
    files = {p.name: _fingerprint(p) for p in sorted(folder.iterdir())}
    index = {"schema": SCHEMA, **about, "files": files}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


def remove_unfinished(folder: Path) -> list[str]:
    """Remove what an interrupted save left behind, and return its names."""
    left = [p for p in folder.glob(f"{_UNFINISHED}*") if p.is_dir()]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return [p.name for p in left]


def verify(path: Path) -> dict[str, Any]:
    """Return what the checkpoint says of itself, after checking every file against its checksum."""
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        schema, files = index["schema"], index["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint ({type(error).__name__} in {INDEX}); "
            "use an earlier one"
        ) from None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path} was written by schema {schema}; this version reads {SCHEMA}: "
            "use the version that wrote it"
        )
    for name, wanted in files.items():
        try:
            found = _fingerprint(path / name)
        except OSError:
            found = None
        if found != wanted:
            raise CheckpointError(
                f"{path / name}: {'missing' if found is None else 'checksum differs'}; "
                "the checkpoint is damaged, use an earlier one"
            )
    return dict(index)


def read_index(path: Path) -> dict[str, Any]:
    """Return what a checkpoint that was verified says of itself."""
    return dict(json.loads((path / INDEX).read_text(encoding="utf-8")))


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that verifies; each one passed over is told to `warn`."""
    for _, path in reversed(steps_in(folder)):
        try:
            verify(path)
            return path
        except CheckpointError as error:
            warn(f"ignored a damaged checkpoint: {error}")
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def _flush(path: Path) -> None:
    """Ask the system to put a file or a folder's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Checkpoints on disk: written atomically, verified by SHA-256, limited to the newest ones.

A checkpoint is a folder. It is written under a temporary name, flushed and renamed; its index
lists the checksums of its files. Checkpoints are ordered by the steps in their names, not by time.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import parse_json, sha256_of_file

SCHEMA = 1
"""Version of the layout; readers reject others."""
INDEX = "checkpoint.json"
"""The file with the checksums of the others, and metadata."""
_TYPES: dict[str, Any] = {
    "step": int, "images_before": int, "seed": int, "threads": int, "kimg": int | float,
    "seconds": int | float, "hash": str, "cameras": str, "licence": str, "files": dict,
    "source": dict, "orbit": dict, "notes": list,
}  # fmt: skip
"""Types of the values of an index; checkpoints, exports and imports have different keys."""
_UNFINISHED = ".unfinished-"


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used; the message names it, and the remedy."""


class OtherSchema(CheckpointError):
    """An intact checkpoint with another schema version; this version cannot read it."""


def name_of(step: int) -> str:
    """Return the folder name of a step."""
    return f"step{step:09d}"


def steps_in(folder: Path) -> list[tuple[int, Path]]:
    """Return finished checkpoints, oldest first, not yet verified."""
    steps = []
    for path in folder.iterdir() if folder.is_dir() else []:
        match = re.fullmatch(r"step(\d{9,})", path.name)
        if match and path.is_dir():
            steps.append((int(match[1]), path))
    return sorted(steps)


def save(
    folder: Path, step: int, write: Callable[[Path], None], about: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint by `write(directory)`, then remove all older than the newest `keep`.

    Damaged ones do not count. Passes on the errors of `write`, and leaves nothing then.
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
    try:
        write(temporary)
        seal(temporary, {"step": step, **about})
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk would stay full
        raise
    _flush(folder)
    kept = 1
    for _, path in reversed(steps_in(folder)):
        if path == target:
            continue
        if kept >= keep:
            shutil.rmtree(path, ignore_errors=True)
        else:
            kept += _is_intact(path)
    return target


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Write a folder's index, the checksums of its files beside `about`, and flush all to disk."""
    files = {p.name: _fingerprint(p) for p in sorted(folder.iterdir())}
    index = {"schema": SCHEMA, **about, "files": files}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


def remove_unfinished(folder: Path) -> list[str]:
    """Remove the temporary folders of interrupted saves, and return their names."""
    left = [p for p in folder.glob(f"{_UNFINISHED}*") if p.is_dir()]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return [p.name for p in left]


def verify(path: Path) -> dict[str, Any]:
    """Return the index of a checkpoint, after checking every file against its checksum."""
    index = read_index(path)
    for name, expected in index["files"].items():
        try:
            actual = _fingerprint(path / name) if (path / name).is_file() else None
        except (OSError, ValueError):  # ValueError: a NUL byte
            actual = None
        if actual != expected:
            raise CheckpointError(
                f"{path / name}: {'missing' if actual is None else 'checksum differs'}; "
                "the checkpoint is damaged, use an earlier one"
            )
    return index


def read_index(path: Path) -> dict[str, Any]:
    """Return the index of a checkpoint without verifying the files."""
    try:
        index = parse_json((path / INDEX).read_bytes(), dict)
        if index["schema"] != SCHEMA:
            raise OtherSchema(
                f"{path} was written by schema {index['schema']}; this version reads {SCHEMA}: "
                "use the version that wrote it"
            )
        faults = [k for k, kind in _TYPES.items() if k in index and not isinstance(index[k], kind)]
        if faults or any(Path(name).name != name for name in index["files"]):
            raise ValueError(f"unexpected {', '.join(faults) or 'files'}")
    except OtherSchema:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a complete checkpoint ({type(error).__name__} in {INDEX}: {error}); "
            "use an earlier one"
        ) from None
    return index


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that verifies; None if the folder holds none.

    `warn` is called for each damaged one. Raises `CheckpointError` if all are damaged, or if the
    newest intact one was written by another version.
    """
    damaged = []
    for _, path in reversed(steps_in(folder)):
        try:
            verify(path)
            return path
        except OtherSchema:
            raise
        except CheckpointError as error:
            damaged.append(str(error))
            warn(f"ignored a damaged checkpoint: {error}")
    if damaged:
        raise CheckpointError(
            f"{folder}: all {len(damaged)} checkpoint(s) are damaged ({damaged[0]}); training "
            "starts again from step 0 only if the folder is moved away"
        )
    return None


def _is_intact(path: Path) -> bool:
    try:
        verify(path)
    except OtherSchema:
        return True
    except CheckpointError:
        return False
    return True


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}


def _flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

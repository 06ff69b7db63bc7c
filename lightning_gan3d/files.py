"""Atomic writes, digests and provenance. Imports no torch."""

import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_gan3d.version import __version__

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, remove it on failure.

    Two processes, or two threads, may write the same file: the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, and to disk before it replaces the old one."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def parse_json(data: bytes, kind: type[T], finite: bool = True) -> T:
    """Parse JSON whose value is of a kind.

    `ValueError` also for lone surrogates and deep nesting; with `finite`, for NaN, infinity and
    numbers of more than 40 digits.
    """
    number = _number if finite else None
    try:
        text = data.decode(json.detect_encoding(data))  # knows byte order marks
        value = json.loads(text, parse_int=number, parse_float=number, parse_constant=number)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # raises for half a pair
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__}, not a {type(value).__name__}")
    return value


def _number(text: str) -> int | float:
    value = int(text[:41]) if text.removeprefix("-").isdigit() else float(text)
    if len(text) > 40 or not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number of at most 40 digits")
    return value


def sha256_of_text(text: str, digits: int = 64) -> str:
    """Return the first hexadecimal `digits` of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_tensors(tensors: "Mapping[str, torch.Tensor]") -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of tensors, sorted by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        # View as bytes: NumPy has no bfloat16.
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def user_cache() -> Path:
    """Folder of the user's caches: `$XDG_CACHE_HOME`, or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) if home else Path.home() / ".cache"


def provenance(command: Sequence[str] = ()) -> dict[str, Any]:
    """Version, commit, library versions and command: what reproduces a file besides its config."""
    packages = ("torch", "torchvision", "lightning", "numpy")
    return {
        "version": __version__,
        **_commit(),
        "versions": {
            "python": sys.version.split()[0],
            **{name: metadata.version(name) for name in packages},
        },
        "command": list(command),
    }


@cache
def _commit() -> dict[str, Any]:
    """Commit of the clone, and whether tracked files differ; None for an installed package.

    As at the first call: an evaluation asks after each group of metrics.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", __file__)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD") if tracked else None, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}

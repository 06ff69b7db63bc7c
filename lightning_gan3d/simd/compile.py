"""Kernels are compiled at their first call, and kept on disk by vector width and source version."""

import contextlib
import hashlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import config, njit

from lightning_gan3d.simd.target import WIDTH

Function = TypeVar("Function", bound=Callable[..., Any])
FAST = {"contract", "nsz", "arcp"}
"""Liberties of the compiler that hide no value that is not a number."""


def entry(function: Function) -> Function:
    """Compile a kernel that Python calls: without the GIL, kept on disk.

    What it calls has to lie in its own folder or in this package: their sources date the copy.
    """
    plain: Any = inspect.unwrap(function)  # numba reads the function itself, not a checked one
    with _kept_in(cache_folder(Path(plain.__code__.co_filename).parent)):
        wrap: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
        compiled: Function = wrap(plain)
    return compiled


def helper(function: Function) -> Function:
    """Compile a function that kernels call; it is kept with them."""
    inner: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python never calls it
    wrap: Any = njit(error_model="numpy", fastmath=FAST, **inner)
    compiled: Function = wrap(inspect.unwrap(function))
    return compiled


@contextlib.contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Have numba's caches made within lie in a folder: it asks its configuration when it wraps."""
    settings: Any = config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def cache_folder(sources: Path) -> Path:
    """Return a folder of ours alone that can be written, for kernels of the folder `sources`.

    Under `NUMBA_CACHE_DIR`, else `XDG_CACHE_HOME`, else `~/.cache`; where that cannot be written,
    in the system's folder for temporary files. numba dates a kernel by its own file alone; so the
    name holds the hash of all sources, and the width.
    """
    name = f"{_digest(sources)}-{WIDTH}"
    for base in _bases():
        folder = base / name
        if _is_ours(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="gan3d-kernels-")) / name


def _bases() -> Iterator[Path]:
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        yield Path(named) / "lightning_gan3d"
    home = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield (Path(home) if home else Path.home() / ".cache") / "lightning_gan3d" / "kernels"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"lightning_gan3d-kernels-{user}"


def _is_ours(folder: Path) -> bool:
    """Whether we can write there and nobody else can: what lies there is run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        owner = folder.stat()
    except OSError:
        return False
    if sys.platform == "win32":
        return True
    return owner.st_uid == os.getuid() and not owner.st_mode & 0o022


def _digest(sources: Path) -> str:
    found = {*sources.glob("*.py"), *Path(__file__).parent.glob("*.py")}
    rows = [path.name.encode() + path.read_bytes() for path in sorted(found)]
    return hashlib.sha256(b"\0".join([numba.__version__.encode(), *rows])).hexdigest()[:16]

"""Decorators of kernels: `@entry` and `@helper` compile them, `@simd` emits instructions.

Kernels are compiled at their first call, and cached on disk by vector width and source version.
"""

import contextlib
import hashlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import numba
from numba import config, njit, types
from numba.extending import intrinsic

from lightning_gan3d.simd.processor import WIDTH
from lightning_gan3d.simd.vector import Float, Int

Function = TypeVar("Function", bound=Callable[..., Any])
FAST = {"contract", "nsz", "arcp"}
"""Optimisations that preserve NaN and infinity."""
_TYPES = {Int: types.int64, Float: types.float32, None: types.void}


def entry(function: Function) -> Function:
    """Compile a kernel that Python calls: without the GIL, cached on disk.

    Functions that it calls must be in its own folder or in this package, whose sources key the
    cache.
    """
    plain: Any = inspect.unwrap(function)  # numba reads the source, not a wrapper's
    with _cached_in(cache_folder(Path(plain.__code__.co_filename).parent)):
        wrap: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
        compiled: Function = wrap(plain)
    return compiled


def helper(function: Function) -> Function:
    """Compile a function that kernels call; it is cached with them."""
    inner: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python never calls it
    wrap: Any = njit(error_model="numpy", fastmath=FAST, **inner)
    compiled: Function = wrap(inspect.unwrap(function))
    return compiled


def simd(emit: Callable[..., Any]) -> Any:
    """Make `emit` callable in kernels.

    Its parameters are annotated `Int` (addresses, counts), `Float`, or `Annotated[T, Int]` with a
    NamedTuple `T` of them; it returns `Int`, `Float` or None. The code is inlined at each call, so
    wrap large functions in a `helper`.
    """
    kinds = inspect.get_annotations(emit)
    returned = _TYPES[kinds.pop("return")]
    signature = returned(*map(_type_of, kinds.values()))

    def typing(_context: Any, *_args: Any) -> Any:
        return signature, lower

    def lower(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        wrapped = (_wrap(kind, builder, x) for kind, x in zip(kinds.values(), args, strict=True))
        result = emit(*wrapped)
        return context.get_dummy_value() if result is None else result.value

    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, place) for name in ("context", *kinds)]
    typing.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # for numba
    typing.__name__ = emit.__name__
    typing.__doc__ = emit.__doc__
    return intrinsic(typing)


def _type_of(kind: Any) -> Any:
    if get_origin(kind) is not Annotated:
        return _TYPES[kind]
    cls, element = get_args(kind)
    make: Any = types.NamedUniTuple  # untyped
    return make(_TYPES[element], len(cls._fields), cls)


def _wrap(kind: Any, builder: Any, value: Any) -> Any:
    if get_origin(kind) is not Annotated:
        return kind(builder, value)
    cls, element = get_args(kind)
    count = len(cls._fields)
    return cls(*(element(builder, builder.extract_value(value, i)) for i in range(count)))


@contextlib.contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Set the cache folder of functions that numba wraps within the context."""
    settings: Any = config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def cache_folder(sources: Path) -> Path:
    """Return a private, writable cache folder for kernels of the folder `sources`.

    Under `NUMBA_CACHE_DIR`, else `XDG_CACHE_HOME`, else `~/.cache`; if that cannot be written, in
    the system's folder for temporary files. numba checks the date of a kernel's own file only, so
    the name holds the hash of all sources, and the width.
    """
    name = f"{_digest(sources)}-{WIDTH}"
    for base in _bases():
        folder = base / name
        if _is_private(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="gan3d-kernels-")) / name


def _bases() -> Iterator[Path]:
    configured = os.environ.get("NUMBA_CACHE_DIR")
    if configured:
        yield Path(configured) / "lightning_gan3d"
    home = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield (Path(home) if home else Path.home() / ".cache") / "lightning_gan3d" / "kernels"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"lightning_gan3d-kernels-{user}"


def _is_private(folder: Path) -> bool:
    """Whether only we can write there: its content is executed."""
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
    paths = {*sources.glob("*.py"), *Path(__file__).parent.glob("*.py")}
    rows = [path.name.encode() + path.read_bytes() for path in sorted(paths)]
    return hashlib.sha256(b"\0".join([numba.__version__.encode(), *rows])).hexdigest()[:16]

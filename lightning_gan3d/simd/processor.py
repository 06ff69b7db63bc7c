"""The processor: vector width, registers, and plain threads for kernels that release the GIL."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import llvmlite.binding as llvm

from lightning_gan3d.config import ConfigError

VARIABLE = "GAN3D_SIMD_WIDTH"
"""Environment variable that sets the floats per vector, for tests; LLVM splits wider vectors."""
WIDTHS = (4, 8, 16)
PARTS = 16
"""Parts of a parallel loop per worker: the last ones even out the load."""


def _features() -> dict[str, bool]:
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # not supported on every platform
        return {}


def choose_width(requested: str | None, features: dict[str, bool]) -> int:
    """Return the floats per vector: the requested, else the most that the processor has.

    Raises a `ConfigError` if the request is not 4, 8 or 16.
    """
    if requested:
        if requested not in map(str, WIDTHS):
            raise ConfigError(f"{VARIABLE}={requested}: use 4, 8 or 16, or leave it unset")
        return int(requested)
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


FEATURES = _features()
"""Features of this processor, by LLVM's names."""
WIDTH = choose_width(os.environ.get(VARIABLE), FEATURES)
"""Floats per vector."""
MANY_REGISTERS = WIDTH == 16 or "neon" in FEATURES
"""32 vector registers instead of 16."""


def describe() -> str:
    """Name the vectors: `AVX-512`, `AVX2`, or their bits."""
    if WIDTH == 16 and FEATURES.get("avx512f"):
        return "AVX-512"
    if WIDTH == 8 and FEATURES.get("avx2"):
        return "AVX2"
    return f"{32 * WIDTH}-bit vectors"


_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()


def num_workers(tasks: int) -> int:
    """Threads that `run` uses for so many tasks: at most `torch.get_num_threads()`."""
    import torch  # kernels are compiled without it

    return max(1, min(torch.get_num_threads(), tasks))


def run(task: Callable[[int, int], None], tasks: int) -> None:
    """Call task(worker, i) once for each i < tasks, with `worker` < num_workers(tasks).

    Tasks of one worker run one after another, so each worker can own scratch memory. Which worker
    runs a task depends on timing, so results must depend on `i` alone. The caller is also a worker.
    The first exception is raised when all started tasks have ended.
    """
    workers = num_workers(tasks)
    if workers == 1:
        for i in range(tasks):
            task(0, i)
        return
    counter = itertools.count()
    failed = threading.Event()

    def work(worker: int) -> None:
        # `next` of a counter is atomic.
        while not failed.is_set() and (i := next(counter)) < tasks:
            try:
                task(worker, i)
            except BaseException:
                failed.set()
                raise

    others = _submit(work, workers - 1)
    try:
        work(0)
    finally:
        # Workers that have not started have nothing left to do; waiting for them could deadlock,
        # if the pool's threads are callers themselves.
        started = [future for future in others if not future.cancel()]
        errors = [future.exception() for future in started]
    for error in errors:
        if error is not None:
            raise error


def run_ranges(task: Callable[[int, int, int], None], tasks: int) -> None:
    """Call task(worker, first, end) for all tasks, as `run`: in one call if there is one worker.

    A call from Python costs as much as a small task.
    """
    if num_workers(tasks) == 1:
        task(0, 0, tasks)
    else:
        run(lambda worker, i: task(worker, i, i + 1), tasks)


def run_parts(task: Callable[[int, int, int], None], tasks: int) -> None:
    """Call task(worker, first, end) for all tasks, as `run`, in `PARTS` parts per worker."""
    workers = num_workers(tasks)
    size = tasks if workers == 1 else -(-tasks // (PARTS * workers))
    parts = -(-tasks // size) if tasks else 0
    run(lambda worker, i: task(worker, i * size, min((i + 1) * size, tasks)), parts)


def _submit(work: Callable[[int], None], others: int) -> list[Future[None]]:
    """Submit work(1), ..., work(others) to the pool, which grows to run them at once."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < others:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool = ThreadPoolExecutor(others, thread_name_prefix="gan3d-kernels")
            _pool_size = others
        return [_pool.submit(work, worker) for worker in range(1, others + 1)]


def _reset() -> None:
    """Drop the pool in a forked child, for threads do not survive a fork."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)

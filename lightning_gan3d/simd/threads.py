"""Plain Python threads for kernels that release the GIL."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

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

    if workers == 1:
        work(0)
        return
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

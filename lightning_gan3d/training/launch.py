"""Several processes on one machine, without running the command line again."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch.multiprocessing as mp

from lightning_gan3d.training.signals import WATCHED

LOST = 75
"""Exit code when a process was lost: what was saved goes on."""
POLL, GRACE = 0.2, 10.0
"""Seconds between looks at the processes, and for the others to end when one has failed."""


def processes(
    target: Callable[..., int],
    arguments: tuple[Any, ...],
    num: int,
    say: Callable[[str], None] = print,
    method: str = "spawn",
) -> int:
    """Run `target(*arguments)` in `num` processes that know their rank; return their exit code.

    Signals are passed on, so that all stop in good order. When one is lost, the others, who would
    wait for it for ever, are ended.
    """
    context: Any = mp.get_context(method)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        context.Process(target=_child, args=(target, arguments, rank, num, port))
        for rank in range(num)
    ]
    for child in children:
        child.start()
    ended: set[int] = set()
    with _passed_on(children):
        since: float | None = None
        while any(child.is_alive() for child in children):
            time.sleep(POLL)
            if since is None and any(child.exitcode for child in children):
                since = time.monotonic()
            if since is not None and time.monotonic() - since > GRACE:
                for rank, child in enumerate(children):
                    if child.is_alive():
                        ended.add(rank)
                        child.kill()
                        child.join()
    codes = {rank: child.exitcode or 0 for rank, child in enumerate(children) if rank not in ended}
    lost = [str(rank) for rank, code in codes.items() if code < 0]
    if lost:
        say(f"stopped: process {', '.join(lost)} was lost; the same command continues")
    return LOST if lost else max(codes.values())


@contextmanager
def _passed_on(children: list[BaseProcess]) -> Iterator[None]:
    """Pass signals on as SIGTERM, once: a terminal's Ctrl-C reaches the children by itself too."""

    def forward(number: int, frame: FrameType | None) -> None:
        del number, frame
        for child in children:
            if child.is_alive():
                child.terminate()

    before = {s: signal.signal(s, forward) for s in WATCHED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _child(
    target: Callable[..., int], arguments: tuple[Any, ...], rank: int, num: int, port: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(
        {
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(num),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )
    raise SystemExit(target(*arguments))


def rank_of_environment() -> int:
    """Rank of this process, before the processes know each other."""
    return int(os.environ.get("LOCAL_RANK", "0"))

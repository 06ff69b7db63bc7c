"""Processes of a run: signals, the lock of the run directory, several processes on one machine."""

import fcntl
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import reduction
from pathlib import Path
from typing import IO, Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.experiment import ExperimentConfig
from lightning_gan3d.training.signals import DONE, STOPPED, SignalHandler

log = logging.getLogger(__name__)
LOCK = "run.lock"
PROBE = 1.0
"""Seconds to retry a lock, since `lock_holder` holds it for a moment."""
PORT = 29500
"""Default of MASTER_PORT, as torchrun's."""
GRACE = 10.0
"""Seconds for the other processes to exit after one has failed."""


@dataclass(frozen=True)
class Session:
    """One process of a run: everything that `fit` needs."""

    config: ExperimentConfig
    path: Path
    """The run directory."""
    device: torch.device
    checkpoint: Path | None = None
    """Checkpoint to continue from; None: from the start."""
    command: Sequence[str] = ()
    """Command line, for the manifest."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as this machine starts them; every node starts the same command."""

    devices: int
    """Processes of each node."""
    node: int = 0
    """Rank of this node."""
    num_nodes: int = 1
    address: str = "127.0.0.1"
    """Of node 0."""
    port: int | None = None
    """Of node 0. None: a free one."""

    @property
    def world_size(self) -> int:
        """Processes of all nodes."""
        return self.devices * self.num_nodes


def read_ranks(devices: int, num_nodes: int) -> Ranks:
    """Read the rank of this node and the address of node 0 from the environment.

    As torchrun and SLURM set them: NODE_RANK, GROUP_RANK or SLURM_NODEID, MASTER_ADDR, MASTER_PORT.
    """
    if num_nodes == 1:
        return Ranks(devices)
    names = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
    node = next((os.environ[name] for name in names if name in os.environ), "")
    if not node.isdecimal() or int(node) >= num_nodes or "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"trainer.num_nodes={num_nodes}: start the same command on every node, with NODE_RANK "
            f"(0 to {num_nodes - 1}) and MASTER_ADDR (the address of node 0) in the environment"
        )
    port = int(os.environ.get("MASTER_PORT", PORT))
    return Ranks(devices, int(node), num_nodes, os.environ["MASTER_ADDR"], port)


class InheritedFile:
    """An open file that child processes inherit, with its lock."""

    def __init__(self, number: int) -> None:
        """`number`: of the open file."""
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Duplicate the file for a process that is being started."""
        return _inherit, (reduction.DupFd(self._number),)


def _inherit(duplicate: Any) -> InheritedFile:
    return InheritedFile(duplicate.detach())


@contextmanager
def run_lock(path: Path) -> Iterator[InheritedFile]:
    """Lock a run directory until this process and those that inherit the lock have ended."""
    deadline = time.monotonic() + PROBE
    with (path / LOCK).open("a+", encoding="utf-8") as file:
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{path}: in use by {lock_holder(path)}; wait for it, or choose another --root"
                )
            time.sleep(PROBE / 20)
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield InheritedFile(file.fileno())


def _try_lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_holder(path: Path) -> str:
    """Return who holds the lock of a run directory, as in "pid 12 on node7"; "" if nobody does."""
    if not (path / LOCK).is_file():
        return ""
    with (path / LOCK).open(encoding="utf-8") as file:
        # A shared lock: two that look at the same time do not see each other.
        free = _try_lock(file, fcntl.LOCK_SH)
        return "" if free else file.read().strip() or "another process"


def run_processes(
    target: Callable[..., int],
    arguments: tuple[Any, ...],
    ranks: Ranks,
    method: str = "spawn",
    lock: InheritedFile | None = None,
) -> int:
    """Run `target(*arguments)` in this node's processes; return the exit code.

    Stop signals are forwarded to all; a second Ctrl-C kills them. If one process fails, the others
    are terminated; if this one is killed, all end. They hold `lock` as long as they live.
    """
    if ranks.port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ranks = replace(ranks, port=free.getsockname()[1])
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    children = start_processes(  # type: ignore[no-untyped-call]  # torch
        _child, (target, arguments, ranks, lock), ranks.devices, join=False, start_method=method
    )

    stopping = False

    def forward(number: int) -> None:
        nonlocal stopping
        kill, stopping = stopping and number == signal.SIGINT, True
        for child in children.processes:
            if child.is_alive():
                child.kill() if kill else child.terminate()

    try:
        with SignalHandler(forward):
            while not children.join(grace_period=GRACE):
                pass
    except ProcessExitedException as error:
        if error.exit_code > 0:
            return error.exit_code
        log.error("stopped: process %d died; the same command continues", error.error_index)
        return STOPPED
    return DONE


def _child(
    rank: int,
    target: Callable[..., int],
    arguments: tuple[Any, ...],
    ranks: Ranks,
    lock: InheritedFile | None,
) -> None:
    del lock  # its file stays open
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A terminal's Ctrl-C reaches children too: they stop by the parent's SIGTERM alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(
        {
            "RANK": str(ranks.node * ranks.devices + rank),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": str(ranks.node),
            "WORLD_SIZE": str(ranks.world_size),
            "MASTER_ADDR": ranks.address,
            "MASTER_PORT": str(ranks.port),
        }
    )
    print_log()
    try:
        raise SystemExit(target(*arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(STOPPED)


def is_main() -> bool:
    """Whether this process is rank 0 of all nodes, which writes and logs.

    Read from the environment, before the process group exists. NODE_RANK is not used: some clusters
    set it for unrelated runs.
    """
    return os.environ.get("RANK", "0") == "0"


class _PrintHandler(logging.Handler):
    """Prints to the present `sys.stdout`."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a closed terminal or pipe: the run goes on to its next save
            print(self.format(record), flush=True)


def print_log() -> None:
    """Print the package's log, as the command line does; only errors on ranks other than 0."""
    logger = logging.getLogger("lightning_gan3d")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = _PrintHandler()
        if not is_main():
            handler.setLevel(logging.ERROR)
            handler.setFormatter(logging.Formatter(f"rank {os.environ['RANK']}: %(message)s"))
        logger.addHandler(handler)

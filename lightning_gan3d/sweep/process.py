"""One run as a local process: its log, its last words, and the signals that reach it."""

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

TAIL = 8192
"""Bytes at the end of a log among which its last line is looked for."""
WIDTH = 300
"""Characters of that line that are kept."""
PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""The keyboard, the system or a scheduler, a closed terminal, and a scheduler's early warning."""


@dataclass
class Job:
    """A process that runs, or has ended."""

    process: "subprocess.Popen[bytes]"
    log: Path
    """What it says; earlier attempts stand above."""
    offset: int
    """Where this attempt begins in the log."""
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> "Job":
        """Start a process in a session of its own: Ctrl-C reaches it only through us, once."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            offset = stream.tell()
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        return cls(process, log, offset)

    def seconds(self) -> float:
        """Wall time since the start."""
        return time.monotonic() - self.started

    def last_line(self) -> str:
        """Return the last line of this attempt that says anything, without terminal codes."""
        with self.log.open("rb") as stream:
            end = stream.seek(0, 2)
            stream.seek(max(self.offset, end - TAIL))
            text = stream.read().decode(errors="replace")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
        return lines[-1][:WIDTH] if lines else ""

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it now, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Stop:
    """Whether a signal asked to stop."""

    asked: bool = False


@contextmanager
def forwarded_signals(jobs: Callable[[], Sequence[Job]]) -> Iterator[Stop]:
    """Pass a request to stop on to every job, once; a second Ctrl-C kills the jobs."""
    stop = Stop()

    def handle(number: int, _: FrameType | None) -> None:
        kill = stop.asked and number == signal.SIGINT
        if kill or not stop.asked:
            # A closed terminal asks to save, like the others; by itself it would end the jobs.
            passed = signal.SIGTERM if number == signal.SIGHUP else number
            for job in jobs():
                job.signal(signal.SIGKILL if kill else passed)
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone, and it has its own handlers
        return
    before = {number: signal.signal(number, handle) for number in PASSED}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""One attempt at a run of a sweep: a process with a log, whose failure is recorded."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_gan3d.config import ConfigError
from lightning_gan3d.sweep.plan import SweepEntry
from lightning_gan3d.sweep.states import Failure, SweepFolder, is_finished
from lightning_gan3d.training.processes import lock_holder
from lightning_gan3d.training.signals import DONE, STOPPED, SignalHandler

TRAIN = (sys.executable, "-m", "lightning_gan3d.cli", "train")
TASK = (sys.executable, "-m", "lightning_gan3d.cli", "sweep", "task")
TASK = (sys.executable, "-m", "lightning_gan3d.cli", "sweep", "task")
TAIL, WIDTH = 8192, 300
"""Bytes at the end of a log that are searched for its last line, and characters of that line."""


@dataclass(eq=False)
class Task:
    """A process that trains a run."""

    folder: SweepFolder
    run: SweepEntry
    process: "subprocess.Popen[bytes]"
    log: Path
    """Its output, after that of earlier attempts."""
    offset: int
    """Start of this attempt in the log, in bytes."""
    gpus: Sequence[str] = ()
    """Names of the GPUs that it may use; empty: not chosen."""
    signalled: bool = False
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(
        cls,
        folder: SweepFolder,
        run: SweepEntry,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = TRAIN,
        suffix: str = "",
    ) -> "Task":
        """Start in an own session, so that Ctrl-C reaches it only through us.

        `environment`: variables to add; `suffix`: of the log, on nodes other than the first.
        """
        if not suffix:
            folder.forget_failure(run)
        log = folder.log(run, suffix)
        log.parent.mkdir(parents=True, exist_ok=True)
        root = run.path.parent.parent
        with log.open("ab") as stream:
            offset = stream.tell()
            process = subprocess.Popen(
                [*command, str(folder.config(run)), "--root", str(root)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                start_new_session=True,
            )
        return cls(folder, run, process, log, offset)

    def last_line(self) -> str:
        """Return the last line of this attempt that is not empty, without terminal codes."""
        try:
            with self.log.open("rb") as stream:
                end = stream.seek(0, 2)
                stream.seek(max(self.offset, end - TAIL))
                text = stream.read().decode(errors="replace")
        except FileNotFoundError:  # somebody has removed the logs
            return ""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
        return lines[-1][:WIDTH] if lines else ""

    def send(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        self.signalled = True
        if self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def trained_elsewhere(self) -> bool:
        """Whether the process ended because another one had started the run first."""
        rejected = self.process.returncode == ConfigError.exit_code
        return rejected and bool(lock_holder(self.run.path) or is_finished(self.run.path))

    def finish(self, stopping: bool = False) -> Failure | None:
        """Record and return a failure of the ended process; None if the run is done or stopped.

        `stopping`: a process that a signal ended did not fail. Exit code 0 requires a finished run.
        """
        code, line = self.process.returncode, self.last_line()
        if code == STOPPED or (stopping and code < 0) or self.trained_elsewhere:
            return None
        if code == DONE:
            if is_finished(self.run.path):
                return None
            line = f"exit code 0, but {self.run.path} holds no finished run"
        elif code == -signal.SIGKILL:
            line = f"killed, perhaps because memory ran out; last line: {line}"
        failure = Failure(code, line or f"exit code {code}, and an empty log")
        self.folder.failed(self.run, failure)
        return failure


def run_task(path: Path, run_id: str, command: Sequence[str] = TRAIN) -> tuple[int, bool]:
    """Run a recorded run of the sweep folder `path` in the foreground.

    Returns its exit code, and whether a signal stopped it.

    For schedulers and agents. The first stop signal is forwarded; then the code is 75, also if it
    came before the run could handle it. Only the first node of a run records a failure.
    """
    folder = SweepFolder(path)
    entry = folder.entry(run_id)
    node = int(os.environ.get("SLURM_NODEID", 0))
    task = Task.start(folder, entry, command=command, suffix=f".node{node}" if node else "")
    stopping = False

    def forward(number: int) -> None:
        nonlocal stopping
        if not stopping:
            task.send(number)
        stopping = True

    with SignalHandler(forward):
        code = task.process.wait()
    failure = task.finish(stopping) if node == 0 else None
    code = STOPPED if stopping and code < 0 else DONE if task.trained_elsewhere else code
    print(f"{entry.label}: exit code {code}{f': {failure.reason}' if failure else ''}")
    print(f"log: {task.log}", flush=True)
    return code, stopping

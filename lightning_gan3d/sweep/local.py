"""`gan3d sweep run`: local processes; skips finished runs and continues stopped ones."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_gan3d.config import ConfigError
from lightning_gan3d.runs import CONFIG, Run
from lightning_gan3d.sweep.plan import (
    SWEEP_FILE,
    State,
    SweepConfig,
    SweepEntry,
    expand,
    write_record,
)
from lightning_gan3d.training.processes import lock_holder, run_lock
from lightning_gan3d.training.signals import DONE, FAILED, STOPPED, SignalHandler

log = logging.getLogger(__name__)
TRAIN = (sys.executable, "-m", "lightning_gan3d.cli", "train")
POLL = 0.1
"""Seconds between checks of the processes."""
LOOK = 2.0
"""Seconds between checks of the runs that another process trains."""
TAIL, WIDTH = 8192, 300
"""Bytes at the end of a log that are searched for its last line, and characters of that line."""


def is_finished(path: Path) -> bool:
    """True if a run directory holds a finished run."""
    return (path / CONFIG).is_file() and Run(path).finished


def plan_sweep(loaded: tuple[SweepConfig, Path], root: Path = Path("runs")) -> str:
    """Describe what `sweep run` would start, resume and skip; `loaded`: of `load_sweep`."""
    sweep, path = loaded
    entries = expand(sweep, path, root)
    actions = [_action(entry) for entry in entries]
    factors = list(dict.fromkeys(key for entry in entries for key in entry.factors))
    rows = [("", "experiment", "label", *factors, "seed", "run directory")]
    for action, e in zip(actions, entries, strict=True):
        values = [e.factors.get(key, "") for key in factors]
        own = "" if e.factors else e.arm
        rows.append((action, e.experiment, own, *values, str(e.seed), str(e.path)))
    if not any(row[2] for row in rows[1:]):
        rows = [(*row[:2], *row[3:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    counts = Counter(actions)
    parts = [f"{counts[a]} to {a}" for a in ("start", "resume", "skip") if counts[a]]
    threads = f", {sweep.threads} thread(s) each" if sweep.threads else ""
    return "\n".join([*lines, f"{', '.join(parts)}; {sweep.jobs} at a time{threads}"])


def _action(entry: SweepEntry) -> str:
    if is_finished(entry.path):
        return "skip"
    return "resume" if (entry.path / CONFIG).is_file() else "start"


def run_sweep(
    loaded: tuple[SweepConfig, Path],
    root: Path = Path("runs"),
    command: Sequence[str] = TRAIN,
    heartbeat: float = 30.0,
) -> int:
    """Run what is not finished; return the exit code: 0 all done, 4 some failed, 75 stopped.

    A failed run does not stop the others. `root/sweeps/<name>/` holds the logs and `sweep.json`;
    one process at a time runs a sweep. A run that another process trains is waited for.
    `heartbeat`: seconds between log lines of running processes.
    """
    sweep, path = loaded
    runner = SweepRunner(sweep, expand(sweep, path, root), root, command, heartbeat)
    runner.folder.mkdir(parents=True, exist_ok=True)
    with run_lock(runner.folder):
        stopped = runner.run()
    counts: Counter[State] = Counter(entry.state for entry in runner.entries)
    names: dict[State, str] = {
        "done": "done", "failed": "failed", "preempted": "preempted", "planned": "not started",
    }  # fmt: skip
    states = ", ".join(f"{counts[s]} {name}" for s, name in names.items() if counts[s])
    log.info("sweep %s: %s; record: %s", sweep.name, states, runner.folder / SWEEP_FILE)
    if counts["failed"]:
        return FAILED
    if stopped or counts["preempted"]:
        log.info("the same command continues it")
        return STOPPED
    return DONE


@dataclass
class Job:
    """A process and its log."""

    process: "subprocess.Popen[bytes]"
    file: Path
    """The log, which earlier attempts share."""
    offset: int
    """Start of this attempt in the log, in bytes."""
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, arguments: Sequence[str], file: Path, environment: Mapping[str, str]) -> "Job":
        """Start a process in its own session, so that Ctrl-C reaches it only through us."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            offset = stream.tell()
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        return cls(process, file, offset)

    def last_line(self) -> str:
        """Return the last line of this attempt that is not empty, without terminal codes."""
        with self.file.open("rb") as stream:
            end = stream.seek(0, 2)
            stream.seek(max(self.offset, end - TAIL))
            text = stream.read().decode(errors="replace")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
        return lines[-1][:WIDTH] if lines else ""

    def kill(self) -> None:
        """Kill the process and wait for it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class SweepRunner:
    """Keeps `jobs` processes busy, and `sweep.json` up to date."""

    def __init__(
        self,
        sweep: SweepConfig,
        entries: list[SweepEntry],
        root: Path,
        command: Sequence[str],
        heartbeat: float,
    ) -> None:
        self.sweep, self.entries, self.root = sweep, entries, root
        self.command, self.heartbeat = command, heartbeat
        self.folder = root / "sweeps" / sweep.name
        self.stopping = False
        self._running: dict[int, Job] = {}
        self._waiting: list[int] = []
        self._taken = set[int]()
        """Runs of `_waiting` that another process trains."""

    def run(self) -> bool:
        """Run all entries that are not finished; return whether a signal stopped the sweep.

        A signal stops every process once; a second Ctrl-C kills them.
        """
        self._waiting = list(range(len(self.entries)))
        last_heartbeat, next_look = time.monotonic(), 0.0
        try:
            with SignalHandler(self._stop):
                while self._running or (self._waiting and not self.stopping):
                    room = self.sweep.jobs - len(self._running)
                    due = time.monotonic() >= next_look
                    if self._waiting and room and due and not self.stopping:
                        for i in self._look()[:room]:
                            self._start(i)
                        next_look = time.monotonic() + (LOOK if self._taken else 0)
                    for i, job in list(self._running.items()):
                        if job.process.poll() is not None:
                            self._finish(i, job)
                    if time.monotonic() - last_heartbeat >= self.heartbeat:
                        last_heartbeat = time.monotonic()
                        for i, job in self._running.items():
                            log.info(
                                "running    %s: %s",
                                self.entries[i].label,
                                job.last_line() or "starting",
                            )
                    time.sleep(POLL)
        finally:
            for job in self._running.values():  # not empty only after an exception
                job.kill()
        return self.stopping

    def _look(self) -> list[int]:
        """Return the runs to start, without those that are finished or that another trains."""
        taken = set[int]()
        for i in list(self._waiting):
            entry = self.entries[i]
            if holder := lock_holder(entry.path):
                taken.add(i)
                if i not in self._taken:
                    log.info("waiting    %s: trained by %s", entry.label, holder)
            elif is_finished(entry.path):
                self._waiting.remove(i)
                self.entries[i] = replace(entry, state="done", exit_code=0)
                log.info("done       %s: already finished  %s", entry.label, entry.path)
        self._taken = taken
        self._write()
        return [i for i in self._waiting if i not in taken]

    def _write(self) -> None:
        write_record(self.folder / SWEEP_FILE, self.entries)

    def _stop(self, number: int) -> None:
        """Forward the first signal; kill at a second Ctrl-C."""
        kill = self.stopping and number == signal.SIGINT
        if kill or not self.stopping:
            for job in self._running.values():
                if job.process.poll() is None:
                    job.process.send_signal(signal.SIGKILL if kill else number)
        self.stopping = True

    def _start(self, number: int) -> None:
        self._waiting.remove(number)
        entry = self.entries[number]
        arguments = [*self.command, entry.preset, *entry.overrides, "--root", str(self.root)]
        if (entry.path / CONFIG).is_file():
            arguments.append("--resume")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.sweep.threads is not None:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            environment |= dict.fromkeys(names, str(self.sweep.threads))
        file = self.folder / "logs" / f"{number:03d}-{entry.experiment}-s{entry.seed}.log"
        self._running[number] = Job.start(arguments, file, environment)
        self.entries[number] = replace(entry, state="running")
        self._write()
        log.info("start      %s  log: %s", entry.label, file)

    def _finish(self, number: int, job: Job) -> None:
        """Record the outcome of a process; exit code 0 also requires a finished run."""
        del self._running[number]
        entry, code, line = self.entries[number], job.process.returncode, job.last_line()
        # Exit code 2: another process may have started the run first.
        if code == ConfigError.exit_code and (lock_holder(entry.path) or is_finished(entry.path)):
            self.entries[number] = replace(entry, state="planned")
            self._waiting.append(number)
            return
        state: State = "failed"
        if code == STOPPED or (self.stopping and code == -signal.SIGKILL):
            state, line = "preempted", ""
        elif code != DONE:
            line = line or f"exit code {code}, and an empty log"
        elif is_finished(entry.path):
            state, line = "done", ""
        else:
            line = f"exit code 0, but {entry.path} holds no finished run"
        seconds = time.monotonic() - job.started
        self.entries[number] = replace(
            entry, state=state, exit_code=code, seconds=seconds, last_line=line
        )
        self._write()
        minutes, rest = divmod(round(seconds), 60)
        text = f"{state:<9}  {entry.label}  {minutes}:{rest:02d} min  {entry.path}"
        if state == "failed":
            text += f"\n           exit code {code}: {line}\n           log: {job.file}"
        log.info(text)

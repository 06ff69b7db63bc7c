"""`gan3d sweep`: a grid in local processes; skips what is finished, continues what was stopped."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_gan3d.runs import CONFIG, Run
from lightning_gan3d.sweep.config import SweepConfig, expand, load_sweep
from lightning_gan3d.sweep.process import Job, forwarded_signals
from lightning_gan3d.sweep.record import SWEEP_FILE, State, SweepEntry, write_record

TRAIN = (sys.executable, "-m", "lightning_gan3d.cli", "train")
DONE, FAILED, STOPPED = 0, 4, 75
POLL = 0.1
"""Seconds between looks at the processes."""

Finished = Callable[[Path], bool]


def is_finished(path: Path) -> bool:
    """Say whether a run directory holds a finished run."""
    return (path / CONFIG).is_file() and Run(path).finished


def plan_sweep(
    file: str | Path, root: Path = Path("runs"), finished: Finished = is_finished
) -> str:
    """Say what `sweep run` would do, in its order; nothing starts."""
    sweep, path = load_sweep(file)
    entries = expand(sweep, path, root)
    steps = [_step(entry, finished) for entry in entries]
    width = max(len(entry.label) for entry in entries)
    lines = [f"{s:<6}  {e.label:<{width}}  {e.path}" for s, e in zip(steps, entries, strict=True)]
    counts = Counter(steps)
    parts = [f"{counts[s]} to {s}" for s in ("start", "resume", "skip") if counts[s]]
    threads = f", {sweep.threads} thread(s) each" if sweep.threads else ""
    return "\n".join([*lines, f"{', '.join(parts)}; {sweep.jobs} at a time{threads}"])


def _step(entry: SweepEntry, finished: Finished) -> str:
    if finished(entry.path):
        return "skip"
    return "resume" if (entry.path / CONFIG).is_file() else "start"


def run_sweep(
    file: str | Path,
    root: Path = Path("runs"),
    command: Sequence[str] = TRAIN,
    finished: Finished = is_finished,
    say: Callable[[str], None] = print,
    heartbeat: float = 30.0,
) -> int:
    """Run what is not finished; return the exit code: 0 all done, 4 some failed, 75 stopped.

    One run that fails stops no other. Ctrl-C reaches every process once, which saves and stops; a
    second one kills. `root/sweeps/<name>/` holds `sweep.json`, kept up to date, and the logs.
    `heartbeat`: seconds between lines that say where the running ones are.
    """
    sweep, path = load_sweep(file)
    entries = expand(sweep, path, root)
    folder = root / "sweeps" / sweep.name
    for i, entry in enumerate(entries):
        if finished(entry.path):
            entries[i] = replace(entry, state="done", exit_code=0)
            say(f"done       {entry.label}: was finished before  {entry.path}")
    write_record(folder / SWEEP_FILE, entries)
    stopped = _run_all(sweep, entries, folder, root, command, finished, say, heartbeat)
    counts: Counter[str] = Counter(entry.state for entry in entries)
    states = ("done", "failed", "preempted", "planned")
    say(
        f"sweep {sweep.name}: "
        + ", ".join(
            f"{counts[s]} {'not begun' if s == 'planned' else s}" for s in states if counts[s]
        )
        + f"; record: {folder / SWEEP_FILE}"
    )
    if counts["failed"]:
        return FAILED
    if stopped or counts["preempted"]:
        say("the same command continues it")
        return STOPPED
    return DONE


def _run_all(
    sweep: SweepConfig,
    entries: list[SweepEntry],
    folder: Path,
    root: Path,
    command: Sequence[str],
    finished: Finished,
    say: Callable[[str], None],
    heartbeat: float,
) -> bool:
    """Keep `jobs` processes busy until none is left; returns whether a signal stopped it."""
    waiting = [i for i, entry in enumerate(entries) if entry.state != "done"]
    running: dict[int, Job] = {}
    told = time.monotonic()
    try:
        with forwarded_signals(lambda: list(running.values())) as stop:
            while running or (waiting and not stop.asked):
                while waiting and len(running) < sweep.jobs and not stop.asked:
                    i = waiting.pop(0)
                    entries[i] = replace(entries[i], state="running")
                    running[i] = _start(entries[i], i, sweep, folder, root, command)
                    write_record(folder / SWEEP_FILE, entries)
                    say(f"start      {entries[i].label}  log: {running[i].log}")
                for i, job in list(running.items()):
                    code = job.process.poll()
                    if code is not None:
                        del running[i]
                        entries[i] = _ended(entries[i], job, code, finished)
                        write_record(folder / SWEEP_FILE, entries)
                        say(_line(entries[i], job))
                if time.monotonic() - told >= heartbeat:
                    told = time.monotonic()
                    for i, job in running.items():
                        say(f"running    {entries[i].label}: {job.last_line()}")
                time.sleep(POLL)
    finally:
        for job in running.values():  # only where this loop itself broke: leave no process behind
            job.kill()
    return stop.asked


def _start(
    entry: SweepEntry,
    number: int,
    sweep: SweepConfig,
    folder: Path,
    root: Path,
    command: Sequence[str],
) -> Job:
    arguments = [*command, entry.preset, *entry.overrides, "--root", str(root)]
    if (entry.path / CONFIG).is_file():
        arguments.append("--resume")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if sweep.threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment |= dict.fromkeys(names, str(sweep.threads))
    log = folder / "logs" / f"{number:03d}-{entry.experiment}-s{entry.seed}.log"
    return Job.start(arguments, log, environment)


def _ended(entry: SweepEntry, job: Job, code: int, finished: Finished) -> SweepEntry:
    """Read the outcome off the exit code, and off the run itself: a claim to be done is checked."""
    line = job.last_line()
    state: State = "failed"
    if code == STOPPED:
        state, line = "preempted", ""
    elif code != DONE:
        line = line or f"exit code {code}, and an empty log"
    elif finished(entry.path):
        state, line = "done", ""
    else:
        line = f"exit code 0, but {entry.path} holds no finished run"
    return replace(entry, state=state, exit_code=code, seconds=job.seconds(), last_line=line)


def _line(entry: SweepEntry, job: Job) -> str:
    minutes, seconds = divmod(round(entry.seconds), 60)
    text = f"{entry.state:<9}  {entry.label}  {minutes}:{seconds:02d} min  {entry.path}"
    if entry.state == "failed":
        text += f"\n           exit code {entry.exit_code}: {entry.last_line}"
        text += f"\n           log: {job.log}"
    return text

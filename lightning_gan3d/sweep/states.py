"""The folder of a sweep, and the states of its runs, read from the runs themselves.

`ROOT/sweeps/NAME/` has `sweep.json`, `configs/`, `logs/` and `failures/`. The state of a run does
not depend on what started it, or on which machine.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.files import parse_json, write_json, write_text
from lightning_gan3d.runs import CONFIG, METRICS, Run, run_path
from lightning_gan3d.sweep.plan import (
    SWEEP_FILE,
    PlannedRun,
    SweepConfig,
    SweepEntry,
    kind_of,
    sweep_folder,
    write_record,
)
from lightning_gan3d.training.processes import lock_holder

State = Literal["planned", "running", "stopped", "failed", "done"]
STATES: tuple[State, ...] = ("done", "running", "stopped", "failed", "planned")
TAIL = 65536
"""Bytes at the end of `metrics.jsonl` that hold its last row."""


@dataclass(frozen=True)
class Failure:
    """How an attempt at a run failed."""

    exit_code: int
    """Of the process; negative: the signal that killed it."""
    reason: str
    """Last line of its log."""


@dataclass(frozen=True)
class RunState:
    """A run of a sweep and how far it is."""

    entry: SweepEntry
    state: State
    """`stopped`: started, and neither finished nor failed nor running."""
    kimg: float = 0.0
    """Thousands of images seen, by the last logged row."""
    img_s: float | None = None
    """Images per second, by the last logged row that has it."""
    reason: str = ""
    """Why it failed, or who trains it."""

    @property
    def time_left(self) -> str:
        """Training time that is left at the present speed, as in "1:02:03"; "" if not known."""
        if self.state != "running" or not self.img_s or self.entry.hours:
            return ""
        seconds = max(0.0, 1000 * (self.entry.kimg - self.kimg) / self.img_s)
        return str(timedelta(seconds=round(seconds)))

    @property
    def progress(self) -> float:
        """Share of the training, 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(1.0, self.kimg / self.entry.kimg) if self.entry.kimg else 0.0


class SweepFolder:
    """Paths and records of a sweep."""

    def __init__(self, path: Path) -> None:
        """`path`: `ROOT/sweeps/NAME`."""
        self.path = path

    @classmethod
    def of(cls, sweep: SweepConfig, root: Path) -> "SweepFolder":
        """Return the folder of a sweep."""
        return cls(sweep_folder(sweep, root))

    def config(self, entry: SweepEntry) -> Path:
        """Resolved configuration, from which the run starts."""
        return self.path / "configs" / f"{entry.id}.yaml"

    def log(self, entry: SweepEntry, suffix: str = "") -> Path:
        """Output of all attempts."""
        return self.path / "logs" / f"{entry.id}{suffix}.log"

    def _failure(self, entry: SweepEntry) -> Path:
        return self.path / "failures" / f"{entry.id}.json"

    def write(self, runs: Sequence[PlannedRun]) -> None:
        """Write record and configurations: later changes of YAML files do not reach the runs."""
        for name in ("configs", "logs"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        for run in runs:
            file, text = self.config(run), cfg.to_yaml(run.config)
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                write_text(file, text)
        write_record(self.path / SWEEP_FILE, runs)

    def entry(self, run_id: str) -> SweepEntry:
        """Return a run by its configuration, also one that the sweep's file no longer has."""
        file = self.path / "configs" / f"{run_id}.yaml"
        if not file.is_file():
            raise ConfigError(f"{self.path} has no run {run_id}: {file} is missing")
        config = load_experiment(file)
        entry = SweepEntry(
            preset=str(file),
            overrides=(),
            seed=config.seed,
            experiment=config.name,
            representation=kind_of(config),
            path=run_path(config, self.path.parent.parent),
            kimg=config.training.kimg,
            hours=config.training.hours,
            arm=config.label,
        )
        if entry.id != run_id:
            raise ConfigError(
                f"{file} is now {entry.id}: it was edited, or this is another version of the "
                "package; plan the sweep again"
            )
        return entry

    def has_ended(self, states: Sequence[RunState]) -> bool:
        """Whether all runs are done or have failed, and no local sweep adds or retries any."""
        return all(s.state in ("done", "failed") for s in states) and not lock_holder(self.path)

    def failed(self, entry: SweepEntry, failure: Failure) -> None:
        """Record a failure."""
        file = self._failure(entry)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(failure))

    def forget_failure(self, entry: SweepEntry) -> None:
        """Remove the failure of an earlier attempt."""
        self._failure(entry).unlink(missing_ok=True)

    def failure(self, entry: SweepEntry) -> Failure | None:
        """Return how the last attempt failed, if it did."""
        try:
            return cfg.build(Failure, parse_json(self._failure(entry).read_bytes(), dict))
        except FileNotFoundError:
            return None
        except ValueError as error:
            return Failure(1, f"{self._failure(entry)} cannot be read: {error}")


def is_finished(path: Path) -> bool:
    """True if a run directory holds a finished run."""
    return (path / CONFIG).is_file() and Run(path).finished


def read_state(entry: SweepEntry, folder: SweepFolder) -> RunState:
    """Read the state of a run from its directory, its lock and its last failure."""
    if not entry.path.is_dir():
        failure = folder.failure(entry)
        return RunState(entry, "failed" if failure else "planned", reason=_text(failure))
    kimg, img_s = _progress(entry.path / METRICS)
    if is_finished(entry.path):
        return RunState(entry, "done", kimg)
    if holder := lock_holder(entry.path):
        return RunState(entry, "running", kimg, img_s, holder)
    if failure := folder.failure(entry):
        return RunState(entry, "failed", kimg, reason=_text(failure))
    started = (entry.path / CONFIG).is_file()
    return RunState(entry, "stopped" if started else "planned", kimg)


def read_states(entries: Sequence[SweepEntry], folder: SweepFolder) -> list[RunState]:
    """Read the states of runs."""
    return [read_state(entry, folder) for entry in entries]


def pending(
    runs: Sequence[PlannedRun], folder: SweepFolder, retry: bool, queued: Collection[str] = ()
) -> list[PlannedRun]:
    """Write the folder; return the runs to start: those not done, running, queued or failed.

    `retry`: also failed ones; `queued`: ids of the runs that wait for their start.
    """
    folder.write(runs)
    startable = ("planned", "stopped", *(("failed",) if retry else ()))
    states = read_states(runs, folder)
    return [
        run
        for run, state in zip(runs, states, strict=True)
        if state.state in startable and run.id not in queued
    ]


def summary(states: Sequence[RunState]) -> str:
    """Count the states, as in "3 done, 1 failed"."""
    counts = Counter(s.state for s in states)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _text(failure: Failure | None) -> str:
    return "" if failure is None else f"exit code {failure.exit_code}: {failure.reason}"


def _progress(path: Path) -> tuple[float, float | None]:
    """Return kimg of the last complete row, and the last images per second."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0.0, None
    kimg, img_s = 0.0, None
    for line in lines:
        try:
            row = json.loads(line)
            kimg = float(row["kimg"])
            img_s = float(row.get("speed/img_s") or img_s or 0) or None
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the first line may be cut, the last unfinished, and others damaged
    return kimg, img_s

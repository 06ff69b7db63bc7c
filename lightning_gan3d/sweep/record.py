"""`sweep.json`: the runs of a sweep and their states, for reports and benchmarks."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import write_json

SWEEP_FILE = "sweep.json"
State = Literal["planned", "running", "done", "failed", "preempted"]


@dataclass(frozen=True)
class SweepEntry:
    """One run of a sweep."""

    preset: str
    """Preset or YAML file."""
    overrides: tuple[str, ...]
    """`key.path=value` overrides, including the seed."""
    seed: int
    """Seed of the run."""
    experiment: str
    """`name` of the resolved configuration."""
    representation: str
    """`kind` of its representation."""
    path: Path
    """Run directory; relative to the file's folder in `sweep.json`."""
    state: State = "planned"
    """State of the run."""
    exit_code: int | None = None
    """Exit code of the last attempt; None before it ends."""
    seconds: float = 0.0
    """Wall time of the last attempt."""
    last_line: str = ""
    """Last line of the log of a failed run."""

    @property
    def label(self) -> str:
        """Name in log lines."""
        return f"{self.experiment} seed {self.seed}"


def write_record(path: Path, entries: Sequence[SweepEntry]) -> None:
    """Write `sweep.json`, with run directories relative to its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    rows = [
        {**asdict(e), "path": Path(os.path.relpath(e.path.resolve(), folder)).as_posix()}
        for e in entries
    ]
    write_json(path, {"runs": rows})


def read_record(path: Path) -> list[SweepEntry]:
    """Read `sweep.json`."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["runs"]
        entries = [
            SweepEntry(**{**r, "path": path.parent / r["path"], "overrides": tuple(r["overrides"])})
            for r in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: not a sweep record ({type(error).__name__}: {error}); give run directories "
            "instead, or run the sweep again"
        ) from error
    for entry in entries:
        if entry.state not in get_args(State):
            raise ConfigError(
                f"{path}: state {entry.state!r}; use one of {', '.join(get_args(State))}"
            )
    return entries

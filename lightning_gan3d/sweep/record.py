"""`sweep.json`: what a sweep planned and how each run stands, for reports and benchmarks."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from lightning_gan3d.config import ConfigError

SWEEP_FILE = "sweep.json"
State = Literal["planned", "running", "done", "failed", "preempted"]


@dataclass(frozen=True)
class SweepEntry:
    """One run of a sweep."""

    preset: str
    """The preset or file that it trains."""
    overrides: tuple[str, ...]
    """`key.path=value` arguments, the seed among them."""
    seed: int
    """Its seed."""
    experiment: str
    """`name` of the resolved configuration."""
    representation: str
    """`kind` of its representation."""
    path: Path
    """Its run directory; relative to the folder of the file when written."""
    state: State = "planned"
    """How it stands."""
    exit_code: int | None = None
    """Exit code of the last attempt; None where there was none, or none has ended."""
    seconds: float = 0.0
    """Wall time of the last attempt."""
    last_line: str = ""
    """Last line of its log, where it failed."""

    @property
    def label(self) -> str:
        """How it is named in a line of text."""
        return f"{self.experiment} seed {self.seed}"


def write_record(path: Path, entries: Sequence[SweepEntry]) -> None:
    """Write `sweep.json`, whole or not at all; run directories are stored relative to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    rows = [
        {**asdict(e), "path": Path(os.path.relpath(e.path.resolve(), folder)).as_posix()}
        for e in entries
    ]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps({"runs": rows}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path) -> list[SweepEntry]:
    """Read what `write_record` wrote; run directories come back relative to the file's folder."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["runs"]
        entries = [
            SweepEntry(**{**r, "path": path.parent / r["path"], "overrides": tuple(r["overrides"])})
            for r in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: not the record of a sweep ({type(error).__name__}: {error}); name run "
            "directories instead, or run the sweep again"
        ) from error
    for entry in entries:
        if entry.state not in get_args(State):
            raise ConfigError(
                f"{path}: state {entry.state!r}; use one of {', '.join(get_args(State))}"
            )
    return entries


def run_dirs(path: Path) -> list[Path]:
    """Return the run directories that a `sweep.json` names and that exist."""
    return [e.path for e in read_record(path) if e.path.is_dir()]

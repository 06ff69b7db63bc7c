"""The runs of a sweep: read from its YAML file, and recorded in `sweep.json` with their states."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.files import write_json
from lightning_gan3d.presets import find_file, preset_names
from lightning_gan3d.ranges import Count
from lightning_gan3d.registry import name_of
from lightning_gan3d.runs import run_path

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
        for state in {r["state"] for r in rows} - {*get_args(State)}:
            raise ValueError(f"state {state!r}; use one of {', '.join(get_args(State))}")
        return [
            SweepEntry(**{**r, "path": path.parent / r["path"], "overrides": tuple(r["overrides"])})
            for r in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: not a sweep record ({type(error).__name__}: {error}); give run directories "
            "instead, or run the sweep again"
        ) from error


@dataclass(frozen=True)
class SweepRun:
    """One configuration of a sweep. In YAML, a string stands for its preset."""

    preset: str
    """A preset, or a YAML file relative to the sweep file."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` overrides, applied after those of the sweep."""


@dataclass(frozen=True)
class SweepConfig:
    """Configurations x seeds, and the number of parallel runs."""

    runs: tuple[SweepRun, ...]
    """The configurations."""
    name: str = ""
    """Folder of the record and the logs. Default: the file name."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each configuration; all runs of the first seed start first."""
    overrides: tuple[str, ...] = ()
    """`key.path=value` overrides of every run."""
    jobs: Count = 1
    """Parallel processes."""
    threads: Count | None = None
    """CPU threads per process. None: as in each configuration."""

    def __post_init__(self) -> None:
        """Check runs, name, seeds and conflicting overrides."""
        if not self.runs:
            raise ConfigError("runs=[]: name at least one preset", field="runs")
        if set(self.name) & set('/\\\n:*?"<>|') or self.name.startswith("."):
            raise ConfigError(
                f"name={self.name!r}: use a plain folder name, e.g. demo", field="name"
            )
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"seeds={list(self.seeds)}: use different whole numbers from 0, e.g. [0, 1]",
                field="seeds",
            )
        reserved = {"seed": "seeds"} | ({"training.threads": "threads"} if self.threads else {})
        for item in (*self.overrides, *(o for run in self.runs for o in run.overrides)):
            field = reserved.get(item.partition("=")[0])
            if field:
                raise ConfigError(f"override `{item}`: use `{field}` of the sweep", field=field)


def find_sweep(file: str | Path) -> Path:
    """Return the path of a sweep file, or of a preset such as `demo`."""
    if Path(file).suffix not in (".yaml", ".yml") and f"sweeps/{file}" in preset_names():
        return find_file(f"sweeps/{file}")
    return find_file(file)


def load_sweep(
    file: str | Path, seeds: Sequence[int] = (), overrides: Sequence[str] = ()
) -> tuple[SweepConfig, Path]:
    """Read a sweep file; return it with its path.

    `seeds` replace those of the file; `overrides` are applied after its own.
    """
    path = find_sweep(file)
    origins = cfg.Origins()
    tree = cfg.resolve(cfg.load_tree(path, origins))
    runs: Any = tree.get("runs")
    if isinstance(runs, list):
        tree["runs"] = [{"preset": run} if isinstance(run, str) else run for run in runs]
    sweep = cfg.build(SweepConfig, tree, origins)
    return dataclasses.replace(
        sweep,
        name=sweep.name or path.stem,
        seeds=tuple(seeds) or sweep.seeds,
        overrides=(*sweep.overrides, *overrides),
    ), path


def expand(sweep: SweepConfig, file: Path, root: Path) -> list[SweepEntry]:
    """List all runs, seed by seed in the order of `runs`; validates each configuration."""
    entries: list[SweepEntry] = []
    for seed in sweep.seeds:
        for number, run in enumerate(sweep.runs):
            name = f"{file}: runs.{number} ({run.preset})"
            try:
                entry = _entry(sweep, run, seed, file, root)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
            for other in entries:
                if other.path == entry.path:
                    raise ConfigError(
                        f"{name} with seed {seed} is the same experiment as {other.preset}; "
                        "change the overrides of one of them"
                    )
            entries.append(entry)
    return entries


def _entry(sweep: SweepConfig, run: SweepRun, seed: int, file: Path, root: Path) -> SweepEntry:
    preset = run.preset
    if Path(preset).suffix in (".yaml", ".yml"):
        preset = str(file.parent / preset)
    overrides: Sequence[str] = (*sweep.overrides, *run.overrides, f"seed={seed}")
    if sweep.threads is not None:
        overrides = (*overrides, f"training.threads={sweep.threads}")
    config = load_experiment(preset, overrides)
    return SweepEntry(
        preset=preset,
        overrides=tuple(overrides),
        seed=seed,
        experiment=config.name,
        representation=name_of("representations")(type(config.generator.representation)),
        path=run_path(config, root),
    )

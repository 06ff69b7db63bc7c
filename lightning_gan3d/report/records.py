"""Runs as a report sees them: read without their plug-ins; a gap says why it is one."""

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightning_gan3d.config import ConfigError, digest
from lightning_gan3d.metric import Metric, missing, read_metrics
from lightning_gan3d.metric_table import BENCHED, family
from lightning_gan3d.runs import CONDITIONS, CONFIG, MANIFEST, METRICS, Run, walk
from lightning_gan3d.sweep.record import SWEEP_FILE, SweepEntry, read_record

UNKNOWN = "unknown"


@dataclass(frozen=True)
class RunRecord:
    """One run of a report, finished or not."""

    path: Path
    """Its directory."""
    name: str
    """The end of that path, which tells runs apart: experiment/hash-seed."""
    experiment: str = UNKNOWN
    """`name` of the configuration."""
    representation: str = UNKNOWN
    """`kind` of its representation."""
    seed: int | None = None
    """Its seed; None where the configuration cannot be read."""
    variant: str = ""
    """Equal for runs that differ only in seed, paths or machine."""
    gap: str = ""
    """Why the run is no part of the comparison; empty for a finished run."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration, as plain values."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: commit, versions, device, data, command."""
    rows: tuple[dict[str, Any], ...] = ()
    """The rows of `metrics.jsonl`."""
    measures: tuple[Metric, ...] = ()
    """What was measured."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What the numbers of its evaluation share: resolution, precision, hash of the weights."""
    problems: tuple[str, ...] = ()
    """Files that could not be read, or not to their end."""

    def measure(self, name: str) -> Metric:
        """Return a measure, or a missing one with the reason. A gap has no values."""
        found = next((m for m in self.measures if m.metric == name), None)
        if self.gap:
            return missing(name, self.gap, found.unit if found else "")
        if found is not None:
            return found
        above = next((m for m in self.measures if name.startswith(f"{m.metric}.")), None)
        if above is not None and above.value is None:  # missing as a whole, as `growth.grid`
            return missing(name, above.note)
        source = "bench.json" if family(name) in BENCHED else "evaluation.json"
        broken = next((p for p in self.problems if p.startswith(source)), None)
        how = f"run `gan3d {'bench' if source == 'bench.json' else 'evaluate'}` on the run"
        there = (self.path / source).exists()
        return missing(
            name, broken or (f"{source} does not hold it" if there else f"no {source}: {how}")
        )

    @property
    def last(self) -> dict[str, Any]:
        """The last row that says how far the training came."""
        return next((row for row in reversed(self.rows) if _number(row, "kimg")), {})

    @property
    def data_path(self) -> str:
        """The data set that it was trained on; empty where the configuration does not say."""
        return str(_mapping(self.config.get("data")).get("path", ""))

    def curve(self, key: str, axis: str) -> tuple[list[float], list[float]]:
        """Return what rows hold of `axis` and `key`, as two lists, in the order of the axis."""
        pairs = sorted((r[axis], r[key]) for r in self.rows if _number(r, axis) and _number(r, key))
        return [x for x, _ in pairs], [y for _, y in pairs]


def _number(row: dict[str, Any], key: str) -> bool:
    value = row.get(key)
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read the runs under some directories; what a sweep planned and never began is a gap."""
    found: dict[Path, RunRecord] = {}
    planned: dict[Path, SweepEntry] = {}
    for given in paths:
        if not given.exists():
            raise ConfigError(
                f"{given}: no such directory; name a run, a sweep or a folder of runs"
            )
        folder = given.parent if given.name == SWEEP_FILE else given
        runs, sweeps = [], []
        for path, files in walk(folder):
            runs += [path] if CONFIG in files else []
            sweeps += [path / SWEEP_FILE] if SWEEP_FILE in files else []
        if given.name == SWEEP_FILE:
            runs, sweeps = [], [given]
        for path in runs:
            found.setdefault(path.resolve(), read_run(path))
        for sweep in sweeps:
            for entry in read_record(sweep):
                planned.setdefault(entry.path.resolve(), entry)
    for path, entry in planned.items():
        if path not in found:
            found[path] = read_run(entry.path) if (entry.path / CONFIG).is_file() else _never(entry)
        elif found[path].gap and entry.state == "failed":
            gap = f"{found[path].gap}; the sweep says: {entry.last_line or 'failed'}"
            found[path] = replace(found[path], gap=gap)
    if not found:
        where = ", ".join(str(p) for p in paths) or "nothing"
        raise ConfigError(
            f"no run found in {where}: a run directory holds {CONFIG}, a sweep {SWEEP_FILE}"
        )
    return sorted(found.values(), key=lambda r: (r.experiment, r.variant, r.seed or 0, r.name))


def _never(entry: SweepEntry) -> RunRecord:
    why = f"failed before it began: {entry.last_line}" if entry.state == "failed" else "not begun"
    return RunRecord(
        entry.path,
        _name(entry.path),
        entry.experiment,
        entry.representation,
        entry.seed,
        _variant(entry.path, {}),
        gap=why,
    )


def read_run(path: Path) -> RunRecord:
    """Read one run directory. What cannot be read becomes a gap with its reason, no exception.

    The configuration is read as plain values, so that a run whose plug-in is not installed here, or
    which another version wrote, can be reported.
    """
    problems: list[str] = []
    run = Run(path)
    config = _mapping(_try(CONFIG, problems, lambda: yaml.safe_load((path / CONFIG).read_text())))
    manifest = _mapping(_try(MANIFEST, problems, run.manifest))
    rows = _try(METRICS, problems, run.metrics) or []
    measures: list[Metric] = []
    for file in ("evaluation.json", "bench.json"):
        if (path / file).exists():
            found = _try(file, problems, functools.partial(read_metrics, path / file))
            measures += found or []
    met = {}
    if (path / CONDITIONS).exists():
        met = _mapping(
            _try(CONDITIONS, problems, lambda: json.loads((path / CONDITIONS).read_text()))
        )
    kind = _mapping(_mapping(config.get("generator")).get("representation")).get("kind", UNKNOWN)
    seed = config.get("seed")
    record = RunRecord(
        path=path,
        name=_name(path),
        experiment=str(config.get("name", UNKNOWN)),
        representation=str(kind),
        seed=seed if isinstance(seed, int) else None,
        variant=_variant(path, config),
        config=config,
        manifest=manifest,
        rows=tuple(row for row in rows if isinstance(row, dict)),
        conditions=met,
        problems=tuple(problems),
    )
    measures += _from_training(record)
    return replace(record, gap=_gap(record), measures=tuple(measures))


T = TypeVar("T")


def _try(file: str, problems: list[str], read: Callable[[], T]) -> T | None:
    """Read a file; a fault is noted, for a report of many runs must not fall with one of them."""
    try:
        return read()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        problems.append(f"{file} cannot be read: {' '.join(str(error).split())[:300]}")
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(path: Path) -> str:
    return "/".join(path.resolve().parts[-2:])


def _variant(path: Path, config: dict[str, Any]) -> str:
    found = re.fullmatch(r"([0-9a-f]{8})-s\d+", path.name)
    return found[1] if found else digest({k: v for k, v in config.items() if k != "seed"})


def _gap(record: RunRecord) -> str:
    """Say why a run is not finished, or nothing."""
    if not record.config:
        return next(iter(record.problems), f"{CONFIG} holds no configuration")
    if record.manifest.get("finished"):
        return ""
    goal = {"kimg": _mapping(record.config.get("training")).get("kimg")}
    at = f"stopped at {record.last['kimg']:g}" if record.last else "no step was logged"
    return f"unfinished: {at}" + (f" of {goal['kimg']:g} kimg" if _number(goal, "kimg") else "")


def _from_training(record: RunRecord) -> list[Metric]:
    note = "from the last row of metrics.jsonl"
    last = record.last
    out = (
        [Metric.of_key("training.kimg", float(last["kimg"]), "kimg", 1, note=note)] if last else []
    )
    if _number(last, "seconds"):
        out.append(
            Metric.of_key(
                "training.seconds", last["seconds"], "s", 1, note=f"training alone, {note}"
            )
        )
    return out

"""Runs as a report sees them, read without their plug-ins. An unusable run has a reason (`gap`)."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightning_gan3d.config import ConfigError, digest, parse_yaml
from lightning_gan3d.files import parse_json
from lightning_gan3d.metric import Metric, MetricId, missing, read_metrics
from lightning_gan3d.metric_table import BENCHED, block, describe
from lightning_gan3d.runs import (
    CONDITIONS,
    CONFIG,
    EVALUATION,
    MANIFEST,
    METRICS,
    read_manifest,
    read_rows,
    walk,
)
from lightning_gan3d.sweep.plan import SWEEP_FILE, SweepEntry, read_record
from lightning_gan3d.sweep.states import Failure, SweepFolder

UNKNOWN = "unknown"
LOGGED = "eval/swd"
"""Key of `metrics.jsonl` whose curve is drawn."""
T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """One run of a report, finished or not."""

    path: Path
    """Run directory."""
    name: str
    """End of that path: experiment/hash-seed."""
    experiment: str = UNKNOWN
    """`name` of the configuration."""
    representation: str = UNKNOWN
    """`kind` of the representation."""
    seed: int | None = None
    """None if the configuration cannot be read."""
    variant: str = ""
    """Equal for runs that differ only in seed, paths or machine."""
    gap: str = ""
    """Why the run is excluded from the comparison; empty for a finished run."""
    config: dict[str, Any] = field(default_factory=dict)
    """Resolved configuration, as plain values."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """Provenance: commit, versions, device, data, command."""
    rows: tuple[dict[str, Any], ...] = ()
    """Rows of `metrics.jsonl` with `LOGGED`, and the last one."""
    metrics: tuple[Metric, ...] = ()
    """Metrics of the evaluation, of the benchmark and of training."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Conditions of the evaluation."""
    problems: tuple[str, ...] = ()
    """Files that could not be read, or only in part."""

    @cached_property
    def by_id(self) -> dict[MetricId, Metric]:
        """The stored metrics, also those of an unfinished run."""
        return {m.id: m for m in reversed(self.metrics)}

    def metric(self, metric_id: MetricId) -> Metric:
        """Return a metric, or a missing one with the reason. An excluded run has no values."""
        stored = self.by_id.get(metric_id)
        if stored is not None and not self.gap:
            return stored
        why = self.gap or self._why_missing(metric_id)
        unit = stored.unit if stored else ""
        return missing(why=why, unit=unit or describe(metric_id).unit, **metric_id._asdict())

    def _why_missing(self, metric_id: MetricId) -> str:
        for m in self.metrics:  # `growth.grid` may be missing as a whole
            if m.value is None and metric_id.name.startswith(f"{m.name}."):
                return m.note
        benched = block(metric_id) in BENCHED
        source = "bench.json" if benched else EVALUATION
        unreadable = next((p for p in self.problems if p.startswith(source)), None)
        if unreadable:
            return unreadable
        if (self.path / source).exists():
            return f"not in {source}"
        return f"no {source}: run `gan3d {'bench' if benched else 'evaluate'}` on the run"

    @property
    def last(self) -> dict[str, Any]:
        """The last row that states the progress of the training."""
        return next((row for row in reversed(self.rows) if _is_number(row, "kimg")), {})

    @property
    def data_path(self) -> str:
        """Path of the training data; empty if the configuration does not state it."""
        return str(_mapping(self.config.get("data")).get("path", ""))

    @property
    def renderer(self) -> str:
        """`kind` of the renderer; empty if the configuration does not state it."""
        generator = _mapping(self.config.get("generator"))
        return str(_mapping(generator.get("renderer")).get("kind", ""))

    def curve(self, key: str, axis: str) -> tuple[list[float], list[float]]:
        """Return the logged values of `axis` and `key`, in the order of the axis."""
        rows = [row for row in self.rows if _is_number(row, axis) and _is_number(row, key)]
        pairs = sorted((float(row[axis]), float(row[key])) for row in rows)
        return [x for x, _ in pairs], [y for _, y in pairs]


def _is_number(row: dict[str, Any], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read the runs in directories and sweeps; a planned run that was never started is a gap."""
    records: dict[Path, RunRecord] = {}
    planned: dict[Path, tuple[SweepEntry, SweepFolder]] = {}
    for path in paths:
        if not path.exists():
            hint = f"; did you mean {'runs' / path}?" if ("runs" / path).exists() else ""
            raise ConfigError(
                f"{path}: no such directory; name a run, a sweep or a folder of runs{hint}"
            )
        only_sweep = path.name == SWEEP_FILE
        for parent, files in [(path.parent, [path.name])] if only_sweep else walk(path):
            if CONFIG in files:
                records[parent.resolve()] = read_run(parent)
            if SWEEP_FILE in files:
                folder = SweepFolder(parent)
                entries = read_record(parent / SWEEP_FILE)
                planned.update({e.path.resolve(): (e, folder) for e in entries})
    for path, (entry, folder) in planned.items():
        if path not in records:
            is_run = (entry.path / CONFIG).is_file()
            failure = folder.failure(entry)
            records[path] = read_run(entry.path) if is_run else _not_started(entry, failure)
        elif records[path].gap and (failure := folder.failure(entry)):
            gap = f"{records[path].gap}; sweep: {failure.reason}"
            records[path] = replace(records[path], gap=gap)
    if not records:
        folders = ", ".join(str(p) for p in paths) or "nothing"
        raise ConfigError(
            f"no run in {folders}: a run directory holds {CONFIG}, a sweep {SWEEP_FILE}"
        )
    return sorted(records.values(), key=lambda r: (r.experiment, r.variant, r.seed or 0, r.name))


def _not_started(entry: SweepEntry, failure: Failure | None) -> RunRecord:
    return RunRecord(
        entry.path,
        _name(entry.path),
        entry.experiment,
        entry.representation,
        entry.seed,
        _variant(entry.path, {}),
        gap=f"failed before the first step: {failure.reason}" if failure else "not started",
        config={"label": entry.arm},
    )


def read_run(path: Path) -> RunRecord:
    """Read a run directory. An unreadable file becomes a problem or a gap, not an exception.

    The configuration is read as plain values, so that runs of plug-ins that are not installed and
    of other versions can be reported.
    """
    problems: list[str] = []
    read = functools.partial(_read, path, problems)
    config = _mapping(read(CONFIG, lambda p: _config(p.read_text(encoding="utf-8"))))
    metrics = read(EVALUATION, read_metrics) or []
    metrics += read("bench.json", read_metrics) or []
    rows = read(METRICS, lambda p: list(read_rows(p, LOGGED))) or []
    seed = config.get("seed")
    generator = _mapping(config.get("generator"))
    record = RunRecord(
        path,
        _name(path),
        str(config.get("name", UNKNOWN)),
        str(_mapping(generator.get("representation")).get("kind", UNKNOWN)),
        seed if isinstance(seed, int) else None,
        _variant(path, config),
        config=config,
        manifest=_mapping(read(MANIFEST, lambda p: read_manifest(p.parent))),
        rows=tuple(row for row in rows if isinstance(row, dict)),
        conditions=_mapping(read(CONDITIONS, lambda p: parse_json(p.read_bytes(), dict))),
        problems=tuple(problems),
    )
    metrics += _of_training(record.last)
    return replace(record, gap=_gap(record), metrics=tuple(metrics))


def _config(text: str) -> Any:
    """Parse a configuration; those of an arm differ in the seed only, and are parsed once."""
    seed = _SEED.search(text)
    if seed is None:
        return parse_yaml(text)
    tree = _parsed(_SEED.sub("seed: 0", text, count=1))
    return {**tree, "seed": int(seed[1])} if isinstance(tree, dict) else tree


_SEED = re.compile(r"^seed: (\d{1,19})$", re.MULTILINE)
_parsed = functools.lru_cache(maxsize=128)(parse_yaml)


def _read(path: Path, problems: list[str], name: str, read: Callable[[Path], T]) -> T | None:
    """Read a file of a run; a missing one is None, an unreadable one is noted as a problem."""
    try:
        return read(path / name) if (path / name).exists() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        problems.append(f"{name} cannot be read: {' '.join(str(error).split())[:300]}")
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(path: Path) -> str:
    return "/".join(path.resolve().parts[-2:])


def _variant(path: Path, config: dict[str, Any]) -> str:
    match = re.fullmatch(r"([0-9a-f]{8})-s\d+", path.name)
    return match[1] if match else digest({k: v for k, v in config.items() if k != "seed"})


def _gap(record: RunRecord) -> str:
    """Return why a run is not finished; empty if it is."""
    if not record.config:
        return next(iter(record.problems), f"{CONFIG} holds no configuration")
    if record.manifest.get("finished"):
        return ""
    goal = {"kimg": _mapping(record.config.get("training")).get("kimg")}
    progress = f"stopped at {record.last['kimg']:g}" if record.last else "no step was logged"
    total = f" of {goal['kimg']:g} kimg" if _is_number(goal, "kimg") else ""
    return f"unfinished: {progress}{total}"


def _of_training(last: dict[str, Any]) -> list[Metric]:
    note = "last row of metrics.jsonl"
    metrics = []
    if last:
        metrics.append(Metric("training.kimg", float(last["kimg"]), "kimg", 1, note=note))
    if _is_number(last, "seconds"):
        note = f"training only; {note}"
        metrics.append(Metric("training.seconds", float(last["seconds"]), "s", 1, note=note))
    return metrics

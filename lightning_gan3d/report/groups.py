"""Runs that differ only in seed make a group; a cell holds what a group says of one metric."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lightning_gan3d.metric import Metric
from lightning_gan3d.metric_table import MetricInfo, family, metric, order
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.stats import LEAST

CANONICAL = ("triplane", "voxel", "nerf_mlp")
BASELINES = ("image2d",)
"""Representations without a third dimension, which stand last."""
EXACT = frozenset({"cost"})
"""Families of what is counted, not measured: there one seed says as much as three."""


@dataclass(frozen=True)
class Cell:
    """What a group says of one metric. Without a value of each run by one protocol, no mean."""

    metric: MetricInfo
    measures: tuple[tuple[RunRecord, Metric], ...]
    """Each run, and its value or the reason why there is none."""

    @property
    def values(self) -> list[float]:
        """The values that there are, in the order of the runs."""
        return [m.value for _, m in self.measures if m.value is not None]

    @property
    def complete(self) -> bool:
        """Whether every run has a value, and all were measured alike."""
        return len(self.values) == len(self.measures) and len(self.protocols) <= 1

    @property
    def protocols(self) -> list[str]:
        """The keys of the protocols by which the values were taken, as far as recorded."""
        return sorted({m.protocol for _, m in self.measures if m.value is not None} - {""})

    @property
    def few(self) -> bool:
        """Whether there are too few seeds to speak of more than these runs."""
        return len(self.measures) < LEAST and family(self.metric.name) not in EXACT

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None where a run has no value."""
        return statistics.fmean(self.values) if self.complete else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed, or where a run has no value."""
        return statistics.stdev(self.values) if self.complete and len(self.values) > 1 else None

    @property
    def why(self) -> str:
        """Why values are missing, or have no mean, seed by seed; one reason once."""
        if len(self.protocols) > 1:
            seeds = (f"{seed_name(run)}: {m.protocol}" for run, m in self.measures if m.protocol)
            return f"measured differently from seed to seed (protocol of {', '.join(seeds)})"
        reasons: dict[str, list[str]] = {}
        for run, m in self.measures:
            if m.value is None:
                reasons.setdefault(m.note, []).append(seed_name(run))
        if len(self.measures) == 1 or (len(reasons) == 1 and not self.values):
            return "; ".join(reasons)
        return "; ".join(f"{', '.join(seeds)}: {why}" for why, seeds in reasons.items())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the values lie, each widened by two standard errors where its spread is known."""
        if not self.complete:
            return None
        ends = []
        for _, m in self.measures:
            error = 2 * m.spread / max(m.n, 1) ** 0.5 if m.spread is not None else 0.0
            ends += [m.value - error, m.value + error]  # type: ignore[operator]  # complete
        return min(ends), max(ends)

    @property
    def counts(self) -> str:
        """The n of the values, once where all agree."""
        counts = sorted({m.n for _, m in self.measures if m.value is not None})
        return f"n = {', '.join(f'{n:,}' for n in counts)}" if counts else ""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ only in seed, paths or machine."""

    label: str
    """Its name everywhere: the representation, told apart by experiment and hash where needed."""
    representation: str
    """Which colour it has."""
    runs: tuple[RunRecord, ...]
    """Its runs by seed, gaps among them."""

    def cell(self, name: str) -> Cell:
        """Return what the runs say of a metric."""
        measures = tuple((run, run.measure(name)) for run in self.runs)
        unit = next((m.unit for _, m in measures if m.unit), "")
        return Cell(metric(name, unit), measures)

    @property
    def finished(self) -> tuple[RunRecord, ...]:
        """The runs that are no gaps."""
        return tuple(run for run in self.runs if not run.gap)

    @property
    def is_images(self) -> bool:
        """Whether it is images that somebody stored, of which nothing else is known."""
        return any(run.config.get("images") is True for run in self.runs)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a 2D baseline."""
        return self.representation in BASELINES


@dataclass(frozen=True)
class Comparison:
    """All groups of a report."""

    groups: tuple[Group, ...]

    @property
    def runs(self) -> list[RunRecord]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics that any run has, or says it lacks.

        `growth.grid`, missing as a whole, is left out where another run has parts of it.
        """
        names = {m.metric for run in self.runs for m in run.measures}
        parents = {name[:i] for name in names for i, sign in enumerate(name) if sign == "."}
        return sorted(names - parents, key=order)

    def cells(self, name: str) -> dict[str, Cell]:
        """Return the cell of each group, by label."""
        return {group.label: group.cell(name) for group in self.groups}

    def unit(self, name: str) -> str:
        """Return the unit in which a metric was stored; gaps have none."""
        found = (m.unit for run in self.runs for m in run.measures if m.metric == name and m.unit)
        return next(found, "")


def unlike(cells: Mapping[str, Cell]) -> str:
    """Say that some groups were measured by other protocols than others; empty where none was."""
    by_key: dict[str, list[str]] = {}
    for label, cell in cells.items():
        for key in cell.protocols:
            by_key.setdefault(key, []).append(label)
    if len(by_key) < 2:
        return ""
    each = "; ".join(f"{', '.join(labels)}: {key}" for key, labels in sorted(by_key.items()))
    return f"measured differently, so not compared (protocol of {each})"


def seed_name(run: RunRecord) -> str:
    """Name a run within its group."""
    return f"seed {run.seed}" if run.seed is not None else run.name


def compare(runs: Sequence[RunRecord]) -> Comparison:
    """Group runs by configuration; representations in a fixed order, baselines last."""
    by_key: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in runs:
        by_key.setdefault((run.representation, run.experiment, run.variant), []).append(run)
    groups = []
    for key in sorted(by_key, key=lambda k: (representation_order(k[0]), k[1:])):
        kind, experiment, variant = key
        same_kind = [k for k in by_key if k[0] == kind]
        label = kind
        if len(same_kind) > 1:
            label = f"{kind} ({experiment})"
            if sum(k[1] == experiment for k in same_kind) > 1:
                label = f"{kind} ({experiment} {variant})"
        members = sorted(by_key[key], key=lambda r: (r.seed is None, r.seed or 0, r.name))
        alone, apart = _told_apart(members)
        groups += [Group(label, kind, tuple(alone))] if alone else []
        groups += [Group(f"{label}, {words}", kind, (run,)) for words, run in apart]
    return Comparison(tuple(groups))


def _told_apart(
    members: Sequence[RunRecord],
) -> tuple[list[RunRecord], list[tuple[str, RunRecord]]]:
    """Keep one record a seed; give others of that seed words of their own, by their weights.

    Two checkpoints of one run, evaluated into folders, share its configuration and seed: they are
    no two seeds. The run itself keeps its place, where one of them is it.
    """
    by_seed: dict[int | None, list[RunRecord]] = {}
    for run in members:
        by_seed.setdefault(run.seed, []).append(run)
    alone: list[RunRecord] = []
    apart: list[RunRecord] = []
    for seed, runs in by_seed.items():
        own = [run for run in runs if "evaluated" not in run.manifest]
        if len(runs) == 1 or (seed is None and all(run.gap for run in runs)):
            alone += runs
        else:
            alone += own if len(own) == 1 else []
            apart += [run for run in runs if len(own) != 1 or run not in own]
    digests = [str(run.conditions.get("weights_sha256", ""))[:8] for run in apart]
    words = [
        f"weights {d}" if d and digests.count(d) == 1 else run.name
        for d, run in zip(digests, apart, strict=True)
    ]
    return alone, list(zip(words, apart, strict=True))


def representation_order(kind: str) -> tuple[int, str]:
    """Sort key of representations: the project's own, then others by name, then baselines."""
    if kind in CANONICAL:
        return CANONICAL.index(kind), ""
    return (len(CANONICAL) + 1 if kind in BASELINES else len(CANONICAL)), kind

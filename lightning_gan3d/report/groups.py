"""Groups of runs that differ only in seed, and what a group has of one metric (a cell)."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_gan3d.arms import Arm, arm_labels, factors, natural_key
from lightning_gan3d.gates import faults
from lightning_gan3d.metric import Metric, MetricId
from lightning_gan3d.metric_table import MetricInfo, describe, order
from lightning_gan3d.report.records import RunRecord

CANONICAL = ("triplane", "voxel", "nerf_mlp")
BASELINES = ("image2d",)
"""Representations without 3D, listed last."""
EXACT = frozenset({"cost", "memory"})
"""Blocks of metrics that do not depend on the seed: one is as good as three."""


@dataclass(frozen=True)
class Cell:
    """One metric of one group. It has a mean only if each run has a value by the same protocol."""

    id: MetricId
    info: MetricInfo
    metrics: tuple[tuple[RunRecord, Metric], ...]
    """Each run with its value, or the reason why it is missing."""

    @property
    def values(self) -> list[float]:
        """The values, in the order of the runs; missing ones are left out."""
        return [m.value for _, m in self.metrics if m.value is not None]

    @property
    def complete(self) -> bool:
        """Whether every run has a value, all by one protocol."""
        return len(self.values) == len(self.metrics) and len(self.protocols) <= 1

    @property
    def protocols(self) -> list[str]:
        """Distinct protocol keys of the values, if recorded."""
        return sorted({m.protocol for _, m in self.metrics if m.value is not None} - {""})

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None if the cell is not complete."""
        return statistics.fmean(self.values) if self.complete else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed, or if the cell is not complete."""
        return statistics.stdev(self.values) if self.complete and len(self.values) > 1 else None

    @property
    def why(self) -> str:
        """Why values, or their mean, are missing, by seed; equal reasons once."""
        if len(self.protocols) > 1:
            seeds = (f"{seed_name(run)}: {m.protocol}" for run, m in self.metrics if m.protocol)
            return f"protocols differ between seeds ({', '.join(seeds)})"
        reasons: dict[str, list[str]] = {}
        for run, m in self.metrics:
            if m.value is None:
                reasons.setdefault(m.note, []).append(seed_name(run))
        if len(self.metrics) == 1 or (len(reasons) == 1 and not self.values):
            return "; ".join(reasons)
        return "; ".join(f"{', '.join(seeds)}: {why}" for why, seeds in reasons.items())

    @property
    def counts(self) -> str:
        """The n of the values; equal ones once."""
        counts = sorted({m.n for _, m in self.metrics if m.value is not None})
        return f"n = {', '.join(f'{n:,}' for n in counts)}" if counts else ""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ only in seed, paths or machine."""

    label: str
    """The user's label, the representation, or the settings that differ."""
    representation: str
    """Selects the colour."""
    runs: tuple[RunRecord, ...]
    """By seed, gaps included."""

    def cell(self, metric_id: MetricId) -> Cell:
        """Return the values of a metric."""
        metrics = tuple((run, run.metric(metric_id)) for run in self.runs)
        unit = next((m.unit for _, m in metrics if m.unit), "")
        return Cell(metric_id, describe(metric_id, unit), metrics)

    @property
    def finished(self) -> tuple[RunRecord, ...]:
        """The runs without a gap."""
        return tuple(run for run in self.runs if not run.gap)

    @cached_property
    def why_unranked(self) -> str:
        """The faults of the runs with the values that show them; empty if there are none.

        One faulty seed is enough.
        """
        of_runs: dict[str, str] = {}
        for run in self.finished:
            of_runs = faults(run.metrics) | of_runs
        return " and ".join(of_runs.values())

    @property
    def is_images(self) -> bool:
        """Whether it is a folder of images, of an unknown generator."""
        return any(run.config.get("images") is True for run in self.runs)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a 2D baseline."""
        return self.representation in BASELINES


@dataclass(frozen=True)
class Comparison:
    """All groups of a report."""

    groups: tuple[Group, ...]

    @cached_property
    def runs(self) -> list[RunRecord]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def metrics(self) -> list[MetricId]:
        """Metrics that a run has, or states as missing, in the order of the table.

        `growth.grid`, missing as a whole, is left out if another run has parts of it.
        """
        ids = {m.id for run in self.runs for m in run.metrics}
        names = {m.name for m in ids}
        parents = {n[:i] for n in names for i, character in enumerate(n) if character == "."}
        return sorted((m for m in ids if m.name not in parents), key=order)

    def name_of(self, run: RunRecord) -> str:
        """Name a run by its group and seed."""
        label = next(group.label for group in self.groups if run in group.runs)
        return label if run.seed is None else f"{label} {seed_name(run)}"

    def cells(self, metric_id: MetricId) -> dict[str, Cell]:
        """Return the cell of each group, by label."""
        return {group.label: group.cell(metric_id) for group in self.groups}

    def info(self, metric_id: MetricId) -> MetricInfo:
        """Return how a metric is shown, in its stored unit."""
        units = (m.unit for run in self.runs if (m := run.by_id.get(metric_id)) and m.unit)
        return describe(metric_id, next(units, ""))


def protocol_mismatch(cells: Mapping[str, Cell]) -> str:
    """Return which groups were measured by different protocols; empty if none was."""
    by_key: dict[str, list[str]] = {}
    runs: dict[str, RunRecord] = {}
    for label, cell in cells.items():
        for key in cell.protocols:
            by_key.setdefault(key, []).append(label)
            runs[key] = next(run for run, m in cell.metrics if m.protocol == key)
    if len(by_key) < 2:
        return ""
    settings = factors([_of_protocol(run) for run in runs.values()], ignored=())
    named = {
        key: ", ".join(f"{k} {v}" for k, v in values.items()) or key
        for key, values in zip(runs, settings, strict=True)
    }
    each = "; ".join(f"{', '.join(labels)}: {named[key]}" for key, labels in sorted(by_key.items()))
    return f"not compared: protocols differ ({each})"


def _of_protocol(run: RunRecord) -> dict[str, Any]:
    """Conditions of an evaluation that may explain why its protocols differ from others."""
    others = ("weights_sha256", "commit", "dirty", "versions", "images_fingerprint")
    return {k: v for k, v in run.conditions.items() if k not in others}


def seed_name(run: RunRecord) -> str:
    """Name a run within its group."""
    return f"seed {run.seed}" if run.seed is not None else run.name


def compare(runs: Sequence[RunRecord]) -> Comparison:
    """Group runs by configuration; representations in a fixed order, baselines last."""
    by_key: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in runs:
        by_key.setdefault((run.representation, run.experiment, run.variant), []).append(run)
    labels = dict(zip(by_key, _labels(list(by_key.values())), strict=True))
    groups = []
    for key in sorted(by_key, key=lambda k: (representation_order(k[0]), natural_key(labels[k]))):
        kind, label = key[0], labels[key]
        members = sorted(by_key[key], key=lambda r: (r.seed is None, r.seed or 0, r.name))
        seeds, duplicates = _split_duplicates(members)
        groups += [Group(label, kind, tuple(seeds))] if seeds else []
        groups += [Group(f"{label}, {name}", kind, (run,)) for name, run in duplicates]
    return Comparison(tuple(groups))


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Name groups of runs; the hash is used only where nothing else distinguishes two."""
    arms = []
    for runs in groups:
        run = max(runs, key=lambda r: bool(r.config.get("data")))  # else it did not start
        label = next((r.config["label"] for r in runs if r.config.get("label")), "")
        config = run.config if run.config.get("data") else {}
        arms.append(Arm(run.representation, run.experiment, str(label), config))
    labels = arm_labels(arms)
    return [
        label if labels.count(label) == 1 else f"{label} [{runs[0].variant}]"
        for label, runs in zip(labels, groups, strict=True)
    ]


def _split_duplicates(
    members: Sequence[RunRecord],
) -> tuple[list[RunRecord], list[tuple[str, RunRecord]]]:
    """Keep one run per seed; name duplicates by the digest of their weights, or by their folder.

    Two checkpoints of one run, evaluated into folders, share its configuration and seed, so they
    are not two seeds, and neither is a reproduction. The run itself keeps its place.
    """
    by_seed: dict[int | None, list[RunRecord]] = {}
    for run in members:
        by_seed.setdefault(run.seed, []).append(run)
    seeds: list[RunRecord] = []
    duplicates: list[RunRecord] = []
    for seed, runs in by_seed.items():
        originals = [run for run in runs if not {"evaluated", "reproduces"} & run.manifest.keys()]
        if len(runs) == 1 or (seed is None and all(run.gap for run in runs)):
            seeds += runs
        elif len(originals) == 1:
            seeds += originals
            duplicates += [run for run in runs if run is not originals[0]]
        else:
            duplicates += runs
    digests = [str(run.conditions.get("weights_sha256", ""))[:8] for run in duplicates]
    names = [
        f"weights {digest}" if digest and digests.count(digest) == 1 else run.name
        for digest, run in zip(digests, duplicates, strict=True)
    ]
    return seeds, list(zip(names, duplicates, strict=True))


def representation_order(kind: str) -> tuple[int, str]:
    """Sort key of representations: the project's own, then others by name, then baselines."""
    if kind in CANONICAL:
        return CANONICAL.index(kind), ""
    return (len(CANONICAL) + 1 if kind in BASELINES else len(CANONICAL)), kind

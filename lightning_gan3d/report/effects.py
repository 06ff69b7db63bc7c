"""Ablations: the settings in which groups differ, and what each of them changes."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_gan3d.arms import factors, natural_key
from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import MetricInfo, Use, selected
from lightning_gan3d.report.groups import Comparison, Group, protocol_mismatch
from lightning_gan3d.stats import Interval, mean_interval


@dataclass(frozen=True)
class TextTable:
    """A table of plain text; the first cell of a row names it."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Effect:
    """Change of a metric from one value of a setting to another, all other settings equal."""

    factor: str
    before: str
    after: str
    info: MetricInfo
    mean: float
    """Over seeds and pairs of groups, in the stored unit."""
    interval: Interval | None
    """95 % interval over seeds by Student's t, not corrected for the number of effects."""
    pairs: int
    """Pairs of groups that differ in this setting alone."""


def settings(comparison: Comparison) -> list[dict[str, str]]:
    """Return the settings in which the groups differ; empty ones if also the kinds differ."""
    groups = comparison.groups
    if len({g.representation for g in groups}) > 1:
        return [{} for _ in groups]
    configs = [next((r.config for r in g.runs if r.config.get("data")), {}) for g in groups]
    return factors(configs)


def arm_table(comparison: Comparison) -> TextTable:
    """One row per group: its settings that differ from those of others, if there are several."""
    of_groups = settings(comparison)
    names = list(dict.fromkeys(name for values in of_groups for name in values))
    rows = [
        (group.label, *(values.get(name, "") for name in names))
        for group, values in zip(comparison.groups, of_groups, strict=True)
    ]
    return TextTable(("", *names), tuple(rows) if len(names) > 1 else ())


def effect_table(comparison: Comparison) -> TextTable:
    """One row per change of a setting, one column per metric of a paper's table."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for e in effects(comparison, selected(comparison.metrics, Use.PAPER)):
        text = f"{'+' if e.mean > 0 else ''}{e.info.with_unit(e.mean)}"
        if e.interval is not None:
            text += f" ({e.info.format_range(*e.interval, e.mean)})"
        row = rows.setdefault((f"{e.factor} {e.before} to {e.after}", str(e.pairs)), {})
        row[f"{e.info.short} {e.info.arrow}".rstrip()] = text
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    lines = tuple((*key, *(row.get(head, "") for head in heads)) for key, row in rows.items())
    return TextTable(("change", "pairs", *heads), lines)


def effects(comparison: Comparison, ids: Sequence[MetricId]) -> Iterator[Effect]:
    """Compute the effect of each change of a setting to its next value on each metric."""
    of_groups = settings(comparison)
    for name in dict.fromkeys(name for values in of_groups for name in values):
        levels = {values[name] for values in of_groups if name in values}
        for before, after in pairwise(sorted(levels, key=natural_key)):
            pairs = [
                (a, b)
                for a, x in zip(comparison.groups, of_groups, strict=True)
                for b, y in zip(comparison.groups, of_groups, strict=True)
                if x.get(name) == before and y == x | {name: after}
            ]
            for metric_id in ids:
                changes = _changes(pairs, metric_id)
                if changes:
                    info, mean = comparison.info(metric_id), statistics.fmean(changes)
                    interval = mean_interval(changes) if min(changes) < max(changes) else None
                    yield Effect(name, before, after, info, mean, interval, len(pairs))


def _changes(pairs: Sequence[tuple[Group, Group]], metric_id: MetricId) -> list[float]:
    """Return the mean change over the pairs of each seed that all of them have."""
    if any(protocol_mismatch({g.label: g.cell(metric_id) for g in pair}) for pair in pairs):
        return []
    of_pairs = [[_by_seed(g, metric_id) for g in pair] for pair in pairs]
    shared = set.intersection(*(set(x) for pair in of_pairs for x in pair)) if pairs else set()
    return [
        statistics.fmean(after[seed] - before[seed] for before, after in of_pairs)
        for seed in sorted(shared)
    ]


def _by_seed(group: Group, metric_id: MetricId) -> dict[int, float]:
    metrics = group.cell(metric_id).metrics
    return {r.seed: m.value for r, m in metrics if r.seed is not None and m.value is not None}

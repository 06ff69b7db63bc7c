"""Paired differences between groups, and whether they decide which group is better.

Groups are paired by what they share: seeds, or with fewer than three seeds latents and cameras.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lightning_gan3d.metric import Metric, MetricId
from lightning_gan3d.metric_table import MetricInfo, Use, describe, gain_of, selected
from lightning_gan3d.report.groups import Cell, Comparison, Group, protocol_mismatch
from lightning_gan3d.stats import LEAST, Interval, mean_interval, why_none

CLOSE = "too close to call"
NO_SPREAD = "not significant: fewer than 3 seeds and no spread"


@dataclass(frozen=True)
class Difference:
    """First minus second group, or why that is not known."""

    id: MetricId
    info: MetricInfo
    first: str
    """Label of a group."""
    second: str
    mean: float | None
    """Mean of the paired differences, in the stored unit; None if there are none."""
    interval: Interval | None = None
    """95 % interval of that mean by Student's t."""
    basis: str = ""
    """What was paired: seeds, or items of one seed."""
    why: str = ""
    """Why there is no mean, or no interval."""
    seeds: int = 0
    """Number of paired seeds."""

    @property
    def ahead(self) -> str:
        """The group that is better beyond the interval; empty if that is not known."""
        if self.mean is None or self.interval is None or not self.info.better:
            return ""
        if not self.interval.excludes_zero():
            return ""
        return self.first if (self.mean > 0) == (self.info.better == "higher") else self.second


Pairs = Sequence[tuple[str, Metric, Metric]]
"""Name of a seed, minuend and subtrahend."""


def differences(comparison: Comparison) -> list[Difference]:
    """Return the differences of all pairs of groups in the metrics that are compared."""
    metrics = selected(comparison.metrics, Use.PAIRED)
    return [difference(a, b, m) for m in metrics for a, b in combinations(comparison.groups, 2)]


def difference(first: Group, second: Group, metric_id: MetricId) -> Difference:
    """Subtract groups seed by seed; no mean if one has a gap, or if protocols differ.

    Runs of one seed have the same data order, and all are evaluated on the same latents and
    cameras.
    """
    cells = first.cell(metric_id), second.cell(metric_id)
    info = next((cell.info for cell in cells if cell.info.unit), cells[0].info)
    gaps = [f"{g.label}: {c.why}" for g, c in zip((first, second), cells, strict=True) if c.why]
    why = "; ".join(gaps) or protocol_mismatch({first.label: cells[0], second.label: cells[1]})
    sides = [{run.seed: m for run, m in cell.metrics if run.seed is not None} for cell in cells]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if why or not shared:
        why = why or "no seed in common"
        return Difference(metric_id, info, first.label, second.label, None, why=why)
    pairs = [(str(seed), sides[0][seed], sides[1][seed]) for seed in shared]
    return difference_of_pairs(info, first.label, second.label, pairs)


def difference_of_pairs(info: MetricInfo, first: str, second: str, pairs: Pairs) -> Difference:
    """Return the mean difference, with an interval over seeds, or over items if seeds are few."""
    seeds = [seed for seed, _, _ in pairs]
    basis = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
    values, why = [_value(a) - _value(b) for _, a, b in pairs], ""
    if len(values) < LEAST:
        items = _by_item(pairs)
        if len(items) < LEAST:
            why = why_none(len(values))
        else:
            values = items
            basis = f"{len(items)} items of {basis}; another seed may differ by more"
    mean, interval = statistics.fmean(values), mean_interval(values)
    return Difference(pairs[0][1].id, info, first, second, mean, interval, basis, why, len(pairs))


def _value(m: Metric) -> float:
    assert m.value is not None, "only complete cells are paired"
    return m.value


def _by_item(pairs: Pairs) -> list[float]:
    """Return the differences item by item, averaged over seeds; only items with all values."""
    lengths = {len(side.items) for _, a, b in pairs for side in (a, b)}
    if len(lengths) != 1:
        return []
    out = []
    for row in zip(*(side.items for _, a, b in pairs for side in (a, b)), strict=True):
        values = [x for x in row if x is not None]
        if len(values) == len(row):
            gaps = [x - y for x, y in zip(values[::2], values[1::2], strict=True)]
            out.append(statistics.fmean(gaps))
    return out


DIFFERENCE_HEADS = ("metric", "first - second", "difference", "95 % interval", "over", "ahead")


def difference_row(d: Difference) -> tuple[str, ...]:
    """Return a difference as text, one for each of the heads."""
    show = d.info.format_like
    pair = f"{d.first} - {d.second}"
    if d.mean is None:
        return (d.info.label, pair, "missing", "", d.why, "")
    interval = "none"
    if d.interval is not None:
        interval = f"{show(d.interval.low, d.mean)} to {show(d.interval.high, d.mean)}"
    basis = f"{d.basis}; {d.why}" if d.why else d.basis
    ahead = d.ahead or ("not decided" if d.info.better else "")
    return (d.info.label, pair, d.info.with_unit(d.mean), interval, basis, ahead)


def why_undecided(a: Cell, b: Cell, gap: Difference) -> str:
    """Return why it is not known which of two groups is better; empty if it is.

    It is known if the interval of the paired difference excludes zero; without an interval, if the
    ranges of both groups do not overlap. Below three seeds a range without width, e.g. of one value
    of unknown spread, decides nothing.
    """
    if gap.interval is not None:
        return "" if gap.interval.excludes_zero() else CLOSE
    one, two = a.interval, b.interval
    for cell, ends in ((a, one), (b, two)):
        if cell.few and ends is not None and ends[0] == ends[1]:
            return NO_SPREAD
    overlap = one is not None and two is not None and one[0] <= two[1] and two[0] <= one[1]
    return CLOSE if overlap else ""


def of_few(cells: Sequence[Cell], gaps: Sequence[Difference]) -> bool:
    """Whether a decision holds for these runs only: fewer than three seeds, or paired by item."""
    return any(c.few for c in cells) or any(d.interval and d.seeds < LEAST for d in gaps)


def best_labels(comparison: Comparison, metric_id: MetricId) -> set[str]:
    """Return the groups to set in bold: the best mean and its equals; none without a rival.

    None across different protocols. If blur or uniform colour improves a metric (PSNR and the
    like), only a group that also has the best gain is bold. A gain is bold only above zero.
    """
    best, gain = _leaders(comparison, metric_id), gain_of(metric_id)
    if gain is None:
        return best
    if gain == metric_id:
        return {label for label in best if (comparison.cells(gain)[label].mean or 0.0) > 0}
    return best & best_labels(comparison, gain)


def _leaders(comparison: Comparison, metric_id: MetricId) -> set[str]:
    cells = comparison.cells(metric_id)
    better = describe(metric_id).better
    means = {label: c.mean for label, c in cells.items()}
    values = [v for v in means.values() if v is not None]
    if not better or len(values) < 2 or min(values) == max(values) or protocol_mismatch(cells):
        return set()
    best = max(values) if better == "higher" else min(values)
    return {label for label, v in means.items() if v == best}


def why_not_bold(comparison: Comparison, metric_id: MetricId) -> str:
    """Return why no value of a row is bold; empty if one is, or if none is best."""
    if not describe(metric_id).better:
        return ""
    mismatch = protocol_mismatch(comparison.cells(metric_id))
    if mismatch:
        return mismatch
    leaders, gain = _leaders(comparison, metric_id), gain_of(metric_id)
    if not leaders or gain is None or best_labels(comparison, metric_id):
        return ""
    if gain == metric_id:
        return "no value is bold: no group has a positive gain"
    return (
        f"no value is bold: {', '.join(sorted(leaders))} is best, but not in "
        f'"{describe(gain).label}"; blur or uniform colour can improve this metric'
    )

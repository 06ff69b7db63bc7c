"""Differences between groups on what they share: seeds, or else latents and cameras."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lightning_gan3d.metric import Metric
from lightning_gan3d.metric_table import MetricInfo, leading, metric
from lightning_gan3d.report.groups import Comparison, Group, unlike
from lightning_gan3d.stats import LEAST, Interval, mean_interval, why_none

COMPARED = (
    "quality.fid",
    "quality.kid",
    "quality.swd",
    "refit.psnr",
    "refit.gain",
    "consistency.psnr",
    "consistency.gain",
    "pose.within_20deg",
    "geometry.relief",
    "geometry.shape_to_data",
    "geometry.shape_from_data",
    "speed.view_ms",
    "speed.train_img_s",
    "memory.train_mb",
)
"""Metrics whose differences are listed, where any run has them."""


@dataclass(frozen=True)
class Difference:
    """What one group has more than another; or why that cannot be said."""

    metric: MetricInfo
    first: str
    second: str
    """Labels of the groups; the difference is first minus second."""
    mean: float | None
    """Mean of the paired differences, in the stored unit; None where there are none."""
    interval: Interval | None = None
    """95 % interval of that mean by Student's t."""
    basis: str = ""
    """What was paired: seeds, or latents of one seed."""
    why: str = ""
    """Why there is no mean, or no interval."""
    unit: str = ""
    """The stored unit of mean and interval."""
    seeds: int = 0
    """Seeds that were paired."""

    @property
    def ahead(self) -> str:
        """The group that does better beyond the interval; empty where that is not known."""
        if self.mean is None or self.interval is None or not self.metric.better:
            return ""
        if not self.interval.excludes_zero():
            return ""
        return self.first if (self.mean > 0) == (self.metric.better == "higher") else self.second


Pairs = Sequence[tuple[str, Metric, Metric]]
"""Name of a seed, and what is subtracted from what."""


def differences(comparison: Comparison) -> list[Difference]:
    """Return the differences of all pairs of groups in what is worth comparing."""
    names = leading(COMPARED, comparison.metrics)
    pairs = list(combinations(comparison.groups, 2))
    return [difference(a, b, n) for n in names for a, b in pairs]


def difference(first: Group, second: Group, name: str) -> Difference:
    """Subtract groups seed by seed; None where either side has a gap, or was measured differently.

    Seeds in common have the same data order, and all runs meet the same latents and cameras in
    their measures.
    """
    cells = first.cell(name), second.cell(name)
    unit = next((m.unit for cell in cells for _, m in cell.measures if m.unit), "")
    gaps = [f"{g.label}: {c.why}" for g, c in zip((first, second), cells, strict=True) if c.why]
    gaps = gaps or [x for x in [unlike({first.label: cells[0], second.label: cells[1]})] if x]
    sides = [{run.seed: m for run, m in cell.measures if run.seed is not None} for cell in cells]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if gaps or not shared:
        why = "; ".join(gaps) or "they have no seed in common"
        shown = metric(name, unit)
        return Difference(shown, first.label, second.label, None, why=why, unit=unit)
    pairs = [(str(seed), sides[0][seed], sides[1][seed]) for seed in shared]
    return of_pairs(name, first.label, second.label, pairs)


def of_pairs(name: str, first: str, second: str, pairs: Pairs) -> Difference:
    """Return the mean difference, with an interval over seeds, or over items of too few seeds."""
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
    unit = pairs[0][1].unit
    mean, interval = statistics.fmean(values), mean_interval(values)
    shown = metric(name, unit)
    return Difference(shown, first, second, mean, interval, basis, why, unit, len(pairs))


def _value(m: Metric) -> float:
    assert m.value is not None, "only complete cells are paired"
    return m.value


def _by_item(pairs: Pairs) -> list[float]:
    """Return the differences item by item, averaged over seeds; items that all sides have."""
    lengths = {len(side.items) for _, a, b in pairs for side in (a, b)}
    if len(lengths) != 1:
        return []
    out = []
    for row in zip(*(side.items for _, a, b in pairs for side in (a, b)), strict=True):
        known = [x for x in row if x is not None]
        if len(known) == len(row):
            gaps = [x - y for x, y in zip(known[::2], known[1::2], strict=True)]
            out.append(statistics.fmean(gaps))
    return out


DIFFERENCE_HEADS = ("metric", "first - second", "difference", "95 % interval", "over", "ahead")
"""Heads of the table of paired differences."""


def difference_row(d: Difference) -> tuple[str, ...]:
    """Set a difference in words, one for each head."""
    show = d.metric.format_like
    pair = f"{d.first} - {d.second}"
    if d.mean is None:
        return (d.metric.label, pair, "missing", "", d.why, "")
    interval = "none"
    if d.interval is not None:
        interval = f"{show(d.interval.low, d.mean)} to {show(d.interval.high, d.mean)}"
    basis = f"{d.basis}; {d.why}" if d.why else d.basis
    ahead = d.ahead or ("not decided" if d.metric.better else "")
    return (d.metric.label, pair, d.metric.with_unit(d.mean), interval, basis, ahead)

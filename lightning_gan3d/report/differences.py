"""Paired differences between groups, and what they decide.

Groups are paired by seed. All tests of a report are one family with Holm's correction: where
nothing differs, at most 5 % of reports decide anything. The few tests of the claims, which are
stated before the runs, have half of that probability. Fewer than three seeds decide nothing.

Not Welch's test, though seeds of different generators hardly correlate: with three seeds and a
ratio of 10 of the standard deviations, it has p < 0.0007 four times as often as it should.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from lightning_gan3d.metric import Metric, MetricId
from lightning_gan3d.metric_table import (
    REFIT,
    REPROJECTION,
    MetricInfo,
    Use,
    block,
    describe,
    selected,
)
from lightning_gan3d.report.groups import EXACT, Comparison, Group, protocol_mismatch
from lightning_gan3d.stats import LEAST, LEVEL, Interval, holm, mean_interval, mean_test

CLOSE = "too close to call"
FEW = f"fewer than {LEAST} seeds decide nothing"
NO_SPREAD = "equal in all seeds, so the spread is unknown"
RENDER_TIME = MetricId("speed.view_ms")
BOUNDS = {MetricId("quality.swd_progress"): 0.5}
"""Values that groups are expected to exceed."""
UPSAMPLED, FINAL = " upsampled", " final"
"""Suffixes of a group's label: rendering without super-resolution, and image."""


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
    """Which seeds were paired."""
    why: str = ""
    """Why there is no mean, or no interval."""
    p: float | None = None
    """Two-sided, of Student's t; None without an interval."""
    adjusted: float | None = None
    """p after Holm's correction over all tests of the report."""
    gate: str = ""
    """Why a side is not ranked (`Group.why_unranked`)."""
    loss: bool = False
    """Whether it compares the image of a group with its rendering."""

    @property
    def decided(self) -> bool:
        """Whether it is known which side is larger."""
        if self.gate:
            return False
        if block(self.id) in EXACT:
            return bool(self.mean)
        return self.adjusted is not None and self.adjusted < 1 - LEVEL

    @property
    def doubt(self) -> str:
        """Why it is not known which side is larger; empty if it is."""
        return "" if self.decided else self.gate or self.why or CLOSE

    @property
    def verdict(self) -> Literal["holds", "fails", "open"]:
        """Whether the first side is larger."""
        if self.mean is None or not self.decided:
            return "open"
        return "holds" if self.mean > 0 else "fails"

    @property
    def ahead(self) -> str:
        """The group that is better; empty if that is not known."""
        if self.mean is None or not self.decided or not self.info.better:
            return ""
        return self.first if (self.mean > 0) == (self.info.better == "higher") else self.second

    @property
    def reversed(self) -> "Difference":
        """Second minus first group."""
        mean = None if self.mean is None else -self.mean
        ends = None if self.interval is None else Interval(-self.interval.high, -self.interval.low)
        return replace(self, first=self.second, second=self.first, mean=mean, interval=ends)


class Decisions:
    """All tests of a report: pairs of groups, expected bounds, and losses by super-resolution."""

    def __init__(
        self,
        comparison: Comparison,
        family: Comparison | None = None,
        left_out: Comparison | None = None,
    ) -> None:
        """Make the tests of a family, of which a report shows `comparison`; default: all of it.

        `left_out`: a larger family, of which the other tests count, but are not made: none of them
        decides anything.
        """
        self.comparison, self.family = comparison, family or comparison
        self._left_out = left_out or self.family
        self.unranked = {g.label: g.why_unranked for g in self.family.groups if g.why_unranked}
        """Why groups are left out of rankings and claims."""
        rows = [
            self._gated(d)
            for d in (*_pairs(self.family), *_bounds(self.family), *_losses(self.family))
        ]
        tested = [d for d in rows if d.p is not None]
        p = [d.p for d in rows if d.p is not None]
        adjusted = iter(holm(p, *self._weights(tested)))
        rows = [d if d.p is None else replace(d, adjusted=next(adjusted)) for d in rows]
        self._tests = {(d.id, d.first, d.second): d for d in rows}

    def _gated(self, d: Difference) -> Difference:
        sides = {d.first.removesuffix(FINAL) if d.loss else d.first, d.second}
        gates = [f"{x} {fault}" for x, fault in self.unranked.items() if x in sides]
        return replace(d, gate="; ".join(gates), p=None) if gates else d

    def _weights(self, tests: Sequence[Difference]) -> tuple[list[float], float]:
        """Weight the tests of claims as much as all others together; and those left out."""
        groups = {g.label: g for g in self.family.groups}
        claimed = [self._is_of_a_claim(d, groups) for d in tests]
        everywhere, here = _num_tests(self._left_out), _num_tests(self.family)
        more = {c: everywhere[c] - here[c] for c in (True, False)}
        num = {c: claimed.count(c) + more[c] for c in (True, False)}
        return [1 / num[c] for c in claimed], sum(more[c] / max(1, num[c]) for c in more)

    @staticmethod
    def _is_of_a_claim(d: Difference, groups: Mapping[str, Group]) -> bool:
        """Whether `report.claims` needs this test."""
        if d.loss:
            return True
        pair = [groups[x] for x in (d.first, d.second) if x in groups]
        if d.id == MetricId(REFIT):
            return {g.is_baseline for g in pair} == {True, False}
        kinds = {g.representation for g in pair}
        return d.id == RENDER_TIME and kinds == {"triplane", "nerf_mlp"}

    @property
    def between_groups(self) -> list[Difference]:
        """The differences of all pairs of groups."""
        labels = {group.label for group in self.comparison.groups}
        return [d for d in self._tests.values() if {d.first, d.second} <= labels and not d.loss]

    def between(self, first: str, second: str, metric_id: MetricId) -> Difference:
        """First minus second group, or side."""
        key = metric_id, first, second
        if key in self._tests:
            return self._tests[key]
        return self._tests[metric_id, second, first].reversed


def _pairs(comparison: Comparison) -> Iterator[Difference]:
    for metric_id in _paired(comparison):
        for first, second in combinations(comparison.groups, 2):
            yield difference(first, second, metric_id)


def _paired(comparison: Comparison) -> list[MetricId]:
    """Metrics that are compared between groups."""
    paired = set(selected(comparison.metrics, Use.PAIRED))
    return [m for m in comparison.metrics if m in paired or is_ranked(m)]


def _num_tests(comparison: Comparison) -> dict[bool, int]:
    """Most tests of claims (True), and of all else (False), that a comparison has."""
    kinds, ids = [g.representation for g in comparison.groups], _paired(comparison)
    num, flat = len(kinds), sum(g.is_baseline for g in comparison.groups)
    claims = num  # losses
    claims += (MetricId(REFIT) in ids) * flat * (num - flat)
    claims += (RENDER_TIME in ids) * kinds.count("triplane") * kinds.count("nerf_mlp")
    pairs = len(ids) * num * (num - 1) // 2 + num * len(BOUNDS)
    return {True: claims, False: pairs - (claims - num)}


def is_ranked(metric_id: MetricId) -> bool:
    """Whether a report names the best group of a metric."""
    own = not metric_id.stage and metric_id.variant in ("", "posed") and metric_id.at is None
    return own and bool(describe(metric_id).best)


def _bounds(comparison: Comparison) -> Iterator[Difference]:
    for metric_id, bound in BOUNDS.items():
        for group in comparison.groups:
            cell = group.cell(metric_id)
            values = [x - bound for x in cell.values] if cell.complete else []
            basis = [str(run.seed) for run, _ in cell.metrics]
            yield _tested(metric_id, cell.info, (group.label, str(bound)), values, basis)


def _losses(comparison: Comparison) -> Iterator[Difference]:
    for group in comparison.groups:
        before, after = (group.cell(MetricId(REPROJECTION, stage=s)) for s in ("enlarged", ""))
        sides = f"{group.label}{FINAL}", f"{group.label}{UPSAMPLED}"
        complete = before.complete and after.complete
        pairs = zip(after.values, before.values, strict=True) if complete else ()
        values = [a - b for a, b in pairs]
        basis = [str(run.seed) for run, _ in after.metrics]
        yield replace(_tested(MetricId(REPROJECTION), after.info, sides, values, basis), loss=True)


def difference(first: Group, second: Group, metric_id: MetricId) -> Difference:
    """Subtract groups seed by seed; no mean if one has a gap, or if protocols differ.

    Runs of one seed have the same data order, and all are evaluated on the same latents and
    cameras.
    """
    cells = first.cell(metric_id), second.cell(metric_id)
    info = next((cell.info for cell in cells if cell.info.unit), cells[0].info)
    gaps = [f"{g.label}: {c.why}" for g, c in zip((first, second), cells, strict=True) if c.why]
    why = "; ".join(gaps) or protocol_mismatch({first.label: cells[0], second.label: cells[1]})
    labels = first.label, second.label
    if not why and block(metric_id) in EXACT:
        means = [statistics.fmean(cell.values) for cell in cells]
        return Difference(metric_id, info, *labels, means[0] - means[1], basis="exact values")
    sides = [{run.seed: m for run, m in cell.metrics if run.seed is not None} for cell in cells]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if why or not shared:
        return Difference(metric_id, info, *labels, None, why=why or "no seed in common")
    values = [_value(sides[0][seed]) - _value(sides[1][seed]) for seed in shared]
    return _tested(metric_id, info, labels, values, [str(seed) for seed in shared])


def _tested(
    metric_id: MetricId,
    info: MetricInfo,
    sides: tuple[str, str],
    values: Sequence[float],
    seeds: Sequence[str],
) -> Difference:
    """Return the mean of differences, with interval; and test, if one side can be better."""
    if not values:
        return Difference(metric_id, info, *sides, None, why="missing")
    p = mean_test(values) if info.better else None
    interval = mean_interval(values) if min(values) < max(values) else None
    why = "" if interval else FEW if len(values) < LEAST else NO_SPREAD
    basis = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
    mean = statistics.fmean(values)
    return Difference(metric_id, info, *sides, mean, interval, basis, why, p)


def _value(m: Metric) -> float:
    assert m.value is not None, "only complete cells are paired"
    return m.value


DIFFERENCE_HEADS = ("metric", "first - second", "difference", "95 % interval", "over", "p", "ahead")


def difference_row(d: Difference) -> tuple[str, ...]:
    """Return a difference as text, one for each of the heads."""
    pair = f"{d.first} - {d.second}"
    if d.mean is None:
        return (d.info.label, pair, "missing", "", d.why, "", "")
    interval = "none"
    if d.interval is not None:
        interval = d.info.format_range(*d.interval, d.mean)
    basis = f"{d.basis}; {d.why}" if d.why else d.basis
    ahead = d.ahead or ("not decided" if d.info.better else "")
    if d.gate:
        ahead = "not ranked"
    p = "" if d.adjusted is None else f"{d.adjusted:.2g}"
    return (d.info.label, pair, d.info.with_unit(d.mean), interval, basis, p, ahead)


def best_labels(comparison: Comparison, metric_id: MetricId) -> set[str]:
    """Return the groups to set in bold: the best mean and its equals; none without a rival.

    None across different protocols.
    """
    cells = comparison.cells(metric_id)
    better = describe(metric_id).better
    ranked = [group.label for group in comparison.groups if not group.why_unranked]
    means = {label: cells[label].mean for label in ranked}
    values = [v for v in means.values() if v is not None]
    if not better or len(values) < 2 or min(values) == max(values) or protocol_mismatch(cells):
        return set()
    best = max(values) if better == "higher" else min(values)
    return {label for label, v in means.items() if v == best}


def why_not_bold(comparison: Comparison, metric_id: MetricId) -> str:
    """Return the mismatch of protocols that leaves a row without a bold value; else empty."""
    return protocol_mismatch(comparison.cells(metric_id)) if describe(metric_id).better else ""

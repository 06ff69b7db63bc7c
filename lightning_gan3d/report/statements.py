"""Findings: sentences that the numbers of a report decide, e.g. which generator is fastest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import REPROJECTION, MetricInfo, gain_of, significant
from lightning_gan3d.report.differences import CLOSE, difference, of_few, why_undecided
from lightning_gan3d.report.groups import Cell, Comparison, Group, protocol_mismatch
from lightning_gan3d.stats import mean_interval

Verdict = Literal["finding", "holds", "fails", "open"]


@dataclass(frozen=True)
class Statement:
    """One checked sentence."""

    verdict: Verdict
    """`holds`, `fails`: an expectation. `open`: the numbers do not decide."""
    text: str
    few: bool = False
    """Whether fewer than three seeds decided, so that it holds for these runs only."""

    @property
    def mark(self) -> str:
        """The verdict as printed."""
        if self.verdict == "open":
            return "not decided"
        return f"{self.verdict} for these runs" if self.few else self.verdict


def statements(comparison: Comparison) -> list[Statement]:
    """Check everything that the numbers can decide; failures are printed like successes."""
    return [
        _all_finished(comparison),
        *_same_conditions(comparison),
        *_best_groups(comparison),
        *_renderer_paths(comparison),
        *_progress_to_floor(comparison),
        *_warping_gains(comparison),
    ]


def _all_finished(comparison: Comparison) -> Statement:
    runs = comparison.runs
    gaps = [f"{run.name} ({run.gap})" for run in runs if run.gap]
    if not gaps:
        return Statement("holds", f"All {len(runs)} runs are finished.")
    return Statement(
        "fails",
        f"All runs are finished: {len(gaps)} of {len(runs)} not; shown as gaps, never averaged: "
        f"{'; '.join(gaps)}.",
    )


_CONDITIONS = (
    ("the same data", ("dataset_fingerprint", "fingerprint", "dataset")),
    ("the same device", ("device",)),
    ("the same number of CPU threads", ("threads",)),
    ("the same commit", ("commit",)),
    ("the same library versions", ("versions",)),
)
"""What finished runs should have in common, and its keys in a manifest."""


def _same_conditions(comparison: Comparison) -> Iterable[Statement]:
    runs = [run for run in comparison.runs if not run.gap]
    if len(runs) < 2:
        return
    same: list[str] = []
    unknown: list[str] = []
    for text, keys in _CONDITIONS:
        values: dict[str, list[str]] = {}
        for run in runs:
            value = next((run.manifest[k] for k in keys if k in run.manifest), None)
            values.setdefault(_plain(value), []).append(run.name)
        if len(values) > 1:
            each = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
            yield Statement("fails", f"Not all runs had {text}; compare with care: {each}.")
        else:
            (unknown if "not recorded" in values else same).append(text)
    if same:
        yield Statement("holds", f"All finished runs had {listed(same)}.")
    if unknown:
        yield Statement("open", f"No run recorded {listed(unknown)}.")
    kimgs = {g.label: {run.last.get("kimg") for run in g.finished} for g in comparison.groups}
    known = {label: sorted(k for k in ks if k is not None) for label, ks in kimgs.items() if ks}
    if len({k for ks in known.values() for k in ks}) > 1:
        each = ", ".join(f"{x} {' and '.join(f'{k:g}' for k in ks)}" for x, ks in known.items())
        yield Statement("fails", f"Not all runs were trained for the same kimg: {each}.")


def _plain(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in sorted(value.items()))
    return str(value)


def _best_groups(comparison: Comparison) -> Iterable[Statement]:
    """Name the best group of each metric that has a name for it; consistency by its gains."""
    if len(comparison.groups) < 2:
        return
    for metric_id in comparison.metrics:
        info = comparison.info(metric_id)
        if info.best and not metric_id.stage and metric_id.variant in ("", "posed"):
            mode = f" ({info.short})" if metric_id != MetricId(metric_id.name) else ""
            yield from _best_group(comparison, metric_id, info, info.best + mode)


def _best_group(
    comparison: Comparison, metric_id: MetricId, info: MetricInfo, lead: str
) -> Iterable[Statement]:
    cells = comparison.cells(metric_id)
    if not any(c.values for c in cells.values()):
        return
    means = {label: c.mean for label, c in cells.items() if c.mean is not None}
    without = [label for label in cells if label not in means]
    if len(means) < 2:
        yield Statement("open", f"{lead}: cannot be ranked; {reasons(cells, without)}.")
        return
    mismatch = protocol_mismatch(cells)
    if mismatch:
        yield Statement("open", f"{lead}: {mismatch}.")
        return
    winner, *others = sorted(means, key=means.__getitem__, reverse=info.better == "higher")
    best = means[winner]
    rest = "; ".join(
        f"{x} {info.with_unit(means[x])}{_ratio(means[x], best, info)}" for x in others
    )
    text = f"{lead}: {winner}, {info.with_unit(best)} ({rest})."
    groups = {g.label: g for g in comparison.groups}
    gaps = {label: difference(groups[winner], groups[label], metric_id) for label in others}
    doubts: dict[str, list[str]] = {}
    for label, gap in gaps.items():
        doubts.setdefault(why_undecided(cells[winner], cells[label], gap), []).append(label)
    doubts.pop("", None)
    for why, labels in doubts.items():
        text += f" {why[0].upper()}{why[1:]}{' against' if why == CLOSE else ':'} {listed(labels)}."
    no_gain = gain_of(metric_id) == metric_id and best <= 0
    if no_gain:
        text += " No group has a positive gain, so none is called consistent."
    if without:
        text += f" Not ranked: {reasons(cells, without)}."
    few = of_few([cells[label] for label in means], list(gaps.values()))
    yield Statement("open" if doubts or no_gain else "finding", text, few)


def _ratio(value: float, best: float, info: MetricInfo) -> str:
    """Print the ratio of times, speeds and sizes; ratios of decibels and shares mean nothing."""
    if info.unit in ("dB", "share", "deg") or min(value, best) <= 0:
        return ""
    return f", a factor of {significant(max(value, best) / min(value, best), 2)}"


def reasons(cells: Mapping[str, Cell], labels: Sequence[str]) -> str:
    """Return groups without a mean, each with its reason."""
    return ", ".join(f"{label} ({cells[label].why})" for label in labels)


def _renderer_paths(comparison: Comparison) -> Iterable[Statement]:
    """State which renderer backend each group used in the benchmark."""
    each = []
    for label, cell in comparison.cells(MetricId("speed.fused")).items():
        notes = sorted({m.note for _, m in cell.metrics if m.value is not None})
        each += [f"{label} {' and '.join(notes)}"] if notes else []
    if each:
        yield Statement("finding", f"Renderer backend: {'; '.join(each)}.")


def _progress_to_floor(comparison: Comparison) -> Iterable[Statement]:
    lead = "Training covers at least half of the SWD progress from untrained to the real-real floor"
    progress = MetricId("quality.swd_progress")
    yield from _above(comparison, comparison.groups, progress, 0.5, lead)


def _warping_gains(comparison: Comparison) -> Iterable[Statement]:
    lead = "Warping a view by its depth predicts another view better than no warp"
    groups = [g for g in comparison.groups if not g.is_baseline]
    yield from _above(comparison, groups, MetricId(REPROJECTION), 0.0, lead)


def _above(
    comparison: Comparison, groups: Sequence[Group], metric_id: MetricId, bound: float, lead: str
) -> Iterable[Statement]:
    """Check that a metric is above a bound in each group; equal verdicts share a sentence.

    It is open if the bound lies in the 95 % interval of the mean over seeds, or with fewer than
    three seeds in the range of their values (`Cell.interval`).
    """
    if metric_id not in comparison.metrics:
        return
    cells = {g.label: g.cell(metric_id) for g in groups}
    by_verdict: dict[Verdict, list[str]] = {"holds": [], "fails": [], "open": []}
    for label, cell in cells.items():
        verdict, text = _compared_to(bound, cell)
        by_verdict[verdict].append(f"{label}, {text}")
    tails = {"holds": "", "fails": "no; ", "open": "not decided; "}
    few = any(cell.few for cell in cells.values())
    for verdict, texts in by_verdict.items():
        if texts:
            yield Statement(verdict, f"{lead}: {tails[verdict]}{'; '.join(texts)}.", few)


def _compared_to(bound: float, cell: Cell) -> tuple[Verdict, str]:
    if cell.mean is None or cell.interval is None:
        return "open", cell.why
    over_seeds = mean_interval(cell.values)
    low, high = (over_seeds.low, over_seeds.high) if over_seeds else cell.interval
    text = cell.info.with_unit(cell.mean)
    if low > bound:
        return "holds", text
    if high < bound:
        return "fails", text
    return "open", f"{text}, {cell.info.format(low)} to {cell.info.with_unit(high)}"


def listed(texts: Sequence[str]) -> str:
    """Join texts as in a sentence."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"

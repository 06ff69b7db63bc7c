"""Findings: sentences that the numbers of a report decide, e.g. which generator is fastest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import MetricInfo, significant
from lightning_gan3d.report.differences import BOUNDS, Decisions, is_ranked
from lightning_gan3d.report.groups import Cell, Comparison, Group, protocol_mismatch

Verdict = Literal["finding", "holds", "fails", "open"]


@dataclass(frozen=True)
class Statement:
    """One checked sentence."""

    verdict: Verdict
    """`holds`, `fails`: an expectation. `open`: the numbers do not decide."""
    lead: str
    """The sentence, or its part before the numbers."""
    detail: str = ""
    """The numbers that decide it."""

    @property
    def text(self) -> str:
        """Everything in one line."""
        return f"{self.lead}: {self.detail}." if self.detail else self.lead

    @property
    def mark(self) -> str:
        """The verdict as printed."""
        return "not decided" if self.verdict == "open" else self.verdict


def statements(decisions: Decisions) -> list[Statement]:
    """Check everything that the numbers can decide; failures are printed like successes."""
    comparison = decisions.comparison
    return [
        _all_finished(comparison),
        *(
            Statement("fails", f"{label} {fault}; it is left out of rankings and claims.")
            for label, fault in decisions.unranked.items()
        ),
        *_same_conditions(comparison),
        *_best_groups(decisions),
        *_renderer_paths(comparison),
        *_progress_to_floor(decisions),
    ]


def _all_finished(comparison: Comparison) -> Statement:
    runs = comparison.runs
    gaps = [f"{comparison.name_of(run)} ({run.gap})" for run in runs if run.gap]
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
    for run in runs:
        extends = run.manifest.get("extends")
        if isinstance(extends, dict) and extends.get("note"):
            name = comparison.name_of(run)
            yield Statement("fails", f"{name} extends {extends.get('run')}: {extends['note']}.")
    if len(runs) < 2:
        return
    same: list[str] = []
    unknown: list[str] = []
    for text, keys in _CONDITIONS:
        values: dict[str, list[str]] = {}
        for run in runs:
            value = next((run.manifest[k] for k in keys if k in run.manifest), None)
            values.setdefault(_plain(value), []).append(comparison.name_of(run))
        if len(values) > 1:
            each = "; ".join(f"{value} ({'; '.join(names)})" for value, names in values.items())
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


def _best_groups(decisions: Decisions) -> Iterable[Statement]:
    """Name the best group of each metric that has a name for it."""
    comparison = decisions.comparison
    if len(comparison.groups) < 2:
        return
    for metric_id in comparison.metrics:
        if is_ranked(metric_id):
            info = comparison.info(metric_id)
            mode = f" ({info.short})" if metric_id != MetricId(metric_id.name) else ""
            yield from _best_group(decisions, metric_id, info, info.best + mode)


def _best_group(
    decisions: Decisions, metric_id: MetricId, info: MetricInfo, lead: str
) -> Iterable[Statement]:
    cells = decisions.comparison.cells(metric_id)
    if not any(c.values for c in cells.values()):
        return
    faults = decisions.unranked
    means = {x: c.mean for x, c in cells.items() if c.mean is not None and x not in faults}
    without = [label for label in cells if label not in means]
    why = ", ".join(f"{x} ({faults.get(x) or cells[x].why})" for x in without)
    if len(means) < 2:
        yield Statement("open", f"{lead}: cannot be ranked; {why}.")
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
    doubts: dict[str, list[str]] = {}
    for label in others:
        doubts.setdefault(decisions.between(winner, label, metric_id).doubt, []).append(label)
    doubts.pop("", None)
    for doubt, labels in doubts.items():
        sentence = f"{doubt[0].upper()}{doubt[1:]}"
        text += f" {sentence}." if labels == others else f" {sentence}: {listed(labels)}."
    if without:
        text += f" Not ranked: {why}."
    yield Statement("open" if doubts else "finding", text)


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


def _progress_to_floor(decisions: Decisions) -> Iterable[Statement]:
    lead = "Training covers at least half of the SWD progress from untrained to the real-real floor"
    yield from _above(
        decisions, decisions.comparison.groups, MetricId("quality.swd_progress"), lead
    )


def _above(
    decisions: Decisions, groups: Sequence[Group], metric_id: MetricId, lead: str
) -> Iterable[Statement]:
    """Check that a metric is above its bound in each group; equal verdicts share a sentence."""
    if metric_id not in decisions.comparison.metrics:
        return
    bound = BOUNDS[metric_id]
    by_verdict: dict[Verdict, list[str]] = {"holds": [], "fails": [], "open": []}
    for group in groups:
        cell = group.cell(metric_id)
        test = decisions.between(group.label, str(bound), metric_id)
        text = cell.why if cell.mean is None else cell.info.with_unit(cell.mean)
        if test.interval and not test.decided and not test.gate:
            low, high = (bound + end for end in test.interval)
            text += f", {cell.info.format(low)} to {cell.info.with_unit(high)}"
        elif not test.decided and cell.mean is not None:
            text += f", {decisions.unranked.get(group.label, test.doubt)}"
        by_verdict[test.verdict].append(f"{group.label}, {text}")
    tails = {"holds": "", "fails": "no; ", "open": "not decided; "}
    for verdict, texts in by_verdict.items():
        if texts:
            yield Statement(verdict, f"{lead}: {tails[verdict]}{'; '.join(texts)}.")


def listed(texts: Sequence[str]) -> str:
    """Join texts as in a sentence."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"

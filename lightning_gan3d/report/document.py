"""What a report says, before it is set as a web page or as Markdown."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_gan3d.metric import Metric
from lightning_gan3d.metric_table import FAMILIES, MetricInfo, family, metric
from lightning_gan3d.report.decide import best_labels, why_not_bold
from lightning_gan3d.report.groups import Cell, Comparison, Group, seed_name
from lightning_gan3d.report.paired import Difference
from lightning_gan3d.report.plots.plot import Plot
from lightning_gan3d.report.protocols import Conditions, conditions
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import Statement
from lightning_gan3d.report.tables import headline
from lightning_gan3d.stats import LEAST, mean_interval, why_none


@dataclass(frozen=True)
class CellText:
    """One cell of a table in words."""

    main: str
    """The value: a mean, a single value, or the values and gaps of the seeds."""
    detail: str = ""
    """Single seeds and n."""
    best: bool = False
    """Whether no other group does better."""
    note: int | None = None
    """Number of the footnote that says why something is missing."""


@dataclass
class Footnotes:
    """Reasons, numbered from 1 in the order of their first use; the same reason once."""

    reasons: list[str] = field(default_factory=list)

    def number(self, reason: str) -> int:
        """Return the number of a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


@dataclass(frozen=True)
class Table:
    """Metrics as rows, groups as columns."""

    title: str
    groups: tuple[str, ...]
    """Heads of the columns."""
    rows: tuple[tuple[MetricInfo, tuple[CellText, ...]], ...]
    footnotes: tuple[str, ...]
    """Why values are missing; the first has number 1."""
    remarks: tuple[str, ...] = ()
    """What is missing in every run for one reason, and why rows have nothing in bold."""
    protocols: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of each metric: its label, and how it was measured; one line where all runs agree."""


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of one run come from."""

    run: str
    state: str
    """Finished, or why it is a gap."""
    facts: tuple[tuple[str, str], ...]
    """What is not the same for all runs."""
    problems: tuple[str, ...]
    """Files that could not be read."""


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    opening: tuple[str, ...]
    """What this is, in plain words."""
    claims: tuple[Statement, ...]
    """What is expected of the generators, checked; first on the page."""
    summary: Table
    statements: tuple[Statement, ...]
    plots: tuple[Plot, ...]
    tables: tuple[Table, ...]
    """Every metric, one table a family."""
    differences: tuple[Difference, ...]
    """Of pairs of groups, on what they share."""
    conditions: Conditions
    """Under which conditions each run was measured."""
    shared: tuple[tuple[str, str], ...]
    """What all runs have in common."""
    provenance: tuple[Provenance, ...]
    kinds: tuple[tuple[str, str], ...]
    """Of each group: its label and its representation, which has a colour."""


def compose(
    comparison: Comparison,
    claims: Sequence[Statement],
    statements: Sequence[Statement],
    plots: Sequence[Plot],
    differences: Sequence[Difference],
) -> Document:
    """Put a report together."""
    groups, runs = comparison.groups, comparison.runs
    names = _listed([g.label for g in groups])
    title = f"{names}: {'a comparison' if len(groups) > 1 else 'measurements'}"
    return Document(
        title[0].upper() + title[1:],
        tuple(_opening(comparison)),
        tuple(claims),
        _table(comparison, "Summary", headline(comparison), protocols=False),
        tuple(statements),
        tuple(plots),
        tuple(_families(comparison)),
        tuple(differences),
        conditions(runs),
        tuple(_shared(runs)),
        tuple(_provenance(runs)),
        tuple((g.label, g.representation) for g in groups),
    )


def _opening(comparison: Comparison) -> list[str]:
    groups, runs = comparison.groups, comparison.runs
    finished = [run for run in runs if not run.gap]
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    what = f"{len(groups)} generators" if len(groups) > 1 else "One generator"
    # Of stored images nobody here knows how they were made.
    shared = (
        "measures" if any(g.is_images for g in groups) else "training loop, renderer and measures"
    )
    lines = [
        f"{what} with the same {shared}: "
        f"{_listed([g.label for g in groups])}. "
        f"{len(finished)} of {len(runs)} runs are finished"
        + (f"; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}." if seeds else ".")
    ]
    if len(seeds) > 1:
        lines.append(
            "Cells hold the mean and standard deviation over seeds, and each seed's value below, "
            + _intervals_said(groups)
        )
    elif groups:
        lines.append("There is one seed, so how much another seed would change is not known.")
    if len(finished) < len(runs):
        lines.append(
            "Where a run is missing or unfinished there is no mean: a gap is shown, not averaged."
        )
    return lines


def _intervals_said(groups: Sequence[Group]) -> str:
    """Say which interval cells hold, or why they hold none."""
    most = max(len(g.runs) for g in groups)
    if most < LEAST:
        return f"and {why_none(most)}."
    few = [g.label for g in groups if len(g.runs) < LEAST]
    less = f" (none for {_listed(few)}: it takes {LEAST} seeds)" if few else ""
    return f"with the 95 % interval of the mean by Student's t{less}."


def _families(comparison: Comparison) -> list[Table]:
    names: dict[str, list[str]] = {}
    for name in comparison.metrics:
        names.setdefault(family(name), []).append(name)
    return [
        _table(comparison, FAMILIES.get(key, key), members, protocols=True)
        for key, members in names.items()
    ]


def _table(comparison: Comparison, title: str, names: Sequence[str], protocols: bool) -> Table:
    footnotes = Footnotes()
    rows, notes, remarks = [], [], []
    nowhere: dict[str, list[str]] = {}
    for name in names:
        shown = metric(name, comparison.unit(name))
        cells = comparison.cells(name)
        reasons = {m.note for c in cells.values() for _, m in c.measures if m.value is None}
        if len(reasons) == 1 and not any(c.values for c in cells.values()):
            nowhere.setdefault(reasons.pop(), []).append(shown.label)
            continue
        best = best_labels(comparison, name)
        why = why_not_bold(comparison, name)
        if why:
            remarks.append(f"{shown.label}: {why}.")
        rows.append(
            (
                shown,
                tuple(
                    _cell(cell, label in best, footnotes, spread=protocols)
                    for label, cell in cells.items()
                ),
            )
        )
        if protocols:
            lines = _protocol(cells)
            if lines:
                notes.append((shown.label, tuple(lines)))
    return Table(
        title,
        tuple(g.label for g in comparison.groups),
        tuple(rows),
        tuple(footnotes.reasons),
        (*remarks, *(_nowhere(labels, why) for why, labels in nowhere.items())),
        tuple(notes),
    )


def _nowhere(labels: Sequence[str], why: str) -> str:
    """Say in one sentence what no run has, for one reason."""
    return f"Missing in every run: {_listed(labels)} ({why})."


def _cell(cell: Cell, best: bool, footnotes: Footnotes, spread: bool) -> CellText:
    show = cell.metric.format
    number = None if cell.complete else footnotes.number(cell.why)
    if not cell.values:
        return CellText("missing", note=number)
    if cell.mean is None:
        parts = [("gap" if m.value is None else show(m.value)) for _, m in cell.measures]
        return CellText(", ".join(parts), "no mean", note=number)
    main = show(cell.mean)
    if cell.deviation is None:
        of_one = cell.measures[0][1].spread
        around = f"spread {show(of_one)}" if spread and of_one is not None else ""
        return CellText(main, ", ".join(x for x in (around, cell.counts) if x), best)
    around = cell.metric.format_like(cell.deviation, cell.mean)
    if any(sign in "123456789" for sign in around):
        main = f"{main} ± {around}"
    each = ", ".join(cell.metric.format_like(v, cell.mean) for v in cell.values)
    interval = mean_interval(cell.values)
    ends = [cell.metric.format_like(x, cell.mean) for x in interval or ()]
    # Where all seeds agree, as on sizes, an interval without width would only look exact.
    within = f"95 %: {' to '.join(ends)}" if len(set(ends)) > 1 else ""
    return CellText(main, "; ".join(x for x in (within, each, cell.counts) if x), best)


def _protocol(cells: dict[str, Cell]) -> list[str]:
    """Say how a metric was measured: once where all runs agree, else run by run."""
    noted = [
        (f"{label} {seed_name(run)}" if len(cell.measures) > 1 else label, m)
        for label, cell in cells.items()
        for run, m in cell.measures
        if m.value is not None
    ]
    texts = {_how(m) for _, m in noted}
    if len(texts) <= 1:
        return [text for text in texts if text]
    return [f"{who}: {_how(m)}" for who, m in noted if _how(m)]


def _how(m: Metric) -> str:
    return "; ".join(x for x in (f"n = {m.n:,}" if m.n else "", m.note) if x)


_FACTS = (
    "commit", "dirty", "versions", "device", "threads", "dataset", "dataset_fingerprint", "seed",
    "command",
)  # fmt: skip
"""What comes first among the facts of a manifest; the others follow as they stand in it."""


def _facts(run: RunRecord) -> dict[str, str]:
    keys = [k for k in _FACTS if k in run.manifest] + [k for k in run.manifest if k not in _FACTS]
    facts = {key: _plain(run.manifest[key], key) for key in keys if key != "finished"}
    if run.data_path:
        facts["data"] = run.data_path
    return {"run directory": run.name, **facts}


def _plain(value: Any, key: str) -> str:
    if value is None or value == "":
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v, k)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        texts = [_plain(v, key) for v in value]
        return shlex.join(texts) if key == "command" else ", ".join(texts) or "none"
    return str(value)


def _shared(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    everyone = [_facts(run) for run in runs if run.manifest]
    if len(everyone) < 2:
        return []
    return [
        (key, value)
        for key, value in everyone[0].items()
        if all(f.get(key) == value for f in everyone[1:])
    ]


def _provenance(runs: Sequence[RunRecord]) -> list[Provenance]:
    common = {key for key, _ in _shared(runs)}
    return [
        Provenance(
            run.name,
            run.gap or "finished",
            tuple((k, v) for k, v in _facts(run).items() if k not in {*common, "run directory"}),
            run.problems,
        )
        for run in runs
    ]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

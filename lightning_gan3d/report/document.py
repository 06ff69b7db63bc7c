"""Contents of a report, which the templates print as a web page and as Markdown."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning_gan3d.metric import Metric, MetricId
from lightning_gan3d.metric_table import BLOCKS, MetricInfo, Use, block, selected
from lightning_gan3d.report.differences import (
    DIFFERENCE_HEADS,
    Difference,
    best_labels,
    difference_row,
    why_not_bold,
)
from lightning_gan3d.report.effects import TextTable, arm_table, effect_table, settings
from lightning_gan3d.report.groups import Cell, Comparison, Group, seed_name
from lightning_gan3d.report.plots.style import Ink, Plot, group_inks
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import Statement, listed
from lightning_gan3d.stats import LEAST, mean_interval, why_none

NOT_RECORDED = "not recorded"
LONGEST_TITLE = 70
KEY_PLOTS = (
    "quality_images",
    "pareto_quality-sharpness_refit-deficit",
    "pareto_speed-view_ms_memory-train_mb",
)
"""Plots of the first screen."""


@dataclass(frozen=True)
class CellText:
    """One cell of a table."""

    main: str
    """A mean, a single value, or the values and gaps of the seeds."""
    detail: str = ""
    """Interval, single seeds and n."""
    best: bool = False
    note: int | None = None
    """Number of the footnote that states why something is missing."""


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
    """Label of each metric and how it was measured; one line if all runs agree."""


@dataclass(frozen=True)
class Provenance:
    """Origin of the numbers of one run."""

    run: str
    state: str
    """`finished`, or why it is a gap."""
    facts: tuple[tuple[str, str], ...]
    """What differs between runs."""
    problems: tuple[str, ...]
    """Files that could not be read."""


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    animations: tuple[Plot, ...]
    """The same latents of each generator under a turning camera."""
    key_plots: tuple[Plot, ...]
    """Quality, consistency, speed and memory."""
    headline: Table
    """The metrics of a paper's table, without details."""
    opening: tuple[str, ...]
    """Conditions."""
    arms: TextTable
    """Settings in which the groups differ; without rows if they differ in the representation."""
    effects: TextTable
    """What each of these settings changes."""
    claims: tuple[Statement, ...]
    summary: Table
    explanation: str
    """What the cells of the summary show."""
    statements: tuple[Statement, ...]
    plots: tuple[Plot, ...]
    missing: tuple[Plot, ...]
    """Plots that could not be drawn."""
    tables: tuple[Table, ...]
    """Every metric, one table per block."""
    differences: TextTable
    conditions: TextTable
    """Conditions of the evaluation of each run."""
    shared: tuple[tuple[str, str], ...]
    """Provenance that all runs have in common."""
    provenance: tuple[Provenance, ...]
    inks: Mapping[str, Ink]
    """Colour of each group, by label."""


def compose(
    comparison: Comparison,
    headline: Sequence[MetricId] = (),
    claims: Sequence[Statement] = (),
    statements: Sequence[Statement] = (),
    plots: Sequence[Plot] = (),
    differences: Sequence[Difference] = (),
) -> Document:
    """Assemble a report."""
    groups, runs = comparison.groups, comparison.runs
    names = listed([g.label for g in groups])
    blocks: dict[str, list[MetricId]] = {}
    for metric_id in comparison.metrics:
        blocks.setdefault(block(metric_id), []).append(metric_id)
    shared = _shared(runs)
    title = f"{names[0].upper()}{names[1:]}: {'comparison' if len(groups) > 1 else 'evaluation'}"
    if varied := list(dict.fromkeys(name for values in settings(comparison) for name in values)):
        title = f"Ablation of {groups[0].representation}: {listed(varied)}"
    if len(title) > LONGEST_TITLE:
        title = f"Comparison of {len(groups)} generators"
    drawn = [p for p in plots if not p.why]
    stills = [p for p in drawn if p.suffix != "webp"]
    return Document(
        title,
        tuple(p for p in drawn if p.suffix == "webp"),
        tuple(p for p in stills if p.name in KEY_PLOTS),
        _table(comparison, "Headline metrics", headline, "none"),
        tuple(_opening(comparison)),
        arm_table(comparison),
        effect_table(comparison),
        tuple(claims),
        _table(comparison, "Summary", selected(comparison.metrics, Use.SUMMARY)),
        f"Below each mean: the single seeds, {_intervals(groups)}" if groups else "",
        tuple(statements),
        tuple(p for p in stills if p.name not in KEY_PLOTS),
        tuple(p for p in plots if p.why),
        tuple(_table(comparison, BLOCKS.get(b, b), ids, "full") for b, ids in blocks.items()),
        TextTable(DIFFERENCE_HEADS, tuple(difference_row(d) for d in differences)),
        conditions(runs),
        tuple(shared.items()),
        tuple(_provenance(run, shared) for run in runs),
        group_inks(comparison),
    )


def _opening(comparison: Comparison) -> list[str]:
    groups, runs = comparison.groups, comparison.runs
    finished = [run for run in runs if not run.gap]
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    num = f"{len(groups)} generators" if len(groups) > 1 else "One generator"
    # How stored images were generated is unknown.
    images = any(g.is_images for g in groups)
    one_renderer = len({run.renderer for run in runs} - {""}) <= 1
    loop = f"training loop{', renderer' * one_renderer} and metrics"
    shared = "metrics" if images else loop
    seed_list = f"; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""
    lines = [
        f"{num} with the same {shared}: {listed([g.label for g in groups])}. "
        f"{len(finished)} of {len(runs)} runs are finished{seed_list}."
    ]
    if len(seeds) > 1:
        lines.append("Cells show mean and standard deviation over seeds.")
    elif groups:
        lines.append("One seed only: the variation between seeds is unknown.")
    if len(finished) < len(runs):
        lines.append("A group with a missing or unfinished run has no mean.")
    facts = _shared(runs)
    kimg = sorted({run.last["kimg"] for run in finished if "kimg" in run.last})
    parts = [
        *(f"data {facts[k]}" for k in ("dataset",) if k in facts),
        *(f"{', '.join(f'{k:g}' for k in kimg)} kimg" for _ in kimg[:1]),
        *(facts[k] for k in ("device",) if k in facts),
        *(f"{facts[k]} threads" for k in ("threads",) if k in facts),
        *(f"commit {facts[k][:12]}" for k in ("commit",) if k in facts),
    ]
    return [*lines, f"{'; '.join(parts)}."] if parts else lines


def _intervals(groups: Sequence[Group]) -> str:
    """State which interval cells show, or why they show none."""
    most = max(len(g.runs) for g in groups)
    if most < LEAST:
        return f"and {why_none(most)}."
    few = [g.label for g in groups if len(g.runs) < LEAST]
    less = f" (none for {listed(few)}: fewer than {LEAST} seeds)" if few else ""
    return f"with the 95 % interval of the mean by Student's t{less}."


def _table(
    comparison: Comparison,
    title: str,
    ids: Sequence[MetricId],
    details: Literal["none", "seeds", "full"] = "seeds",
) -> Table:
    """Make a table; `details`: none, intervals and seeds, or also spreads and protocols."""
    footnotes: dict[str, int] = {}
    rows, notes, remarks = [], [], []
    missing: dict[str, list[str]] = {}
    for metric_id in ids:
        info, cells = comparison.info(metric_id), comparison.cells(metric_id)
        reasons = {m.note for c in cells.values() for _, m in c.metrics if m.value is None}
        if len(reasons) == 1 and not any(c.values for c in cells.values()):
            missing.setdefault(reasons.pop(), []).append(info.label)
            continue
        best, why = best_labels(comparison, metric_id), why_not_bold(comparison, metric_id)
        if why:
            remarks.append(f"{info.label}: {why}.")
        texts = [
            _cell(c, label in best, footnotes, details == "full") for label, c in cells.items()
        ]
        if details == "none":
            texts = [replace(text, detail="") for text in texts]
        rows.append((info, tuple(texts)))
        if details == "full" and (lines := _protocol(cells)):
            notes.append((info.label, tuple(lines)))
    remarks += [f"Missing in every run: {listed(xs)} ({why})." for why, xs in missing.items()]
    labels = tuple(g.label for g in comparison.groups)
    return Table(title, labels, tuple(rows), tuple(footnotes), tuple(remarks), tuple(notes))


def _cell(cell: Cell, best: bool, footnotes: dict[str, int], spread: bool) -> CellText:
    show = cell.info.format
    note = None
    if not cell.complete:
        note = footnotes.setdefault(cell.why, len(footnotes) + 1)
    if not cell.values:
        return CellText("missing", note=note)
    if cell.mean is None:
        parts = [("gap" if m.value is None else show(m.value)) for _, m in cell.metrics]
        return CellText(", ".join(parts), "no mean", note=note)
    main = show(cell.mean)
    if cell.deviation is None:
        deviation = cell.metrics[0][1].spread
        detail = f"spread {show(deviation)}" if spread and deviation is not None else ""
        return CellText(main, ", ".join(x for x in (detail, cell.counts) if x), best)
    around = cell.info.format_like(cell.deviation, cell.mean)
    if any(digit in "123456789" for digit in around):
        main = f"{main} ± {around}"
    each = ", ".join(cell.info.format_like(v, cell.mean) for v in cell.values)
    ends = mean_interval(cell.values)
    # If all seeds agree, as for sizes, an interval without width would only look exact.
    interval = ""
    if ends is not None and ends.low < ends.high:
        interval = f"95 %: {cell.info.format_range(*ends, cell.mean)}"
    return CellText(main, "; ".join(x for x in (interval, each, cell.counts) if x), best)


def _protocol(cells: Mapping[str, Cell]) -> list[str]:
    """Return how a metric was measured: once if all runs agree, else run by run."""
    lines = [
        (f"{label} {seed_name(run)}" if len(cell.metrics) > 1 else label, _how(m))
        for label, cell in cells.items()
        for run, m in cell.metrics
        if m.value is not None
    ]
    if len({how for _, how in lines}) == 1:
        lines = [("", lines[0][1])]
    return [f"{name}: {how}".removeprefix(": ") for name, how in lines if how]


def _how(m: Metric) -> str:
    return "; ".join(x for x in (f"n = {m.n:,}" if m.n else "", m.note) if x)


def conditions(runs: Sequence[RunRecord]) -> TextTable:
    """Return the evaluation conditions of every run."""
    heads = (
        "run", "images", "renderings", "precision", "truncation", "seed of latents",
        "weights (SHA-256)", "data fingerprint", "commit of the evaluation",
    )  # fmt: skip
    return TextTable(heads, tuple((run.name, *_conditions(run.conditions)) for run in runs))


def _conditions(values: dict[str, Any]) -> tuple[str, ...]:
    def text(key: str, form: str = "{}") -> str:
        value = values.get(key)
        return NOT_RECORDED if value is None else form.format(value)

    none = values.get("truncation_psi") == 1
    return (
        text("resolution", "{}²"),
        text("rendering_resolution", "{}²"),
        text("precision"),
        "none" if none else text("truncation_psi", "psi {:g}"),
        text("seed"),
        text("weights_sha256")[:16],
        text("dataset_fingerprint")[:16],
        text("commit")[:12] + (", modified" if values.get("dirty") else ""),
    )


_FACTS = (
    "commit", "dirty", "versions", "device", "threads", "dataset", "dataset_fingerprint", "seed",
    "command",
)  # fmt: skip
"""First facts of a manifest; the others follow in its order."""


def _facts(run: RunRecord) -> dict[str, str]:
    keys = [k for k in _FACTS if k in run.manifest] + [k for k in run.manifest if k not in _FACTS]
    facts = {key: _plain(run.manifest[key], key) for key in keys if key != "finished"}
    return facts | ({"data": run.data_path} if run.data_path else {})


def _plain(value: Any, key: str) -> str:
    if value is None or value == "":
        return NOT_RECORDED
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v, k)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        texts = [_plain(v, key) for v in value]
        return shlex.join(texts) if key == "command" else ", ".join(texts) or "none"
    return str(value)


def _shared(runs: Sequence[RunRecord]) -> dict[str, str]:
    first, *others = [_facts(run) for run in runs if run.manifest] or [{}]
    return {k: v for k, v in first.items() if others and all(f.get(k) == v for f in others)}


def _provenance(run: RunRecord, shared: Mapping[str, str]) -> Provenance:
    facts = tuple((k, v) for k, v in _facts(run).items() if k not in shared)
    return Provenance(run.name, run.gap or "finished", facts, run.problems)

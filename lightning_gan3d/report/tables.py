"""`results.csv`, one row a run and metric, and `table.tex`, the opening table for a paper."""

import csv
import io
from collections.abc import Sequence

from lightning_gan3d.metric_table import HEADLINE, PAPER, leading, metric, significant
from lightning_gan3d.report.decide import best_labels, why_not_bold
from lightning_gan3d.report.groups import Cell, Comparison, Group
from lightning_gan3d.report.paired import Difference
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.report.statements import Statement

COLUMNS = ("run", "representation", "seed", "metric", "value", "unit", "n", "note", "protocol")


def results_csv(comparison: Comparison) -> str:
    """Return all metrics of all runs in stored units; a missing value is empty, its note why."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in comparison.runs:
        for name in comparison.metrics:
            m = run.measure(name)
            value = "" if m.value is None else repr(m.value)
            spread = (
                "" if m.spread is None else f"standard deviation {significant(m.spread)} over n; "
            )
            stood = _stood(run, name)
            seed = "" if run.seed is None else run.seed
            unit = m.unit or comparison.unit(name)
            writer.writerow(
                (
                    run.name,
                    run.representation,
                    seed,
                    name,
                    value,
                    unit,
                    m.n,
                    f"{spread}{m.note}{stood}",
                    m.protocol,
                )
            )
    return buffer.getvalue()


DIFFERENCE_COLUMNS = (
    "metric",
    "first",
    "second",
    "difference",
    "low",
    "high",
    "unit",
    "basis",
    "why",
)


def differences_csv(found: Sequence[Difference]) -> str:
    """Return first minus second of every pair of groups, with its 95 % interval, as stored."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(DIFFERENCE_COLUMNS)
    for d in found:
        numbers = [d.mean, *(d.interval or (None, None))]
        shown = ["" if x is None else repr(x) for x in numbers]
        writer.writerow((d.metric.name, d.first, d.second, *shown, d.unit, d.basis, d.why))
    return buffer.getvalue()


def claims_tex(checked: Sequence[Statement]) -> str:
    """Return the claims as a LaTeX list, each with its verdict."""
    items = [f"\\item[\\textbf{{{s.mark}}}] {latex(s.text)}" for s in checked]
    return "\n".join(["\\begin{description}", *items, "\\end{description}"]) + "\n"


def _stood(run: RunRecord, name: str) -> str:
    """Say what an unfinished run had measured, where nobody averages it by accident."""
    found = next((m for m in run.measures if m.metric == name), None)
    if not run.gap or found is None or found.value is None:
        return ""
    return f" (it stood at {found.value:g} {found.unit}".rstrip() + ")"


def headline(comparison: Comparison) -> list[str]:
    """Return the metrics of the opening table that any run has, or says it lacks."""
    return leading(HEADLINE, comparison.metrics)


def table_tex(comparison: Comparison) -> str:
    """Return a booktabs table: groups as rows, as many metrics as fit a page as columns."""
    named = leading(PAPER, comparison.metrics)
    names = [n for n in named if any(c.values for c in comparison.cells(n).values())]
    metrics = [metric(n, comparison.unit(n)) for n in names]
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "": ""}
    heads = [f"{latex(m.short)}{arrows[m.better]}" for m in metrics]
    units = [f"({latex(m.unit)})" if m.unit else "" for m in metrics]
    best = {n: best_labels(comparison, n) for n in names}
    lines = [
        "% Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{l{'r' * len(names)}}}",
        "\\toprule",
        " & ".join(["Representation", *heads]) + r" \\",
        " & ".join(["", *units]) + r" \\",
        "\\midrule",
    ]
    for group in comparison.groups:
        cells = [_tex_cell(group.cell(n), group.label in best[n]) for n in names]
        lines.append(" & ".join([latex(group.label), *cells]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [
        f"% {group.label}, {n}: {' '.join(group.cell(n).why.split())}"
        for group in comparison.groups
        for n in names
        if not group.cell(n).complete
    ]
    seeds = [f"% {g.label}: {_seeds(g)}" for g in comparison.groups]
    bold = [f"% {n}: {why}" for n in names for why in [why_not_bold(comparison, n)] if why]
    return "\n".join([*lines, *seeds, *notes, *bold]) + "\n"


def _seeds(group: Group) -> str:
    seeds = ", ".join(str(run.seed) for run in group.runs)
    return (
        f"seed {seeds}" if len(group.runs) == 1 else f"seeds {seeds}; mean and standard deviation"
    )


def _tex_cell(cell: Cell, bold: bool) -> str:
    if cell.mean is None:
        return "--"
    text = latex(cell.metric.format(cell.mean))
    if bold:
        text = f"\\textbf{{{text}}}"
    if cell.deviation is not None:
        text += f" $\\pm$ {latex(cell.metric.format_like(cell.deviation, cell.mean))}"
    return text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "°": r"$^\circ$", "±": r"$\pm$",
}  # fmt: skip


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text)

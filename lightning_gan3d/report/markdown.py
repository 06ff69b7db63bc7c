"""A report as Markdown, with its plots as files beside it."""

from collections.abc import Sequence

from lightning_gan3d.report.document import CellText, Document, Table
from lightning_gan3d.report.paired import DIFFERENCE_HEADS, Difference, difference_row
from lightning_gan3d.report.protocols import Conditions
from lightning_gan3d.report.statements import Statement


def to_markdown(document: Document, plot_folder: str) -> str:
    """Set a report as Markdown; `plot_folder` is where its pictures lie, relative to it."""
    parts = [f"# {escape(document.title)}", *(escape(line) for line in document.opening)]
    parts += ["## Claims", _statements(document.claims)]
    parts += ["## Summary", _table(document.summary)]
    parts += ["## Checked statements", _statements(document.statements)]
    parts.append("## Plots")
    for plot in document.plots:
        parts.append(f"### {escape(plot.title)}")
        if plot.why:
            parts.append(f"Missing: {escape(plot.why)}")
        else:
            parts += [
                f"![{escape(plot.title)}]({plot_folder}/{plot.name}.png)",
                escape(plot.caption),
            ]
    parts.append("## Every measure")
    for table in document.tables:
        parts += [f"### {escape(table.title)}", _table(table)]
        for label, lines in table.protocols:
            if len(lines) == 1:
                parts.append(f"{escape(label)}: {escape(lines[0])}")
            else:
                parts.append(
                    "\n".join([f"{escape(label)}:", "", *(f"- {escape(x)}" for x in lines)])
                )
    parts += ["## Paired differences", _differences(document.differences)]
    parts += ["## Conditions", _conditions(document.conditions)]
    parts.append("## Provenance")
    if document.shared:
        parts += ["All runs:", "\n".join(f"- {escape(k)}: {escape(v)}" for k, v in document.shared)]
    for run in document.provenance:
        facts = [f"- {escape(k)}: {escape(v)}" for k, v in run.facts]
        facts += [f"- could not be read: {escape(p)}" for p in run.problems]
        parts.append("\n".join([f"{escape(run.run)}, {escape(run.state)}", "", *facts]).rstrip())
    return "\n\n".join(parts) + "\n"


def _statements(statements: Sequence[Statement]) -> str:
    return "\n".join(f"- **{s.mark}**: {escape(s.text)}" for s in statements)


def _differences(found: Sequence[Difference]) -> str:
    if not found:
        return "There are no two groups to compare."
    rows = [" | ".join(escape(x) for x in difference_row(d)) for d in found]
    head = " | ".join(DIFFERENCE_HEADS)
    lines = [f"| {head} |", f"|{'---|' * len(DIFFERENCE_HEADS)}", *(f"| {row} |" for row in rows)]
    return "\n".join(lines)


def _conditions(table: Conditions) -> str:
    lines = [f"| run | {' | '.join(table.heads)} |", f"|{'---|' * (len(table.heads) + 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(escape, row))} |" for row in table.rows)])


def _table(table: Table) -> str:
    if not table.rows:
        return "\n\n".join(escape(x) for x in table.remarks)
    lines = [
        f"| | {' | '.join(escape(g) for g in table.groups)} |",
        f"|---|{'---|' * len(table.groups)}",
    ]
    for shown, cells in table.rows:
        lines.append(f"| {escape(shown.heading)} | {' | '.join(_cell(c) for c in cells)} |")
    if table.footnotes:
        lines.append("")
        lines += [f"[{i}] {escape(why)}<br>" for i, why in enumerate(table.footnotes, 1)]
    lines += [x for remark in table.remarks for x in ("", escape(remark))]
    return "\n".join(lines)


def _cell(cell: CellText) -> str:
    main = f"**{escape(cell.main)}**" if cell.best else escape(cell.main)
    mark = f" [{cell.note}]" if cell.note else ""
    detail = f"<br>{escape(cell.detail)}" if cell.detail else ""
    return main + mark + detail


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, and keep table rows on one line."""
    text = " ".join(text.split())
    for sign in "\\`*_<|[]":
        text = text.replace(sign, f"\\{sign}")
    return text

"""A report as Markdown, with its plots as files beside it."""

from lightning_gan3d.report.document import CellText, Document, Table
from lightning_gan3d.report.statements import Verdict

MARKS: dict[Verdict, str] = {
    "found": "finding",
    "holds": "holds",
    "fails": "does not hold",
    "open": "not decided",
}
"""How a checked statement is marked."""


def to_markdown(document: Document, plot_folder: str) -> str:
    """Set a report as Markdown; `plot_folder` is where its pictures lie, relative to it."""
    parts = [f"# {escape(document.title)}", *(escape(line) for line in document.opening)]
    parts += ["## Summary", _table(document.summary), "## Checked statements"]
    parts.append(
        "\n".join(f"- **{MARKS[s.verdict]}**: {escape(s.text)}" for s in document.statements)
    )
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
    parts.append("## Provenance")
    if document.shared:
        parts += ["All runs:", "\n".join(f"- {escape(k)}: {escape(v)}" for k, v in document.shared)]
    for run in document.provenance:
        facts = [f"- {escape(k)}: {escape(v)}" for k, v in run.facts]
        facts += [f"- could not be read: {escape(p)}" for p in run.problems]
        parts.append("\n".join([f"{escape(run.run)}, {escape(run.state)}", "", *facts]).rstrip())
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [
        f"| | {' | '.join(escape(g) for g in table.groups)} |",
        f"|---|{'---|' * len(table.groups)}",
    ]
    for shown, cells in table.rows:
        lines.append(f"| {escape(shown.heading)} | {' | '.join(_cell(c) for c in cells)} |")
    if table.footnotes:
        lines.append("")
        lines += [f"[{i}] {escape(why)}<br>" for i, why in enumerate(table.footnotes, 1)]
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

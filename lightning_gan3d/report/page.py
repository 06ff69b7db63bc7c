"""A report as one self-contained web page, without scripts: for desks, phones and paper."""

import base64
import html
from collections.abc import Sequence

from lightning_gan3d.report.document import CellText, Document, Table
from lightning_gan3d.report.page_style import STYLE
from lightning_gan3d.report.paired import DIFFERENCE_HEADS, difference_row
from lightning_gan3d.report.plots.plot import Plot
from lightning_gan3d.report.plots.style import inks
from lightning_gan3d.report.statements import Statement
from lightning_gan3d.version import __version__

LONG = 12
"""Lines of protocol from which they are folded away on screen."""


def to_html(document: Document) -> str:
    """Set a report as a page."""
    colours = _colours(document)
    body = [
        f"<h1>{_t(document.title)}</h1>",
        *(f"<p>{_t(line)}</p>" for line in document.opening),
        '<h2 id="claims">Claims</h2>',
        "<p>What is expected of these generators, checked against the numbers below. A claim that "
        "fails is printed as failed.</p>",
        '<ul class="statements">',
        *(_statement(s) for s in document.claims),
        "</ul>",
        '<h2 id="summary">Summary</h2>',
        _table(document.summary, document),
        '<h2 id="statements">Checked statements</h2>',
        "<p>Each sentence is decided by the numbers of this report alone.</p>",
        '<ul class="statements">',
        *(_statement(s) for s in document.statements),
        "</ul>",
        '<h2 id="plots">Plots</h2>',
        '<div class="plots">',
        *(_plot(p) for p in document.plots),
        "</div>",
        '<h2 id="measures">Every measure</h2>',
        *(_family(t, document) for t in document.tables),
        '<h2 id="differences">Paired differences</h2>',
        "<p>Seed by seed, or where there are too few seeds item by item: latents with the same "
        "cameras. Intervals by Student's t; one that leaves out zero says who is ahead.</p>",
        _rows(DIFFERENCE_HEADS, [difference_row(d) for d in document.differences]),
        '<h2 id="conditions">Conditions</h2>',
        "<p>What all numbers of a run's evaluation share; n and cameras stand beside each "
        "measure.</p>",
        _rows(("run", *document.conditions.heads), document.conditions.rows),
        '<h2 id="provenance">Provenance</h2>',
        *_provenance(document),
        f"<footer>Written by lightning_gan3d {__version__}. The same numbers are in results.csv, "
        "differences.csv, claims.tex, table.tex and report.md.</footer>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_t(document.title)}</title>",
            f"<style>\n{STYLE}{colours}</style>",
            "</head>",
            "<body>",
            '<nav><a href="#claims">Claims</a> <a href="#summary">Summary</a> '
            '<a href="#statements">Statements</a> <a href="#plots">Plots</a> '
            '<a href="#measures">Measures</a> <a href="#differences">Differences</a> '
            '<a href="#conditions">Conditions</a> <a href="#provenance">Provenance</a></nav>',
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _t(text: str) -> str:
    return html.escape(text)


def _statement(statement: Statement) -> str:
    mark = f'<span class="mark">{statement.mark}</span>'
    return f'<li class="{statement.verdict}">{mark} {_t(statement.text)}</li>'


def _colours(document: Document) -> str:
    palette = inks(kind for _, kind in document.kinds)
    light = "".join(f".k{i}{{--ink:{ink.light}}}" for i, ink in enumerate(palette.values()))
    dark = "".join(f".k{i}{{--ink:{ink.dark}}}" for i, ink in enumerate(palette.values()))
    return f"{light}\n@media screen and (prefers-color-scheme: dark){{{dark}}}\n"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set a plain table of words; the first column is the head of its row."""
    if not rows:
        return "<p>There are no two groups to compare.</p>"
    top = "".join(f'<th scope="col">{_t(head)}</th>' for head in heads)
    body = "\n".join(
        f'<tr><th scope="row">{_t(first)}</th>'
        + "".join(f"<td>{_t(x)}</td>" for x in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="words"><thead><tr>{top}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _table(table: Table, document: Document) -> str:
    order = list(inks(kind for _, kind in document.kinds))
    kinds = {label: order.index(kind) for label, kind in document.kinds}
    heads = "".join(
        f'<th scope="col" class="k{kinds[g]}"><span class="dot"></span>{_t(g)}</th>'
        for g in table.groups
    )
    rows = "\n".join(
        f'<tr><th scope="row">{_t(shown.label)}'
        f"<small>{_t(_direction(shown.unit, shown.better))}</small></th>"
        + "".join(_cell(c) for c in cells)
        + "</tr>"
        for shown, cells in table.rows
    )
    notes = "".join(f"<li>{_t(why)}</li>" for why in table.footnotes)
    remarks = "".join(f'<p class="notes">{_t(x)}</p>' for x in table.remarks)
    if not table.rows:
        return remarks
    return (
        f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
        + (f'<ol class="notes">{notes}</ol>' if notes else "")
        + remarks
    )


def _direction(unit: str, better: str) -> str:
    return ", ".join(x for x in (unit, f"{better} is better" if better else "") if x)


def _cell(cell: CellText) -> str:
    main = f"<b>{_t(cell.main)}</b>" if cell.best else _t(cell.main)
    mark = f"<sup>{cell.note}</sup>" if cell.note else ""
    detail = f"<small>{_t(cell.detail)}</small>" if cell.detail else ""
    return f'<td class="{"gap" if cell.note else "value"}">{main}{mark}{detail}</td>'


def _plot(plot: Plot) -> str:
    wide = ' class="wide"' if plot.wide else ""
    if plot.why:
        why = f'<p class="gap">Missing: {_t(plot.why)}</p>'
        return f"<figure{wide}><h3>{_t(plot.title)}</h3>{why}</figure>"
    kind = {"png": "image/png", "svg": "image/svg+xml"}[plot.shown_as]
    light, dark = _data(plot.files[plot.shown_as], kind), _data(plot.files["dark"], kind)
    return (
        f'<figure{wide}><h3>{_t(plot.title)}</h3><div class="scroll"><picture>'
        f'<source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{_t(plot.title)}"></picture></div>'
        f"<figcaption>{_t(plot.caption)}</figcaption></figure>"
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _family(table: Table, document: Document) -> str:
    parts = [f"<section><h3>{_t(table.title)}</h3>", _table(table, document)]
    if table.protocols:
        items = "".join(
            f"<dt>{_t(label)}</dt>" + "".join(f"<dd>{_t(line)}</dd>" for line in lines)
            for label, lines in table.protocols
        )
        folded = sum(len(lines) for _, lines in table.protocols) > LONG
        parts.append(
            f"<details{'' if folded else ' open'}><summary>How it was measured</summary>"
            f"<dl>{items}</dl></details>"
        )
    return "\n".join([*parts, "</section>"])


def _provenance(document: Document) -> list[str]:
    parts = []
    if document.shared:
        parts.append(f"<section><h3>All runs</h3>{_facts(document.shared)}</section>")
    for run in document.provenance:
        problems = "".join(f'<p class="gap">Could not be read: {_t(p)}</p>' for p in run.problems)
        parts.append(
            f"<section><h3>{_t(run.run)} <small>{_t(run.state)}</small></h3>"
            f"{_facts(run.facts)}{problems}</section>"
        )
    return parts


def _facts(facts: tuple[tuple[str, str], ...]) -> str:
    return (
        f'<dl class="facts">{"".join(f"<dt>{_t(k)}</dt><dd>{_t(v)}</dd>" for k, v in facts)}</dl>'
    )

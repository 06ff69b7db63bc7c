"""The files of a report: web page, Markdown, tables and plots."""

import csv
import difflib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import BENCHED, Use, selected, significant
from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import Decisions, Difference, best_labels, why_not_bold
from lightning_gan3d.report.document import Document, compose
from lightning_gan3d.report.effects import effect_table
from lightning_gan3d.report.groups import Cell, Comparison, Group, compare
from lightning_gan3d.report.plots.charts import curves, paretos
from lightning_gan3d.report.records import RunRecord, find_runs
from lightning_gan3d.report.statements import Statement, statements
from lightning_gan3d.version import __version__

if TYPE_CHECKING:
    from lightning_gan3d.report.plots.image_sheets import LoadGenerator


PLOTS = "plots"
MOST = 9
"""Groups that a report shows at most, unless they are selected."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows, and how it is named."""

    rows: tuple[str, ...] = ()
    """Labels of the groups, in their order; empty: all."""
    metrics: str = ""
    """Metrics of the headline and LaTeX tables, as patterns with commas; empty: the usual ones."""
    labels: tuple[str, ...] = ()
    """New labels of groups, `OLD=NEW`."""

    def arrange(self, comparison: Comparison) -> Comparison:
        """Select and order groups; of many, `best`."""
        groups = {g.label: g for g in comparison.groups}
        for option, label in [
            *(("rows", x) for x in self.rows),
            *(("labels", x) for x in self._names()),
        ]:
            if label not in groups:
                raise ConfigError(f"--{option} {label}: no such group; use {'; '.join(groups)}")
        if len(set(self.rows)) < len(self.rows):
            raise ConfigError(f"--rows {' '.join(self.rows)}: name each group once")
        if not self.rows and len(groups) > MOST:
            return best(comparison)[0]
        return Comparison(tuple(groups[x] for x in self.rows or groups))

    def rename(self, comparison: Comparison) -> Comparison:
        """Give groups their new labels."""
        names = self._names()
        if not names:
            return comparison  # which keeps what it has computed
        labels = [names.get(g.label, g.label) for g in comparison.groups]
        if twice := next((x for x in labels if labels.count(x) > 1), ""):
            raise ConfigError(f"--labels {twice}: two groups would have this label")
        pairs = zip(comparison.groups, labels, strict=True)
        return Comparison(tuple(replace(g, label=label) for g, label in pairs))

    def _names(self) -> dict[str, str]:
        if wrong := next((x for x in self.labels if not all(x.rpartition("="))), ""):
            raise ConfigError(f"--labels {wrong}: write OLD=NEW")
        return dict(x.rpartition("=")[::2] for x in self.labels)

    def headline(self, comparison: Comparison) -> list[MetricId]:
        """Return the metrics of the headline and LaTeX tables, in the order of the patterns."""
        if not self.metrics:
            return selected(comparison.metrics, Use.PAPER)
        ids = []
        keys = [m.key for m in comparison.metrics]
        for pattern in map(str.strip, self.metrics.split(",")):
            matches = [m for m in comparison.metrics if fnmatch(m.key, pattern)]
            if not matches:
                near = difflib.get_close_matches(pattern, keys, n=3, cutoff=0.3)
                hint = f"no such metric; use {', '.join(near)}"
                if pattern.partition(".")[0] in BENCHED:
                    hint = "no run has it; run `gan3d bench` first"
                raise ConfigError(f"--metrics {pattern}: {hint}")
            ids += matches
        return list(dict.fromkeys(ids))


def make_report(
    run_dirs: Sequence[Path],
    out: Path,
    options: ReportOptions = ReportOptions(),
    load_generator: "LoadGenerator | None" = None,
) -> Path:
    """Compare runs, write page, Markdown, tables and plots to `out`, and return the page.

    `run_dirs` are run directories, folders of them, or a sweep's `sweep.json`. Unreadable and
    unfinished runs are gaps in the report; it is an error if there is no run at all.
    """
    whole = compare(find_runs(run_dirs))
    comparison, whole = options.rename(options.arrange(whole)), options.rename(whole)
    excerpt = not options.rows and len(comparison.groups) < len(whole.groups)
    headline = options.headline(comparison)
    # Images need torch; a mistyped path should not wait for it.
    from lightning_gan3d.report.plots.image_sheets import image_sheets, load_ema

    turntables, neighbours = image_sheets(comparison, load_generator or load_ema)
    plots = [*turntables, *curves(comparison), *paretos(comparison), *neighbours]
    family = (comparison, whole) if excerpt else (whole, None)
    decisions = Decisions(comparison, *family)
    checked, gaps = claims(decisions), decisions.between_groups
    document = compose(comparison, headline, checked, statements(decisions), plots, gaps)
    if excerpt:
        document = replace(
            document, opening=(best(whole)[1], *document.opening), effects=effect_table(whole)
        )
    out.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        plot.write(out / PLOTS)
    texts = {
        "results.csv": results_csv(whole if excerpt else comparison),
        "differences.csv": differences_csv(gaps),
        "claims.tex": claims_tex(checked),
        "table.tex": table_tex(comparison, headline),
        "report.md": to_markdown(document, PLOTS),
        "index.html": to_html(document),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    return out / "index.html"


def best(comparison: Comparison) -> tuple[Comparison, str]:
    """Return the `MOST` groups with the best mean of the first headline metric, and a sentence."""
    runs, groups = comparison.runs, comparison.groups
    finished = f"{sum(not run.gap for run in runs)} of {len(runs)} runs are finished"
    for metric_id in selected(comparison.metrics, Use.PAPER):
        info = comparison.info(metric_id)
        means = {x: c.mean for x, c in comparison.cells(metric_id).items() if c.mean is not None}
        ranked = [g for g in groups if g.label in means and not g.why_unranked]
        if not info.better or len(ranked) < MOST:
            continue
        sign = -1 if info.better == "higher" else 1
        ranked.sort(key=lambda g: sign * means[g.label])
        shown = Comparison(tuple(g for g in groups if g in ranked[:MOST]))
        why = f"the {MOST} of {len(groups)} generators with the best {info.short}"
        return shown, f"Shown are {why}; {finished}. All are in results.csv; `--rows` selects."
    why = f"the first {MOST} of {len(groups)} generators"
    return Comparison(groups[:MOST]), f"Shown are {why}; {finished}. All are in results.csv."


def results_csv(comparison: Comparison) -> str:
    """Return all metrics of all runs in stored units; a missing value is empty, with a note."""
    heads = ("run", "representation", "seed", "metric", "value", "unit", "n", "note", "protocol")
    rows = []
    units = {metric_id: comparison.info(metric_id).unit for metric_id in comparison.metrics}
    for run in comparison.runs:
        for metric_id in comparison.metrics:
            m = run.metric(metric_id)
            note = f"{m.note}{_value_at_stop(run, metric_id)}"
            if m.spread is not None:
                note = f"standard deviation {significant(m.spread)} over n; {note}"
            unit = m.unit or units[metric_id]
            row = (metric_id.key, m.value, unit, m.n, note, m.protocol)
            rows.append((run.name, run.representation, run.seed, *row))
    return _csv(heads, rows)


def _value_at_stop(run: RunRecord, metric_id: MetricId) -> str:
    """Return the value of an unfinished run for the note, so that nobody averages it."""
    m = run.by_id.get(metric_id)
    if not run.gap or m is None or m.value is None:
        return ""
    return f" (value when it stopped: {m.value:g} {m.unit}".rstrip() + ")"


def differences_csv(differences: Sequence[Difference]) -> str:
    """Return first minus second of every pair of groups, with its 95 % interval, as stored."""
    heads = "metric", "first", "second", "difference", "low", "high", "unit", "p", "basis", "why"
    rows = []
    for d in differences:
        low, high = d.interval or (None, None)
        row = d.id.key, d.first, d.second, d.mean, low, high, d.info.unit, d.adjusted
        rows.append((*row, d.basis, d.why))
    return _csv(heads, rows)


def _csv(heads: Sequence[str], rows: Iterable[Sequence[str | int | float | None]]) -> str:
    """Return a table; None is an empty cell, and numbers keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()


def claims_tex(claims: Sequence[Statement]) -> str:
    """Return the claims as a LaTeX list, each with its verdict."""
    items = [f"\\item[\\textbf{{{s.mark}}}] {latex(s.text)}" for s in claims]
    return "\n".join(["\\begin{description}", *items, "\\end{description}"]) + "\n"


def table_tex(comparison: Comparison, headline: Sequence[MetricId]) -> str:
    """Return a booktabs table: groups as rows, the headline metrics that have values as columns."""
    ids = [m for m in headline if any(c.values for c in comparison.cells(m).values())]
    infos = [comparison.info(m) for m in ids]
    best = {m: best_labels(comparison, m) for m in ids}
    lines = [
        "% Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{l{'r' * len(ids)}}}",
        "\\toprule",
        _tex_row(["Representation", *(latex(f"{i.short} {i.arrow}".rstrip()) for i in infos)]),
        _tex_row(["", *(f"({latex(i.printed_unit)})" if i.printed_unit else "" for i in infos)]),
        "\\midrule",
    ]
    notes = []
    for group in comparison.groups:
        cells = {m: group.cell(m) for m in ids}
        texts = [_tex_cell(cell, group.label in best[m]) for m, cell in cells.items()]
        mark = r"$^\dagger$" if group.why_unranked else ""
        lines.append(_tex_row([latex(group.label) + mark, *texts]))
        if group.why_unranked:
            notes.append(f"% {group.label} {group.why_unranked}")
        notes += [
            f"% {group.label}, {m.key}: {' '.join(cell.why.split())}"
            for m, cell in cells.items()
            if not cell.complete
        ]
    if any(group.why_unranked for group in comparison.groups):
        why = r"\footnotesize $^\dagger$ Not ranked: failed a check for degenerate generators."
        lines += ["\\midrule", f"\\multicolumn{{{len(ids) + 1}}}{{l}}{{{why}}} \\\\"]
    lines += ["\\bottomrule", "\\end{tabular}"]
    seeds = [f"% {g.label}: {_seeds(g)}" for g in comparison.groups]
    bold = [f"% {m.key}: {why}" for m in ids if (why := why_not_bold(comparison, m))]
    return "\n".join([*lines, *seeds, *notes, *bold]) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _seeds(group: Group) -> str:
    seeds = ", ".join(str(run.seed) for run in group.runs)
    if len(group.runs) == 1:
        return f"seed {seeds}"
    return f"seeds {seeds}; mean and standard deviation"


def _tex_cell(cell: Cell, bold: bool) -> str:
    if cell.mean is None:
        return "--"
    text = latex(cell.info.format(cell.mean))
    if bold:
        text = f"\\textbf{{{text}}}"
    if cell.deviation is not None:
        text += f" $\\pm$ {latex(cell.info.format_like(cell.deviation, cell.mean))}"
    return text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "°": r"$^\circ$", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text)


def to_html(document: Document) -> str:
    """Return a web page; its style and its images are embedded."""
    colour = {label: number for number, label in enumerate(document.inks)}
    return render(
        "report.html",
        document=document,
        inks=document.inks.values(),
        colour=colour,
        version=__version__,
    )


def to_markdown(document: Document, plot_folder: str) -> str:
    """Return Markdown; `plot_folder` holds the files of the plots, relative to the page."""
    return render("report.md", document=document, plots=plot_folder)


def render(name: str, **values: Any) -> str:
    """Fill a template of this package."""
    environment = Environment(
        loader=PackageLoader("lightning_gan3d.report"),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["md"] = escape_markdown
    return environment.get_template(name).render(values).lstrip()


def escape_markdown(text: str) -> str:
    """Escape markup, and put text on one line, as table rows need."""
    text = " ".join(text.split())
    for character in "\\`*_<|[]":
        text = text.replace(character, f"\\{character}")
    return text

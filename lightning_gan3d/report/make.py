"""`gan3d report`: from run directories to a web page, Markdown, tables and plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import differences
from lightning_gan3d.report.document import Document, compose
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.plots.curves import curves
from lightning_gan3d.report.plots.pareto import paretos
from lightning_gan3d.report.plots.style import inks
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.statements import statements
from lightning_gan3d.report.tables import claims_tex, differences_csv, results_csv, table_tex
from lightning_gan3d.version import __version__

if TYPE_CHECKING:
    from lightning_gan3d.report.plots.image_sheets import LoadGenerator

PLOTS = "plots"


def make_report(
    run_dirs: Sequence[Path], out: Path, load_generator: "LoadGenerator | None" = None
) -> Path:
    """Compare runs, write page, Markdown, tables and plots to `out`, and return the page.

    `run_dirs` are run directories, folders of them, or a sweep's `sweep.json`. Unreadable and
    unfinished runs are gaps in the report; it is an error if there is no run at all.
    """
    comparison = compare(find_runs(run_dirs))
    # Images need torch; a mistyped path should not wait for it.
    from lightning_gan3d.report.plots.image_sheets import image_sheets, load_ema

    turntables, neighbours = image_sheets(comparison, load_generator or load_ema)
    plots = [*turntables, *curves(comparison), *paretos(comparison), *neighbours]
    checked, gaps = claims(comparison), differences(comparison)
    document = compose(comparison, checked, statements(comparison), plots, gaps)
    out.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        plot.write(out / PLOTS)
    texts = {
        "results.csv": results_csv(comparison),
        "differences.csv": differences_csv(gaps),
        "claims.tex": claims_tex(checked),
        "table.tex": table_tex(comparison),
        "report.md": to_markdown(document, PLOTS),
        "index.html": to_html(document),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    return out / "index.html"


def to_html(document: Document) -> str:
    """Return a web page; its style and its images are embedded."""
    palette = inks(document.kinds.values())
    colour = {label: list(palette).index(kind) for label, kind in document.kinds.items()}
    return _render(
        "report.html",
        document=document,
        inks=palette.values(),
        colour=colour,
        version=__version__,
    )


def to_markdown(document: Document, plot_folder: str) -> str:
    """Return Markdown; `plot_folder` holds the files of the plots, relative to the page."""
    return _render("report.md", document=document, plots=plot_folder)


def _render(name: str, **values: Any) -> str:
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

"""`gan3d report`: from run directories to a web page, Markdown, tables and plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.differences import differences
from lightning_gan3d.report.document import compose
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.page import to_html, to_markdown
from lightning_gan3d.report.plots.curves import curves
from lightning_gan3d.report.plots.pareto import paretos
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.statements import statements
from lightning_gan3d.report.tables import claims_tex, differences_csv, results_csv, table_tex

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

"""`gan3d report`: from run directories to a page, Markdown, tables and plots."""

from collections.abc import Sequence
from pathlib import Path

from lightning_gan3d.report.claims import claims
from lightning_gan3d.report.document import compose
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.markdown import to_markdown
from lightning_gan3d.report.page import to_html
from lightning_gan3d.report.paired import differences
from lightning_gan3d.report.plots.angles import angles
from lightning_gan3d.report.plots.curves import plots
from lightning_gan3d.report.plots.neighbours import neighbours
from lightning_gan3d.report.plots.view_sheet import LoadGenerator, load_averaged, turntables
from lightning_gan3d.report.records import find_runs
from lightning_gan3d.report.statements import statements
from lightning_gan3d.report.tables import claims_tex, differences_csv, results_csv, table_tex

PLOTS = "plots"


def make_report(
    run_dirs: Sequence[Path], out: Path, load_generator: LoadGenerator = load_averaged
) -> Path:
    """Compare runs, write page, Markdown, tables and plots to `out`, and return the page.

    `run_dirs` are run directories, folders of them, or a sweep's `sweep.json`. What cannot be read
    or is not finished is a gap in the report; only where there is no run at all it is refused.
    """
    comparison = compare(find_runs(run_dirs))
    pictures = [
        *turntables(comparison, load_generator),
        *plots(comparison),
        *angles(comparison),
        *neighbours(comparison, load_generator),
    ]
    checked = claims(comparison)
    gaps = differences(comparison)
    document = compose(comparison, checked, statements(comparison), pictures, gaps)
    out.mkdir(parents=True, exist_ok=True)
    for plot in pictures:
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

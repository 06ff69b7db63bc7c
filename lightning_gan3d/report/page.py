"""Print a report as one self-contained web page and as Markdown, by the templates beside it."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_gan3d.report.document import Document
from lightning_gan3d.report.plots.style import inks
from lightning_gan3d.version import __version__


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

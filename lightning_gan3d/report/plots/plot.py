"""A picture of a report: drawn for a light and a dark page, written as PNG and SVG."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from lightning_gan3d.report.plots.style import DARK, LIGHT, Theme, rc

Draw = Callable[[Theme], Figure]


@dataclass(frozen=True)
class Plot:
    """One picture of a report, as bytes; or the reason why there is none."""

    name: str
    """Name of its files, without suffix."""
    title: str
    """What it shows."""
    caption: str
    """How to read it, and what is missing in it."""
    why: str = ""
    """Why there is no picture; empty where there is one."""
    files: dict[str, bytes] = field(default_factory=dict)
    """`png` and `svg`, for light pages and print; for dark pages `dark`, as the page shows it."""
    wide: bool = False
    """Whether it needs the whole width of a page; such pictures are pixels, the others vectors."""

    @property
    def shown_as(self) -> str:
        """The format in which a web page shows it."""
        return "png" if self.wide else "svg"

    def write(self, folder: Path) -> None:
        """Write the light picture as PNG and SVG."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("png", "svg"):
            if suffix in self.files:
                (folder / f"{self.name}.{suffix}").write_bytes(self.files[suffix])


def drawn(name: str, title: str, caption: str, draw: Draw, wide: bool = False) -> Plot:
    """Draw on both pages. The same numbers give the same bytes."""
    plot = Plot(name, title, caption, wide=wide)
    with mpl.rc_context(rc(LIGHT)):  # type: ignore[arg-type]  # keys are names of settings
        picture = _settled(draw(LIGHT))
        plot.files.update(png=_saved(picture, "png"), svg=_saved(picture, "svg"))
    with mpl.rc_context(rc(DARK)):  # type: ignore[arg-type]  # keys are names of settings
        plot.files["dark"] = _saved(_settled(draw(DARK)), plot.shown_as)
    return plot


def _settled(picture: Figure) -> Figure:
    """Lay the figure out once: the layout engine would do it again for every file."""
    if picture.get_layout_engine() is not None:
        picture.draw_without_rendering()
        picture.set_layout_engine("none")
    return picture


def _saved(picture: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    picture.savefig(buffer, format=suffix, dpi=160, metadata=metadata)
    return buffer.getvalue()

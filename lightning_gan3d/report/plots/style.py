"""Colours and marks: one for each representation in every plot, also for the colour-blind."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lightning_gan3d.report.groups import representation_order


@dataclass(frozen=True)
class Ink:
    """How a representation is drawn."""

    light: str
    """Colour on a light page."""
    dark: str
    """The same hue, lighter, on a dark page."""
    marker: str
    """Shape of its points: colour is never the only sign."""

    def on(self, theme: "Theme") -> str:
        """Return the colour on a page."""
        return self.dark if theme.name == "dark" else self.light


@dataclass(frozen=True)
class Theme:
    """The page that a plot stands on."""

    name: str
    page: str
    text: str
    faint: str
    """Grid lines and frames."""


LIGHT = Theme("light", "#ffffff", "#1f2328", "#d8dbe0")
DARK = Theme("dark", "#15181d", "#e3e6ea", "#3a4049")

# Blue, vermilion, green and purple, as Okabe & Ito (2008), with lightness pulled apart as well, so
# that they differ by 20 or more in CIELAB under each common colour deficiency.
_INKS = {
    "triplane": Ink("#00509e", "#4a95ff", "o"),
    "voxel": Ink("#d55e00", "#f07a2e", "s"),
    "nerf_mlp": Ink("#00916a", "#35e0a8", "^"),
    "image2d": Ink("#7d3f74", "#c080b4", "D"),
}
_OTHERS = (
    Ink("#8c6d00", "#f0c63a", "v"),
    Ink("#1f2328", "#e3e6ea", "P"),
    Ink("#3f6fc4", "#9db8f2", "X"),
    Ink("#a3253c", "#f08a9b", "*"),
    Ink("#5f6670", "#a9b1bb", "p"),
)


def inks(representations: Iterable[str]) -> dict[str, Ink]:
    """Give each representation its ink; foreign ones share what is left, by name."""
    kinds = sorted(set(representations), key=representation_order)
    foreign = [k for k in kinds if k not in _INKS]
    return {k: _INKS.get(k) or _OTHERS[foreign.index(k) % len(_OTHERS)] for k in kinds}


def rc(theme: Theme) -> dict[str, Any]:
    """Matplotlib settings of a page; SVG text becomes paths, to look the same everywhere."""
    return {
        "figure.facecolor": theme.page,
        "savefig.facecolor": theme.page,
        "axes.facecolor": theme.page,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": theme.text,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "text.color": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "font.size": 10,
        "font.family": "DejaVu Sans",
        "svg.hashsalt": "lightning_gan3d",
        "svg.fonttype": "path",
        "lines.linewidth": 1.8,
    }


def figure(width: float = 5.6, height: float = 3.9) -> Figure:
    """Return an empty figure; no display and no global state."""
    return Figure(figsize=(width, height), layout="constrained")

"""Look of the plots: colours, marks, labels, and the light and dark file of a plot."""

import base64
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lightning_gan3d.metric_table import significant
from lightning_gan3d.report.groups import Comparison, representation_order


@dataclass(frozen=True)
class Ink:
    """How a representation is drawn."""

    light: str
    """Colour on a light page."""
    dark: str
    """The same hue, lighter, on a dark page."""
    marker: str
    """Shape of its points: colour is never the only difference."""

    def on(self, theme: "Theme") -> str:
        """Return the colour on a page."""
        return self.dark if theme is DARK else self.light


@dataclass(frozen=True)
class Theme:
    """Colours of a page."""

    page: str
    text: str
    faint: str
    """Grid lines and frames."""


LIGHT = Theme("#ffffff", "#1f2328", "#d8dbe0")
DARK = Theme("#15181d", "#e3e6ea", "#3a4049")

# Blue, vermilion, green and purple, as Okabe & Ito (2008), with lightness pulled apart as well, so
# that they differ by 20 or more in CIELAB under each common colour vision deficiency.
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
_TO_DARK = dict(zip(vars(LIGHT).values(), vars(DARK).values(), strict=True)) | {
    ink.light: ink.dark for ink in (*_INKS.values(), *_OTHERS)
}


def inks(representations: Iterable[str]) -> dict[str, Ink]:
    """Return the ink of each representation; plug-ins share the remaining ones, by name."""
    kinds = sorted(set(representations), key=representation_order)
    plug_ins = [k for k in kinds if k not in _INKS]
    return {k: _INKS.get(k) or _OTHERS[plug_ins.index(k) % len(_OTHERS)] for k in kinds}


def group_inks(comparison: Comparison) -> dict[str, Ink]:
    """Return the ink of each group, by label."""
    return label_inks({g.label: g.representation for g in comparison.groups})


def label_inks(representations: Mapping[str, str]) -> dict[str, Ink]:
    """Return the ink of each label: its representation's for the first label with that."""
    palette = inks(representations.values())
    spare = [ink for ink in (*_INKS.values(), *_OTHERS) if ink not in palette.values()]
    result: dict[str, Ink] = {}
    for label, representation in representations.items():
        own = palette[representation]
        if own in result.values():
            own = next((ink for ink in spare if ink not in result.values()), own)
        result[label] = own
    return result


@dataclass(frozen=True)
class Plot:
    """A plot or image sheet as a light and a dark file, or the reason why it is missing."""

    name: str
    """File name without suffix."""
    title: str
    caption: str = ""
    why: str = ""
    """Why it is missing; empty if it is not."""
    light: bytes = b""
    """For light pages and print."""
    dark: bytes = b""
    pdf: bytes = b""
    """For papers."""
    suffix: str = "svg"
    """`svg`: a plot; `png`: an image sheet, which needs the whole width of a page; `webp`: an
    animation, the same on dark pages."""

    @property
    def file(self) -> str:
        """Name of the light file."""
        return f"{self.name}.{self.suffix}"

    def data_uri(self, content: bytes) -> str:
        """Return a file as the address of an embedded image."""
        kind = "image/svg+xml" if self.suffix == "svg" else f"image/{self.suffix}"
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    def write(self, folder: Path) -> None:
        """Write the light file, and the one for papers."""
        if self.light:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self.file).write_bytes(self.light)
        if self.pdf:
            (folder / f"{self.name}.pdf").write_bytes(self.pdf)


def plot(name: str, title: str, caption: str, draw: Callable[[Axes], None]) -> Plot:
    """Draw a plot once; the dark file is the light one with other colours.

    Equal numbers give equal bytes.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_RC):  # type: ignore[arg-type]  # keys are names of settings
        figure = Figure(figsize=(5.6, 3.9), layout="constrained")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        pdf = io.BytesIO()
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    svg = buffer.getvalue()
    dark = re.sub("|".join(_TO_DARK), lambda match: _TO_DARK[match[0]], svg)
    return Plot(name, title, caption, light=svg.encode(), dark=dark.encode(), pdf=pdf.getvalue())


_RC = {
    "figure.facecolor": LIGHT.page,
    "savefig.facecolor": LIGHT.page,
    "axes.facecolor": LIGHT.page,
    "axes.edgecolor": LIGHT.faint,
    "axes.labelcolor": LIGHT.text,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT.faint,
    "grid.linewidth": 0.6,
    "text.color": LIGHT.text,
    "xtick.color": LIGHT.text,
    "ytick.color": LIGHT.text,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "lightning_gan3d",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",  # the same everywhere
    "lines.linewidth": 1.8,
}
NAME = 9.5
"""Size of names in points."""
LONG = 18
"""Characters beyond which a name beside a line is broken at its commas."""


def label_ends(ax: Axes, ends: dict[str, tuple[float, str]]) -> None:
    """Name lines at their right ends, given last values and colours; labels do not overlap."""
    ax.get_ylim()  # updates the transforms below
    low, high = ax.transAxes.transform((0, 0))[1], ax.transAxes.transform((0, 1))[1]
    heights = [ax.transData.transform((1, value))[1] for value, _ in ends.values()]
    texts = [x.replace(", ", ",\n") if len(x) > LONG else x for x in ends]
    lines = max(text.count("\n") + 1 for text in texts)
    placed = spread_out(heights, 13 * lines * ax.figure.dpi / 72, low, high)
    for text, (_, colour), height in zip(texts, ends.values(), placed, strict=True):
        ax.annotate(
            text,
            (1.02, (height - low) / (high - low)),
            xycoords="axes fraction",
            va="center",
            fontsize=NAME,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        )


def spread_out(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights as little as needed for a gap between neighbours; inside, if there is room."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    out = list(heights)
    floor = low
    for i in order:
        out[i] = max(out[i], floor)
        floor = out[i] + gap
    ceiling = high
    for i in reversed(order):
        out[i] = min(out[i], ceiling)
        ceiling = out[i] - gap
    return out


Box = tuple[float, float, float, float]
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def label_points(ax: Axes, points: dict[str, tuple[float, float]], colours: dict[str, str]) -> None:
    """Name each point on the first of eight sides on which its name covers nothing."""
    assert isinstance(ax.figure, Figure)
    ax.figure.draw_without_rendering()
    unit = ax.figure.dpi / 72
    frame = ax.get_window_extent().extents
    centres = {k: tuple(map(float, ax.transData.transform(p))) for k, p in points.items()}
    occupied = [_box(x, y, 16 * unit, 16 * unit) for x, y in centres.values()]
    for label, (x, y) in centres.items():
        width, height, away = 0.68 * NAME * unit * len(label), 1.3 * NAME * unit, 11 * unit
        shifts = [(a * (away + width / 2), b * (away + height / 2)) for a, b in _SIDES]
        boxes = {shift: _box(x + shift[0], y + shift[1], width, height) for shift in shifts}
        inside = [
            shift
            for shift, b in boxes.items()
            if frame[0] <= b[0] and b[2] <= frame[2] and frame[1] <= b[1] and b[3] <= frame[3]
        ]
        free = [shift for shift in inside if not any(_touch(boxes[shift], o) for o in occupied)]
        shift = (free or inside or shifts)[0]
        occupied.append(boxes[shift])
        ax.annotate(
            label,
            points[label],
            xytext=(shift[0] / unit, shift[1] / unit),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=NAME,
            fontweight="bold",
            color=colours[label],
        )


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def plain_log(ax: Axes, name: str) -> None:
    """Make axis `x` or `y` logarithmic, with enough ticks, printed as numbers without powers."""
    ax.set(**{f"{name}scale": "log"})
    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = sorted(ax.get_xlim() if name == "x" else ax.get_ylim())
    ratio = high / low
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if ratio < 4 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, subs=subs if ratio < 1000 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_formatter(NullFormatter())


def tick(value: float) -> str:
    """Print the number of a tick without trailing zeros."""
    return f"{float(significant(value, 2).replace(',', '')):g}"

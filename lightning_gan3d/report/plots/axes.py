"""Labels of plots: names at the ends of lines and beside points, where they cover nothing."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lightning_gan3d.metric_table import significant

NAME = 9.5
"""Size of names in points."""


def label_ends(fig: Figure, ax: Axes, ends: dict[str, tuple[float, str]]) -> None:
    """Name lines at the right, given last values and colours; apart where they would overlap."""
    ax.get_ylim()  # the transform below is not up to date before the limits were asked for
    low, high = ax.transAxes.transform((0, 0))[1], ax.transAxes.transform((0, 1))[1]
    heights = [ax.transData.transform((1, value))[1] for value, _ in ends.values()]
    placed = apart(heights, 13 * fig.dpi / 72, low, high)
    for (label, (_, colour)), height in zip(ends.items(), placed, strict=True):
        ax.annotate(
            label,
            (1.02, (height - low) / (high - low)),
            xycoords="axes fraction",
            va="center",
            fontsize=NAME,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        )


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights as little as needed for neighbours to keep a gap; inside, if there is room."""
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


def label_points(
    fig: Figure, ax: Axes, points: dict[str, tuple[float, float]], colours: dict[str, str]
) -> None:
    """Name each point on the first of eight sides where its name covers nothing drawn before."""
    fig.draw_without_rendering()
    unit = fig.dpi / 72
    frame = ax.get_window_extent()
    taken: list[Box] = []
    for point in points.values():
        x, y = (float(value) for value in ax.transData.transform(point))
        taken.append((x - 8 * unit, y - 8 * unit, x + 8 * unit, y + 8 * unit))
    for label, point in points.items():
        x, y = (float(value) for value in ax.transData.transform(point))
        boxes = _beside(x, y, 0.68 * NAME * unit * len(label), 1.3 * NAME * unit, 11 * unit)
        inside = [
            b
            for b in boxes
            if frame.x0 <= b[0] and b[2] <= frame.x1 and frame.y0 <= b[1] and b[3] <= frame.y1
        ]
        free = [b for b in inside if not any(_touch(b, t) for t in taken)]
        box = (free or inside or boxes)[0]
        taken.append(box)
        ax.annotate(
            label,
            point,
            xytext=(((box[0] + box[2]) / 2 - x) / unit, ((box[1] + box[3]) / 2 - y) / unit),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=NAME,
            fontweight="bold",
            color=colours[label],
        )


def _beside(x: float, y: float, width: float, height: float, away: float) -> list[Box]:
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    centres = [(x + a * (away + width / 2), y + b * (away + height / 2)) for a, b in sides]
    return [(u - width / 2, v - height / 2, u + width / 2, v + height / 2) for u, v in centres]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def plain_log(ax: Axes, axis: str) -> None:
    """Make an axis logarithmic, with enough ticks, printed as numbers rather than powers."""
    if axis == "x":
        ax.set_xscale("log")
        low, high = sorted(ax.get_xlim())
        which = ax.xaxis
    else:
        ax.set_yscale("log")
        low, high = sorted(ax.get_ylim())
        which = ax.yaxis  # type: ignore[assignment]  # both are axes
    span = high / low
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if span < 4 else (1.0, 2.0, 5.0)
    which.set_major_locator(LogLocator(10, subs=subs if span < 1000 else (1.0,)))
    which.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    which.set_minor_formatter(NullFormatter())


def tick(value: float) -> str:
    """Print the number at a tick, without needless zeros."""
    return f"{float(significant(value, 2).replace(',', '')):g}"

"""Trade-offs: two metrics against each other, with the Pareto-optimal groups filled."""

from matplotlib.axes import Axes

from lightning_gan3d.metric import MetricId
from lightning_gan3d.report.groups import Comparison
from lightning_gan3d.report.plots import style
from lightning_gan3d.report.plots.style import LIGHT, Plot, group_inks

PAIRS = (
    ("speed.view_ms", "refit.psnr", "Render time against multi-view consistency"),
    ("memory.train_mb", "refit.psnr", "Training memory against multi-view consistency"),
    ("speed.view_ms", "memory.train_mb", "Render time against training memory"),
    ("training.seconds", "quality.swd", "Training time against SWD"),
)
"""A cost along x; along y what it buys, or another cost."""
Points = dict[str, list[tuple[float, float]]]


def paretos(comparison: Comparison) -> list[Plot]:
    """Plot every pair."""
    return [pareto(comparison, MetricId(x), MetricId(y), title) for x, y, title in PAIRS]


def pareto(comparison: Comparison, x_id: MetricId, y_id: MetricId, title: str) -> Plot:
    """One point per group, and its seeds as small points, alone if a gap leaves no mean."""
    name = f"pareto_{x_id.key}_{y_id.key}".replace(".", "-")
    x_info, y_info = comparison.info(x_id), comparison.info(y_id)
    means: dict[str, tuple[float, float]] = {}
    seeds: Points = {}
    without = []
    for group in comparison.groups:
        x, y = group.cell(x_id), group.cell(y_id)
        points = [
            (a.value * x_info.scale, b.value * y_info.scale)
            for (_, a), (_, b) in zip(x.metrics, y.metrics, strict=True)
            if a.value is not None and b.value is not None
        ]
        if points:
            seeds[group.label] = points
        if x.mean is not None and y.mean is not None:
            means[group.label] = (x.mean * x_info.scale, y.mean * y_info.scale)
        else:
            without.append(f"{group.label}: {x.why if x.mean is None else y.why}")
    if not seeds:
        return Plot(name, title, why="; ".join(without))
    best = pareto_front(means, x_info.better == "higher", y_info.better == "higher")
    ink = group_inks(comparison)
    small = {k: points for k, points in seeds.items() if len(points) > 1 or k not in means}

    def draw(ax: Axes) -> None:
        for label, points in small.items():
            marks = {"marker": ink[label].marker, "color": ink[label].light}
            ax.plot(*zip(*points, strict=True), linestyle="", markersize=4, **marks)  # type: ignore[arg-type]  # names of settings
        for label, point in means.items():
            colour = ink[label].light
            face = colour if label in best else LIGHT.page
            marks = {"marker": ink[label].marker, "color": colour, "markerfacecolor": face}
            ax.plot(*point, markersize=11, markeredgewidth=2, **marks)  # type: ignore[arg-type]  # as above
        for axis, info, values in zip("xy", (x_info, y_info), _coordinates(seeds), strict=True):
            if info.unit not in ("dB", "share") and 0 < 3 * min(values) < max(values):
                style.plain_log(ax, axis)
        ax.margins(0.18, 0.15)
        ax.set_xlabel(x_info.heading, fontsize=9)
        ax.set_ylabel(y_info.heading, fontsize=9)
        at = {label: means.get(label, points[0]) for label, points in seeds.items()}
        style.label_points(ax, at, {label: ink[label].light for label in at})

    caption = "Filled markers: Pareto-optimal."
    if small:
        caption += " Small markers: single seeds."
    if without:
        caption += f" No mean: {'; '.join(without)}."
    return style.plot(name, title, caption, draw)


def _coordinates(points: Points) -> tuple[list[float], list[float]]:
    pairs = [pair for values in points.values() for pair in values]
    return [x for x, _ in pairs], [y for _, y in pairs]


def pareto_front(points: dict[str, tuple[float, float]], x_up: bool, y_up: bool) -> set[str]:
    """Return the labels of points that no other point dominates."""
    signed = {k: (x if x_up else -x, y if y_up else -y) for k, (x, y) in points.items()}
    return {
        k
        for k, (x, y) in signed.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed.values())
    }

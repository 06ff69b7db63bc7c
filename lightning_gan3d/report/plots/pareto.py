"""Two metrics against each other: where more of the one costs some of the other."""

from matplotlib.figure import Figure

from lightning_gan3d.metric_table import MetricInfo, metric
from lightning_gan3d.report.groups import Comparison
from lightning_gan3d.report.plots.axes import label_points, plain_log
from lightning_gan3d.report.plots.plot import Plot, drawn
from lightning_gan3d.report.plots.style import Theme, figure, inks

PAIRS = (
    ("speed.view_ms", "refit.psnr", "Time of a view against consistency"),
    ("memory.train_mb", "refit.psnr", "Memory in training against consistency"),
    ("speed.view_ms", "memory.train_mb", "Time of a view against memory in training"),
    ("training.seconds", "quality.swd", "Time of training against image distance"),
)
"""What is plotted against what: a cost along x, and what it buys, or another cost, along y."""


def paretos(comparison: Comparison) -> list[Plot]:
    """Plot every pair."""
    return [pareto(comparison, *pair) for pair in PAIRS]


def pareto(comparison: Comparison, x_name: str, y_name: str, title: str) -> Plot:
    """One point a group; its seeds as small ones, alone where a gap leaves no mean."""
    x_metric = metric(x_name, comparison.unit(x_name))
    y_metric = metric(y_name, comparison.unit(y_name))
    xs, ys = comparison.cells(x_name), comparison.cells(y_name)
    name = f"pareto_{x_name}_{y_name}".replace(".", "-")
    means: dict[str, tuple[float, float]] = {}
    seeds: dict[str, list[tuple[float, float]]] = {}
    absent = []
    for label, x in xs.items():
        y = ys[label]
        pairs = [
            (a.value * x_metric.scale, b.value * y_metric.scale)
            for (_, a), (_, b) in zip(x.measures, y.measures, strict=True)
            if a.value is not None and b.value is not None
        ]
        if x.mean is not None and y.mean is not None:
            means[label] = (x.mean * x_metric.scale, y.mean * y_metric.scale)
        else:
            absent.append(f"{label}: {x.why if x.mean is None else y.why}")
        if pairs:
            seeds[label] = pairs
    if not seeds:
        return Plot(name, title, "", "; ".join(absent))
    best = front(means, x_metric.better == "higher", y_metric.better == "higher")
    palette = inks(g.representation for g in comparison.groups)
    ink = {g.label: palette[g.representation] for g in comparison.groups}

    def draw(theme: Theme) -> Figure:
        fig = figure()
        ax = fig.subplots()
        for label, pairs in seeds.items():
            colour, marker = ink[label].on(theme), ink[label].marker
            if len(pairs) > 1 or label not in means:
                ax.plot(*zip(*pairs, strict=True), marker, color=colour, markersize=4)
            if label in means:
                ax.plot(
                    *means[label],
                    marker,
                    color=colour,
                    markersize=11,
                    markerfacecolor=colour if label in best else theme.page,
                    markeredgewidth=2,
                )
        for axis, shown, values in (
            ("x", x_metric, [x for pairs in seeds.values() for x, _ in pairs]),
            ("y", y_metric, [y for pairs in seeds.values() for _, y in pairs]),
        ):
            if shown.unit not in ("dB", "%") and min(values) > 0 and max(values) > 3 * min(values):
                plain_log(ax, axis)
        ax.margins(0.18, 0.15)
        ax.set_xlabel(_axis(x_metric), fontsize=9)
        ax.set_ylabel(_axis(y_metric), fontsize=9)
        at = {label: means.get(label, pairs[0]) for label, pairs in seeds.items()}
        label_points(fig, ax, at, {label: ink[label].on(theme) for label in at})
        return fig

    caption = "Filled: no other is better in both."
    if any(len(pairs) > 1 or label not in means for label, pairs in seeds.items()):
        caption += " Small points: single seeds."
    if absent:
        caption += f" No mean: {'; '.join(absent)}."
    return drawn(name, title, caption, draw)


def _axis(shown: MetricInfo) -> str:
    better = f"{shown.better} is better" if shown.better else ""
    return f"{shown.label}\n{', '.join(x for x in (shown.unit, better) if x)}"


def front(points: dict[str, tuple[float, float]], x_up: bool, y_up: bool) -> set[str]:
    """Return the Pareto front: points that none beats in one coordinate and equals in the other."""
    signed = {k: (x if x_up else -x, y if y_up else -y) for k, (x, y) in points.items()}
    return {
        k
        for k, (x, y) in signed.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed.values())
    }

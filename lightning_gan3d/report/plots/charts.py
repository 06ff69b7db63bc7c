"""Charts: curves over training, resolution and angle; trade-offs of two metrics."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import REFIT, block
from lightning_gan3d.report.groups import Comparison, Group
from lightning_gan3d.report.plots import style
from lightning_gan3d.report.plots.style import LIGHT, Ink, Plot, group_inks
from lightning_gan3d.report.records import LOGGED, RunRecord
from lightning_gan3d.stats import power_law_exponent

SWD, SWD_FLOOR = MetricId("quality.swd"), MetricId("quality.swd_floor")
PSNR = MetricId("consistency.psnr")
FLOPS = MetricId("cost.flops")
SAMPLES = tuple(MetricId(f"samples.{x}") for x in ("psnr", "swd", "consistency"))


@dataclass(frozen=True)
class Line:
    """One run in a plot."""

    group: Group
    run: RunRecord
    xs: Sequence[float]
    ys: Sequence[float]


def curves(comparison: Comparison) -> list[Plot]:
    """Plots over training, size or angle; `paretos` returns the scatter plots."""
    return [
        quality(comparison, "kimg"),
        quality(comparison, "seconds"),
        quality(comparison, "flops"),
        *growths(comparison),
        angles(comparison),
        *(plot for metric in SAMPLES for plot in samples(comparison, metric)),
    ]


_QUALITY = {
    "kimg": ("quality_images", "SWD vs. training images", "training images (kimg)"),
    "seconds": ("quality_time", "SWD vs. training time", "training time (min)"),
    "flops": ("quality_arithmetic", "SWD vs. training FLOPs", "generator FLOPs (TFLOP)"),
}


def quality(comparison: Comparison, axis: str) -> Plot:
    """SWD during training, over images (`kimg`), time (`seconds`) or `flops`.

    FLOPs are those of generating the training images, without discriminator and gradients: they
    compare generators, not training steps.
    """
    name, title, axis_label = _QUALITY[axis]
    info = comparison.info(SWD)
    lines, uncounted, without = [], [], []
    for group in comparison.groups:
        for run in group.runs:
            xs, ys = run.curve(LOGGED, "kimg" if axis == "flops" else axis)
            factor: float | None = 1 / 60 if axis == "seconds" else 1.0
            if axis == "flops":  # GFLOP per image are TFLOP per thousand images
                factor = run.by_id[FLOPS].value if FLOPS in run.by_id else None
            if not xs:
                without.append(comparison.name_of(run))
            elif factor is None:
                uncounted.append(run.name)  # a command takes it
            else:
                swd = [info.scale * y for y in ys]
                lines.append(Line(group, run, [factor * x for x in xs], swd))
    if not lines and uncounted:
        why = f"no bench.json holds {FLOPS.key}: run `gan3d bench` on {', '.join(uncounted)}"
        return Plot(name, title, why=why)
    if not lines:
        why = f"no run's metrics.jsonl holds {LOGGED} (set training.eval_kimg)"
        return Plot(name, title, why=why)
    cells = comparison.cells(SWD_FLOOR).values()
    floors = sorted({round(info.scale * v, 6) for cell in cells for v in cell.values})

    def draw(ax: Axes) -> None:
        draw_lines(ax, comparison, lines)
        for floor in floors:
            ax.axhline(floor, color=LIGHT.text, linewidth=1, linestyle="--")
        if floors:
            ax.annotate(
                "real-real floor",
                (0.01, floors[-1]),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=8.5,
            )
        if all(y > 0 for line in lines for y in line.ys) and all(v > 0 for v in floors):
            style.plain_log(ax, "y")
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlabel(axis_label)
        ax.set_ylabel(f"{info.short} {info.arrow}")
        label_lines(ax, comparison, lines)

    caption = f"Sliced Wasserstein distance during training ({LOGGED}); one line per run."
    if any(line.run.gap for line in lines):
        caption += " Dotted, ending in a cross: unfinished run."
    if floors:
        caption += " Dashed: floor of the final evaluation, which uses more images."
    if without:
        caption += f" Not measured during training: {'; '.join(without)}."
    if axis == "flops":
        caption += " FLOPs of the generator's forward pass for all training images."
    if uncounted:
        caption += f" FLOPs not counted (run `gan3d bench`): {', '.join(uncounted)}."
    return style.plot(name, title, caption, draw)


def growths(comparison: Comparison) -> list[Plot]:
    """Growth of time and memory with resolution: one plot for each quantity that was measured."""
    names = dict.fromkeys(
        m.name for m in comparison.metrics if block(m) == "growth" and m.at is not None
    )
    if not names:
        why = "no run's bench.json holds growth.*: run `gan3d bench` on the runs"
        return [Plot("growth", "Growth with resolution", why=why)]
    return [_growth(comparison, MetricId(name)) for name in names]


def _growth(comparison: Comparison, metric_id: MetricId) -> Plot:
    info = comparison.info(metric_id)
    name, title = metric_id.key.replace(".", "_"), f"{info.label} by resolution"
    lines, missing, resolutions = _curves(comparison, metric_id, positive=True)
    if not lines:
        return Plot(name, title, why="; ".join(missing))
    axis = "rendering" if ".rendering." in metric_id.name else "stored grid"

    def draw(ax: Axes) -> None:
        draw_lines(ax, comparison, lines)
        ax.set_xscale("log", base=2)
        ax.set_xticks(resolutions, [f"{r:g}" for r in resolutions])
        style.plain_log(ax, "y")
        ax.minorticks_off()
        ax.set_xlabel(f"resolution of the {axis} (px)")
        ax.set_ylabel(info.heading)
        label_lines(ax, comparison, lines)

    exponents: dict[str, list[str]] = {}
    for line in lines:
        if len(line.xs) > 1:
            exponent = power_law_exponent(list(zip(line.xs, line.ys, strict=True)))
            exponents.setdefault(line.group.label, []).append(f"{exponent:.1f}")
    caption = "Both axes are logarithmic; one line per run."
    if exponents:
        each = "; ".join(f"{label} {', '.join(values)}" for label, values in exponents.items())
        caption += f" Growth exponent: {each}."
    if missing:
        caption += f" Not shown: {'; '.join(missing)}."
    return style.plot(name, title, caption, draw)


def angles(comparison: Comparison) -> Plot:
    """Reprojection PSNR over the angle between two views; the ceiling of the data is dashed."""
    name, title = "consistency_angle", "Reprojection PSNR by view angle"
    lines, missing, positions = _curves(comparison, PSNR)
    if not positions:
        why = f"no run's evaluation.json holds {PSNR.key}@*: run `gan3d evaluate` on the runs"
        return Plot(name, title, why=why)
    if not lines:
        return Plot(name, title, why="; ".join(missing))
    info = comparison.info(PSNR)
    ceilings = _curves(comparison, PSNR._replace(variant="truth"))[0]

    def draw(ax: Axes) -> None:
        if ceilings:
            xs, ys = ceilings[-1].xs, ceilings[-1].ys
            ax.plot([math.degrees(x) for x in xs], ys, "--", color=LIGHT.text, linewidth=1)
            ax.annotate("ground truth", (math.degrees(xs[0]), ys[0]), fontsize=8.5, va="bottom")
        shown = [
            Line(line.group, line.run, [math.degrees(x) for x in line.xs], line.ys)
            for line in lines
        ]
        draw_lines(ax, comparison, shown)
        degrees = [math.degrees(x) for x in positions]
        ax.set_xticks(degrees, [f"{x:.0f}" for x in degrees])
        ax.set_xlabel("angle between the views (°)")
        ax.set_ylabel(info.heading)
        label_lines(ax, comparison, shown)

    caption = "PSNR of a view warped into another; one line per run."
    if ceilings:
        caption += " Dashed: ground-truth objects of the data (ceiling)."
    if missing:
        caption += f" Not shown: {'; '.join(missing)}."
    return style.plot(name, title, caption, draw)


def samples(comparison: Comparison, metric: MetricId) -> list[Plot]:
    """A metric over the number of samples per ray; no plot unless a run measured it."""
    lines, missing, counts = _curves(comparison, metric)
    if not lines:
        return []
    info = comparison.info(metric)

    def draw(ax: Axes) -> None:
        draw_lines(ax, comparison, lines)
        ax.set_xscale("log", base=2)
        ax.set_xticks(counts, [f"{x:g}" for x in counts])
        ax.minorticks_off()
        ax.set_xlabel("samples per ray")
        ax.set_ylabel(info.heading)
        label_lines(ax, comparison, lines)

    caption = "Coarse and fine samples together; one line per run."
    if missing:
        caption += f" Not shown: {'; '.join(missing)}."
    return [style.plot(metric.name.replace(".", "_"), info.label, caption, draw)]


def _curves(
    comparison: Comparison, metric_id: MetricId, positive: bool = False
) -> tuple[list[Line], list[str], list[float]]:
    """Return a line per run over positions, notes of runs without values, and all positions."""
    curve = [m for m in comparison.metrics if m._replace(at=None) == metric_id]
    positions = sorted({m.at for m in curve if m.at is not None})
    scale = comparison.info(metric_id).scale
    lines, missing = [], []
    for group in comparison.groups:
        for run in group.runs:
            metrics = {x: run.metric(metric_id._replace(at=x)) for x in positions}
            values = {x: scale * m.value for x, m in metrics.items() if m.value is not None}
            points = {x: v for x, v in values.items() if v > 0 or not positive}
            if points:
                lines.append(Line(group, run, list(points), list(points.values())))
            elif metrics:
                missing.append(f"{group.label} seed {run.seed}: {metrics[positions[0]].note}")
    return lines, missing, positions


def draw_lines(ax: Axes, comparison: Comparison, lines: Iterable[Line]) -> None:
    """Draw each line in the colour of its group."""
    ink = group_inks(comparison)
    for line in lines:
        colour, marker = ink[line.group.label].light, ink[line.group.label].marker
        dashes = ":" if line.run.gap else _dashes(ink, line.group.label)
        ax.plot(line.xs, line.ys, dashes, color=colour, marker=marker, markersize=4.5)
        if line.run.gap:
            ax.plot(line.xs[-1], line.ys[-1], "x", color=colour, markersize=10, markeredgewidth=2)


def _dashes(ink: Mapping[str, Ink], label: str) -> str:
    """Return the line style: it distinguishes groups beyond the number of colours."""
    same = [other for other, own in ink.items() if own == ink[label]]
    return ("-", "--", "-.")[same.index(label) % 3]


def label_lines(ax: Axes, comparison: Comparison, lines: Iterable[Line]) -> None:
    """Name each group at the end of its last line, preferably a finished one."""
    ink = group_inks(comparison)
    ends = {
        line.group.label: (line.ys[-1], ink[line.group.label].light)
        for line in sorted(lines, key=lambda line: not line.run.gap)
    }
    style.label_ends(ax, ends)


PAIRS = (
    ("speed.view_ms", REFIT, "Render time against multi-view consistency"),
    ("memory.train_mb", REFIT, "Training memory against multi-view consistency"),
    ("quality.sharpness", REFIT, "Sharpness against multi-view consistency"),
    ("speed.view_ms", "memory.train_mb", "Render time against training memory"),
    ("training.seconds", "quality.swd", "Training time against SWD"),
)
"""x: a cost; y: the quality to compare it with, or another cost."""
Points = dict[str, list[tuple[float, float]]]


def paretos(comparison: Comparison) -> list[Plot]:
    """Plot every pair."""
    return [pareto(comparison, MetricId(x), MetricId(y), title) for x, y, title in PAIRS]


def pareto(comparison: Comparison, x_id: MetricId, y_id: MetricId, title: str) -> Plot:
    """Plot a point per group; its seeds are small points, alone if a gap leaves no mean."""
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
    best = set(means)
    if x_info.better:
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

    caption = "Filled markers: Pareto-optimal." if x_info.better else "Sharp: near 100 %."
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

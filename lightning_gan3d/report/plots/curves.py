"""Curves of a comparison: quality during training, growth with resolution. One line a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_gan3d.metric_table import growth, growth_label, metric
from lightning_gan3d.report.groups import Comparison, Group
from lightning_gan3d.report.plots.axes import label_ends, plain_log
from lightning_gan3d.report.plots.pareto import paretos
from lightning_gan3d.report.plots.plot import Plot, drawn
from lightning_gan3d.report.plots.style import Ink, Theme, figure, inks
from lightning_gan3d.report.records import RunRecord
from lightning_gan3d.stats import power_law_exponent

CURVE = "eval/swd"
"""What `metrics.jsonl` calls the image distance that is measured while training."""


@dataclass(frozen=True)
class Line:
    """What one run adds to a plot."""

    group: Group
    run: RunRecord
    xs: list[float]
    ys: list[float]


def plots(comparison: Comparison) -> list[Plot]:
    """All plots of numbers, in the order of the report."""
    return [
        quality(comparison, "kimg"),
        quality(comparison, "seconds"),
        quality(comparison, "flops"),
        *paretos(comparison),
        *growths(comparison),
    ]


def quality(comparison: Comparison, axis: str) -> Plot:
    """Image distance during training, over images (`kimg`), time (`seconds`) or `flops`.

    The last is the arithmetic of generating as many images as were seen; neither the discriminator
    nor gradients are counted, so that it compares generators and says nothing of a training step.
    """
    words = {
        "kimg": ("quality_images", "Image distance over images", "thousands of images", 1.0),
        "seconds": ("quality_time", "Image distance over time", "minutes of training", 1 / 60),
        "flops": (
            "quality_arithmetic",
            "Image distance over arithmetic",
            "TFLOP to generate as many images as were seen",
            1.0,
        ),
    }
    name, title, axis_label, factor = words[axis]
    shown = metric("quality.swd", comparison.unit("quality.swd"))
    lines, uncounted = [], []
    for group in comparison.groups:
        for run in group.runs:
            xs, ys = run.curve(CURVE, "kimg" if axis == "flops" else axis)
            if axis == "flops" and xs:
                cost = next((m for m in run.measures if m.metric == "cost.flops"), None)
                if cost is None or cost.value is None:
                    uncounted.append(run.name)
                    continue
                factor = cost.value  # GFLOP an image are TFLOP a thousand
            lines.append(Line(group, run, [factor * x for x in xs], [shown.scale * y for y in ys]))
    without = [line.run.name for line in lines if not line.xs]
    lines = [line for line in lines if line.xs]
    if not lines and uncounted:
        why = f"no bench.json holds cost.flops: run `gan3d bench` on {', '.join(uncounted)}"
        return Plot(name, title, "", why)
    if not lines:
        why = f"no run's metrics.jsonl holds {CURVE} (set training.eval_kimg)"
        return Plot(name, title, "", why)
    floors = [v for cell in comparison.cells("quality.swd_floor").values() for v in cell.values]

    def draw(theme: Theme) -> Figure:
        fig = figure()
        ax = fig.subplots()
        draw_lines(ax, comparison, lines, theme)
        for floor in sorted({round(shown.scale * v, 6) for v in floors}):
            ax.axhline(floor, color=theme.text, linewidth=1, linestyle="--")
        if floors:
            ax.annotate(
                "real against real",
                (0.01, shown.scale * max(floors)),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=8.5,
            )
        if all(y > 0 for line in lines for y in line.ys) and all(v > 0 for v in floors):
            plain_log(ax, "y")
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlabel(axis_label)
        ax.set_ylabel(f"SWD{f' ({shown.unit})' if shown.unit else ''}, lower is better")
        label_lines(fig, ax, comparison, lines, theme)
        return fig

    caption = f"Sliced Wasserstein distance while training ({CURVE}); one line a run."
    if any(line.run.gap for line in lines):
        caption += " A dotted line that ends in a cross is an unfinished run."
    if floors:
        caption += " The dashed floor is that of the final measure, which takes more images."
    if without:
        caption += f" Not measured while training: {', '.join(without)}."
    if axis == "flops":
        caption += (
            " Arithmetic is that of the generator alone, forward, as counted by the benchmark."
        )
    if uncounted:
        caption += f" Arithmetic not counted (run `gan3d bench`): {', '.join(uncounted)}."
    return drawn(name, title, caption, draw)


def growths(comparison: Comparison) -> list[Plot]:
    """How time and memory grow with resolution: one plot for each quantity that was measured."""
    found: dict[tuple[str, str], list[int]] = {}
    for name in comparison.metrics:
        parts = growth(name)
        if parts is not None:
            found.setdefault(parts[:2], []).append(parts[2])
    if not found:
        why = "no run's bench.json holds growth.*: run `gan3d bench` on the runs"
        return [Plot("growth", "Growth with resolution", "", why)]
    keys = sorted(found, key=lambda key: key[0] != "rendering")
    return [_growth(comparison, *key, sorted(found[key])) for key in keys]


_AXIS_LABELS = {
    "rendering": "resolution of the rendering, pixels",
    "grid": "resolution of the stored grid",
}


def _growth(comparison: Comparison, axis: str, quantity: str, resolutions: list[int]) -> Plot:
    name = f"growth_{axis}_{quantity}"
    metrics = {r: f"growth.{axis}.{quantity}@{r}" for r in resolutions}
    shown = metric(metrics[resolutions[0]], comparison.unit(metrics[resolutions[0]]))
    title = f"{growth_label(axis, quantity)} by resolution"
    axis_label = _AXIS_LABELS.get(axis, f"resolution ({axis})")
    lines, absent = [], []
    for group in comparison.groups:
        for run in group.runs:
            values = {r: run.measure(metrics[r]) for r in resolutions}
            points = {r: m.value for r, m in values.items() if m.value is not None and m.value > 0}
            if points:
                ys = [shown.scale * v for v in points.values()]
                lines.append(Line(group, run, [float(r) for r in points], ys))
            else:
                why = values[resolutions[0]].note
                absent.append(f"{group.label} seed {run.seed}: {why}")
    if not lines:
        return Plot(name, title, "", "; ".join(absent))

    def draw(theme: Theme) -> Figure:
        fig = figure()
        ax = fig.subplots()
        draw_lines(ax, comparison, lines, theme)
        ax.set_xscale("log", base=2)
        ax.set_xticks(resolutions, [str(r) for r in resolutions])
        plain_log(ax, "y")
        ax.minorticks_off()
        ax.set_xlabel(axis_label)
        ax.set_ylabel(", ".join(x for x in (shown.unit, "lower is better") if x))
        label_lines(fig, ax, comparison, lines, theme)
        return fig

    slopes: dict[str, list[str]] = {}
    for line in lines:
        if len(line.xs) > 1:
            slopes.setdefault(line.group.label, []).append(
                f"{power_law_exponent(list(zip(line.xs, line.ys, strict=True))):.1f}"
            )
    caption = "Both axes are logarithmic; one line a run."
    if slopes:
        listed = "; ".join(f"{label} {', '.join(values)}" for label, values in slopes.items())
        caption += f" Exponent of growth: {listed}."
    if absent:
        caption += f" Not shown: {'; '.join(absent)}."
    return drawn(name, title, caption, draw)


def draw_lines(ax: Axes, comparison: Comparison, lines: Sequence[Line], theme: Theme) -> None:
    """Draw each line in the colour of its representation."""
    palette = inks(g.representation for g in comparison.groups)
    for line in lines:
        ink: Ink = palette[line.group.representation]
        style = ":" if line.run.gap else _dashes(comparison, line.group)
        colour = ink.on(theme)
        ax.plot(line.xs, line.ys, style, color=colour, marker=ink.marker, markersize=4.5)
        if line.run.gap:
            ax.plot(line.xs[-1], line.ys[-1], "x", color=colour, markersize=10, markeredgewidth=2)


def _dashes(comparison: Comparison, group: Group) -> str:
    """Configurations of one representation share its colour, and differ in their lines."""
    same = [g.label for g in comparison.groups if g.representation == group.representation]
    return ("-", "--", "-.")[same.index(group.label) % 3]


def label_lines(
    fig: Figure, ax: Axes, comparison: Comparison, lines: Sequence[Line], theme: Theme
) -> None:
    """Name each group at the end of the last of its lines, a finished one if there is any."""
    palette = inks(g.representation for g in comparison.groups)
    ends: dict[str, tuple[float, str]] = {}
    for line in sorted(lines, key=lambda line: not line.run.gap):
        ends[line.group.label] = (line.ys[-1], palette[line.group.representation].on(theme))
    label_ends(fig, ax, ends)

"""How view consistency falls as two views part: one line a run, the ceiling dashed."""

from matplotlib.figure import Figure

from lightning_gan3d.metric_table import angle_curve, metric
from lightning_gan3d.report.groups import Comparison
from lightning_gan3d.report.plots.curves import Line, draw_lines, label_lines
from lightning_gan3d.report.plots.plot import Plot, drawn
from lightning_gan3d.report.plots.style import Theme, figure

NAME, TITLE = "consistency_angle", "View consistency by the angle between views"
CURVE, CEILING = "consistency.psnr", "consistency.psnr_truth"
"""What is drawn, and what it could be at best where the data has a truth."""


def angles(comparison: Comparison) -> list[Plot]:
    """Draw the PSNR of warped views over the angle between them; or why there is none."""
    found = sorted(a for b, a in map(_split, comparison.metrics) if b == CURVE)
    if not found:
        why = "no run's evaluation.json holds consistency.psnr@*: run `gan3d evaluate` on the runs"
        return [Plot(NAME, TITLE, "", why)]
    names = {angle: f"{CURVE}@{angle:g}" for angle in found}
    unit = metric(CURVE, comparison.unit(names[found[0]])).unit
    lines, absent, ceiling = [], [], {}
    for group in comparison.groups:
        for run in group.runs:
            values = {angle: run.measure(name) for angle, name in names.items()}
            points = {angle: m.value for angle, m in values.items() if m.value is not None}
            if points:
                lines.append(Line(group, run, list(points), list(points.values())))
            else:
                absent.append(f"{group.label} seed {run.seed}: {values[found[0]].note}")
            for angle in found:
                truth = run.measure(f"{CEILING}@{angle:g}").value
                if truth is not None:
                    ceiling[angle] = truth
    if not lines:
        return [Plot(NAME, TITLE, "", "; ".join(absent))]

    def draw(theme: Theme) -> Figure:
        fig = figure()
        ax = fig.subplots()
        if ceiling:
            ax.plot(list(ceiling), list(ceiling.values()), "--", color=theme.text, linewidth=1)
        draw_lines(ax, comparison, lines, theme)
        ax.set_xticks(found, [f"{angle:g}" for angle in found])
        ax.set_xlabel("radians between the two views")
        ax.set_ylabel(", ".join(x for x in (unit, "higher is better") if x))
        label_lines(fig, ax, comparison, lines, theme)
        return fig

    caption = f"PSNR of a view warped into another ({CURVE}@...); one line a run."
    if ceiling:
        caption += " The dashed line is that of the data's own objects."
    if absent:
        caption += f" Not shown: {'; '.join(absent)}."
    return [drawn(NAME, TITLE, caption, draw)]


def _split(name: str) -> tuple[str, float]:
    return angle_curve(name) or ("", 0.0)

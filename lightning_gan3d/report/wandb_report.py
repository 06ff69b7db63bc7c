"""A W&B report with the tables and plots of the local dashboard, by `wandb-workspaces`."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metric import MetricId
from lightning_gan3d.metric_table import describe
from lightning_gan3d.report.dashboard import CHARTS, COLUMNS, ArmOfSweep, Dashboard
from lightning_gan3d.report.make import escape_markdown

EVALUATED = ("quality.fid", "quality.swd", "refit.deficit", "consistency.deficit")
"""Metrics of the evaluation in the summary of a W&B run that are drawn."""
WIDE, HIGH = 8, 7
"""Size of a plot, in columns of 24 and in rows."""


def save_report(board: Dashboard, project: str) -> str:
    """Save the report in `ENTITY/PROJECT`, and return its address."""
    report = wandb_report(board, project)
    try:
        report.save()
    except Exception as error:  # of another package, e.g. without login or network
        raise ConfigError(f"--wandb {project}: {error}") from error
    url: str = report.url
    return url


def wandb_report(board: Dashboard, project: str) -> Any:
    """Build a report of the runs of a sweep in `ENTITY/PROJECT`; `save` sends it."""
    entity, slash, name = project.partition("/")
    if not (entity and slash and name) or "/" in name:
        raise ConfigError(f"--wandb {project}: give ENTITY/PROJECT")
    try:
        reports: Any = import_module("wandb_workspaces.reports.v2")
        expr: Any = import_module("wandb_workspaces.expr")
    except ImportError as error:
        raise ConfigError(
            f"--wandb: {error}; needs pip install 'lightning-gan3d[dashboard]'"
        ) from None

    title, arms = board.folder.name, board.arms(board.states())
    runs = reports.Runset(
        entity=entity,
        project=name,
        name=title,
        filters=[expr.Metric("ID").isin([s.entry.id for arm in arms for s in arm.states])],
        groupby=["Group"],
    )

    def place(number: int, width: int = WIDE) -> Any:
        row, column = divmod(number, 24 // WIDE)
        return reports.Layout(x=column * WIDE, y=row * HIGH, w=width, h=HIGH)

    logged = [key for key in CHARTS if any(key in c.values for arm in arms for c in arm.curves)]
    lines = [
        reports.LinePlot(
            title=CHARTS[key],
            x="kimg",
            y=[key],
            title_x="kimg",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            layout=place(number),
        )
        for number, key in enumerate(logged)
    ]
    bars = [
        reports.BarPlot(title=describe(MetricId(name)).label, metrics=[name], layout=place(number))
        for number, name in enumerate(EVALUATED)
    ]
    samples = reports.MediaBrowser(media_keys=["samples"], layout=place(0, width=24))
    return reports.Report(
        entity=entity,
        project=name,
        title=title,
        description="Written by `gan3d dashboard`.",
        width="fluid",
        blocks=[
            reports.H2(text="Arms"),
            reports.MarkdownBlock(text=_table(arms)),
            reports.H2(text="Curves"),
            reports.PanelGrid(runsets=[runs], panels=lines),
            reports.H2(text="Newest samples"),
            reports.PanelGrid(runsets=[runs], panels=[samples]),
            reports.H2(text="Evaluation"),
            reports.PanelGrid(runsets=[runs], panels=bars),
        ],
    )


def _table(arms: Sequence[ArmOfSweep]) -> str:
    heads = ["", "progress", "runs", *(CHARTS[key] for key in COLUMNS)]
    rows = [[a.label, f"{a.progress:.0%}", a.summary, *a.newest] for a in arms]
    lines = [heads, ["---"] * len(heads), *([*map(escape_markdown, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

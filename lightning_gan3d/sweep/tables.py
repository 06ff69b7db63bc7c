"""`gan3d sweep plan`, `status` and `collect`: tables of the runs of a sweep."""

import csv
import io
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_gan3d.files import write_text
from lightning_gan3d.metric import MetricId, parse_key, read_metrics
from lightning_gan3d.metric_table import order
from lightning_gan3d.runs import EVALUATION
from lightning_gan3d.sweep.plan import SweepConfig, SweepEntry, expand
from lightning_gan3d.sweep.search import SearchConfig, Trial, read_trials
from lightning_gan3d.sweep.slurm import queued
from lightning_gan3d.sweep.states import RunState, SweepFolder, read_states, summary

RESULTS = "results.csv"
ACTIONS = {"planned": "start", "stopped": "resume", "done": "skip", "running": "await"}
REFRESH, SELDOM = 2.0, 15
"""Seconds between updates of the live table; updates until SLURM and a search are asked again."""


def plan_sweep(
    loaded: tuple[SweepConfig, Path], root: Path = Path("runs"), retry: bool = False
) -> str:
    """Describe what `sweep run` would start, resume and skip; `loaded`: of `load_sweep`."""
    sweep, path = loaded
    runs = expand(sweep, path, root)
    states = read_states(runs, SweepFolder.of(sweep, root))
    actions = [ACTIONS.get(s.state, "retry" if retry else "leave") for s in states]
    names = _name_heads(runs)
    heads = ["", "experiment", *names, "seed", "run directory"]
    rows = [
        [action, run.experiment, *_names(run, names), str(run.seed), str(run.path)]
        for action, run in zip(actions, runs, strict=True)
    ]
    counts = Counter(actions)
    order_of = ("start", "resume", "retry", "await", "leave", "skip")
    parts = [f"{counts[a]} to {a}" for a in order_of if counts[a]]
    notes = [f"{sweep.jobs} at a time"] if sweep.jobs else []
    notes += [f"{sweep.threads} thread(s) each"] if sweep.threads else []
    if sweep.search is not None and sweep.search.sampler == "tpe":
        chosen = len({run.trial for run in runs})
        notes.append(f"{chosen} of {sweep.search.trials} trials chosen so far")
    if counts["leave"]:
        notes.append("those to leave failed before; add --retry")
    notes = [", ".join(parts), *notes] if parts else notes
    return f"{_aligned([heads, *rows])}\n{'; '.join(notes)}"


def sweep_status(loaded: tuple[SweepConfig, Path], root: Path = Path("runs")) -> str:
    """Describe the state and the progress of each run, and why runs failed."""
    sweep, path = loaded
    folder = SweepFolder.of(sweep, root)
    return _status(_with_jobs(expand(sweep, path, root), folder, queued(folder)))


def _with_jobs(
    runs: Sequence[SweepEntry], folder: SweepFolder, jobs: Mapping[str, str]
) -> list[RunState]:
    """Read states; of runs that wait in SLURM, `jobs` has the ids."""
    return [
        replace(s, state="planned", reason=f"queued: job {jobs[s.entry.id]}")
        if s.state in ("planned", "stopped", "failed") and s.entry.id in jobs
        else s
        for s in read_states(runs, folder)
    ]


def _status(states: Sequence[RunState], shown: int | None = None) -> str:
    """Table of states; `shown`: most rows, running and failed runs first."""
    names = _name_heads([s.entry for s in states])
    busy = sorted(states, key=lambda s: s.state not in ("running", "failed"))
    rows = [
        [
            s.state, s.entry.experiment, *_names(s.entry, names), str(s.entry.seed),
            f"{s.kimg:g} of {s.entry.kimg:g}", f"{s.img_s:.1f}" if s.img_s else "",
            s.time_left,
            s.reason,
        ]
        for s in (states if shown is None else busy[:shown])
    ]  # fmt: skip
    heads = ["", "experiment", *names, "seed", "kimg", "img/s", "left", ""]
    return f"{_aligned([heads, *rows])}\n{summary(states)}"


def watch_status(loaded: tuple[SweepConfig, Path], root: Path = Path("runs")) -> None:
    """Show the state of the runs on the terminal until all have ended."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    sweep, path = loaded
    folder, console = SweepFolder.of(sweep, root), Console()
    runs, jobs = expand(sweep, path, root), dict[str, str]()
    with Live(console=console, auto_refresh=False) as live:
        for update in itertools.count():
            if update % SELDOM == 0:
                jobs = queued(folder)
                runs = expand(sweep, path, root) if sweep.search else runs
            states = _with_jobs(runs, folder, jobs)
            text = _status(states, max(1, console.height - 3))
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            if folder.has_ended(states):
                return
            time.sleep(REFRESH)


def collect_sweep(
    loaded: tuple[SweepConfig, Path], root: Path = Path("runs"), out: Path | None = None
) -> str:
    """Write a row per run with its state and the metrics of its evaluation; describe what is there.

    Values are in stored units, as in `evaluation.json`; a missing one is empty.
    """
    sweep, path = loaded
    runs, folder = expand(sweep, path, root), SweepFolder.of(sweep, root)
    states = read_states(runs, folder)
    values = [_values(run) for run in runs]
    metrics = sorted({m for of_run in values for m in of_run}, key=order)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = _name_heads(runs)
    writer.writerow(["experiment", *names, "seed", "state", "kimg", *(m.key for m in metrics)])
    for state, of_run in zip(states, values, strict=True):
        run = state.entry
        cells = [of_run.get(metric, "") for metric in metrics]
        writer.writerow(
            [run.experiment, *_names(run, names), run.seed, state.state, state.kimg, *cells]
        )
    out = out or folder.path / RESULTS
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, buffer.getvalue())
    failed = [f"failed: {s.entry.label}: {s.reason}" for s in states if s.state == "failed"]
    evaluated = sum(map(bool, values))
    lines = [*failed, f"{summary(states)}; {len(metrics)} metrics of {evaluated} runs: {out}"]
    return "\n".join(lines)


def results(search: SearchConfig, runs: Sequence[SweepEntry], folder: SweepFolder) -> list[Trial]:
    """Return the trials of a search, with the mean of their metric over the seeds."""
    trials = []
    settings = read_trials(search, folder.path)
    for number, chosen in enumerate(settings):
        states = read_states([run for run in runs if run.trial == number], folder)
        values = [_values(s.entry).get(parse_key(search.metric)) for s in states]
        known = [v for v in values if v is not None]
        ended = all(s.state == "done" for s in states) and len(known) == len(states) > 0
        failed = any(s.state == "failed" for s in states)
        lost = failed or (all(s.state == "done" for s in states) and not ended)
        trials.append(Trial(chosen, sum(known) / len(known) if ended else None, lost))
    return trials


def _values(run: SweepEntry) -> dict[MetricId, float]:
    file = run.path / EVALUATION
    metrics = read_metrics(file) if file.is_file() else []
    return {m.id: m.value for m in metrics if m.value is not None and m.at is None}


def _name_heads(runs: Sequence[SweepEntry]) -> list[str]:
    """Columns that name an arm besides its experiment: its factors, and its label if needed."""
    factors = list(dict.fromkeys(key for run in runs for key in run.factors))
    known = {(run.experiment, *run.factors.items(), run.seed) for run in runs}
    labelled = len(known) < len(runs) or any(run.arm and not run.factors for run in runs)
    return [*(["label"] if labelled else []), *factors]


def _names(run: SweepEntry, heads: Sequence[str]) -> list[str]:
    own = {"label": run.arm, **run.factors}
    return [own.get(head, "") for head in heads]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

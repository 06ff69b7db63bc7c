"""`gan3d sweep`: one thin function per command, with lazy imports."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_gan3d.cli_options import (
    Overrides,
    Root,
    Seeds,
    TrainDevice,
    numbers_of,
    stoppable,
    with_device,
)
from lightning_gan3d.errors import ConfigError
from lightning_gan3d.presets import complete_sweep

if TYPE_CHECKING:
    from lightning_gan3d.sweep.plan import PlannedRun, SweepConfig
    from lightning_gan3d.sweep.states import SweepFolder

app = typer.Typer(
    no_args_is_help=True,
    help="Configurations x seeds: on this machine, on SLURM, or by agents of W&B.",
)
File = Annotated[
    str,
    typer.Argument(help="A sweep's YAML file, or a preset name.", autocompletion=complete_sweep),
]
Cluster = Annotated[
    Path | None, typer.Option(help="YAML file of partition, time limit, ... (docs/sweeps.md).")
]
Retry = Annotated[bool, typer.Option("--retry", help="Run failed ones again.")]


def _load(
    file: str, overrides: list[str] | None, device: str | None, seeds: str | None
) -> "tuple[SweepConfig, Path]":
    from lightning_gan3d.progress import spinner

    with spinner("loading"):
        from lightning_gan3d.sweep.plan import load_sweep

        return load_sweep(file, numbers_of("--seeds", seeds), with_device(overrides, device))


@app.command("plan")
def plan(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    retry: Retry = False,
) -> None:
    """Print what `run` would start, resume and skip."""
    from lightning_gan3d.sweep.tables import plan_sweep

    typer.echo(plan_sweep(_load(file, overrides, device, seeds), root, retry))


@app.command("run")
@stoppable()
def run(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    retry: Retry = False,
) -> None:
    """Run on this machine; skip finished runs, continue stopped ones."""
    from lightning_gan3d.sweep.local import run_sweep
    from lightning_gan3d.training.processes import print_log

    print_log()
    raise typer.Exit(run_sweep(_load(file, overrides, device, seeds), root, retry))


@app.command("status")
def status(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    live: Annotated[bool, typer.Option("--live", help="Until all have ended.")] = False,
) -> None:
    """Print the state and the progress of each run, and why runs failed."""
    from lightning_gan3d.sweep.tables import sweep_status, watch_status

    loaded = _load(file, overrides, device, seeds)
    if live:
        watch_status(loaded, root)
    else:
        typer.echo(sweep_status(loaded, root))


@app.command("collect")
def collect(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="CSV file; default: results.csv of the sweep's folder."),
    ] = None,
) -> None:
    """Write the metrics of all runs to one table."""
    from lightning_gan3d.sweep.tables import collect_sweep

    typer.echo(collect_sweep(_load(file, overrides, device, seeds), root, out))


@app.command("submit")
def submit(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    retry: Retry = False,
    cluster: Cluster = None,
    script: Annotated[
        bool, typer.Option("--script", help="Print an sbatch script instead of submitting.")
    ] = False,
) -> None:
    """Submit to SLURM what is not finished, running or queued; runs requeue themselves."""
    from lightning_gan3d.sweep import slurm

    sweep, path = _load(file, overrides, device, seeds)
    options = slurm.load_cluster(cluster)
    with _pending(sweep, path, root, retry) as (folder, runs):
        if script:
            typer.echo(slurm.script(folder, runs, options))
            return
        jobs = slurm.submit(folder, runs, options)
        typer.echo(f"submitted {len(runs)} runs; jobs: {', '.join(jobs)}; folder: {folder.path}")


@app.command("agents")
def agents(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    retry: Retry = False,
) -> None:
    """Print a W&B sweep whose agents run one configuration each, for `wandb sweep`."""
    from lightning_gan3d.sweep.agents import wandb_sweep

    sweep, path = _load(file, overrides, device, seeds)
    with _pending(sweep, path, root, retry) as (folder, runs):
        typer.echo(wandb_sweep(folder, runs), nl=False)


@contextmanager
def _pending(
    sweep: "SweepConfig", path: Path, root: Path, retry: bool
) -> "Iterator[tuple[SweepFolder, list[PlannedRun]]]":
    """Yield the folder, which is locked, and the runs to start; ends the command if none is."""
    from lightning_gan3d.sweep.plan import expand
    from lightning_gan3d.sweep.slurm import queued
    from lightning_gan3d.sweep.states import SweepFolder, pending
    from lightning_gan3d.training.processes import run_lock

    if sweep.search is not None and sweep.search.sampler == "tpe":
        raise ConfigError(
            "search.sampler=tpe chooses settings from earlier results: use `gan3d sweep run`, or "
            "sampler=random"
        )
    folder, planned = SweepFolder.of(sweep, root), expand(sweep, path, root)
    folder.path.mkdir(parents=True, exist_ok=True)
    with run_lock(folder.path):
        runs = pending(planned, folder, retry, queued(folder))
        if not runs:
            typer.echo("nothing to start: see `gan3d sweep status`", err=True)
            raise typer.Exit
        yield folder, runs


@app.command("task")
@stoppable()
def task(
    folder: Annotated[Path, typer.Argument(help="ROOT/sweeps/NAME.")],
    run_id: Annotated[str, typer.Option("--run", help="As in sweep.json, e.g. demo-d34c17bc-s0.")],
    requeues: Annotated[
        int, typer.Option(help="In a SLURM job: how often to queue a stopped run again.")
    ] = 0,
) -> None:
    """Run one planned run, for schedulers and agents."""
    from lightning_gan3d.sweep.slurm import run_job

    raise typer.Exit(run_job(folder, run_id, requeues))

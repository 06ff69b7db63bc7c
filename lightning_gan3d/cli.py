"""The `gan3d` command: one thin function per sub-command, with lazy imports."""

import gc
import sys
from collections.abc import Sequence
from functools import partial
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
from lightning_gan3d.config import ConfigError, UserError, split_overrides
from lightning_gan3d.data.commands import app as data_app
from lightning_gan3d.inference.commands import app as inference_app
from lightning_gan3d.presets import complete, complete_sweep, describe, preset_names
from lightning_gan3d.progress import spinner
from lightning_gan3d.sweep.sweep_commands import app as sweep_app
from lightning_gan3d.version import __version__

if TYPE_CHECKING:
    from lightning_gan3d.experiment import ExperimentConfig

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, evaluate and compare 3D-aware image generators.",
)
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")
weights_app = typer.Typer(
    no_args_is_help=True,
    help="Pretrained networks for the metrics (Inception, VGG16, LPIPS, CLIP).",
)
app.add_typer(weights_app, name="weights")
app.add_typer(inference_app)


File = Annotated[
    str, typer.Argument(help="A YAML file, or a preset name.", autocompletion=complete)
]
Overwrite = Annotated[bool, typer.Option(help="Replace an existing output.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def _load(file: str, overrides: Sequence[str] | None) -> "ExperimentConfig":
    """Load an experiment. A mistyped name fails before torch is imported."""
    from lightning_gan3d.presets import find_file

    path = find_file(file)
    with spinner("loading"):
        from lightning_gan3d.experiment import load_experiment

        return load_experiment(path, overrides or [])


@app.command()
@stoppable()
def train(
    file: File,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    device: TrainDevice = None,
    seeds: Seeds = None,
    resume: Annotated[bool, typer.Option(help="Require an existing run and continue it.")] = False,
    extend: Annotated[
        bool, typer.Option(help="Continue a finished run that differs only in training.kimg.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print plan, sizes and memory without training.")
    ] = False,
) -> None:
    """Train a generator, then evaluate it; with several seeds one after another."""
    if resume and extend:
        raise ConfigError("--resume continues a run, --extend starts a longer one; remove one")
    overrides = with_device(overrides, device)
    of_seeds = [[f"seed={seed}"] for seed in numbers_of("--seeds", seeds)] or [[]]
    configs = [_load(file, [*overrides, *of_seed]) for of_seed in of_seeds]
    from lightning_gan3d.data.dataset import check_exists

    for config in configs:
        check_exists(config.data)  # before slower imports
    if dry_run:
        from lightning_gan3d.training.fit import plan

        typer.echo("\n\n".join(map(plan, configs)))
        return
    from lightning_gan3d.training.checkpoint import prepare
    from lightning_gan3d.training.fit import train_run
    from lightning_gan3d.training.processes import print_log

    print_log()
    how = partial(prepare, how="extend" if extend else "resume" if resume else "start")
    for config in configs:
        if code := train_run(config, root, how, sys.argv):
            raise typer.Exit(code)


@app.command()
@stoppable()
def reproduce(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    overrides: Overrides = None,
    root: Annotated[
        Path | None, typer.Option("--root", "-o", help="New folder; default: RUN-reproduced.")
    ] = None,
) -> None:
    """Repeat a run from its manifest; compare rows, evaluation and weights bit by bit."""
    from lightning_gan3d import reproduce as repetition
    from lightning_gan3d.training.processes import print_log

    print_log()
    raise typer.Exit(repetition.reproduce(run, root, overrides or [], sys.argv))


@app.command("config")
def show_config(
    file: File,
    overrides: Overrides = None,
) -> None:
    """Print the resolved configuration with all defaults."""
    from lightning_gan3d.config import to_yaml

    typer.echo(to_yaml(_load(file, overrides)), nl=False)


@app.command()
def presets(
    cost: Annotated[
        bool, typer.Option("--cost", help="Add parameters, scene memory and FLOPs per image.")
    ] = False,
) -> None:
    """List the presets, each with a line about it."""
    if cost:
        from lightning_gan3d.benchmark.bench import cost_of_presets

        typer.echo(cost_of_presets())
        return
    names = [*preset_names("runs"), *preset_names("sweeps")]
    width = max(map(len, names))
    typer.echo("\n".join(f"{name:<{width}}  {describe(name)}" for name in names))


@app.command()
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, checkpoints, exports, pickles, or folders of images; and overrides.",
            metavar="[RUN]... [K=V]...",
        ),
    ] = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Output folder; default: the run itself, or runs/evaluated/NAME."
        ),
    ] = None,
    inception_weights: Annotated[
        Path | None,
        typer.Option(help="Inception weights for FID and KID (see `gan3d weights list`)."),
    ] = None,
    vgg_weights: Annotated[
        Path | None, typer.Option(help="VGG16 weights for precision and recall.")
    ] = None,
    clip_weights: Annotated[
        Path | None, typer.Option(help="CLIP weights for evaluation.distribution.clip.")
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option("--self-test", help="Test the metrics on scenes with known answers."),
    ] = False,
) -> None:
    """Evaluate a generator or image folder: FID/KID, view consistency, pose, geometry."""
    if self_test:
        if targets:
            raise ConfigError(f"evaluate --self-test takes no run; remove {targets[0]}")
        from lightning_gan3d.metrics.selftest.selftest import run_self_test, table

        result = run_self_test(progress=lambda line: typer.echo(line, err=True))
        typer.echo(table(result))
        raise typer.Exit(4 if result.failures else 0)
    runs, overrides = split_overrides(targets or [])
    if not runs:
        raise ConfigError("evaluate: give a run directory, or --self-test")
    if out is not None and len(runs) > 1:
        raise ConfigError(f"--out {out}: is the folder of one evaluation; give one run")
    with spinner("loading"):
        from lightning_gan3d.metrics.evaluate_target import open_target
        from lightning_gan3d.metrics.process_group import process_group

    weights = {"inception": inception_weights, "inception-pytorch": inception_weights}
    weights |= {"vgg16": vgg_weights, "clip": clip_weights}
    with process_group(device):
        for run in runs:
            target = open_target(run, overrides, device, out, weights)
            typer.echo(target.measure(sys.argv))


@app.command()
def bench(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run directories, folders of runs, presets or files; overrides of the last two.",
            metavar="[RUN|PRESET]... [K=V]...",
        ),
    ] = None,
    root: Root = Path("runs"),
    device: Device = "auto",
    quick: Annotated[bool, typer.Option(help="Fewer processes, repeats and sizes.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="A clone of NVlabs/eg3d or NVlabs/stylegan3 to compare with."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="With --against: filter benchmarks by name prefix.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="With --against: fp32, bf16 or fp16; default: fp32 and bf16."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="With --against: CPU threads; default: torch's choice.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --against: output JSON file.")
    ] = None,
) -> None:
    """Benchmark speed, memory and cost; --against compares with the official EG3D or StyleGAN3."""
    if against is not None:
        if targets:
            raise ConfigError(f"bench --against compares official models; remove {targets[0]}")
        from lightning_gan3d.benchmark.eg3d.compare import CompareOptions, compare

        options = CompareOptions(
            device=device,
            precisions=tuple(precision or ("fp32", "bf16")),
            quick=quick,
            only=tuple(only or ()),
            threads=threads,
            command=tuple(sys.argv),
            out=out,
        )
        typer.echo(compare(against, options, lambda line: typer.echo(line, err=True)))
        return
    from lightning_gan3d.benchmark.bench import BenchOptions, bench_targets

    options_against = {"--only": only, "--precision": precision, "--threads": threads, "--out": out}
    unused = [name for name, value in options_against.items() if value is not None]
    if unused:
        raise ConfigError(f"bench {unused[0]}: requires --against PATH")
    names, overrides = split_overrides(targets or [])
    if not names:
        raise ConfigError("bench: give a run directory, a preset or a file; or --against PATH")
    options_own = BenchOptions(device, quick, tuple(sys.argv), tuple(overrides))
    typer.echo(bench_targets(names, options_own, root))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder; default: DIR/report.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option(help="Label of a group to show; repeat to select and order.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="Metrics of the headline and LaTeX tables: quality.fid,pose.*")
    ] = "",
    labels: Annotated[
        list[str] | None, typer.Option(help="New label of a group: OLD=NEW.", metavar="OLD=NEW")
    ] = None,
) -> None:
    """Write the comparison: HTML, Markdown, LaTeX, CSV and plots."""
    from lightning_gan3d.checkpoints.references import local_path
    from lightning_gan3d.report.make import ReportOptions, make_report

    gc.disable()  # millions of objects and no cycles: it would take a tenth of the time
    folders = [local_path(folder) for folder in folders]
    options = ReportOptions(tuple(rows or ()), metrics, tuple(labels or ()))
    parent = folders[0].parent if folders[0].is_file() else folders[0]
    typer.echo(make_report(folders, out or parent / "report", options))


@app.command()
@stoppable()
def dashboard(
    sweep: Annotated[
        str,
        typer.Argument(
            help="A sweep's YAML file, preset, or folder ROOT/sweeps/NAME.",
            autocompletion=complete_sweep,
        ),
    ],
    root: Root = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="HTML file; default: dashboard.html in the folder."),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(help="Write it again every N seconds until all runs end.", min=1),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(help="Save a report in this W&B project instead.", metavar="ENTITY/PROJECT"),
    ] = None,
) -> None:
    """Write a page about a sweep that runs: states, curves, newest samples and metrics."""
    with spinner("loading"):
        from lightning_gan3d.report.dashboard import Dashboard, find_folder

    board = Dashboard(find_folder(sweep, root), out)
    if wandb is not None:
        from lightning_gan3d.report.wandb_report import save_report

        typer.echo(save_report(board, wandb))
        return
    if watch is not None:
        typer.echo(f"{board.out}, every {watch:g} s")
        board.watch(watch)
    else:
        board.write()
    typer.echo(board.out)


@weights_app.command("list")
def weights_list() -> None:
    """List known networks and whether they are available."""
    from lightning_gan3d.metrics.pretrained import describe

    typer.echo(describe())


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names from the list; default: all.", metavar="[NAME]..."),
    ] = None,
) -> None:
    """Download networks and verify their SHA-256."""
    from lightning_gan3d.metrics.pretrained import KNOWN, fetch

    for name in names or list(KNOWN):
        typer.echo(f"{name}: {fetch(name).path}")


@app.command("import")
def import_network(
    source: Annotated[Path, typer.Argument(help="A network pickle of EG3D or StyleGAN2 (.pkl).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")],
    overrides: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert an NVIDIA pickle to a native checkpoint without running its code."""
    from lightning_gan3d.checkpoints.importer import import_file

    typer.echo(import_file(source, out, overrides or [], overwrite))


@app.command()
def doctor() -> None:
    """Check the installation and hardware."""
    from lightning_gan3d.doctor import examine

    marks = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
    faulty = False
    for f in examine():
        typer.echo(f"{marks[f.state]}  {f.name}: {f.detail}")
        faulty |= f.state == "fault"
    raise typer.Exit(2 if faulty else 0)


def _version(show: bool | None) -> None:
    if show:
        typer.echo(f"gan3d {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    del version  # handled by its callback


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; invalid input prints one line and sets the exit code."""
    try:
        app(args=arguments)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:  # a full, read-only or failing disk
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise SystemExit(ConfigError.exit_code) from None


if __name__ == "__main__":
    main()

"""Time and memory of planning, states, dashboard and report of a sweep of many runs.

`python benchmarks/many_runs.py RUN OUT.json`: RUN is a small finished run. Its copies are the runs
of a sweep: other settings and seeds, numbers that vary by a few percent, and a long metrics.jsonl.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from lightning_gan3d.files import write_json
from lightning_gan3d.metric import read_metrics, write_metrics
from lightning_gan3d.runs import CONDITIONS, EVALUATION, MANIFEST, METRICS, Run
from lightning_gan3d.sweep.plan import PlannedRun, expand, load_sweep
from lightning_gan3d.sweep.states import SweepFolder

ROWS, EVALUATED = 1000, 50
"""Rows of each metrics.jsonl, and rows from one with distances to the next."""
COMMANDS = {
    "plan": ("sweep", "plan", "many.yaml"),
    "status": ("sweep", "status", "many.yaml"),
    "dashboard": ("dashboard", "many.yaml"),
    "report": ("report", "runs"),
}


def write_sweep(run: Path, folder: Path, arms: int, seeds: int) -> None:
    """Write a sweep of settings x seeds that starts from the configuration of a run."""
    shutil.copy(run / "config.yaml", folder / "base.yaml")
    widths, rates = math.ceil(arms / 10), 10
    grid = {
        "optimizer.generator.lr": [round(0.001 * (i + 1), 4) for i in range(rates)],
        "loss.r1_gamma": [round(0.1 * (i + 1), 2) for i in range(widths)],
    }
    sweep = {"name": "many", "runs": ["base.yaml"], "grid": grid, "seeds": list(range(seeds))}
    (folder / "many.yaml").write_text(json.dumps(sweep))  # JSON is YAML


def copy_run(run: Path, to: PlannedRun, config: Path) -> None:
    """Copy a run with the configuration of another; large files are links."""
    noise = random.Random(str(to.path.name))
    to.path.mkdir(parents=True)
    shutil.copy(config, to.path / "config.yaml")
    shutil.copy(run / CONDITIONS, to.path / CONDITIONS)
    for name in ("checkpoints", "samples"):
        shutil.copytree(run / name, to.path / name, copy_function=os.link)
    write_json(to.path / MANIFEST, {**Run(run).manifest(), "seed": to.seed, "hash": ""})
    metrics = [
        m if m.value is None else replace(m, value=m.value * noise.gauss(1, 0.05))
        for m in read_metrics(run / EVALUATION)
    ]
    write_metrics(to.path / EVALUATION, metrics)
    rows = Run(run).metrics()
    evaluated = [row for row in rows if "eval/swd" in row]
    logged = [row for row in rows if "eval/swd" not in row]
    with (to.path / METRICS).open("w") as file:
        for number in range(ROWS):
            of_kind = logged if number % EVALUATED else evaluated
            row = of_kind[number % len(of_kind)]
            kimg = to.kimg * (number + 1) / ROWS
            changed = {k: v * noise.gauss(1, 0.05) for k, v in row.items() if isinstance(v, float)}
            file.write(json.dumps({**row, **changed, "step": number + 1, "kimg": kimg}) + "\n")


def measure(arguments: tuple[str, ...], folder: Path) -> dict[str, float]:
    """Run a command; return its wall time, CPU time and peak memory."""
    command = [sys.executable, "-m", "lightning_gan3d.cli", *arguments]
    installed = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    start = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, **installed}
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with exit code {process.returncode}")
    return {
        "seconds": round(time.monotonic() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1000),
    }


def main() -> None:
    """Parse the command line, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(COMMANDS))
    parser.add_argument("--keep", type=Path, help="use this folder, and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        if not (folder / "many.yaml").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_sweep(options.run, folder, options.arms, options.seeds)
            sweep, file = load_sweep(folder / "many.yaml")
            runs, of_sweep = (
                expand(sweep, file, folder / "runs"),
                SweepFolder.of(sweep, folder / "runs"),
            )
            of_sweep.write(runs)
            for run in runs:
                copy_run(options.run, run, of_sweep.config(run))
        results: dict[str, dict[str, float]] = {}
        for name in options.only:  # of several runs, the one that was least disturbed
            several = [measure(COMMANDS[name], folder) for _ in range(options.repeats)]
            results[name] = min(several, key=lambda r: r["seconds"])
        page = folder / "runs/sweeps/many/dashboard.html"
        sizes = {"dashboard": page, "report": folder / "runs/report/index.html"}
        for name in sizes.keys() & results.keys():
            results[name]["page_mb"] = round(sizes[name].stat().st_size / 1e6, 2)
    figures = {"arms": options.arms, "seeds": options.seeds, "rows": ROWS, **results}
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()

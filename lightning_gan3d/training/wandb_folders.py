"""Offline folders of W&B in a run directory, read with W&B's own reader."""

import json
import shutil
import subprocess
import sys
from pathlib import Path


def last_step(file: Path) -> tuple[int, bool]:
    """Return the last step in a `.wandb` file (-1: none), and whether it was closed."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    step, closed = -1, False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            record = json.loads(line)
            if record["type"] == "history":
                step = record["history"]["step"]["num"]
            closed |= record["type"] == "exit"
    return step, closed


def continue_after(path: Path, online: bool) -> int:
    """Return the last step in the offline folders of a run that stay; -1 if there is none.

    Removes folders that a kill left unfinished, because `wandb sync` stops at a damaged one; if the
    run goes on `online`, all that were not synced. Their rows are still in `metrics.jsonl`.
    """
    steps = [-1]
    for file in sorted(path.glob("wandb/offline-run-*/run-*.wandb")):
        synced = file.with_suffix(".wandb.synced").exists()
        if online and synced:
            continue
        step, closed = (-1, False) if online else last_step(file)
        if closed or synced:
            steps.append(step)
        else:
            shutil.rmtree(file.parent)
    return max(steps)

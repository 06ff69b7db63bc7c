"""Export of a sweep to W&B: a grid over run ids, of which each agent runs one."""

from collections.abc import Sequence
from typing import Any

import yaml

from lightning_gan3d.sweep.plan import PlannedRun
from lightning_gan3d.sweep.states import SweepFolder
from lightning_gan3d.sweep.task import TASK


def wandb_sweep(folder: SweepFolder, runs: Sequence[PlannedRun]) -> str:
    """Return the YAML file of `wandb sweep`; the runs are those of the sweep's folder.

    W&B only hands out ids: configurations, identity and retries stay those of the sweep.
    """
    tree: dict[str, Any] = {
        "name": folder.path.name,
        "method": "grid",
        "parameters": {"run": {"values": [run.id for run in runs]}},
        "command": ["${env}", *TASK, str(folder.path.resolve()), "${args}"],
    }
    return yaml.safe_dump(tree, sort_keys=False)

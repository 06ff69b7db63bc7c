import sys

import yaml
from typer.testing import CliRunner
from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_gan3d.sweep import slurm
from lightning_gan3d.sweep.plan import expand as plan
from lightning_gan3d.sweep.plan import load_sweep
from lightning_gan3d.sweep.sweep_commands import app


def test_agents_of_wandb_run_one_configuration_each(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    output = CliRunner().invoke(app, ["agents", "demo_one_seed", "--root", str(root)]).output
    tree = yaml.safe_load(output)
    assert _validate_config_and_fill_distribution(tree) == tree
    ids = [run.id for run in plan(*load_sweep("demo_one_seed"), root)]
    assert tree["method"] == "grid"
    assert tree["parameters"] == {"run": {"values": ids}}
    # As W&B's agent does.
    words = create_sweep_command_args({"args": {"run": {"value": ids[1]}}})["args"]
    command = [x for word in tree["command"] for x in (words if word == "${args}" else [word])]
    assert command[:5] == ["${env}", sys.executable, "-m", "lightning_gan3d.cli", "sweep"]
    tasks = []
    monkeypatch.setattr(slurm, "run_task", lambda *task: tasks.append(task) or (0, False))
    assert CliRunner().invoke(app, command[5:]).exit_code == 0
    assert tasks == [(root / "sweeps" / "demo_one_seed", ids[1])]
    assert (root / "sweeps/demo_one_seed/configs" / f"{ids[1]}.yaml").is_file()

"""The commands and examples of the READMEs and the notebook work."""

import json
import re
import shlex
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import typer.main
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_gan3d.cli import app, main
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.sweep.plan import expand, load_sweep
from lightning_gan3d.sweep.slurm import load_cluster

mpl.use("Agg")
ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPI = (ROOT / "docs/pypi.md").read_text(encoding="utf-8")


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_python_example_runs(capsys):
    (example,) = blocks("python")
    exec(example, {})
    assert capsys.readouterr().out == "torch.Size([8, 3, 64, 64]) torch.Size([8, 1, 32, 32])\n"


def test_both_readmes_have_the_same_python_example():
    assert blocks("python", PYPI) == blocks("python")


def test_the_example_of_a_plain_trainer_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs/configuration.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    make_synth(SynthConfig(num_images=40, num_objects=20), tmp_path / "data/synth32.zip")
    found: dict = {}
    exec(example, found)
    assert found["module"].steps_done == 10
    assert found["generator"] is found["module"].average


COMMANDS = sorted(
    {
        shlex.join(shlex.split(line, comments=True))
        for block in blocks("sh") + blocks("sh", PYPI)
        for line in block.splitlines()
        if line.startswith("gan3d")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    arguments = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    context = command.make_context(
        command.name, arguments
    )  # parses without running; raises if invalid
    assert context.command is command


ONLY_PARSED = {
    "gan3d doctor": "tests/test_doctor.py runs its checks",
    "gan3d data synth": "a minute: 4,000 images",
    "gan3d data from-images": "needs photographs; tests/data/preparers/test_from_images.py",
    "gan3d data from-poses": "needs a capture; tests/test_tutorials.py makes one",
    "gan3d import": "needs a checkpoint of NVIDIA",
    "gan3d train": "minutes, or days without a GPU",
    "gan3d weights fetch": "needs the network",
    "gan3d reproduce": "needs a run; tests/training/test_reproduce.py makes one",
    "gan3d evaluate demo-voxel/latest": "needs a run; tests/test_tutorials.py makes one",
    "gan3d evaluate my_images/": "minutes, with images of another generator",
    "gan3d bench demo-voxel/latest": "minutes, with a run",
    "gan3d bench --against": "needs a clone of EG3D",
    "gan3d sweep": "hours",
    "gan3d report": "needs runs; tests/test_tutorials.py makes them",
    "gan3d view": "serves until it is stopped",
}
"""Beginnings of commands that no test here runs, with the reason."""
RUN = [line for line in COMMANDS if not line.startswith(tuple(ONLY_PARSED))]


def test_all_exceptions_are_in_the_readme():
    assert [k for k in ONLY_PARSED if not any(line.startswith(k) for line in COMMANDS)] == []


@pytest.mark.parametrize("line", RUN)
def test_a_command_runs_as_written(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    make_synth(SynthConfig(num_images=40, num_objects=20), tmp_path / "data/synth32.zip")
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line)[1:])
    assert not stop.value.code


def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((ROOT / "examples/first_steps.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(re.sub(r"^[%!].*", "", "".join(cell["source"]), flags=re.MULTILINE), names)
    assert names["turntable"].to_jshtml().count("data:image/png") == 24
    assert names["module"].steps_done == 30
    axes = [ax for n in plt.get_fignums() for ax in plt.figure(n).axes]
    plt.close("all")
    assert len(axes) == 3 * 2 * 6
    colours = [ax.images[0].get_array() for ax in axes]
    assert all(float(colour.std()) > 0.01 for colour in colours)


def agent_overrides(sweep):
    """The overrides that an agent of `wandb sweep` gives to `gan3d train demo/triplane`."""
    values = {k: p.get("values", [p.get("min")])[-1] for k, p in sweep["parameters"].items()}
    args = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    command = [part for word in sweep["command"] for part in args.get(word[2:-1], [word])]
    assert command[:3] == ["gan3d", "train", "demo/triplane"]
    return command[3:]


@pytest.mark.parametrize("page", ["sweeps", "configuration"])
def test_the_yaml_of_the_docs_is_valid(page, tmp_path):
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    assert examples
    for example in examples:
        file = tmp_path / "example.yaml"
        file.write_text(example)
        if re.search("^command:", example, re.MULTILINE):
            config = load_experiment("demo/triplane", agent_overrides(yaml.safe_load(example)))
            assert config.generator.renderer.samples_coarse == 24
            assert config.optimizer.generator.lr == 0.001
        elif re.search("^runs:", example, re.MULTILINE):
            loaded = load_sweep(file)
            search = loaded[0].search
            assert len(expand(*loaded, tmp_path)) == (
                0 if search else 6 if "zip" not in example else 18
            )
        elif re.search("^partition:", example, re.MULTILINE):
            assert load_cluster(file).minutes == 720
        else:
            config = load_experiment(file)
            samples, growing = config.generator.renderer.samples_coarse, config.training.growing
            nucleus = config.generator.renderer.importance == "nucleus"
            terms = len(config.loss.terms) == 3
            assert terms or samples == 24 or growing is not None or nucleus


def test_every_link_has_a_target():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for page in [*pages, *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"

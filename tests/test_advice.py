"""Following the advice of an error leads on."""

import re
import shlex

import pytest

from lightning_gan3d import cli
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.presets import preset_names


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code or 0, capsys.readouterr().err


def test_the_command_that_makes_missing_data_works(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, error = run(capsys, "train", "demo/voxel", "--dry-run")
    assert code == 2
    gan3d, *command = shlex.split(error.strip().split("data: ")[1])
    assert gan3d == "gan3d"
    assert run(capsys, *command, "num_images=40", "num_objects=20")[0] == 0
    assert run(capsys, "train", "demo/voxel", "--dry-run")[0] == 0


def test_a_mistyped_path_gets_the_nearest_one_and_no_other_data(tmp_path):
    (tmp_path / "own.zip").touch()
    data = load_experiment("demo/voxel", [f"data.path={tmp_path}/onw.zip"]).data
    with pytest.raises(DataError) as raised:
        ImageDataset(data)
    assert str(raised.value).endswith(f"; did you mean {tmp_path / 'own.zip'}?")
    assert "synth" not in str(raised.value)


@pytest.mark.parametrize("name", preset_names("runs"))
def test_every_preset_names_a_command_that_makes_its_data(name):
    data = load_experiment(name).data
    gan3d, group, kind, *rest = shlex.split(data.make)
    assert (gan3d, group) == ("gan3d", "data")
    assert kind in {command.name for command in cli.data_app.registered_commands}
    assert data.path in rest
    if kind == "synth":
        options = dict(x.split("=") for x in rest if "=" in x)
        assert int(options.get("resolution", 32)) == data.resolution


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("demo/voxel", ["evaluation.swd=null"]),
        ("demo/image2d", ["loss.density_reg=0.1"]),
        ("demo/voxel", ["training.batch=0"]),
        ("demo/voxel", ["generator.renderer.samples_coarse=-1"]),
        ("demo/voxel", ["generator.z_dim=0"]),
        ("demo/voxel", ["seed=-1"]),
        ("demo/voxel", ["training.precision=bf1"]),
        ("demo/voxel", ["trainin.kimg=1"]),
    ],
)
def test_the_setting_that_a_message_suggests_is_accepted(preset, overrides):
    with pytest.raises(ConfigError) as raised:
        load_experiment(preset, overrides)
    text = str(raised.value)
    key = overrides[-1].partition("=")[0]
    if assigned := re.search(r"set ([\w.]+=\S+)", text):
        overrides = [*overrides, assigned[1]]
    elif name := re.search(r"unknown key `(\w+)`.*did you mean `(\w+)`", text):
        overrides = [overrides[-1].replace(name[1], name[2])]
    else:
        pattern = r"did you mean `(\w+)`|e\.g\. ([^\s,]+)|use a whole number from (\d+)"
        value = re.search(pattern, text)
        assert value, text
        overrides = [f"{key}={value[1] or value[2] or value[3]}"]
    load_experiment(preset, overrides)


@pytest.mark.parametrize("wanted", [16, 24])
def test_advice_on_the_resolution_of_data_leads_on(capsys, tmp_path, wanted):
    path = tmp_path / "few.zip"
    run(capsys, "data", "synth", str(path), "num_images=40", "num_objects=20")
    advice = ImageDataset(DataConfig(str(path))).how_to_resize(wanted)
    if wanted == 16:
        assert advice == "set data.resolution=16"
        assert ImageDataset(DataConfig(str(path), resolution=16)).resolution == 16
    else:
        assert advice == "prepare data of 24 pixels (these have 32)"
        with pytest.raises(ConfigError, match="use a divisor of 32"):
            ImageDataset(DataConfig(str(path), resolution=24))

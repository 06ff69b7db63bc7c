"""Hostile and broken configurations: one error line, soon, in little memory, and nothing else."""

import os

import pytest

from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError
from lightning_gan3d.experiment import load_experiment


def yaml_file(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: demo/voxel\noptimizer: {generator: {lr: 1%s}}" % ("0" * 400),
            "more than 40 digits",
        ),
        ("base: demo/voxel\nseed: %s" % ("9" * 5000), "more than 40 digits"),
        ("base: demo/voxel\nname: " + "[" * 3000 + "]" * 3000, "deeper than 40 levels"),
        ("base: demo/voxel\nname: " + "{a: " * 300 + "1" + "}" * 300, "deeper than 40 levels"),
        ("base: demo/voxel\n1: 2", "quote the key 1"),
        ("base: demo/voxel\nname: &x [1]\nlabel: *x", "aliases"),
        ('base: "a\\0b.yaml"', "not a file name"),
        (f"base: {'a' * 300}.yaml", "cannot be read"),
        ('base: demo/voxel\nname: "a\\0b"', "use a plain folder name"),
        ('base: demo/voxel\nname: "\\ud800"', "mine.yaml"),
        (f"base: demo/voxel\nname: {'a' * 300}", "use a plain folder name"),
        ("base: demo/voxel\nname: " + "x" * 2_000_000, "at most 100,000 bytes"),
        ("base: demo/voxel\nlogging: {wandb_project: '${oc.env:HOME}'}", "environment variables"),
        ("base: demo/voxel\nlogging: {wandb_tags: ['${oc.env:HOME}']}", "environment variables"),
        ("base: demo/voxel\nlabel: ${nowhere}", "interpolation"),
        ("base: demo/voxel\ndata: {objects: 1-99999999999}", "more than 100,000 numbers"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(yaml_file(tmp_path, text))


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "loop"])
def test_only_regular_files_are_read(tmp_path, kind):
    base = tmp_path / "base.yaml"
    if kind == "device":
        base.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(base)
    elif kind == "folder":
        base.mkdir()
    else:
        base.symlink_to(base)
    with pytest.raises(ConfigError, match=r"a configuration is a file of at most|cannot be read"):
        load_experiment(yaml_file(tmp_path, "base: base.yaml"))


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [ls]", "!mine 1"])
def test_tags_are_unsafe(tmp_path, capsys, tag):
    with pytest.raises(SystemExit) as stop:
        main(["config", str(yaml_file(tmp_path, f"base: demo/voxel\nname: {tag}"))])
    assert stop.value.code == 3
    assert "mine.yaml: line 2: tag" in capsys.readouterr().err


def test_secrets_of_the_environment_stay_there(monkeypatch):
    monkeypatch.setenv("SECRET", "c0ffee")
    with pytest.raises(ConfigError) as error:
        load_experiment("demo/voxel", ["logging.wandb_project=${oc.env:SECRET}"])
    assert "c0ffee" not in str(error.value)


def test_a_data_path_is_text():
    config = load_experiment("demo/voxel", ["data.path='my ${dir} #2: set.zip'", "name=mine"])
    assert config.data.path == "my ${dir} #2: set.zip"


@pytest.mark.parametrize(
    ("written", "name"),
    [("007", "007"), ("7", "7"), ("1.50", "1.50"), ("1e3", "1e3"), ("true", "true"), ("'7'", "7")],
)
def test_text_stays_as_written(tmp_path, written, name):
    assert load_experiment("demo/voxel", [f"name={written}"]).name == name
    file = yaml_file(tmp_path, f"base: demo/voxel\nname: {written}\n")
    assert load_experiment(file).name == name


def test_an_override_has_no_comment():
    config = load_experiment("demo/voxel", ["data.path=my #2 set.zip", "name=run #2"])
    assert (config.data.path, config.name) == ("my #2 set.zip", "run #2")
    for value in ("1:30", "1_0", "0x10", "1 # one"):
        with pytest.raises(ConfigError, match=r"training\.batch"):
            load_experiment("demo/voxel", [f"training.batch={value}"])
    assert load_experiment("demo/voxel", ["data.objects=010"]).data.objects == "010"

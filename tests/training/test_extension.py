"""`--extend`: a longer run starts from the whole state of a finished, shorter one."""

import functools
import json
import shutil

import pytest
from test_fit import assert_same, values_of

from lightning_gan3d import cli, runs
from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.runs import Run, run_path
from lightning_gan3d.training.checkpoint import _shorter_run, prepare

ADA = (
    "augment={mode: ada, interval: 4, speed_kimg: 0.1, target: -1.0}",
    "training.ema_half_life_kimg=0.02",
)
extend = functools.partial(prepare, how="extend")
DECAY = "optimizer.decay_start=0.5"


@pytest.fixture
def tiny(tiny):
    """Experiments without rendering: faster, and the state is the same."""
    return functools.partial(tiny, kind="image2d")


def contents(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("stopped", [False, True])
def test_an_extended_run_equals_one_from_scratch(tiny, start, at_step, stopped):
    short, long = tiny(*ADA, "training.kimg=0.032"), tiny(*ADA)
    _, whole, log = start(long, "whole")
    assert "--extend" not in log
    _, source, _ = start(short)
    before = contents(source)
    if stopped:
        at_step(5)
        code, path, log = start(long, prepare=extend)
        assert code == 75
        at_step(None)
        code, path, log = start(long)  # the same run, with the option or without it
        assert "continuing from 0.048 kimg" in log
    else:
        code, path, log = start(long, prepare=extend)
        assert f"extending {source}, with optimizers, averages and augmentation" in log
        assert "continuing from 0.032 kimg" in log
        assert "warning" not in log
    assert code == 0
    assert_same(whole / "checkpoints" / store.name_of(8), path / "checkpoints" / store.name_of(8))
    assert values_of(path) == values_of(whole)
    manifest = Run(path).manifest()
    record = manifest["extends"]
    assert (record["run"], record["kimg"]) == (source.name, 0.032)
    assert record["note"] == ""
    assert manifest["finished"]
    assert manifest["command"] == ["gan3d", "train"]
    assert contents(source) == before


def test_schedules_that_depend_on_the_length_are_reported(tiny, start):
    start(tiny(DECAY, "training.kimg=0.032"))
    code, path, log = start(tiny(DECAY), prepare=extend)
    assert code == 0
    note = (
        "not equal to 0.064 kimg from scratch: the learning rates, which had decayed by 0.032 kimg "
        "(optimizer.decay_start), continue at 0.775 of the initial ones"
    )
    assert Run(path).manifest()["extends"]["note"] == note
    assert f"warning: {note}" in log
    factors = [row["schedule/learning_rate_factor"] for row in Run(path).metrics()]
    assert factors == pytest.approx([1.0, 0.1, 0.55, 0.1])
    _, again, _ = start(tiny(DECAY, "training.kimg=0.08"), prepare=extend)
    record = Run(again).manifest()["extends"]
    assert record["run"] == path.name
    assert record["note"].startswith(f"{note}; not equal to 0.08 kimg from scratch")


def test_a_run_names_the_one_that_it_could_continue(tiny, start, at_step, tmp_path):
    at_step(1)
    _, unfinished, _ = start(tiny("training.kimg=0.04"))
    at_step(None)
    _, path, log = start(tiny("training.kimg=0.016"))
    assert "--extend" not in log
    path, log = start(tiny("training.kimg=0.032"))[1:]
    hint = f"0 differs only by a lower training.kimg; to extend it, stop this run, remove {path} "
    assert hint in log
    (unfinished / runs.CONFIG).write_bytes(b"\xff damaged")
    for options, named in (((), path), (("seed=1",), None), (("loss.r1_gamma=2",), None)):
        config = tiny(*options)
        assert _shorter_run(config, run_path(config, tmp_path / "runs")) == named


def test_what_cannot_be_extended_is_rejected_and_leaves_no_run(tiny, start, at_step, tmp_path):
    with pytest.raises(ConfigError, match="has no finished run of seed 0 that is shorter than"):
        start(tiny(), prepare=extend)
    assert not (tmp_path / "runs").exists()
    _, short, _ = start(tiny("training.kimg=0.032"))
    at_step(1)
    _, path, _ = start(tiny())
    at_step(None)
    with pytest.raises(ConfigError, match="started from scratch; remove --extend"):
        start(tiny(), prepare=extend)
    shutil.rmtree(path)
    with pytest.raises(ConfigError, match=r"or use --extend to continue .*-s0"):
        start(tiny(), prepare=functools.partial(prepare, how="resume"))
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes=2: use 1, stop the run"):
        extend(tiny("trainer.num_nodes=2"), path)
    make_synth(SynthConfig(num_images=34, num_objects=17, resolution=16), tmp_path / "other.zip")
    with pytest.raises(ConfigError, match="has changed since"):
        start(tiny(f"data.path={tmp_path / 'other.zip'}"), prepare=extend)
    assert not path.exists()
    shutil.rmtree(short / "checkpoints")
    with pytest.raises(ConfigError, match="has no checkpoint to start from"):
        start(tiny(), prepare=extend)
    assert not path.exists()


def test_a_source_of_a_fine_tuned_run_stays_recorded(tiny, start):
    _, origin, _ = start(tiny("training.kimg=0.016"), "other")
    options = f"init_from={{path: {origin}, schedules: keep}}"
    _, short, _ = start(tiny(options, "training.kimg=0.016"))
    shutil.rmtree(origin)
    code, path, _ = start(tiny(options, "training.kimg=0.032"), prepare=extend)
    assert code == 0
    assert Run(path).manifest()["init_from"] == Run(short).manifest()["init_from"]
    assert store.read_index(path / "checkpoints" / store.name_of(4))["images_before"] == 16


def test_the_command_line_extends(tiny, tmp_path, monkeypatch, capsys):
    tiny()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_gan3d.training.fit._evaluate", lambda _: 0)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", "image2d.yaml", *arguments])
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out + shown.err

    assert run("training.kimg=0.016")[0] == 0
    code, text = run("training.kimg=0.032", "--resume", "--extend")
    assert code == 2
    assert "remove one" in text
    code, text = run("training.kimg=0.032", "--extend")
    assert code == 0
    assert "continuing from 0.016 kimg" in text
    manifests = [json.loads(p.read_text()) for p in tmp_path.glob(f"runs/tiny/*/{runs.MANIFEST}")]
    assert ["extends" in m for m in manifests].count(True) == 1

import errno
import os
import signal
import subprocess
import sys

import pytest

from lightning_gan3d import cli
from lightning_gan3d.sweep import sweep_commands
from lightning_gan3d.version import __version__


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['gan3d', '--help']\n"
        "from lightning_gan3d import cli\n"
        "try:\n    cli.main()\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Train, evaluate and compare" in done.stdout


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"gan3d {__version__}\n", "")


def test_config_prints_every_default_with_overrides(capsys):
    code, out, _ = run(capsys, "config", "triplane", "seed=3", "training.kimg=2")
    assert code == 0
    assert "seed: 3\n" in out
    assert "kimg: 2.0\n" in out
    assert "kind: triplane\n" in out
    assert "rules: standard\n" in out


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["train", "triplan"], ["no preset `triplan`", "did you mean `triplane`"]),
        (["train", "gone.yaml"], ["gone.yaml: no such configuration file"]),
        (["train", "triplane", "seeed=1"], ["unknown key `seeed` (command line)", "`seed`"]),
        (["train", "triplane", "data.path=/nowhere/x.zip"], ["/nowhere/x.zip"]),
        (["train", "triplane", "generator.representation.channels=0"], ["channels=0"]),
        (["data", "synth", "out.zip", "resolutio=3"], ["unknown key `resolutio`", "`resolution`"]),
        (["data", "check", "/nowhere"], ["/nowhere"]),
        (["data", "turntable", "/nowhere.zip", "out.zip"], ["/nowhere.zip"]),
        (["data", "ffhq", "/nowhere.zip", "out.zip"], ["/nowhere.zip"]),
        (["data", "celebahq", ".", "out.zip", "crop=700.5"], ["crop=700.5", "a whole number"]),
        (["data", "afhq", ".", "out.zip", "animal=bird"], ["animal=bird", "cat, dog, wild"]),
        (["data", "shapenet", ".", "out.zip"], ["no images"]),
        (["data", "from-poses", "/nowhere", "out.zip"], ["/nowhere"]),
        (["evaluate", "/nowhere"], ["/nowhere"]),
        (["report", "/nowhere"], ["/nowhere"]),
        (["bench", "triplane", "--against", "/nowhere"], ["remove triplane"]),
        (["bench", "triplane", "--threads", "2"], ["bench --threads", "--against PATH"]),
        (["generate", "/nowhere"], ["/nowhere"]),
        (["bench", "/nowhere"], ["/nowhere"]),
        (["evaluate", "/nowhere", "--device", "banana"], ["/nowhere"]),
        (["train", "triplane", "training.kimg=.inf"], ["training.kimg", "a number"]),
        (["sweep", "run", "/nowhere.yaml"], ["/nowhere.yaml"]),
        (["sweep", "plan", "triplan"], ["triplan"]),
        (["sweep", "plan", "demo", "seed=2"], ["override `seed=2`: use `seeds` of the sweep"]),
        (["sweep", "plan", "demo", "--seeds", "2-0"], ["--seeds 2-0: `2-0` is empty; use 0-2"]),
        (["train", "demo/voxel", "--seeds", ""], ["--seeds: give numbers, e.g. 0-2"]),
        (["train", "demo/voxel", "--device", "gpu"], ["training.device=gpu", "auto, cpu, cuda"]),
        (["evaluate", "a", "b", "--out", "c"], ["--out c", "give one run"]),
        (["evaluate", "triplane/latest"], ["no run in triplane or runs/triplane"]),
        (["report", "triplane/latest"], ["no run in triplane or runs/triplane"]),
        (["bench", "demo/voxel", "trainin.kimg=1"], ["unknown key `trainin`"]),
        (["mesh", "a", "loss.r1_gamma=1"], ["a: no such"]),
        (["mix", "x/a", "y/a", "-o", "c"], ["two generators have the same name"]),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2_and_starts_nothing(
    capsys, tmp_path, monkeypatch, arguments, fragments
):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_one_line(capsys, tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), "few.zip")

    monkeypatch.setattr("lightning_gan3d.data.synthetic.synth.make_synth", fail)
    code, _, err = run(capsys, "data", "synth", str(tmp_path / "few.zip"))
    assert (code, err) == (2, f"error: few.zip: {os.strerror(number)}\n")


def test_a_dry_run_plans_and_starts_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "data", "synth", "few.zip", "num_images=40", "num_objects=20")
    assert code == 0
    code, out, _ = run(capsys, "train", "demo/voxel", "data.path=few.zip", "--dry-run")
    assert code == 0
    assert "parameters" in out
    assert [p.name for p in tmp_path.iterdir()] == ["few.zip"]
    assert "GFLOP" in out
    options = ["data.path=few.zip", "--seeds", "3,5", "--device", "cpu", "--dry-run"]
    code, out, _ = run(capsys, "train", "demo/voxel", *options)
    assert code == 0
    assert ["seed 3" in out, "seed 4" in out, "seed 5" in out] == [True, False, True]


def test_a_sweep_takes_seeds_and_overrides(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "sweep", "plan", "demo", "training.kimg=1", "--seeds", "7")
    assert code == 0
    assert out.count("-s7\n") == 4
    assert "4 to start" in out
    _, own, _ = run(capsys, "sweep", "plan", "demo", "--seeds", "7")
    assert own != out, "the override changes the experiments"


def test_presets_are_listed_without_bases_and_with_their_cost(capsys, monkeypatch):
    code, out, _ = run(capsys, "presets")
    assert code == 0
    names, lines = zip(*(line.split(maxsplit=1) for line in out.splitlines()), strict=True)
    assert all(20 < len(line) < 110 and not line.startswith("base") for line in lines)
    assert {"triplane", "demo/voxel", "sweeps/demo"} <= set(names)
    assert not [n for n in names if n.endswith("base")]
    kinds = ["triplane", "trigrid", "voxel", "image2d", "eg3d/ffhq512", "demo/nerf_mlp"]
    monkeypatch.setattr("lightning_gan3d.benchmark.bench.preset_names", lambda _: kinds)
    code, out, _ = run(capsys, "presets", "--cost")
    assert code == 0
    rows = out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == kinds
    row = rows[-1]
    assert row.split()[1:4] == ["40,724", "32,404", "1,536"]


def test_weights_are_listed_and_unknown_ones_rejected(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, _ = run(capsys, "weights", "list")
    assert code == 0
    assert "inception: FID, KID, Inception score" in out
    assert "    missing; run `gan3d weights fetch vgg16`" in out
    code, _, err = run(capsys, "weights", "fetch", "vgg19")
    assert code == 2
    assert "weights vgg19: unknown name; use one of inception" in err


def test_user_weights_must_exist(capsys, tmp_path):
    given = ["--inception-weights", str(tmp_path / "absent.pt")]
    code, _, err = run(capsys, "evaluate", str(tmp_path), *given)
    assert code == 2
    assert f"weights inception: no file {tmp_path / 'absent.pt'}" in err


@pytest.mark.parametrize("command", [["train"], ["sweep", "run"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_training_stops_the_command(capsys, monkeypatch, command, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    for module in (cli, sweep_commands):
        monkeypatch.setattr(module, "with_device", lambda *_: os.kill(os.getpid(), number))
    try:
        code, out, _ = run(capsys, *command, "demo")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 75
    assert out == f"stopped ({number.name}); the same command continues\n"


def test_ctrl_c_ends_other_commands_with_130(capsys, monkeypatch, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("lightning_gan3d.data.synthetic.synth.make_synth", stop)
    try:
        code, _, err = run(capsys, "data", "synth", str(tmp_path / "few.zip"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "Traceback" not in err

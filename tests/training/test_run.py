import json
import os
import signal
import sys
import threading
import types

import pytest
import torch
import yaml

from lightning_gan3d.checkpoints import store
from lightning_gan3d.checkpoints.load import load_generator
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.networks.fused.report import describe
from lightning_gan3d.runs import Run, RunLock, run_path
from lightning_gan3d.training import fit as run_file
from lightning_gan3d.training.fit import train_run
from lightning_gan3d.training.module import AdversarialModule


@pytest.fixture
def start(tmp_path):
    """A function that runs an experiment: exit code, run directory, what was said."""

    def go(config, root="runs", resume=False):
        said = []
        code = train_run(
            config, tmp_path / root, resume, ["gan3d", "train"], said.append, measure=False
        )
        print("\n".join(said))  # shown where a test fails
        return code, run_path(config, tmp_path / root), "\n".join(said)

    return go


@pytest.fixture
def at_step(monkeypatch):
    """A function that has something done when a step reaches its D half, between G and D."""

    genuine = AdversarialModule.discriminator_step

    def when(step, action):
        def hooked(self, now, microbatches):
            if now.step == step:
                action(self)
            genuine(self, now, microbatches)

        monkeypatch.setattr(AdversarialModule, "discriminator_step", hooked)

    return when


def tensors(checkpoint):
    """Every number of a checkpoint, by name."""
    from safetensors.torch import load_file

    found = {
        f"{file.name}/{k}": v
        for file in checkpoint.glob("*.safetensors")
        for k, v in load_file(file).items()
    }
    state = torch.load(checkpoint / "training.pt", weights_only=True)
    for network in ("optimizer_g", "optimizer_d"):
        for index, moments in state[network]["state"].items():
            found |= {f"{network}/{index}/{k}": v for k, v in moments.items()}
    return found | {f"augment/{k}": v for k, v in state["augment"].items()}


def most_steps(state, network):
    """Steps of the parameters that the penalty reaches too (it does not reach a last bias)."""
    return max(float(m["step"]) for m in state[network]["state"].values())


def assert_same(first, second):
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different


def test_a_run_counts_steps_once_and_leaves_its_directory(tiny, start, monkeypatch):
    steps = []
    genuine = AdversarialModule.training_step
    monkeypatch.setattr(
        AdversarialModule,
        "training_step",
        lambda self, batch, i: (steps.append(batch.step), genuine(self, batch, i))[1],
    )
    config = tiny("training.sample_kimg=0.032")
    code, path, said = start(config)
    assert code == 0
    assert steps == list(range(8))  # two optimizers, one count
    run = Run(path)
    assert run.finished
    assert [row["kimg"] for row in run.metrics()] == [0.016, 0.032, 0.048, 0.064]
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [4, 8]
    assert sorted(p.name for p in (path / "samples").iterdir()) == [
        "000000.000kimg.png", "000000.032kimg.png", "000000.064kimg.png",
    ]  # fmt: skip
    state = torch.load(path / "checkpoints" / store.name_of(8) / "training.pt", weights_only=True)
    # Every step, and a penalty every second one.
    assert most_steps(state, "optimizer_d") == 12
    assert most_steps(state, "optimizer_g") == 8
    assert yaml.safe_load((path / "config.yaml").read_text())["seed"] == 0
    assert path.name == f"{config.hash}-s0"
    assert said.count("img/s") == 4
    assert start(config)[2].endswith("finished before, nothing to do")


def test_rows_and_manifest_say_what_reports_need(tiny, start):
    _, path, _ = start(tiny("loss.density_reg=0.1", "loss.density_reg_interval=2"))
    for row in Run(path).metrics():
        for key in (
            "step", "kimg", "seconds", "loss/G", "loss/D", "loss/R1", "loss/density", "D/real",
            "D/fake", "D/accuracy", "gradient/G loss", "gradient/D loss", "scene/opacity",
            "schedule/rendering_resolution", "speed/img_s", "memory/peak_mb",
        ):  # fmt: skip
            assert isinstance(row[key], int | float), key
    manifest = Run(path).manifest()
    for key in ("commit", "versions", "device", "threads", "dataset_fingerprint", "command"):
        assert key in manifest
    assert manifest["command"] == ["gan3d", "train"]
    assert manifest["rendering_path"].startswith(("numba", "plain"))
    assert manifest["layers"] == describe(Run(path).generator())


@pytest.mark.parametrize("cut", [3, 4])
def test_stopped_and_continued_is_bitwise_the_same(tiny, start, at_step, cut):
    """Cut within and at the end of an interval of penalties, augmentation and checkpoints."""
    options = (
        "augment={mode: ada, interval: 4, speed_kimg: 0.1, target: -1.0}",
        "loss.density_reg=0.1",
        "loss.style_mixing=0.5",
        "training.blur_fade_kimg=0.05",
        "training.ema_half_life_kimg=0.02",
    )
    code, whole, _ = start(tiny(*options), "whole")
    assert code == 0
    at_step(cut, lambda _: os.kill(os.getpid(), signal.SIGINT))
    code, path, said = start(tiny(*options), "parts")
    assert code == 75
    assert f"stopped at {(cut + 1) * 0.008:g} kimg (SIGINT), saved; the same command" in said
    assert not Run(path).finished
    code, path, said = start(tiny(*options), "parts", resume=True)
    assert code == 0
    assert f"continuing from {(cut + 1) * 0.008:g} kimg" in said
    final = store.name_of(8)
    assert_same(whole / "checkpoints" / final, path / "checkpoints" / final)
    steps = [row["step"] for row in Run(path).metrics()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 8


def test_a_signal_between_g_and_d_finishes_the_step_and_hands_handlers_back(tiny, start, at_step):
    before = signal.getsignal(signal.SIGTERM)
    at_step(2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    code, path, _ = start(tiny())
    assert code == 75
    (step, last), *_ = reversed(store.steps_in(path / "checkpoints"))
    assert step == 3
    state = torch.load(last / "training.pt", weights_only=True)
    assert most_steps(state, "optimizer_d") == 5
    assert most_steps(state, "optimizer_g") == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_killed_run_forgets_rows_beyond_its_checkpoint(tiny, start, at_step):
    at_step(6, lambda _: (_ for _ in ()).throw(RuntimeError("killed")))
    code, path, said = start(tiny())
    assert code == 4
    assert "RuntimeError: killed" in said
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "kimg": 0.0')  # cut off in the middle
    assert [row["step"] for row in Run(path).metrics()] == [2, 4, 6]
    at_step(99, lambda _: None)
    (path / "checkpoints" / ".unfinished-1-6").mkdir()
    code, path, said = start(tiny())
    assert "ignored 1 unfinished save(s)" in said
    assert "continuing from 0.032 kimg" in said


def test_a_damaged_checkpoint_is_passed_over(tiny, start, at_step):
    at_step(5, lambda _: os.kill(os.getpid(), signal.SIGINT))
    _, path, _ = start(tiny())
    newest = path / "checkpoints" / store.name_of(6) / "training.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    at_step(99, lambda _: None)
    code, _, said = start(tiny())
    assert code == 0
    assert "checksum differs" in said
    assert "continuing from 0.032 kimg" in said


def test_numbers_that_are_not_finite_stop_the_run_and_change_nothing(tiny, start, monkeypatch):
    hashes = {}
    genuine = AdversarialModule.generate

    def poisoned(self, label, draws, now):
        images, scene, ws = genuine(self, label, draws, now)
        if now.step == 5:
            images = images._replace(image=images.image * float("nan"))
        return images, scene, ws

    def digest(self):
        networks = (self.generator, self.discriminator, self.average)
        return [t.clone() for n in networks for t in n.state_dict().values()]

    step = AdversarialModule.training_step

    def watched(self, batch, i):
        hashes[batch.step] = digest(self)
        step(self, batch, i)
        hashes[batch.step + 1] = digest(self)

    monkeypatch.setattr(AdversarialModule, "generate", poisoned)
    monkeypatch.setattr(AdversarialModule, "training_step", watched)
    code, path, said = start(tiny("training.log_kimg=0.064"))
    assert code == 4
    assert "failed: the gradient of the G loss is not finite in step 5" in said
    assert max(hashes) == 8
    assert all(torch.equal(a, b) for a, b in zip(hashes[5], hashes[8], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(hashes[4], hashes[5], strict=True))
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [4]
    assert all(torch.isfinite(p).all() for p in load_generator(path).parameters())
    assert not Run(path).finished


def test_running_out_of_memory_names_the_way_out(tiny, start, at_step):
    at_step(1, lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    code, _, said = start(tiny())
    assert code == 4
    assert "out of memory at training.microbatch=8; try 4 (the batch stays 8)" in said


def test_one_failed_save_is_survived_and_three_stop(tiny, start, monkeypatch):
    genuine, failures = run_file.state.save, []

    def full(*arguments):
        failures.append(1)
        if len(failures) in broken:
            raise OSError(28, "No space left on device")
        return genuine(*arguments)

    monkeypatch.setattr(run_file.state, "save", full)
    broken = {1}
    often = ("training.snapshot_kimg=0.016", "training.keep_checkpoints=3")
    code, path, said = start(tiny(*often), "once")
    assert code == 0
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [4, 6, 8]
    assert "step 2 could not be saved (OSError: [Errno 28]" in said
    assert "last good checkpoint: none" in said
    failures.clear()
    broken = {2, 3, 4}
    code, path, said = start(tiny(*often), "thrice")
    assert code == 75
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [2]


def test_two_runs_in_one_directory_are_refused(tiny, start, tmp_path):
    config = tiny()
    path = run_path(config, tmp_path / "runs")
    path.mkdir(parents=True)
    with RunLock(path), pytest.raises(ConfigError, match=rf"in use by pid {os.getpid()} on "):
        start(config)
    assert start(config)[0] == 0  # a lock whose holder is gone is no lock


def test_what_cannot_be_resumed_is_refused(tiny, start, at_step, tmp_path):
    with pytest.raises(ConfigError, match="no such run to resume"):
        start(tiny(), resume=True)
    at_step(1, lambda _: os.kill(os.getpid(), signal.SIGINT))
    _, path, _ = start(tiny())
    manifest = Run(path).manifest()
    (path / "manifest.json").write_text(json.dumps({**manifest, "dataset_fingerprint": "other"}))
    with pytest.raises(ConfigError, match="not the data that"):
        start(tiny())
    (path / "manifest.json").write_text(json.dumps(manifest))
    other = run_path(tiny("loss.r1_gamma=9.0"), tmp_path / "runs")
    other.mkdir()
    (path / "checkpoints").rename(other / "checkpoints")
    with pytest.raises(ConfigError, match="belongs to configuration"):
        start(tiny("loss.r1_gamma=9.0"))


def test_impossible_resolutions_devices_and_roots_are_refused(tiny, start, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"final=64: the images have 16 pixels"):
        start(tiny("training.rendering_resolution.final=64"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device=cuda .* no CUDA device"):
        start(tiny("training.device=cuda"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        start(tiny(), "file")


def test_the_plan_trains_nothing(tiny, tmp_path):
    text = run_file.plan(tiny())
    assert "8 steps of 8 images" in text
    assert "parameters" in text
    assert not list(tmp_path.glob("runs*"))


class FakeWandb(types.ModuleType):
    """Stands for the library; `fault` says when it fails."""

    def __init__(self, fault):
        super().__init__("wandb")
        self.fault, self.rows, self.options, self.finished = fault, [], None, None
        self.Settings = dict
        self.Image = str

    def init(self, **options):
        if self.fault == "hangs":
            threading.Event().wait(60)
        if self.fault == "init":
            raise ConnectionError("no network")
        self.options = options
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, row):
        if self.fault == "log":
            raise RuntimeError("gone")
        self.rows.append(row)

    def finish(self, exit_code):
        self.finished = exit_code


@pytest.mark.parametrize("fault", [None, "init", "log", "hangs"])
def test_the_mirror_repeats_rows_and_never_fails_the_run(tiny, start, monkeypatch, fault):
    fake = FakeWandb(fault)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("lightning_gan3d.training.wandb_mirror.PATIENCE", 0.0)
    config = tiny(
        "logging.wandb=offline", "training.sample_kimg=0.032", "logging.wandb_timeout=0.3"
    )
    code, path, said = start(config)
    assert code == 0
    rows = Run(path).metrics()
    assert len(rows) == 4
    if fault is None:
        assert [r for r in fake.rows if "samples" not in r] == rows
        assert len(fake.rows) == 4 + 3
        assert fake.finished == 0
        assert "path" not in fake.options["config"]["data"]
        assert fake.options["settings"]["disable_code"]
        assert fake.options["settings"]["disable_git"]
        assert "warning" not in said
    else:
        assert said.count("the mirror is off") == 1


def test_alarms_are_said_when_they_begin_and_distances_are_logged(tiny, start, monkeypatch):
    seen = []

    def swd_of(generator, images, cfg, device):
        seen.append((generator.rendering_resolution, len(images), cfg, device.type))
        return {"swd": 0.5, "swd_16": 0.25}

    monkeypatch.setattr("lightning_gan3d.metrics.evaluate.swd_of", swd_of)
    empty = ("generator.scene.density.scale=1e-9", "training.eval_kimg=0.032")
    config = tiny(*empty)
    _, path, said = start(config)
    assert said.count("alarm: the scene is empty") == 1
    found = [(r["kimg"], r["eval/swd"]) for r in Run(path).metrics() if "eval/swd" in r]
    assert found == [(0.032, 0.5), (0.064, 0.5)]
    assert [r for r, *_ in seen] == [8, 16]
    assert seen[0][2] == config.evaluation
    quiet = ("logging.progress=false", "logging.alarms=false", "training.kimg=0.032")
    _, path, said = start(tiny(*empty, *quiet))
    assert "img/s" not in said
    assert "alarm:" not in said
    assert len(Run(path).metrics()) == 3


def test_a_run_is_finished_when_it_is_measured(tiny, tmp_path, monkeypatch):
    config, outcome = tiny("training.kimg=0.016"), []

    def evaluate_run(path, device):
        outcome.append((path, device, Run(path).finished))
        if len(outcome) == 1:
            raise KeyboardInterrupt
        return "measured"

    monkeypatch.setattr("lightning_gan3d.metrics.evaluate_target.evaluate_run", evaluate_run)
    said = []
    assert train_run(config, tmp_path / "runs", say=said.append) == 75
    assert "trained, but not measured" in said[-1]
    trained = Run(run_path(config, tmp_path / "runs")).metrics()
    assert train_run(config, tmp_path / "runs", say=said.append) == 0
    assert "measured" in said
    run = Run(run_path(config, tmp_path / "runs"))
    assert run.finished
    assert run.metrics() == trained
    assert [(device, finished) for _, device, finished in outcome] == [("cpu", False)] * 2


def test_a_failing_measure_is_a_line_and_a_failed_run(tiny, tmp_path, monkeypatch):
    def evaluate_run(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("lightning_gan3d.metrics.evaluate_target.evaluate_run", evaluate_run)
    config, said = tiny("training.kimg=0.016"), []
    assert train_run(config, tmp_path / "runs", say=said.append) == 4
    assert any("not measured: RuntimeError: no memory" in line for line in said)
    assert not Run(run_path(config, tmp_path / "runs")).finished


def test_a_last_save_that_fails_does_not_finish_the_run(tiny, tmp_path, monkeypatch):
    config, said = tiny("training.kimg=0.016", "training.snapshot_kimg=0"), []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_gan3d.training.checkpoint.save", full)
    assert train_run(config, tmp_path / "runs", say=said.append, measure=False) == 75
    assert not Run(run_path(config, tmp_path / "runs")).finished


def test_several_processes_are_refused_bad_data_in_one_line(tiny, tmp_path):
    config = tiny("training.devices=2", "training.microbatch=4", "data.path=gone.zip")
    with pytest.raises(UserError, match="gone"):
        train_run(config, tmp_path / "runs", measure=False)
    assert not (tmp_path / "runs").exists()

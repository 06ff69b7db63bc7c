import json
import os
import pickle
import signal
import sys
import threading
import time
import types
import zipfile
from functools import partial
from pathlib import Path

import av
import pytest
import torch
import yaml
from safetensors import SafetensorError

from lightning_gan3d import files, runs
from lightning_gan3d.checkpoints import store, stored_networks
from lightning_gan3d.checkpoints.load import export_generator, load_generator
from lightning_gan3d.cli import main
from lightning_gan3d.config import ConfigError, UserError
from lightning_gan3d.data.datamodule import DataModule, KeyedOrder
from lightning_gan3d.inference.config import GenerateOptions
from lightning_gan3d.inference.generate import generate
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.evaluate_target import Evaluation, evaluate_run
from lightning_gan3d.networks.synthesis import describe_layers
from lightning_gan3d.runs import Run, run_path
from lightning_gan3d.training import callbacks, checkpoint, losses
from lightning_gan3d.training.fit import plan, train_run
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.processes import run_lock
from lightning_gan3d.training.signals import Interrupted
from lightning_gan3d.training.wandb_logger import WandbLogger


def tensors(folder):
    """All tensors of a checkpoint, by name."""
    from safetensors.torch import load_file

    networks = {
        f"{file.name}/{k}": v
        for file in folder.glob("*.safetensors")
        for k, v in load_file(file).items()
    }
    state = torch.load(folder / "training.pt", weights_only=True)
    for network in ("optimizer_g", "optimizer_d"):
        for index, moments in state[network]["state"].items():
            networks |= {f"{network}/{index}/{k}": v for k, v in moments.items()}
    return networks | {f"augment/{k}": v for k, v in state["augment"].items()}


def most_steps(state, network):
    """Steps of a parameter that has a gradient of the penalty too (the last bias has none)."""
    return max(float(m["step"]) for m in state[network]["state"].values())


def values_of(path):
    """The rows of a run without what depends on the machine's load."""
    machine = ("seconds", "speed/img_s", "memory/peak_mb")
    return [{k: v for k, v in row.items() if k not in machine} for row in Run(path).metrics()]


def assert_same(first, second):
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different


def test_a_run_counts_steps_once_and_writes_its_directory(tiny, start, monkeypatch):
    steps = []
    genuine = AdversarialModule.training_step
    monkeypatch.setattr(
        AdversarialModule,
        "training_step",
        lambda self, batch, i: (steps.append(batch.step), genuine(self, batch, i))[1],
    )
    config = tiny("training.sample_kimg=0.032")
    code, path, log = start(config)
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
    assert log.count("img/s") == 4
    assert start(config)[2].endswith("already finished")


def test_rows_and_manifest_have_the_fields_of_reports(tiny, start):
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
    assert manifest["rendering_path"].startswith(("numba", "PyTorch"))
    assert manifest["layers"] == describe_layers(load_generator(path))


@pytest.mark.parametrize("cut", [3, 4])
def test_a_resumed_run_is_bitwise_equal(tiny, start, at_step, cut):
    """Stop within and at the end of an interval of penalties, augmentation and checkpoints."""
    options = (
        "training.kimg=0.048",
        "augment={mode: ada, interval: 4, speed_kimg: 0.1, target: -1.0}",
        "loss.density_reg=0.1",
        "loss.style_mixing=0.5",
        "training.blur_fade_kimg=0.05",
        "training.ema_half_life_kimg=0.02",
    )
    code, whole, _ = start(tiny(*options), "whole")
    assert code == 0
    at_step(cut)
    code, path, log = start(tiny(*options), "parts")
    assert code == 75
    assert f"stopped at {(cut + 1) * 0.008:g} kimg (SIGINT), saved; the same command" in log
    assert not Run(path).finished
    code, path, log = start(
        tiny(*options), "parts", prepare=partial(checkpoint.prepare, how="resume")
    )
    assert code == 0
    assert f"continuing from {(cut + 1) * 0.008:g} kimg" in log
    final = store.name_of(6)
    assert_same(whole / "checkpoints" / final, path / "checkpoints" / final)
    assert values_of(path) == values_of(whole)
    assert [row["step"] for row in values_of(path)] == [2, 4, 6]


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGUSR1],
        [signal.SIGUSR2],
        [signal.SIGTERM] * 2,
        [signal.SIGINT, signal.SIGTERM],
    ],
)
def test_a_signal_finishes_the_step_and_handlers_are_restored(tiny, start, at_step, numbers):
    before = signal.getsignal(signal.SIGTERM)
    at_step(2, lambda _: [os.kill(os.getpid(), number) for number in numbers])
    code, path, _ = start(tiny())
    assert code == 75
    (step, last), *_ = reversed(store.steps_in(path / "checkpoints"))
    assert step == 3
    state = torch.load(last / "training.pt", weights_only=True)
    assert most_steps(state, "optimizer_d") == 5
    assert most_steps(state, "optimizer_g") == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_ends_at_once_and_loses_no_checkpoint(tiny, start, at_step, tmp_path):
    at_step(6, lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(Interrupted):
        start(tiny())
    path = run_path(tiny(), tmp_path / "runs")
    assert [step for step, _ in store.steps_in(path / "checkpoints")] == [4]
    at_step(None)
    assert start(tiny())[0] == 0
    assert [row["step"] for row in values_of(path)] == [2, 4, 6, 8]


def test_a_killed_run_drops_rows_after_its_checkpoint(tiny, start, at_step):
    at_step(6, lambda _: (_ for _ in ()).throw(RuntimeError("killed")))
    code, path, log = start(tiny())
    assert code == 4
    assert "RuntimeError: killed" in log
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "kimg": 0.0')  # cut off in the middle
    assert [row["step"] for row in Run(path).metrics()] == [2, 4, 6]
    at_step(None)
    (path / "checkpoints" / ".unfinished-1-6").mkdir()
    code, path, log = start(tiny())
    assert "removed 1 incomplete checkpoint(s)" in log
    assert "continuing from 0.032 kimg" in log


def test_a_damaged_checkpoint_is_skipped(tiny, start, at_step):
    at_step(5)
    _, path, _ = start(tiny())
    newest = path / "checkpoints" / store.name_of(6) / "training.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    at_step(None)
    code, _, log = start(tiny())
    assert code == 0
    assert "checksum differs" in log
    assert "continuing from 0.032 kimg" in log


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "fault", ["newer", "damaged", "foreign state", "other state", "no threads"]
)
def test_a_run_whose_checkpoints_cannot_be_read_is_not_touched(
    tiny, start, at_step, fault, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # a default, which we never use
    at_step(5)
    _, path, _ = start(tiny())
    at_step(None)
    for folder in (path / "checkpoints").iterdir():
        index = folder / store.INDEX
        if fault == "newer":
            index.write_text(index.read_text().replace('"schema": 1', '"schema": 3'))
        elif fault == "damaged":
            (folder / "training.pt").write_bytes(b"x")
        else:
            about = json.loads(index.read_text())
            if fault == "foreign state":
                (folder / "training.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
            elif fault == "other state":
                torch.save({"augment": 3}, folder / "training.pt")
            else:
                del about["threads"]
            index.unlink()
            store.seal(folder, {k: about[k] for k in about if k not in ("schema", "files")})
    files = {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != "run.lock"}
    with pytest.raises(ConfigError, match=r"schema 3|are damaged|cannot be read|no threads"):
        start(tiny())
    assert {f: f.read_bytes() for f in files} == files
    assert len([f for f in path.rglob("*") if f.is_file()]) == len(files) + 1
    assert not (tmp_path / "ran").exists()


def test_a_run_resumes_with_damaged_small_files(tiny, start, at_step):
    at_step(5)
    _, path, _ = start(tiny())
    at_step(None)
    (path / "manifest.json").write_bytes(b"")
    rows = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text("{}\n" + rows)
    code, _, log = start(tiny())
    assert code == 0
    assert log.count("warning: ") == 2
    assert "continuing from 0.048 kimg" in log
    assert [row["step"] for row in Run(path).metrics()] == [2, 4, 6, 8]
    assert Run(path).manifest()["dataset_images"] == 24


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing(
    tiny, start, numbers, monkeypatch
):
    weights, calls = {}, []
    genuine, step = losses.generator_loss, AdversarialModule.training_step

    def poisoned(*arguments):
        calls.append(1)
        return genuine(*arguments) * (float("nan") if len(calls) == 6 else 1.0)

    def watched(self, batch, i):
        weights[batch.step] = numbers(self)
        step(self, batch, i)
        weights[batch.step + 1] = numbers(self)

    monkeypatch.setattr(losses, "generator_loss", poisoned)
    monkeypatch.setattr(AdversarialModule, "training_step", watched)
    code, path, log = start(tiny("training.log_kimg=0.064"))
    assert code == 4
    assert "failed: the gradient of the G loss is not finite in step 5" in log
    assert max(weights) == 8
    assert torch.equal(weights[5], weights[8])
    assert not torch.equal(weights[4], weights[5])
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [4]
    assert all(torch.isfinite(p).all() for p in load_generator(path).parameters())
    assert not Run(path).finished


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            torch.OutOfMemoryError("no room"),
            4,
            "out of memory at training.microbatch=8; try 4",
        ),
        (
            RuntimeError(
                "[alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
            ),
            4,
            "at training.microbatch=8; try 4 (the batch stays 8), or smaller networks",
        ),
        (MemoryError(), 4, "out of memory at training.microbatch=8"),
        (SystemExit(0), 4, "failed: a plug-in or library ended the process with code 0"),
        (RuntimeError("DataLoader worker (pid 3) died"), 75, "lower data.num_workers"),
    ],
)
def test_failures_have_a_remedy(tiny, start, at_step, error, code, message):
    def fail(_):
        raise error

    at_step(1, fail)
    exit_code, _, log = start(tiny())
    assert exit_code == code
    assert message in log


def test_a_run_survives_one_failed_save_and_stops_after_three(tiny, start, monkeypatch):
    genuine, calls, broken = checkpoint.save, [], {1}

    def full(*arguments):
        calls.append(1)
        if len(calls) in broken:
            raise OSError(28, "No space left on device")
        return genuine(*arguments)

    monkeypatch.setattr(checkpoint, "save", full)
    often = ("training.snapshot_kimg=0.016", "training.keep_checkpoints=3")
    code, path, log = start(tiny(*often, "training.kimg=0.032"), "once")
    assert code == 0
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [4]
    assert "cannot save step 2 (OSError: [Errno 28]" in log
    assert "newest checkpoint: none" in log
    calls.clear()
    broken = {2, 3, 4}
    code, path, log = start(tiny(*often), "thrice")
    assert code == 75
    assert "stopped: cannot save checkpoints" in log
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [2]


def test_a_full_disk_is_warned_of_once_and_loses_no_row(tiny, start, monkeypatch):
    wrote, stored, saved = [], runs.append_row, stored_networks.save_network

    def append(path, row):
        wrote.append(row["step"])
        if 2 <= len(wrote) <= 4:
            raise OSError(28, "No space left on device")
        stored(path, row)

    def save(directory, kind, *arguments):
        saved(directory, kind, *arguments)
        if kind == "discriminator" and len(wrote) < 6:
            raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(runs, "append_row", append)
    monkeypatch.setattr(stored_networks, "save_network", save)
    monkeypatch.setattr(
        callbacks, "save_png", lambda *_: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    code, path, log = start(tiny("training.snapshot_kimg=0.016", "training.sample_kimg=0.016"))
    assert code == 0
    assert [row["step"] for row in Run(path).metrics()] == [2, 4, 6, 8]
    assert log.count("cannot write metrics.jsonl ([Errno 28]") == 1
    assert log.count("cannot write sample grids") == 1
    assert log.count("cannot save step") == 2
    names = sorted(p.name for p in (path / "checkpoints").iterdir())
    assert names == [store.name_of(6), store.name_of(8)]


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json"])
def test_a_disk_that_is_full_at_the_start_is_no_traceback(tiny, start, monkeypatch, file):
    genuine = files.write_text

    def write(path, text):
        if path.name == file:
            raise OSError(28, "No space left on device", str(path))
        genuine(path, text)

    for module in (files, runs):
        monkeypatch.setattr(module, "write_text", write)
    try:
        code, _, log = start(tiny())
    except ConfigError as error:
        code, log = error.exit_code, str(error)
    assert code == (2 if file == "config.yaml" else 75)
    assert "No space left on device" in log
    assert "Traceback" not in log


def test_a_directory_has_one_process_at_a_time(tiny, start, tmp_path):
    config = tiny("training.kimg=0.008")
    path = run_path(config, tmp_path / "runs")
    path.mkdir(parents=True)
    with run_lock(path), pytest.raises(ConfigError, match=rf"in use by pid {os.getpid()} on "):
        start(config)
    assert start(config)[0] == 0  # the lock file alone does not lock


def test_a_run_resumes_only_with_its_data_and_configuration(tiny, start, at_step, tmp_path):
    with pytest.raises(ConfigError, match="no such run to resume"):
        start(tiny(), prepare=partial(checkpoint.prepare, how="resume"))
    at_step(1)
    _, path, _ = start(tiny())
    manifest = Run(path).manifest()
    (path / "manifest.json").write_text(json.dumps({**manifest, "dataset_fingerprint": "other"}))
    with pytest.raises(ConfigError, match="has changed since"):
        start(tiny())
    (path / "manifest.json").write_text(json.dumps(manifest))
    other = run_path(tiny("loss.r1_gamma=9.0"), tmp_path / "runs")
    other.mkdir()
    (path / "checkpoints").rename(other / "checkpoints")
    with pytest.raises(ConfigError, match="a run cannot change its configuration"):
        start(tiny("loss.r1_gamma=9.0"))


def test_invalid_resolutions_devices_and_roots_are_rejected(tiny, start, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"final=64: the images have 16 pixels"):
        start(tiny("training.rendering_resolution.final=64"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device=cuda .* no CUDA device"):
        start(tiny("training.device=cuda"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        start(tiny(), "file")


def test_a_2d_generator_needs_the_camera_in_its_label(tiny, start):
    with pytest.raises(ConfigError, match="use condition: camera"):
        start(tiny("generator.mapping.condition=none", kind="image2d"))


UNCONDITIONAL = [
    *("data.labels=none", "data.mirror=true", "data.holdout=0.25"),
    *("generator.mapping.condition=none", "discriminator.conditioning=none"),
    *("discriminator.unconditional_term=false", "training.sample_kimg=0.016"),
]


def test_a_2d_generator_trains_and_is_measured_without_cameras(tiny, start, data_path, tmp_path):
    folder = tmp_path / "plain"
    with zipfile.ZipFile(data_path) as file:
        for name in [n for n in file.namelist() if n.endswith(".png")]:
            file.extract(name, folder)
    small = [
        "consistency.flicker=null",
        "swd.patches=4",
        "swd.projections=4",
        "num_images=8",
        "following=false",
    ]
    small = ["training.kimg=0.032", *(f"evaluation.{x}" for x in small)]
    config = tiny(f"data.path={folder}", *UNCONDITIONAL, *small, kind="image2d")
    code, path, _ = start(config)
    assert code == 0
    assert len(list((path / "samples").iterdir())) > 0
    weights = tensors(store.newest(path / "checkpoints", print))
    assert all(bool(x.isfinite().all()) for x in weights.values())
    metrics = {m.name: m for m in evaluate_run(path, "cpu").metrics}
    assert metrics["quality.swd"].value is not None
    assert "no cameras" in metrics["quality.swd"].note
    for name in ("pose.median_deg", "refit.psnr", "features.score"):
        assert metrics[name].note.startswith(
            "the data are used without cameras (data.labels=none); if"
        )
    generate([str(path)], GenerateOptions(seeds="0", views=1, device="cpu"), tmp_path / "images")
    assert (tmp_path / "images" / "seed0000_view00.png").is_file()
    export_generator(path, tmp_path / "export")
    assert load_generator(tmp_path / "export").cfg.mapping.condition == "none"


@pytest.mark.parametrize(
    ("kind", "wrong", "remedy"),
    [
        ("triplane", "loss.density_reg=0", "cameras.kind=prior, or generator.representation"),
        ("image2d", "generator.mapping.condition=camera", "generator.mapping.condition=none"),
        ("image2d", "discriminator.conditioning=projection", "discriminator.conditioning=none"),
    ],
)
def test_options_that_need_cameras_are_rejected(tiny, start, kind, wrong, remedy):
    config = tiny(*UNCONDITIONAL, wrong, kind=kind)
    with pytest.raises(ConfigError, match=f"data.labels=none: .* set {remedy}"):
        start(config)


def test_runs_with_cameras_keep_the_hash_of_earlier_versions(tiny, monkeypatch):
    monkeypatch.setattr("lightning_gan3d.config.digest", json.dumps)
    assert "labels" not in json.loads(tiny().hash)["data"]
    assert json.loads(tiny(*UNCONDITIONAL, kind="image2d").hash)["data"]["labels"] == "none"


def test_the_plan_trains_nothing(tiny, tmp_path):
    text = plan(tiny())
    assert "8 steps of 8 images" in text
    assert "parameters" in text
    assert not list(tmp_path.glob("runs*"))
    assert "memory          " in plan(tiny("generator.z_dim=1000000000"))  # allocates nothing


class FakeWandb(types.ModuleType):
    """Stands in for the library; `fault`: when it fails."""

    def __init__(self, fault):
        super().__init__("wandb")
        self.fault, self.rows, self.options, self.finished = fault, [], None, None
        self.Settings = dict
        self.Image = lambda image, caption: (image.size, caption)
        self.Table = lambda columns, data: [columns, *data]
        self.Video = lambda path, format: (path, format)
        self.Artifact = lambda name, **_: FakeArtifact(name)
        self.summary, self.artifacts, self.id, self.step = {}, [], "tiny run", 0

    def init(self, **options):
        if self.fault == "hangs":
            threading.Event().wait(60)
        if self.fault == "init":
            raise ConnectionError("no network")
        self.options = options
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, row, step, commit):
        assert commit
        assert step >= 0
        if self.fault == "log":
            raise RuntimeError("gone")
        self.rows.append(row)

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self, exit_code):
        self.finished = exit_code


class FakeArtifact:
    def __init__(self, name):
        self.name = name

    def add_dir(self, folder):
        self.files = {
            p.name: p.read_bytes().decode(errors="replace") for p in Path(folder).iterdir()
        }


@pytest.mark.parametrize("fault", [None, "init", "log", "hangs"])
def test_wandb_logs_rows_and_never_stops_the_run(tiny, start, monkeypatch, fault):
    fake = FakeWandb(fault)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("lightning_gan3d.training.wandb_logger.PATIENCE", 0.0)
    config = tiny(
        f"logging.wandb={'online' if fault == 'hangs' else 'offline'}",
        "logging.wandb_timeout=0.3",
        "logging.wandb_entity=team",
        "logging.wandb_tags=[a, b]",
        "label=8 samples",
        "training.kimg=0.032",
        "training.sample_kimg=0.016",
    )
    code, path, log = start(config)
    assert code == 0
    rows = Run(path).metrics()
    assert len(rows) == 2
    if fault is None:
        assert [{k: v for k, v in r.items() if k != "samples"} for r in fake.rows[1:]] == rows
        assert [r["kimg"] for r in fake.rows if "samples" in r] == [0.0, 0.016, 0.032]
        assert fake.finished == 0
        size, caption = next(r["samples"] for r in fake.rows if "samples" in r)
        assert size == (256, 512)  # two views of two latents, with depth
        assert caption == "seed 0, 0 kimg"
        assert fake.options["name"] == f"{config.name}, 8 samples seed 0"
        assert fake.options["group"] == f"{config.name}, 8 samples"
        assert (fake.options["entity"], fake.options["tags"]) == ("team", ["a", "b", "8 samples"])
        assert fake.options["config"]["data"]["path"] == "tiny.zip"
        assert fake.options["settings"]["disable_code"]
        assert fake.options["settings"]["disable_git"]
        assert "warning" not in log
    else:
        assert log.count("W&B logging disabled") == 1


def test_offline_wandb_has_time_and_the_evaluation_becomes_its_summary(tiny, tmp_path, monkeypatch):
    fake = FakeWandb(None)
    slow = fake.init
    monkeypatch.setattr(fake, "init", lambda **options: time.sleep(0.3) or slow(**options))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("lightning_gan3d.training.wandb_logger.PATIENCE", 0.0)
    logger = WandbLogger(tiny("logging.wandb=offline", "logging.wandb_timeout=0.1"), tmp_path)
    metrics = [
        Metric("quality.swd", 0.5),
        Metric("quality.duplicates", 0.25, "share", n=64),
        Metric("refit.psnr", 20.0, at=0.1),
        missing("x.y", "why"),
    ]
    logger.evaluation(metrics)
    logger.commit()
    assert fake.summary == {"quality.swd": 0.5, "quality.duplicates": 0.25}
    heading = "Latents that repeat another one's object (%)"
    assert fake.rows[-1]["headline"][0] == ["metric", "value", "n"]
    assert [heading, 25.0, 64] in fake.rows[-1]["headline"]
    assert len(fake.rows[-1]["headline"]) == 3


def test_wandb_gets_orbits_and_by_choice_the_generator(tiny, start, monkeypatch):
    fake = FakeWandb(None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    options = ("logging.wandb=offline", "logging.wandb_videos=2", "training.kimg=0.016")
    code, path, _ = start(tiny(*options))
    assert code == 0
    WandbLogger(tiny(*options), path).checkpoint(path)
    assert not fake.artifacts
    logger = WandbLogger(tiny(*options, "logging.wandb_checkpoint=true"), path)
    logger.checkpoint(path)
    assert [a.name for a in fake.artifacts] == ["tiny_run"]
    assert set(fake.artifacts[0].files) == {
        "checkpoint.json",
        "config.yaml",
        "generator.safetensors",
    }
    assert "tiny.zip" not in fake.artifacts[0].files["config.yaml"]
    logger.orbits(path)
    logger.commit()
    videos = fake.rows[-1]
    assert list(videos) == ["kimg", "orbit/seed 0", "orbit/seed 1"]
    with av.open(videos["orbit/seed 1"][0]) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (256, 128, 60)


@pytest.mark.parametrize("fault", ["rendering", "W&B"])
def test_a_failed_video_is_a_warning(tiny, tmp_path, monkeypatch, caplog, fault):
    fake = FakeWandb(None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "manifest.json").write_text('{"resolution": 16}')

    def fail(*_, **__):
        raise ValueError("broken")

    if fault == "W&B":
        fake.Video = fail
    target = "lightning_gan3d.inference.video.video"
    monkeypatch.setattr(target, fail if fault == "rendering" else lambda *_: "")
    WandbLogger(tiny("logging.wandb=offline"), tmp_path).orbits(tmp_path)
    assert "(ValueError: broken)" in caplog.text


@pytest.mark.parametrize("uploads", [False, True])
def test_the_end_waits_for_uploads_only(tiny, tmp_path, monkeypatch, uploads):
    fake = FakeWandb(None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("lightning_gan3d.training.wandb_logger.PATIENCE", 0.0)
    config = tiny("logging.wandb=online", "logging.wandb_timeout=0.1", "logging.wandb_videos=1")
    logger = WandbLogger(config, tmp_path)
    if uploads:
        (tmp_path / "manifest.json").write_text('{"resolution": 16}')
        monkeypatch.setattr("lightning_gan3d.inference.video.video", lambda *_: "")
        logger.orbits(tmp_path)
    finish = fake.finish
    fake.finish = lambda exit_code: time.sleep(0.5) or finish(exit_code)
    logger.close(0)
    assert fake.finished == (0 if uploads else None)


def test_an_agent_of_a_wandb_sweep_keeps_its_run_id(tiny, tmp_path, monkeypatch):
    ids = []
    for environment in ({}, {"WANDB_SWEEP_ID": "abc"}):
        fake = FakeWandb(None)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = tiny("logging.wandb=offline")
        WandbLogger(config, tmp_path)
        ids.append(fake.options["id"])
    assert ids == [f"tiny-{config.hash}-s0", None]


def test_a_failed_run_closes_wandb_as_failed(tiny, start, at_step, monkeypatch):
    fake = FakeWandb(None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    at_step(1, lambda _: (_ for _ in ()).throw(RuntimeError("killed")))
    assert start(tiny("logging.wandb=offline"))[0] == 4
    assert fake.finished == 4


def test_scene_warnings_are_logged_once_and_distances_regularly(tiny, start, monkeypatch):
    calls = []

    def swd_of(source, images, cfg):
        calls.append((source.generator.rendering_resolution, len(images), cfg))
        return {"swd": 0.5, "swd_16": 0.25}

    monkeypatch.setattr("lightning_gan3d.metrics.evaluate.swd_of", swd_of)
    empty = ("generator.scene.density.scale=1e-9", "training.eval_kimg=0.032")
    config = tiny(*empty)
    _, path, log = start(config)
    assert log.count("warning: empty scene") == 1
    rows = [(r["kimg"], r["eval/swd"]) for r in Run(path).metrics() if "eval/swd" in r]
    assert rows == [(0.032, 0.5), (0.064, 0.5)]
    assert [resolution for resolution, *_ in calls] == [8, 16]
    assert calls[0][2] == config.evaluation
    quiet = ("logging.progress=false", "logging.alarms=false", "training.kimg=0.032")
    _, path, log = start(tiny(*empty, *quiet))
    assert "img/s" not in log
    assert "warning:" not in log
    assert len(Run(path).metrics()) == 3


@pytest.fixture
def evaluate(monkeypatch):
    """A function that replaces the evaluation at the end of a run."""

    def replace(function):
        monkeypatch.setattr("lightning_gan3d.metrics.evaluate_target.evaluate_run", function)

    return replace


def test_a_run_is_finished_after_its_evaluation(tiny, tmp_path, evaluate, caplog):
    caplog.set_level("INFO", "lightning_gan3d")
    config, root, calls = tiny("training.kimg=0.016"), tmp_path / "runs", []

    def evaluate_run(path, device):
        calls.append((path, device, Run(path).finished))
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return Evaluation(path / "evaluation.json", [Metric("quality.swd", 0.5)])

    evaluate(evaluate_run)
    assert train_run(config, root) == 75
    assert "trained, but not evaluated" in caplog.messages[-1]
    run = Run(run_path(config, root))
    trained = run.metrics()
    assert train_run(config, root) == 0
    assert any(m.startswith("SWD (sliced Wasserstein distance) ↓  0.5") for m in caplog.messages)
    assert run.finished
    assert run.metrics() == trained
    assert [(device, finished) for _, device, finished in calls] == [("cpu", False)] * 2


def test_a_failed_evaluation_fails_the_run(tiny, tmp_path, evaluate, caplog):
    def evaluate_run(*_):
        raise RuntimeError("no memory")

    evaluate(evaluate_run)
    config = tiny("training.kimg=0.016")
    assert train_run(config, tmp_path / "runs") == 4
    assert "failed: trained, but not evaluated: RuntimeError: no memory" in caplog.messages
    assert not Run(run_path(config, tmp_path / "runs")).finished


def test_a_run_is_not_finished_if_its_last_save_fails(tiny, start, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    code, path, _ = start(tiny("training.kimg=0.016", "training.snapshot_kimg=0"))
    assert code == 75
    assert not Run(path).finished


def test_several_processes_report_bad_data_once(tiny, start, tmp_path):
    config = tiny("training.devices=2", "training.microbatch=4", "data.path=gone.zip")
    with pytest.raises(UserError, match="gone"):
        start(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_with_a_checkpoint_and_one_line(tiny, tmp_path, workers, capsys):
    """Images are decoded as they are used; one of step 3 has a valid header only."""
    options = [f"data.path={tmp_path / 'broken.zip'}", "data.memory_mb=0"]
    options.append(f"data.num_workers={workers}")
    data = DataModule(tiny().data, 8, 8, 0).train
    early = set(
        torch.cat([KeyedOrder(len(data), 8, 0).indices(step) for step in range(3)]).tolist()
    )
    broken = next(data.names[i] for i in KeyedOrder(len(data), 8, 0).indices(3) if i not in early)
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as z:
        for name in data.source.names:
            content = data.source.read(name)
            z.writestr(name, content[:-200] if name == broken else content)
    config = tiny(*options)
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(tmp_path / "triplane.yaml"), f"--root={tmp_path / 'runs'}", *options])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    (line,) = output.err.strip().splitlines()
    assert line.startswith(f"error: {broken} cannot be decoded: ")
    folder = run_path(config, tmp_path / "runs") / "checkpoints"
    assert store.steps_in(folder)[-1][0] == 2  # one batch is read ahead
    assert store.newest(folder, pytest.fail) is not None


def test_unusual_data_is_logged_at_the_start(tiny, start):
    config = tiny("generator.scene.box=0.01")
    _, _, text = start(config)
    assert text.count("cameras are far from the scale of the box (0.01)") == 1


def test_hours_end_a_run_that_is_complete_and_stays_so(tiny, start, at_step, monkeypatch):
    late = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
    monkeypatch.setattr(callbacks, "time", clock)
    at_step(2, lambda _: late.append(late.pop() + 7200))
    config = tiny("training.hours=2")
    code, path, log = start(config)
    assert code == 0
    assert "stopped" not in log
    assert [s for s, _ in store.steps_in(path / "checkpoints")] == [3]
    assert [row["step"] for row in Run(path).metrics()] == [2, 3]
    (path / "manifest.json").write_text("{}")  # as if its evaluation had been stopped
    at_step(0, lambda _: pytest.fail("trained again"))
    assert start(config)[0] == 0
    assert "at most 2 hours" in plan(config)
    assert tiny("training.hours=3").hash != config.hash != tiny().hash

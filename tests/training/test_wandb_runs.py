"""W&B as installed: offline, killed and resumed runs; `wandb sync` to a server on this machine."""

import getpass
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import wandb
from wandb_server import WandbServer

from lightning_gan3d import runs
from lightning_gan3d.runs import Run
from lightning_gan3d.training.config import InitConfig
from lightning_gan3d.training.critic import CriticConfig, EncoderConfig
from lightning_gan3d.training.fit import train_run
from lightning_gan3d.training.module import AdversarialModule
from lightning_gan3d.training.wandb_folders import continue_after, last_step
from lightning_gan3d.training.wandb_logger import WandbLogger, without_paths

# As in test_distributed.py: importing again takes seconds.
multiprocessing.set_forkserver_preload(["lightning_gan3d.training.fit"])
WANDB = [sys.executable, "-m", "wandb"]


def records(file):
    """Records of a `.wandb` file, read by W&B."""
    command = [*WANDB, "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def assert_logged(rows, history):
    """Check that each row is in the history, and that no step is there twice."""
    steps = [h["_step"] for h in history]
    assert steps == sorted(set(steps))
    by_step = {h["_step"]: h for h in history}
    for row in rows:
        assert {k: by_step[row["step"]][k] for k in row} == row


def assert_private(data, names=()):
    """Check that bytes hold no path of this machine, and no name."""
    paths = {str(Path.home()), str(Path.cwd()), sys.prefix, "site-packages", tempfile.gettempdir()}
    text = data.decode(errors="replace")
    found = [x for x in names if re.search(rf"(?<!\w){re.escape(x)}(?!\w)", text)]
    assert found + [x for x in {*paths, str(Path(__file__).parents[2])} if x in text] == []


NAMES = (getpass.getuser(), socket.gethostname())


@pytest.fixture
def server(monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        yield server
        wandb.teardown()  # the next server has another address


def trains_until_killed(config, root):
    genuine = AdversarialModule.discriminator_step

    def step(self, microbatches):
        if microbatches[0].schedule.step == 6:
            time.sleep(1.5)  # W&B writes every second
            os.kill(os.getpid(), signal.SIGKILL)
        genuine(self, microbatches)

    AdversarialModule.discriminator_step = step
    train_run(config, root, evaluate=False)


def test_a_killed_run_continues_its_curves_and_syncs_without_loss(tiny, start, tmp_path, server):
    config = tiny("logging.wandb=offline", "training.sample_kimg=0.032", kind="image2d")
    context = multiprocessing.get_context("forkserver")
    killed = context.Process(target=trains_until_killed, args=(config, tmp_path / "runs"))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    path = runs.run_path(config, tmp_path / "runs")
    (folder,) = path.glob("wandb/offline-run-*")
    assert last_step(next(folder.glob("*.wandb"))) == (6, False)
    assert [row["step"] for row in Run(path).metrics()] == [2, 4, 6]  # saved at step 4
    until = time.monotonic() + 10
    while core_of(killed.pid):
        assert time.monotonic() < until, "wandb-core outlives the killed run"
        time.sleep(0.1)

    code, _, log = start(config)
    assert (code, "warning" in log) == (0, False)
    assert not folder.exists()
    (folder,) = path.glob("wandb/offline-run-*")
    (file,) = folder.glob("*.wandb")
    content = records(file)
    rows = Run(path).metrics()
    history = [r["history"]["item"] for r in content if r["type"] == "history"]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert_logged(rows, history)
    assert [h["_step"] for h in history if "samples.path" in h] == [0, 4, 8]
    (run,) = [r["run"] for r in content if r["type"] == "run"]
    assert run["config"]["update"]["training"]["kimg"] == 0.064
    assert run["config"]["update"]["data"]["path"] == "tiny.zip"
    assert_private(json.dumps(content).encode(), NAMES)
    assert {r["type"] for r in content} <= {
        "header", "run", "telemetry", "metric", "summary", "history", "files", "exit",
    }  # fmt: skip
    for stored in folder.rglob("*"):
        if stored.is_file() and stored.suffix != ".png":
            assert_private(stored.read_bytes())
    assert {p.name for p in folder.iterdir()} <= {"files", "tmp", file.name}
    assert {p.suffix for p in folder.glob("files/**/*.*")} == {".png"}

    WandbLogger(config, path).close(0)  # as for the evaluation: a second folder
    environment = {**os.environ, "WANDB_PROGRAM": "gan3d"}
    command = [*WANDB, "sync", str(path / "wandb")]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "ERROR" not in output.stdout + output.stderr
    assert_logged(rows, server.rows(f"tiny-{config.hash}-s0"))
    assert_private(server.received, NAMES)


def core_of(pid):
    """Processes of wandb-core that serve a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--pid" in arguments and arguments[arguments.index(b"--pid") + 1] == b"%d" % pid:
            found.append(folder.name)
    return found


def test_a_run_online_gets_what_a_kill_kept_from_the_server(tiny, tmp_path, server):
    config = tiny("logging.wandb=online", "training.kimg=0.08")
    rows = [{"step": step, "kimg": 0.008 * step, "loss/G": 1 / step} for step in (2, 4, 6, 8)]
    rows.insert(2, {"step": 4, "kimg": 0.032, "eval/swd": 0.5})
    for row in rows[:3]:
        runs.append_row(tmp_path / runs.METRICS, row)
    offline = tmp_path / "wandb/offline-run-1-x/run-x.wandb"
    offline.parent.mkdir(parents=True)
    offline.touch()
    for logged, resumed in (((2,), 0), ((6, 8), 4), ((6, 8), 4)):
        logger = WandbLogger(config, tmp_path)
        logger.catch_up(resumed)
        for row in rows:
            if row["step"] in logged:
                logger.row(row)
                logger.commit()
        logger.close(0)
    history = server.rows(f"tiny-{config.hash}-s0")
    assert [h["_step"] for h in history] == [2, 4, 6, 8]
    assert_logged(rows, history)
    assert not offline.exists()
    assert_private(server.received, NAMES)


def test_the_configuration_is_logged_without_folders(tiny):
    config = tiny()
    start = InitConfig("/home/me/run")
    critic = CriticConfig("direction", (EncoderConfig("/home/me/clip.pt"),), "/home/me/faces")
    tree = without_paths(replace(config, critic=critic, init_from=start))
    assert tree["critic"]["encoders"][0] == {**asdict(critic.encoders[0]), "image": "clip.pt"}
    assert (tree["critic"]["target"], tree["init_from"]["path"]) == ("faces", "run")
    assert tree["data"]["path"] == "tiny.zip"


def test_a_synced_folder_stays(tmp_path):
    for name, synced in (("a", True), ("b", False)):
        file = tmp_path / f"wandb/offline-run-{name}/run-{name}.wandb"
        file.parent.mkdir(parents=True)
        file.touch()
        if synced:
            file.with_suffix(".wandb.synced").touch()
    assert continue_after(tmp_path, online=False) == -1
    assert [p.name for p in tmp_path.glob("wandb/*")] == ["offline-run-a"]

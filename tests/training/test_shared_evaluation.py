"""The evaluation after a training in several processes; `test_ranks.py` has that of torchrun."""

import json
import multiprocessing
import os
import signal
import sys
from functools import partial
from unittest import mock

import pytest
import torch.distributed as dist

from lightning_gan3d.files import write_json
from lightning_gan3d.metric import read_metrics
from lightning_gan3d.metrics import evaluate_target
from lightning_gan3d.metrics.distribution import feature_store
from lightning_gan3d.metrics.sources import GeneratorSource
from lightning_gan3d.runs import EVALUATION, Run, run_path
from lightning_gan3d.training import fit as fit_file
from lightning_gan3d.training.fit import train_run
from lightning_gan3d.training.processes import run_processes

multiprocessing.set_forkserver_preload(["lightning_gan3d.training.fit"])
OPTIONS = (
    *("training.devices=2", "training.microbatch=4", "training.kimg=0.008", "data.holdout=0.25"),
    *("evaluation.num_images=32", "evaluation.batch=8", "evaluation.following=false"),
    *("evaluation.swd={patches: 4, projections: 4}", "evaluation.pose=null"),
    *(f"evaluation.{name}=null" for name in ("refit", "consistency", "geometry", "features")),
    "evaluation.motion=null",
)
genuine = fit_file._evaluate
evaluate_run = evaluate_target.evaluate_run


@pytest.fixture(autouse=True)
def _fork(monkeypatch):
    """Start processes from the server: importing in each takes seconds."""
    monkeypatch.setattr(fit_file, "run_processes", partial(run_processes, method="forkserver"))


def in_small_shards(session, shared):
    """Evaluate with shards of 8; write which items this process has rendered."""
    rendered, views = [], GeneratorSource.views

    def counted(self, items, cameras):
        rendered.extend(items.tolist())
        return views(self, items, cameras)

    with (
        mock.patch.object(feature_store, "SHARD", 8),
        mock.patch.object(evaluate_target, "default_folder", return_value=session.path / "cache"),
        mock.patch.object(GeneratorSource, "views", counted),
    ):
        code = genuine(session, shared)
    write_json(session.path / f"rendered{os.environ['RANK']}.json", rendered)
    return code


def test_processes_share_the_evaluation_of_their_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_file, "_evaluate", in_small_shards)
    config = tiny(*OPTIONS)
    assert train_run(config, tmp_path / "runs") == 0
    path = run_path(config, tmp_path / "runs")
    assert Run(path).finished
    first, second = (json.loads((path / f"rendered{r}.json").read_text()) for r in range(2))
    assert second == [*range(8, 16), *range(24, 32)]
    assert first[:16] == [*range(8), *range(16, 24)]
    shared = read_metrics(path / EVALUATION)
    (path / EVALUATION).unlink()
    monkeypatch.setattr(evaluate_target, "default_folder", lambda: path / "other cache")
    monkeypatch.setattr(feature_store, "SHARD", 8)
    assert shared == evaluate_run(path, "cpu").metrics
    values = {m.name for m in shared if m.value is not None}
    assert {"memorisation.excess", "quality.swd"} <= values


def stopped_once(session, shared):
    """Stop the command while rank 1 waits for rank 0."""
    sys.stdout = (session.path / f"log{os.environ['RANK']}").open("w")
    file = session.path / "stopped"

    def evaluate_run_of_rank(*arguments):
        if file.is_file():
            return evaluate_run(*arguments)
        dist.barrier()
        if dist.get_rank() == 0:
            file.touch()
            os.kill(int((session.path.parents[1] / "pid").read_text()), signal.SIGTERM)
            signal.pause()
        dist.barrier()
        raise AssertionError("not stopped")

    with mock.patch.object(evaluate_target, "evaluate_run", evaluate_run_of_rank):
        return genuine(session, shared)


def fails(session, shared):
    """Fail in rank 1 while rank 0 waits for it."""
    sys.stdout = (session.path / f"log{os.environ['RANK']}").open("w")

    def evaluate_run_of_rank(*_):
        if dist.get_rank() == 1:
            raise RuntimeError("no memory")
        dist.barrier()

    with mock.patch.object(evaluate_target, "evaluate_run", evaluate_run_of_rank):
        return genuine(session, shared)


def test_a_stopped_or_failed_evaluation_is_repeated(tiny, tmp_path, monkeypatch):
    config, root = tiny(*OPTIONS), tmp_path / "runs"
    root.mkdir()
    (root / "pid").write_text(str(os.getpid()))
    path = run_path(config, root)
    monkeypatch.setattr(fit_file, "_evaluate", stopped_once)
    assert train_run(config, root) == 75
    message = "stopped: trained, but not evaluated; the same command continues\n"
    assert [(path / f"log{rank}").read_text() for rank in range(2)] == [message, ""]
    assert not Run(path).finished
    monkeypatch.setattr(fit_file, "_evaluate", fails)
    assert train_run(config, root) == 4
    failure = "rank 1: failed: trained, but not evaluated: RuntimeError: no memory\n"
    assert (path / "log1").read_text().startswith(failure)
    monkeypatch.setattr(fit_file, "_evaluate", stopped_once)
    assert train_run(config, root) == 0
    assert Run(path).finished

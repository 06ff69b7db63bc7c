import json
import subprocess
import sys

import pytest

from lightning_gan3d import files, runs
from lightning_gan3d.config import ConfigError
from lightning_gan3d.metric import Metric, write_measures
from lightning_gan3d.runs import Run, RunLock


def test_a_run_reads_its_files(tiny, tmp_path):
    config = tiny("seed=3")
    path = runs.run_path(config, tmp_path)
    assert path == tmp_path / "tiny" / f"{config.hash}-s3"
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match="not a run directory"):
        Run(path)
    runs.write_config(path, config)
    run = Run(path)
    assert run.config() == config
    assert (run.manifest(), run.metrics(), run.measures(), run.finished) == ({}, [], [], False)
    files.write_json(path / "manifest.json", {"finished": True})
    runs.append_row(path / "metrics.jsonl", {"step": 1, "loss/G": float("inf")})
    write_measures(path / "evaluation.json", [Metric.of_key("a", 1.0)])
    write_measures(path / "bench.json", [Metric.of_key("b", 2.0)])
    assert run.finished
    assert run.metrics() == [{"step": 1, "loss/G": None}]
    assert [m.metric for m in run.measures()] == ["a", "b"]


def test_rows_cut_off_at_the_end_are_left_out_and_within_are_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2}\n{"step": 4}\n{"st')
    assert list(runs.read_rows(file)) == [{"step": 2}, {"step": 4}]
    runs.drop_rows_after(file, 2)
    assert file.read_text() == '{"step": 2}\n'
    file.write_text('{"step": 2}\n{"st\n{"step": 6}\n')
    with pytest.raises(ConfigError, match=r"metrics.jsonl:2 is not JSON"):
        list(runs.read_rows(file))


def test_a_lock_keeps_another_process_out_until_its_holder_is_gone(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, '');"
        "import fcntl; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('pid 1 on node7'); f.flush(); print('ready', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.lock")], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigError, match="in use by pid 1 on node7"), RunLock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with RunLock(tmp_path):
        pass


def test_provenance_names_versions_and_commit():
    found = files.provenance(["gan3d", "train", "x"])
    assert found["command"] == ["gan3d", "train", "x"]
    assert set(found["versions"]) == {"python", "torch", "torchvision", "lightning", "numpy"}
    assert "commit" in found
    assert json.dumps(found)

"""Several processes, one evaluation: who does what, on which device, and how it ends."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.metric import read_measures
from lightning_gan3d.metrics.distribution.crew import ALONE, Crew, crew_of
from lightning_gan3d.metrics.evaluate_target import evaluate_target

BARE = [
    *("evaluation.swd=null", "evaluation.refit=null", "evaluation.pose=null"),
    *("evaluation.consistency=null", "evaluation.geometry=null", "evaluation.following=false"),
    *("evaluation.num_images=1100", "evaluation.distribution.wait_minutes=2"),
]


def test_the_place_is_that_of_torchrun():
    assert crew_of({}) == crew_of({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}) == ALONE
    found = crew_of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert found == Crew(5, 8, 1)
    assert (found.leads, ALONE.leads) == (False, True)
    for wrong in ({"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}):
        with pytest.raises(ConfigError, match=f"RANK={wrong['RANK']}, WORLD_SIZE=2: use numbers"):
            crew_of(wrong)


def test_parts_are_the_whole_once_and_even():
    for world in (1, 2, 3, 7):
        parts = [Crew(r, world).part(range(10)) for r in range(world)]
        assert [x for part in parts for x in part] == list(range(10))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert Crew(3, 4, 1).device(cuda) == torch.device("cuda", 1)
    assert Crew(3, 4, 1).device(cpu) == cpu
    assert ALONE.device(cuda) == cuda
    with pytest.raises(ConfigError, match=r"LOCAL_RANK=2: 2 CUDA device\(s\) visible"):
        Crew(2, 4, 2).device(cuda)


def test_two_processes_measure_what_one_measures_and_one_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_synth(
        SynthConfig(num_images=60, num_objects=30, holdout=0.4, resolution=16),
        tmp_path / "figures",
    )
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(1100):  # three shards
        square = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(square).save(tmp_path / "images" / f"{i:04d}.png")
    what = ["images", "data.path=figures", *BARE]
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "lightning_gan3d.cli", "evaluate", *what, "--device", "cpu", "--out", "both"]
    both = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("process 1 of 2: its part of the features is there") == 1
    assert both.stdout.count("written to both/evaluation.json") == 1
    alone = evaluate_target(what[0], "cpu", what[1:], tmp_path / "alone")
    assert read_measures(tmp_path / "both" / "evaluation.json") == alone.measures
    assert any(m.metric == "memorisation.excess" and m.n == 1100 for m in alone.measures)

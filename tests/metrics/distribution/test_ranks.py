"""One evaluation by two ranks of torchrun."""

import shutil
import subprocess
import sys

import numpy as np
import stand_in
from PIL import Image

from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.metric import read_metrics
from lightning_gan3d.metrics.evaluate_target import open_target

ONLY_DISTRIBUTION = [
    *("evaluation.swd=null", "evaluation.refit=null", "evaluation.pose=null"),
    *("evaluation.consistency=null", "evaluation.geometry=null", "evaluation.following=false"),
    "evaluation.features=null",
    *("evaluation.num_images=600", "evaluation.distribution.mode=legacy_tensorflow"),
    *("evaluation.distribution.kid_subsets=4", "evaluation.distribution.kid_whole=50"),
]


def test_two_ranks_write_one_evaluation_equal_to_that_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    synth = SynthConfig(num_images=60, num_objects=30, holdout=0.4, resolution=16)
    make_synth(synth, tmp_path / "figures")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(600):  # two shards
        square = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(square).save(tmp_path / "images" / f"{i:04d}.png")
    network = stand_in.save(stand_in.Inception(channels=2), tmp_path / "inception.pt")
    options = ["data.path=figures", *ONLY_DISTRIBUTION]
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "lightning_gan3d.cli", "evaluate", "images", *options, "--device", "cpu"]
    line += ["--inception-weights", str(network), "--out", "both"]
    both = subprocess.run(line, capture_output=True, text=True, timeout=400)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("rank 1 of 2: rank 0 writes the metrics") == 1
    assert both.stdout.count("with protocols: both/evaluation.json") == 1
    shutil.rmtree(tmp_path / "cache")
    target = open_target("images", options, "cpu", tmp_path / "alone", {"inception": network})
    alone = target.measure()
    assert read_metrics(tmp_path / "both" / "evaluation.json") == alone.metrics
    values = {m.name: m for m in alone.metrics if m.value is not None}
    assert values["memorisation.excess"].n == values["quality.frechet"].n == 600

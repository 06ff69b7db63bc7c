"""What a run promises about other processes, threads, data loaders and secrets."""

import json
import os
import signal
import subprocess
import sys
import time

import torch

from lightning_gan3d.checkpoints import store
from lightning_gan3d.config import to_yaml
from lightning_gan3d.data.dataset import ImageDataset
from lightning_gan3d.files import sha256_of_tensors
from lightning_gan3d.training.callbacks import Clock

TRAIN = """
import sys
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.files import sha256_of_tensors
from lightning_gan3d.training.module import AdversarialModule
config = load_experiment(sys.argv[1])
data = DataModule(config.data, 8, 8, config.seed)
module = AdversarialModule(config, data.train.resolution, data.train.labels)
module.training_step(next(iter(data.train_dataloader(0, 1))), 0)
print(config.hash, data.train.fingerprint, sha256_of_tensors(module.state_dict()))
"""


def test_another_process_trains_the_same_bits(tiny, train, tmp_path):
    config = tiny("loss.style_mixing=0.5", "generator.renderer.path=plain")
    here = train(config, steps=1)
    fingerprint = ImageDataset(config.data).fingerprint
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # here it is random
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path / "config.yaml")],
        env={**os.environ, "PYTHONHASHSEED": other, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [
        config.hash, fingerprint, sha256_of_tensors(here.state_dict()),
    ]  # fmt: skip


def test_a_resume_with_other_threads_is_not_called_exact(tiny, start, at_step):
    at_step(5)
    _, path, log = start(tiny())
    assert "not bit-exact" not in log
    index = path / "checkpoints" / store.name_of(6) / store.INDEX
    index.write_text(json.dumps({**json.loads(index.read_text()), "threads": 7}))
    at_step(None)
    code, _, log = start(tiny())
    assert code == 0
    assert "resume is not bit-exact: 1 CPU threads now, 7 before" in log


def test_secrets_of_the_environment_are_in_no_file_of_a_run(tiny, start, monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-c0ffee")
    code, path, log = start(tiny("training.kimg=0.016", "training.sample_kimg=0.016"))
    assert code == 0
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 8
    assert not [file for file in files if b"canary-c0ffee" in file.read_bytes()]
    assert "canary-c0ffee" not in log


def test_a_killed_data_process_stops_the_run(tiny, start, monkeypatch):
    main, images = os.getpid(), ImageDataset.images

    def killed(self, indices):
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return images(self, indices)

    monkeypatch.setattr(ImageDataset, "images", killed)
    code, _, log = start(tiny("data.num_workers=1"))
    assert code == 75
    assert "a data loader process died; lower data.num_workers or enlarge /dev/shm" in log


def test_the_training_time_does_not_follow_the_clock(monkeypatch):
    back = iter(range(0, -9000, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(back)))
    clock = Clock(5.0, torch.device("cpu"))
    clock.start()
    clock.stop()
    assert clock.seconds >= 5.0

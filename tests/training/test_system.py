import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.training import system
from lightning_gan3d.training.config import TrainingConfig


def test_threads_are_pinned():
    before = torch.get_num_threads()
    system.tune(TrainingConfig(threads=before + 1), torch.device("cpu"))
    assert torch.get_num_threads() == before + 1
    system.tune(TrainingConfig(), torch.device("cpu"))
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert system.choose_device(TrainingConfig()).type == "cuda"
    with pytest.raises(ConfigError, match=r"devices=2: 1 CUDA"):
        system.choose_device(TrainingConfig(device="cuda", microbatch=16, devices=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert system.choose_device(TrainingConfig()).type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device=mps"):
        system.choose_device(TrainingConfig(device="mps"))


def test_memory_and_device_have_values():
    assert 50 < system.peak_memory_mb(torch.device("cpu")) < 1e6
    assert system.device_name(torch.device("cpu")).startswith("cpu, ")


def test_only_glibc_is_tuned(monkeypatch):
    monkeypatch.setattr(system.sys, "platform", "darwin")
    assert not system.keep_freed_memory()

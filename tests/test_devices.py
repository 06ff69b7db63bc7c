import pytest
import torch

from lightning_gan3d import devices
from lightning_gan3d.config import ConfigError


def test_threads_are_pinned():
    before = torch.get_num_threads()
    devices.set_threads(before + 1, torch.device("cpu"))
    assert torch.get_num_threads() == before + 1
    devices.set_threads(None, torch.device("cpu"))
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_missing_devices_are_rejected(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.choose_device("auto").type == "cuda"
    with pytest.raises(ConfigError, match=r"devices=2: 1 CUDA"):
        devices.choose_device("cuda", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device=mps"):
        devices.choose_device("mps")


def test_peak_memory_and_device_name():
    assert 50 < devices.peak_memory_mb(torch.device("cpu")) < 1e6
    assert devices.device_name(torch.device("cpu")).startswith("cpu, ")


def test_only_glibc_keeps_freed_memory(monkeypatch):
    monkeypatch.setattr(devices.sys, "platform", "darwin")
    assert not devices.keep_freed_memory()

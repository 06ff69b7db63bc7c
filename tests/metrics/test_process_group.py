"""Process groups; `metrics/distribution/test_ranks.py` runs torchrun."""

import pytest
import torch
import torch.distributed as dist

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metrics.process_group import (
    from_main,
    gather_to_main,
    process_group,
    rank,
    world_size,
)


def test_one_process_needs_no_group():
    with process_group("cpu"):
        assert not dist.is_initialized()
        assert (rank(), world_size()) == (0, 1)
        block = torch.ones(2)
        assert from_main("value") == "value"
        assert gather_to_main(block) == [block]


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of a rank, on a machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")

    def environment(local_rank):
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        monkeypatch.setattr(dist, "init_process_group", lambda **_: None)
        monkeypatch.setattr(dist, "destroy_process_group", lambda: None)

    return environment


def test_each_rank_takes_its_own_gpu(torchrun, monkeypatch):
    selected = []
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    torchrun(1)
    with process_group("cuda"):
        pass
    with process_group("cpu"):
        pass
    assert selected == [1]
    torchrun(2)
    with (
        pytest.raises(ConfigError, match=r"LOCAL_RANK=2: each rank needs its own GPU"),
        process_group("cuda"),
    ):
        pass

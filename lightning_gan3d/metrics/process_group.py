"""Process group of the ranks of an evaluation, and messages between them.

Without a group there is one rank, and all functions return their argument.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.devices import choose_device

TIMEOUT = timedelta(hours=2)
"""Longest wait for another rank. If a rank fails, its launcher ends all others."""
T = TypeVar("T")


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; only rank 0 writes and logs."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the process group if torchrun has started this process; see `joined`."""
    with joined(device) if dist.is_torchelastic_launched() else nullcontext():
        yield


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the process group of the environment: gloo for tensors on the CPU, NCCL for CUDA.

    `device`: as in `--device`. On CUDA each rank takes the GPU of its LOCAL_RANK.

    Raises:
        ConfigError: this machine has fewer GPUs than ranks.
    """
    if choose_device(device).type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ConfigError(
                f"LOCAL_RANK={local}: each rank needs its own GPU, and {gpus} are visible; use "
                f"torchrun --nproc-per-node {gpus}, or --device cpu"
            )
        torch.cuda.set_device(local)
    dist.init_process_group(timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def from_main(value: T) -> T:
    """Return the value of rank 0 on all ranks."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_to_main(block: Tensor) -> list[Tensor]:
    """Return the blocks of all ranks, of one shape and on the CPU, on rank 0; [] elsewhere."""
    if world_size() == 1:
        return [block]
    blocks = [torch.empty_like(block) for _ in range(world_size())] if rank() == 0 else None
    dist.gather(block, blocks)
    return blocks or []

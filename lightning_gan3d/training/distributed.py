"""Several processes that share a step: one flat sum of gradients a phase, and nothing else.

Each process backpropagates its own microbatches, divided by the number of microbatches of all; the
sum is then the gradient of the mean over the global batch, whatever the number of processes. There
is no wrapper around the networks: it would reduce in the middle of accumulation, and its hooks do
not allow the double backward of the penalties.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor


class SharedStep(DDPStrategy):
    """Lightning's processes and collectives, without its wrapper: the module reduces by itself."""

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


def active() -> bool:
    """Whether this process shares its steps with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process; 0 writes and speaks."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if active() else 1


def sum_all(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over processes in place, in one message."""
    if not active():
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


def average(values: Tensor) -> None:
    """Average a tensor over processes in place."""
    if active():
        dist.all_reduce(values)
        values /= world()


class Agreement:
    """Lets processes agree on a yes every step, over the CPU: no device has to be waited for."""

    def __init__(self) -> None:
        """Make a group of its own."""
        self._group: Any = dist.new_group(backend="gloo") if active() else None

    def any(self, mine: bool) -> bool:
        """Return whether any process says yes."""
        if self._group is None:
            return mine
        vote = torch.tensor([int(mine)])
        dist.all_reduce(vote, op=dist.ReduceOp.MAX, group=self._group)
        return bool(vote[0])

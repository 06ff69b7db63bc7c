"""Gradients and log values summed over processes.

Each process backpropagates its own microbatches, divided by the number of microbatches of all
processes; the sum is the gradient of the mean over the global batch for any number of processes.
The networks are not wrapped in DDP: it would reduce within the accumulation, and its hooks do not
support the double backward of the penalties.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from lightning_gan3d.metrics.process_group import world_size


class SharedStep(DDPStrategy):
    """Lightning's process group without the DDP wrapper: the module sums its gradients itself."""

    def configure_ddp(self) -> None:
        """Do not wrap the module."""


def sum_all(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over processes in place, in one message."""
    if world_size() == 1:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


class Agreement:
    """Logical or over processes, through the CPU: does not wait for the device."""

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if world_size() > 1 else None

    def any(self, mine: bool) -> bool:
        """True if `mine` is true in any process."""
        if self._group is None:
            return mine
        vote = torch.tensor([int(mine)])
        dist.all_reduce(vote, op=dist.ReduceOp.MAX, group=self._group)
        return bool(vote[0])


class Meter:
    """Means of named values since the last read; summed on the device, without synchronising."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._device = torch.device("cpu")

    def add(self, name: str, value: Float[Tensor, ""]) -> None:
        """Add one value."""
        value, self._device = value.detach(), value.device
        before = self._sums.get(name)
        self._sums[name] = value if before is None else before.to(value.device) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def share(self) -> None:
        """Give all processes the same sums, those of a checkpoint; the means stay as they are."""
        if world_size() > 1 and self._sums:
            sums = torch.stack([x.to(self._device) for x in self._sums.values()])
            dist.all_reduce(sums)
            self._sums = dict(zip(self._sums, sums / world_size(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to log the same means."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def read(self) -> dict[str, float]:
        """Return the means over steps and processes, and reset."""
        if not self._sums:
            return {}
        self.share()
        names = list(self._sums)
        means = torch.stack([self._sums[n].to(self._device) / self._counts[n] for n in names])
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))

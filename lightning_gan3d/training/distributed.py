"""Gradients and log values summed over processes.

Each process backpropagates its own microbatches, divided by the number of microbatches of all
processes; the sum is the gradient of the mean over the global batch for any number of processes.
The networks are not wrapped in DDP: it would reduce within the accumulation, and its hooks do not
support the double backward of the penalties. `GradientBuckets` overlaps sums and backward passes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_gan3d.metrics.process_group import from_main, rank, world_size

BUCKET_BYTES = 25e6
"""Least size of a bucket of gradients; DDP's default."""


class SharedStep(DDPStrategy):
    """Lightning's process group without the DDP wrapper: the module sums its gradients itself."""

    def configure_ddp(self) -> None:
        """Do not wrap the module."""


def sum_all(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over processes in place, in one message."""
    if world_size() > 1 and tensors:
        flat = _flat(tensors)
        dist.all_reduce(flat)
        _copy_back(flat, tensors)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _copy_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = torch.split(flat, [t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


class GradientBuckets:
    """Sums gradients over processes in buckets, which are sent within the last backward pass.

    The first time, a phase records the order in which its gradients become complete, and sums them
    after the pass. Later, a bucket is sent with its last gradient. Buckets follow the order of rank
    0 and are sent in turn, so that all processes send the same messages. Each process must have
    gradients of the same parameters: they may depend on the step, but not on the images.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """`parameters`: of all phases."""
        self._parameters = parameters
        self._numbers = {p: i for i, p in enumerate(parameters)}
        self._recorded: list[nn.Parameter] = []
        self._buckets: dict[str, list[list[nn.Parameter]]] = {}
        """Full buckets by phase; the other gradients are sent at the end."""
        self._known: dict[str, set[nn.Parameter]] = {}
        """Parameters with a gradient, by phase."""
        self._sent: list[tuple[list[Tensor], Tensor, Any]] = []
        """Gradients of each bucket, their sums, and the message to wait for."""

    @contextmanager
    def sending(self, phase: str, last: bool) -> Iterator[None]:
        """Send buckets within the `last` backward pass of a phase, or record their order."""
        if world_size() == 1 or not last:
            yield
            return
        if phase in self._buckets:
            buckets = self._buckets[phase]
            hook, watched = self._sender(phase), [p for bucket in buckets for p in bucket]
        else:
            hook, watched = self._recorded.append, list(self._parameters)
        trained: list[Any] = [p for p in watched if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(hook) for p in trained]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()

    def _sender(self, phase: str) -> Callable[[nn.Parameter], None]:
        """Return a hook that sends all buckets up to the first one that is incomplete."""
        buckets = self._buckets[phase]
        missing = [set(bucket) for bucket in buckets]
        bucket_of = {p: i for i, bucket in enumerate(buckets) for p in bucket}

        def completed(parameter: nn.Parameter) -> None:
            if bucket_of[parameter] < len(self._sent):
                raise RuntimeError(f"{phase}: a gradient changed after its bucket was sent")
            missing[bucket_of[parameter]].discard(parameter)
            while len(self._sent) < len(buckets) and not missing[len(self._sent)]:
                gradients = [p.grad for p in buckets[len(self._sent)] if p.grad is not None]
                flat = _flat(gradients)
                message = dist.all_reduce(flat, async_op=True)
                self._sent.append((gradients, flat, message))

        return completed

    def finish(
        self, phase: str, parameters: Sequence[nn.Parameter], statistics: Sequence[Tensor] = ()
    ) -> None:
        """Send the other gradients of `parameters`, with `statistics`; wait for all sums.

        Parameters without gradient keep none.
        """
        if world_size() == 1:
            return
        present = [p for p in parameters if p.grad is not None]
        if phase not in self._buckets:
            self._fill(phase, present)
        elif not self._known[phase].issuperset(present):  # e.g. of a layer that has grown
            del self._buckets[phase]
        sent = {id(gradient) for gradients, _, _ in self._sent for gradient in gradients}
        rest = [p.grad for p in present if p.grad is not None and id(p.grad) not in sent]
        sum_all([*rest, *statistics])
        for gradients, flat, message in self._sent:
            message.wait()
            _copy_back(flat, gradients)
        self._sent.clear()

    def _fill(self, phase: str, present: Sequence[nn.Parameter]) -> None:
        """Fill buckets in the recorded order of rank 0; one that is not full is left out."""
        known = self._known.setdefault(phase, set())
        known.update(present)
        recorded = [p for p in self._recorded if p in known]  # not those of other optimizers
        mine = [[self._numbers[p] for p in found] for found in (recorded, present)]
        of_main = from_main(mine)
        if [set(numbers) for numbers in of_main] != [set(numbers) for numbers in mine]:
            raise RuntimeError(f"{phase}: ranks 0 and {rank()} have gradients of other parameters")
        self._recorded.clear()
        self._buckets[phase], bucket = [], list[nn.Parameter]()
        for parameter in (self._parameters[number] for number in of_main[0]):
            bucket.append(parameter)
            if sum(p.nbytes for p in bucket) >= BUCKET_BYTES:
                self._buckets[phase].append(bucket)
                bucket = []


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

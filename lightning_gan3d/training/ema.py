"""The averaged generator: what is sampled, measured and exported."""

import copy
import functools
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Averaged = TypeVar("Averaged", bound=nn.Module)


class ExponentialMovingAverage(Generic[Averaged]):
    """Keeps a copy of a module whose parameters are averaged over steps; its buffers are copied."""

    def __init__(self, source: Averaged) -> None:
        """Start as a copy that is not trained."""
        self.source = source
        self.module: Averaged = copy.deepcopy(source)
        self.module.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, decay: float, healthy: Bool[Tensor, ""]) -> None:
        """Keep `decay` of the average. Where `healthy` is false nothing moves, unseen by the host.

        average += (1 - decay) * healthy * (parameter - average); the parameters themselves are
        gated too, hence finite.
        """
        averages, parameters, copies, buffers = self._tensors
        difference = torch._foreach_sub(parameters, averages)
        torch._foreach_mul_(difference, healthy * (1.0 - decay))
        torch._foreach_add_(averages, difference)
        if buffers:
            torch._foreach_copy_(copies, buffers)

    @functools.cached_property
    def _tensors(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Averages, parameters, copies, buffers: listed once, when training has moved them."""
        return (
            list(self.module.parameters()),
            list(self.source.parameters()),
            list(self.module.buffers()),
            list(self.source.buffers()),
        )

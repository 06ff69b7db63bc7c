"""Means of what the loop measures, kept on the device until somebody reads them."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.training import distributed


class Meter:
    """Sums by name; reading asks the device once, averages over processes, and starts again."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Float[Tensor, ""]) -> None:
        """Add one value."""
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Return the means since the last reading."""
        if not self._sums:
            return {}
        names = list(self._sums)
        means = torch.stack([self._sums[n] / self._counts[n] for n in names])
        distributed.average(means)
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))

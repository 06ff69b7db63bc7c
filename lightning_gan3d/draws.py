"""Keyed randomness: draws depend on their purpose, never on workers, ranks or resumes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers keyed by (seed, scope, step, microbatch, purpose).

    The same purpose gives the same numbers; independent numbers need another purpose or scope.
    Numbers are drawn on the CPU and moved. `on_device` draws on the device instead, for large
    tensors that need not be equal between devices (depth jitter, layer noise).
    """

    seed: int
    step: int = 0
    microbatch: int = 0
    prefix: str = ""

    def scope(self, name: str) -> "Draws":
        """Return the draws of a named part, independent of all others."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def at(self, step: int, microbatch: int = 0) -> "Draws":
        """Return the same draws at another step and microbatch."""
        return replace(self, step=step, microbatch=microbatch)

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a `torch.Generator` seeded by the key."""
        key = f"{self.seed}|{self.step}|{self.microbatch}|{self.prefix}{purpose}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        return torch.Generator(device).manual_seed(number)

    def uniform(
        self,
        purpose: str,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        on_device: bool = False,
    ) -> Tensor:
        """Draw from U[0, 1) in float32."""
        source = device if on_device else "cpu"
        return torch.rand(
            tuple(shape), generator=self.generator(purpose, source), device=source
        ).to(device)

    def normal(
        self,
        purpose: str,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        on_device: bool = False,
    ) -> Tensor:
        """Draw from N(0, 1) in float32."""
        source = device if on_device else "cpu"
        return torch.randn(
            tuple(shape), generator=self.generator(purpose, source), device=source
        ).to(device)

    def integers(self, purpose: str, high: int, shape: Sequence[int]) -> Tensor:
        """Draw integers uniformly from [0, high), on the CPU."""
        return torch.randint(high, tuple(shape), generator=self.generator(purpose))

    def permutation(self, purpose: str, n: int) -> Tensor:
        """Draw a permutation of range(n), on the CPU."""
        return torch.randperm(n, generator=self.generator(purpose))

"""Several processes that evaluate one generator, started by torchrun.

Only features are shared, through files: each process makes its part of the shards, on its own GPU.
Process 0 waits for the others' parts, takes the measures and writes; the others end before that.
No process talks to another, so that they need no network and may stand on several machines.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch

from lightning_gan3d.config import ConfigError, UserError

POLL = 0.5
"""Seconds between looks for the files of others."""
T = TypeVar("T")


class CrewError(UserError):
    """Another process did not do its part; what there is stays, and the same command continues."""

    exit_code: ClassVar[int] = 4


@dataclass(frozen=True)
class Crew:
    """The place of this process among those of an evaluation."""

    rank: int = 0
    """From 0 to `world` - 1."""
    world: int = 1
    """How many there are."""
    local: int | None = None
    """Which of its machine's GPUs it takes; None: the default."""

    @property
    def leads(self) -> bool:
        """Whether it takes the measures and writes them."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the GPU of its own, where the device is CUDA.

        Raises:
            ConfigError: there are fewer GPUs than processes of this machine.
        """
        if device.type != "cuda" or self.local is None:
            return device
        found = torch.cuda.device_count()
        if self.local >= found:
            raise ConfigError(
                f"LOCAL_RANK={self.local}: {found} CUDA device(s) visible, one for each process; "
                f"use torchrun --nproc-per-node {found}, or --device cpu"
            )
        return torch.device("cuda", self.local)

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return the part that this process does: consecutive, as long as the others' to one."""
        n = len(items)
        return items[n * self.rank // self.world : n * (self.rank + 1) // self.world]

    def wait(self, items: Sequence[T], there: Callable[[T], bool], minutes: float) -> None:
        """Wait until the parts of all are there.

        Raises:
            CrewError: nothing new has come for that long; it names the processes that owe.
        """
        owed, since = [x for x in items if not there(x)], time.monotonic()
        while owed:
            time.sleep(POLL)
            left = [x for x in owed if not there(x)]
            now = time.monotonic()
            if len(left) < len(owed):
                since = now
            elif now - since > 60 * minutes:
                raise CrewError(self._missing(items, left, minutes))
            owed = left

    def _missing(self, items: Sequence[T], left: list[T], minutes: float) -> str:
        late = []
        for rank in range(self.world):
            part = Crew(rank, self.world).part(items)
            owed = sum(x in left for x in part)
            if owed:
                late.append(f"process {rank} (RANK={rank}): {owed} of its {len(part)}")
        return (
            f"evaluation.distribution.wait_minutes={minutes:g}: no shard of features has come for "
            f"so long; missing of {'; '.join(late)}. See what it printed; the same command "
            "continues with the shards that are there"
        )


ALONE = Crew()
"""One process that does everything."""


def crew_of(environment: Mapping[str, str] = os.environ) -> Crew:
    """Read the place that torchrun gives a process; `ALONE` without one.

    Raises:
        ConfigError: the numbers make no place.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return ALONE
    names = [x for x in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if x in environment]
    said = ", ".join(f"{x}={environment[x]}" for x in names)
    try:
        rank, world, *local = (int(environment[x]) for x in names)
    except ValueError:
        rank, world, local = -1, 0, []
    if not 0 <= rank < world or (local and local[0] < 0):
        raise ConfigError(f"{said}: use numbers as torchrun gives them, 0 <= RANK < WORLD_SIZE")
    return Crew(rank, world, local[0] if local else None)

"""How long a call takes: warm-up, then repeats; the median, and the spread to judge it by."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lightning_gan3d.metric import Metric


@dataclass(frozen=True)
class Protocol:
    """How often a call is repeated."""

    warmup: int
    """Calls before the first that counts: allocators, autotuning and caches settle in them."""
    min_repeats: int
    """Calls that count, however long they take."""
    max_repeats: int
    """Calls that count at most."""
    budget: float
    """Seconds after which no further call is started, once there are enough."""


QUICK = Protocol(warmup=1, min_repeats=3, max_repeats=10, budget=0.4)
"""For a demo: a generator in seconds."""
FULL = Protocol(warmup=3, min_repeats=10, max_repeats=100, budget=5.0)
"""For numbers to publish."""


@dataclass(frozen=True)
class Timing:
    """Durations of repeated calls, in seconds, in the order in which they were measured."""

    seconds: tuple[float, ...]
    warmup: int = 0
    """Calls that were made before and left out."""

    @property
    def median(self) -> float:
        """Half of the calls were faster. Unlike the mean it forgives a machine that is shared."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these two lies the middle half of the calls."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def measure(self, metric: str, note: str = "") -> Metric:
        """Return the median in milliseconds; the note holds quartiles, range and warm-up."""
        low, high = self.quartiles
        text = (
            f"median of {len(self.seconds)} calls after {self.warmup} of warm-up; "
            f"quartiles {1e3 * low:.3g} to {1e3 * high:.3g} ms, "
            f"range {1e3 * min(self.seconds):.3g} to {1e3 * max(self.seconds):.3g} ms"
        )
        spread = statistics.stdev(self.seconds) if len(self.seconds) > 1 else None
        return Metric.of_key(
            metric,
            1e3 * self.median,
            "ms",
            len(self.seconds),
            None if spread is None else 1e3 * spread,
            f"{note}; {text}" if note else text,
        )


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_calls(
    fn: Callable[[], Any],
    protocol: Protocol,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time repeated calls from idle device to idle device: what a user waits for."""
    for _ in range(protocol.warmup):
        fn()
    synchronise(device)
    seconds: list[float] = []
    begin = clock()
    while len(seconds) < protocol.max_repeats:
        start = clock()
        fn()
        synchronise(device)
        end = clock()
        seconds.append(end - start)
        if len(seconds) >= protocol.min_repeats and end - begin >= protocol.budget:
            break
    return Timing(tuple(seconds), protocol.warmup)

"""Implementations of one piece of work, timed in turns, so that noise meets all alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from lightning_gan3d.benchmark.speed import Protocol, synchronise

Calls = Mapping[str, Callable[[], Any]]


class Ratio(NamedTuple):
    """How many times as fast one implementation is as another, over rounds."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


class Rounds(NamedTuple):
    """Seconds of each implementation in each round; all ran in every round, in turns."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of one."""
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> Ratio:
        """Seconds of `slow` over those of `fast`, round by round."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        ratios = [a / b for a, b in pairs]
        if len(ratios) < 2:
            return Ratio(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(median, low, high)


def time_in_turns(
    calls: Calls,
    protocol: Protocol,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Warm every call up, then time rounds of all calls until there are enough."""
    for _ in range(protocol.warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    begin = clock()
    for done in range(1, protocol.max_repeats + 1):
        for name, call in calls.items():
            synchronise(device)
            start = clock()
            call()
            synchronise(device)
            seconds[name].append(clock() - start)
        if done >= protocol.min_repeats and clock() - begin >= protocol.budget:
            break
    return Rounds(seconds)

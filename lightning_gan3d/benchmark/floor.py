"""How fast a stage could be at best on this device, and what share of that is reached.

The device's speeds are measured in the same process: one large matrix product, one large copy. A
stage can be no faster than its arithmetic at the one rate and its compulsory traffic (weights and
inputs read once, results written once) at the other; the longer of the two is its floor. What must
pass between layers is not counted, so that the floor is a bound and not a forecast.
"""

import functools
from dataclasses import dataclass

import torch

from lightning_gan3d.benchmark.speed import Protocol, Timing, time_calls
from lightning_gan3d.metric import Metric

PROTOCOL = Protocol(warmup=2, min_repeats=5, max_repeats=20, budget=0.3)
SIDES = {"cpu": 1536, "cuda": 8192}
"""Edges of the square matrices: large enough for full speed, small enough for a moment."""
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}
"""Bytes of the copied tensor: more than the caches hold."""


@dataclass(frozen=True)
class Peaks:
    """What a device does in a second at best."""

    flops: float
    """Of a matrix product in float32 (TF32 where torch allows it)."""
    traffic: float
    """Bytes read plus bytes written, of a copy."""

    def floor(self, flops: int, nbytes: int) -> float:
        """Least seconds of so much arithmetic and traffic."""
        return max(flops / self.flops, nbytes / self.traffic)

    def measures(self) -> list[Metric]:
        """Return both as rows of a report."""
        why = "best of repeated calls; the floors of stages are stated in it"
        return [
            Metric.of_key(
                "speed.peak_gflop_s",
                self.flops / 1e9,
                "GFLOP/s",
                1,
                note=f"square matrix product, float32; {why}",
            ),
            Metric.of_key(
                "speed.peak_gb_s",
                self.traffic / 1e9,
                "GB/s",
                1,
                note=f"copy, bytes read and written; {why}",
            ),
        ]


@functools.lru_cache(maxsize=8)
def measure_peaks(device: torch.device, threads: int) -> Peaks:  # noqa: ARG001  # of the cache
    """Measure the device, once for each number of threads that a process uses."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    side = SIDES[kind]
    a = torch.randn(side, side, device=device)
    product = time_calls(lambda: a @ a, PROTOCOL, device)
    x = torch.zeros(COPIED[kind], dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    copy = time_calls(lambda: y.copy_(x), PROTOCOL, device)
    return Peaks(2 * side**3 / min(product.seconds), 2 * COPIED[kind] / min(copy.seconds))


def share_of_floor(stage: str, timing: Timing, flops: int, nbytes: int, peaks: Peaks) -> Metric:
    """Return the floor of a stage over its median time."""
    floor = peaks.floor(flops, nbytes)
    bound = "arithmetic" if flops / peaks.flops >= floor else "traffic"
    note = (
        f"floor {1e3 * floor:.3g} ms by {bound}: {flops / 1e9:.4g} GFLOP at "
        f"{peaks.flops / 1e9:.4g} GFLOP/s, {nbytes / 1e6:.4g} MB at {peaks.traffic / 1e9:.4g} GB/s"
    )
    return Metric.of_key(f"speed.{stage}_floor_share", floor / timing.median, "share", 1, note=note)

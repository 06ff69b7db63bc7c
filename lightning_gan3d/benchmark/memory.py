"""The peak memory of a call, above what was held when it began.

On CUDA it is the allocator's own high-water mark (`max_memory_allocated`). On a CPU it comes from
the record that torch's allocator writes for the profiler: each allocation and each release with its
bytes, those inside an operation (workspaces of oneDNN) among them, which a count of live tensors
would miss. Resident memory (RSS) is not used: it holds what the process had freed before, and
changes with the system's malloc. What is not seen: memory that other libraries allocate past torch
(NumPy, MKL's own buffers).
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lightning_gan3d.benchmark.speed import synchronise
from lightning_gan3d.metric import Metric

SECOND_CALL = "lightning_gan3d.benchmark: measured call"
"""Marks in the record where the measured call begins."""
MB = 1e6
"""Bytes of a megabyte, as everywhere in this package (not 2**20)."""


class MemoryUnknownError(RuntimeError):
    """A device that keeps no record of its peak."""


def peak_bytes(fn: Callable[[], Any], device: torch.device) -> int:
    """Return the peak of bytes in use during the call, above those in use before it.

    The result counts. `fn` is called twice and only the second call is measured: a first one also
    builds what stays, and what the second releases must have been recorded when it was allocated.
    """
    gc.collect()  # a cycle freed inside the call would be taken for the call's own release
    if device.type == "cuda":
        return _cuda_peak(fn, device)
    if device.type == "cpu":
        return _cpu_peak(fn)
    raise MemoryUnknownError(
        f"{device.type} keeps no record of its peak memory; measure on cuda or cpu"
    )


def _cuda_peak(fn: Callable[[], Any], device: torch.device) -> int:
    fn()
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = fn()
    synchronise(device)
    del result
    return int(torch.cuda.max_memory_allocated(device) - before)


def _cpu_peak(fn: Callable[[], Any]) -> int:
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False
    ) as record:
        fn()
        gc.collect()
        with record_function(SECOND_CALL):
            result = fn()
    del result
    kineto: Any = record.profiler
    events = kineto.kineto_results.events()
    begin = next(e.start_ns() for e in events if e.name() == SECOND_CALL)
    changes = [
        (e.start_ns(), e.nbytes())
        for e in events
        if e.name() == "[memory]" and e.start_ns() >= begin
    ]
    held = peak = 0
    for _, nbytes in sorted(changes, key=lambda change: change[0]):
        held += nbytes
        peak = max(peak, held)
    return peak


def method(device: torch.device) -> str:
    """Say in words where the number comes from."""
    if device.type == "cuda":
        return "torch.cuda.max_memory_allocated above what was held before the call"
    return "peak of torch's CPU allocator record above what was held before the call"


def measure_peak(
    metric: str, fn: Callable[[], Any], device: torch.device, note: str = ""
) -> Metric:
    """Return the peak of a call in MB, or why it is unknown."""
    try:
        peak = peak_bytes(fn, device)
    except MemoryUnknownError as error:
        return Metric.of_key(metric, None, "MB", note=str(error))
    return Metric.of_key(
        metric, peak / MB, "MB", 1, note=f"{note}; {method(device)}" if note else method(device)
    )

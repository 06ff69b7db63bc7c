"""Peak memory of a call, above the memory in use before it.

- CUDA: the allocator's high-water mark (`max_memory_allocated`).
- CPU, `peak_bytes`: the sum of all allocations and releases that torch's allocator reports to the
  profiler. Exact; includes workspaces inside operations; excludes libraries with their own
  allocator (NumPy, MKL's buffers).
- CPU, `resident_peak`: growth of the process's resident memory (Linux), whoever allocated it.
"""

import ctypes
import gc
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lightning_gan3d.benchmark.speed import synchronise
from lightning_gan3d.metric import Metric, missing

SECOND_CALL = "lightning_gan3d.benchmark: measured call"
"""Marks the start of the measured call in the profiler's events."""
MB = 1e6
"""Bytes of a megabyte, as everywhere in this package (not 2**20)."""
_RESET_PEAK = "5"
"""Written to /proc/self/clear_refs, resets the high-water mark."""


class MemoryUnknownError(RuntimeError):
    """The device or system records no peak memory."""


def measure_memory(
    name: str,
    fn: Callable[[], Any],
    device: torch.device,
    note: str = "",
    at: float | None = None,
) -> Metric:
    """Peak memory of a call in MB; missing if the device records none."""
    try:
        peak = peak_bytes(fn, device) / MB
    except MemoryUnknownError as error:
        return missing(name, str(error), "MB", at=at)
    note = f"{note}; {method(device)}" if note else method(device)
    return Metric(name, peak, "MB", 1, note=note, at=at)


def method(device: torch.device) -> str:
    """Method of `peak_bytes` on this device."""
    if device.type == "cuda":
        return "torch.cuda.max_memory_allocated above the memory in use before the call"
    return "peak of torch's CPU allocator above the memory in use before the call"


def peak_bytes(fn: Callable[[], Any], device: torch.device) -> int:
    """Peak of bytes in use during a call, its result included, above those in use before it.

    `fn` runs twice and the second call is measured: the first fills caches, and memory that the
    second releases must have been recorded at its allocation.
    """
    gc.collect()  # a cycle freed during the call would count as its release
    if device.type == "cuda":
        return _cuda_peak(fn, device)
    if device.type == "cpu":
        return _cpu_peak(fn)
    raise MemoryUnknownError(f"{device.type} records no peak memory; measure on cuda or cpu")


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
    in_use = peak = 0
    for _, nbytes in sorted(changes, key=lambda change: change[0]):
        in_use += nbytes
        peak = max(peak, in_use)
    return peak


def process_peak(fn: Callable[[], Any], device: torch.device) -> int:
    """Growth of the whole process in bytes during a call: a check of `peak_bytes`."""
    if device.type != "cuda":
        return resident_peak(fn)
    fn()
    synchronise(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    fn()
    synchronise(device)
    return int(torch.cuda.max_memory_reserved(device) - before)


def process_method(device: torch.device) -> str:
    """Method of `process_peak` on this device."""
    if device.type == "cuda":
        return "torch.cuda.max_memory_reserved above the memory reserved before the step"
    return "peak resident memory of the process above that before the step"


def resident_peak(fn: Callable[[], Any]) -> int:
    """Largest growth of the process in bytes during a call, its result included (Linux).

    `fn` runs once before, for its caches. Freed memory is returned to the system first, since its
    reuse would not count. Raises `MemoryUnknownError` on other systems.
    """
    fn()
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        before = _status("VmRSS")
    except OSError as error:
        raise MemoryUnknownError(f"this system records no peak resident memory: {error}") from None
    result = fn()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise MemoryUnknownError(f"/proc/self/status has no field {field}")

"""The peak of resident memory in a call: everything that a process holds, whoever allocated it.

The kernel keeps the high-water mark of a process, and can be asked to start it anew (Linux). What
earlier calls freed is given back to the system first, so that it cannot hide what this one needs.
"""

import ctypes
import gc
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_gan3d.benchmark.memory import MemoryUnknownError

_RESET_PEAK = "5"
"""Of /proc/self/clear_refs: start the high-water mark anew."""


def resident_peak(fn: Callable[[], Any]) -> int:
    """Return by how many bytes the process grew at most during the call, its result included.

    `fn` is called once before, for what stays. Raises `MemoryUnknownError` where the system does
    not keep the mark.
    """
    fn()
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        before = _status("VmRSS")
    except OSError as error:
        raise MemoryUnknownError(f"no high-water mark of resident memory here: {error}") from None
    result = fn()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise MemoryUnknownError(f"/proc/self/status does not say {field}")

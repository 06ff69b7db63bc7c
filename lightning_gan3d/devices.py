"""Devices: choice, description, allocator settings, peak memory."""

import ctypes
import os
import platform
import resource
import sys

import torch

from lightning_gan3d.config import ConfigError

KINDS = ("auto", "cpu", "cuda", "mps")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD = 64 << 20


def choose_device(kind: str, devices: int = 1) -> torch.device:
    """Return the device of that kind; `auto` takes CUDA if available, else the CPU.

    Raises `ConfigError` if fewer than `devices` of them are available.
    """
    if kind not in KINDS:
        raise ConfigError(f"device={kind}: use one of {', '.join(KINDS)}")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if visible < devices:
            raise ConfigError(
                f"device=cuda with devices={devices}: {visible or 'no'} CUDA device(s) visible; "
                "check CUDA_VISIBLE_DEVICES and the driver, or use device=cpu",
                field="device",
            )
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device=mps: no such device here; use device=cpu", field="device")
        if devices > 1:
            raise ConfigError(
                f"training.devices={devices}: MPS has one device; use 1", field="devices"
            )
    return torch.device(kind)


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    num = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[:num] or [str(i) for i in range(num)]


def set_threads(threads: int | None, device: torch.device) -> None:
    """Set the number of CPU threads; on a CPU, let the allocator keep freed memory."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Stop glibc from returning freed memory to the kernel; return whether that succeeded.

    By default each tensor above a few hundred kB is mapped afresh, and the kernel clears its pages
    every time: up to half of the time of a small step.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _PAD}
    return all([mallopt(option, value) == 1 for option, value in settings.items()])


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far in MB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def device_name(device: torch.device) -> str:
    """Model name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"mps, {platform.processor()}"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu, {model}"

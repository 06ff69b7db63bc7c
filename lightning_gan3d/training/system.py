"""The machine under a run: device, threads, allocator, memory."""

import ctypes
import platform
import resource
import sys
from typing import Literal, cast

import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.training.config import TrainingConfig

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD = 64 << 20


def choose_device(cfg: TrainingConfig) -> torch.device:
    """Return the device of the configuration; what is asked for and missing is refused."""
    kind = cfg.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found < cfg.devices:
            raise ConfigError(
                f"device=cuda with devices={cfg.devices}: {found or 'no'} CUDA device(s) visible; "
                "check CUDA_VISIBLE_DEVICES and the driver, or use device=cpu",
                field="device",
            )
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device=mps: no such device here; use device=cpu", field="device")
        if cfg.devices > 1:
            raise ConfigError(
                f"training.devices={cfg.devices}: MPS has one device; use 1", field="devices"
            )
    return torch.device(kind)


def resolve_device(name: str) -> torch.device:
    """Return the device of that name, or refuse; `auto` takes CUDA where there is one."""
    names = ("auto", "cpu", "cuda", "mps")
    if name not in names:
        raise ConfigError(f"device={name}: use one of {', '.join(names)}")
    return choose_device(TrainingConfig(device=cast(Literal["auto", "cpu", "cuda", "mps"], name)))


def tune(cfg: TrainingConfig, device: torch.device) -> None:
    """Set threads; on a CPU, let the allocator keep what it has."""
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    if device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Stop glibc from giving memory back between steps; return whether it listened.

    By default each tensor above a few hundred kB is mapped afresh, and the kernel clears its pages
    again and again: up to half of the time of a small step.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _PAD}
    return all([mallopt(option, value) == 1 for option, value in settings.items()])


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far, in MB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def device_name(device: torch.device) -> str:
    """Name of the device, for the record."""
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

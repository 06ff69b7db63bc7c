"""`gan3d doctor`: checks of the interpreter, torch, devices, kernels, W&B and weights."""

import importlib.metadata as metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

State = Literal["ok", "note", "fault"]
PLAIN_CUDA = "rendering on CUDA uses the plain path"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fault` means that training cannot work."""

    state: State
    name: str
    detail: str


def examine() -> Iterator[Finding]:
    """Run all checks, one after another. None raises, so that one fault does not hide another."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok" if sys.version_info >= (3, 11) else "fault", "Python", python)
    yield _torch_pair(version("torch"), version("torchvision"), required_torch())
    yield _imports("torch", "torchvision", "lightning")
    yield from _devices()
    yield _cpu_kernels(version("numba"))
    yield _gpu_kernels(version("triton"))
    yield _shared_memory()
    yield _wandb()
    yield from _weights()


def version(package: str) -> str | None:
    """Return the installed version of a package without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def required_torch() -> str | None:
    """Return the versions of torch that the installed torchvision requires, as a specifier."""
    try:
        requirements = [Requirement(r) for r in metadata.requires("torchvision") or []]
    except metadata.PackageNotFoundError:
        return None
    return next((str(r.specifier) for r in requirements if r.name == "torch"), None)


def _torch_pair(torch: str | None, torchvision: str | None, required: str | None) -> Finding:
    """Check that releases and builds match; builds from different indexes do not."""
    name = "torch and torchvision"
    if torch is None or torchvision is None:
        package = "torch" if torch is None else "torchvision"
        return Finding("fault", name, f"{package} is not installed; run `make setup`")
    pair = f"torch {torch}, torchvision {torchvision}"
    (release, _, build), (_, _, vision_build) = torch.partition("+"), torchvision.partition("+")
    problem = ""
    if required is not None and not SpecifierSet(required).contains(torch, prereleases=True):
        problem = f"this torchvision needs torch{required}"
    elif build != vision_build:
        problem = f"builds `{build or 'default'}` and `{vision_build or 'default'}` do not mix"
    elif tuple(int(n) for n in release.split(".")[:2]) < (2, 11):
        problem = "torch 2.11 or newer is needed"
    if not problem:
        return Finding("ok", name, pair)
    remedy = "install both from one index: uv pip install --reinstall torch torchvision"
    return Finding("fault", name, f"{pair}: {problem}; {remedy}")


def _imports(*packages: str) -> Finding:
    """Import in a child process: a broken binary must not end the report."""
    code = "import " + ", ".join(packages)
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    if child.returncode == 0:
        return Finding("ok", "imports", ", ".join(packages))
    lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
    return Finding("fault", "imports", lines[-1])


def _devices() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = Finding("ok", "CPU", f"{cores} cores for this process")
    try:
        import torch
    except Exception as error:
        return [cpu, Finding("fault", "GPU", f"torch cannot be imported: {error}")]
    if torch.cuda.is_available():
        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        texts = [
            f"{p.name}, {p.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}" for p in gpus
        ]
        return [cpu, *(Finding("ok", "GPU", text) for text in texts)]
    if torch.backends.mps.is_available():
        return [cpu, Finding("note", "GPU", "Apple MPS, which is not tested")]
    return [cpu, Finding("note", "GPU", "none visible to torch: training runs on the CPU")]


def _cpu_kernels(numba: str | None) -> Finding:
    name = "CPU kernels"
    if numba is None:
        remedy = "pip install 'lightning-gan3d[numba]'"
        plain = f"numba is not installed: rendering on a CPU uses the plain path; {remedy}"
        return Finding("note", name, plain)
    try:
        from lightning_gan3d.simd import describe

        return Finding("ok", name, f"numba {numba}, {describe()}")
    except Exception as error:
        return Finding("note", name, f"numba {numba} cannot be used: {error}")


def _gpu_kernels(triton: str | None) -> Finding:
    """Check the installation of Triton and the GPUs' compute capabilities."""
    name = "GPU kernels"
    if triton is None:
        return Finding("note", name, f"triton is not installed: {PLAIN_CUDA}")
    try:
        import torch

        if not torch.cuda.is_available():
            return Finding("note", name, f"triton {triton}, but torch sees no CUDA device")
        capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
        old = [f"GPU {i} has {a}.{b}" for i, (a, b) in enumerate(capabilities) if (a, b) < (8, 0)]
    except Exception as error:
        return Finding("note", name, f"triton {triton}, but CUDA does not respond: {error}")
    if old:
        why = f"triton {triton}, which needs compute capability 8.0: {', '.join(old)}; {PLAIN_CUDA}"
        return Finding("note", name, why)
    return Finding("ok", name, f"triton {triton}; checked at the first rendering")


def _shared_memory() -> Finding:
    name, path = "shared memory", Path("/dev/shm")
    if not path.is_dir():
        return Finding("note", name, "no /dev/shm on this system")
    free = shutil.disk_usage(path).free / 2**20
    if free < 256:
        return Finding("note", name, f"/dev/shm has {free:.0f} MiB free; use data.num_workers=0")
    return Finding("ok", name, f"{free / 1024:.1f} GiB free in /dev/shm")


def _wandb() -> Finding:
    installed = version("wandb")
    if installed is None:
        return Finding("note", "W&B", "not installed; logging.wandb must stay off")
    netrc = Path.home() / ".netrc"
    if os.environ.get("WANDB_API_KEY") or (
        netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
    ):
        return Finding("ok", "W&B", f"wandb {installed}; logged in")
    login = "not logged in: logging.wandb=offline works, online needs `wandb login`"
    return Finding("note", "W&B", f"wandb {installed}; {login}")


def _weights() -> list[Finding]:
    """Check which pretrained networks of the metrics are available."""
    try:
        from lightning_gan3d.metrics.pretrained import KNOWN, state_of

        states = {name: state_of(name) for name in KNOWN}
    except Exception as error:
        return [Finding("note", "weights", f"cannot be checked: {error}")]
    return [
        Finding(
            "ok" if available else "note", f"weights {name}", f"{KNOWN[name].purpose}: {detail}"
        )
        for name, (available, detail) in states.items()
    ]

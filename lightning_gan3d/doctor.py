"""What this machine can do: interpreter, torch and its partner, devices, kernels, W&B."""

import importlib.metadata as metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fault` means that training cannot work."""

    state: State
    what: str
    detail: str


def examine() -> list[Finding]:
    """Look at everything; nothing here raises, so that one broken part does not hide another."""
    return [
        Finding(
            "ok" if sys.version_info >= (3, 11) else "fault",
            "Python",
            f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ),
        _torch_pair(version("torch"), version("torchvision"), torch_wanted_by_torchvision()),
        _imports("torch", "torchvision", "lightning"),
        *_devices(),
        *_kernels(),
        _shared_memory(),
        _wandb(),
        *_weights(),
    ]


def version(package: str) -> str | None:
    """Return the installed version of a package without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def torch_wanted_by_torchvision() -> str | None:
    """Return the versions of torch that the installed torchvision says it needs, as a specifier."""
    try:
        requirements = [Requirement(r) for r in metadata.requires("torchvision") or []]
    except metadata.PackageNotFoundError:
        return None
    return next((str(r.specifier) for r in requirements if r.name == "torch"), None)


def _torch_pair(torch: str | None, torchvision: str | None, wanted: str | None) -> Finding:
    """Name a mismatched pair: other releases, or builds from other indexes (CPU beside CUDA)."""
    what = "torch and torchvision"
    if torch is None or torchvision is None:
        absent = "torch" if torch is None else "torchvision"
        return Finding("fault", what, f"{absent} is not installed; run `make setup`")
    pair = f"torch {torch}, torchvision {torchvision}"
    (release, _, build), (_, _, vision_build) = torch.partition("+"), torchvision.partition("+")
    remedy = "install both from one index: uv pip install --reinstall torch torchvision"
    if wanted is not None and not SpecifierSet(wanted).contains(torch, prereleases=True):
        return Finding("fault", what, f"{pair}: this torchvision needs torch{wanted}; {remedy}")
    if build != vision_build:
        return Finding(
            "fault",
            what,
            f"{pair}: builds `{build or 'default'}` and `{vision_build or 'default'}` do not mix; "
            f"{remedy}",
        )
    if tuple(int(n) for n in release.split(".")[:2]) < (2, 11):
        return Finding("fault", what, f"{pair}: torch 2.11 or newer is needed; {remedy}")
    return Finding("ok", what, pair)


def _imports(*packages: str) -> Finding:
    """Import in a child process: a broken binary must not end the report."""
    code = "import " + ", ".join(packages)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return Finding("ok", "imports", ", ".join(packages))
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return Finding("fault", "imports", lines[-1])


def _devices() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [Finding("ok", "CPU", f"{cores} cores for this process")]
    try:
        import torch
    except Exception as error:
        return [*found, Finding("fault", "GPU", f"torch cannot be imported: {error}")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            found.append(
                Finding(
                    "ok",
                    "GPU",
                    f"{p.name}, {p.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
                )
            )
    elif torch.backends.mps.is_available():
        found.append(Finding("note", "GPU", "Apple MPS is there; the project is not tested on it"))
    else:
        found.append(Finding("note", "GPU", "none visible to torch: training runs on the CPU"))
    return found


def _kernels() -> list[Finding]:
    """Which fused renderers this machine can run."""
    numba, triton = version("numba"), version("triton")
    found = []
    if numba is None:
        remedy = "pip install 'lightning-gan3d[numba]'"
        why = f"numba is not installed: renderings on a CPU take the plain path; {remedy}"
        found.append(Finding("note", "CPU kernels", why))
    else:
        try:
            from lightning_gan3d.simd import describe

            found.append(Finding("ok", "CPU kernels", f"numba {numba}, {describe()}"))
        except Exception as error:
            found.append(Finding("note", "CPU kernels", f"numba {numba} cannot be used: {error}"))
    return [*found, _gpu_kernels(triton)]


def _gpu_kernels(triton: str | None) -> Finding:
    """Whether the Triton kernels would run: asked of the installation and of the GPU."""
    what, plain = "GPU kernels", "renderings on CUDA take the plain path"
    if triton is None:
        return Finding("note", what, f"triton is not installed: {plain}")
    try:
        import torch

        if not torch.cuda.is_available():
            return Finding("note", what, f"triton {triton}, but torch sees no CUDA device")
        capabilities = {
            i: torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())
        }
    except Exception as error:
        return Finding("note", what, f"triton {triton}, but CUDA cannot be asked: {error}")
    old = [f"GPU {i} has {a}.{b}" for i, (a, b) in capabilities.items() if (a, b) < (8, 0)]
    if old:
        why = f"triton {triton}, which needs compute capability 8.0: {', '.join(old)}; {plain}"
        return Finding("note", what, why)
    return Finding("ok", what, f"triton {triton}; a first rendering checks them")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("note", "shared memory", "no /dev/shm on this system")
    free = shutil.disk_usage(path).free / 2**20
    if free < 256:
        return Finding(
            "note", "shared memory", f"/dev/shm has {free:.0f} MiB free; use data.num_workers=0"
        )
    return Finding("ok", "shared memory", f"{free / 1024:.1f} GiB free in /dev/shm")


def _wandb() -> Finding:
    installed = version("wandb")
    if installed is None:
        return Finding("note", "W&B", "not installed; logging.wandb must stay off")
    netrc = Path.home() / ".netrc"
    known = bool(os.environ.get("WANDB_API_KEY")) or (
        netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
    )
    login = (
        "a key is at hand"
        if known
        else "not logged in: logging.wandb=offline works, online needs `wandb login`"
    )
    return Finding("ok" if known else "note", "W&B", f"wandb {installed}; {login}")


def _weights() -> list[Finding]:
    """Which pretrained networks of the measures are at hand."""
    try:
        from lightning_gan3d.metrics.pretrained import KNOWN, state_of

        states = {name: state_of(name) for name in KNOWN}
    except Exception as error:
        return [Finding("note", "weights", f"cannot be looked for: {error}")]
    return [
        Finding(
            "ok" if at_hand else "note",
            f"weights {name}",
            f"{KNOWN[name].purpose}: {detail.removeprefix(f'weights {name}: ')}",
        )
        for name, (at_hand, detail) in states.items()
    ]

"""Choose the implementation that renders: fused kernels if they support a request, else PyTorch.

Fused kernels read a field's tensors (`Field.lower`) and compute the same as `ray_marching`, without
storing anything per sample. They differentiate by the field's tensors and by the decoder.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.networks.lowering import NotLowered
from renderers.fused.kernel_check import find_fault
from renderers.ray_marching import RaySums, Request, render_in_chunks

KERNELS: dict[str, tuple[str, str]] = {
    "numba": ("renderers.fused.cpu.numba_renderer", "cpu"),
    "triton": ("renderers.fused.gpu.triton_renderer", "cuda"),
}
"""Module and device type of each set of kernels. A module defines `render_request(request)`,
`describe(request)`, and `unsupported(request)`, which returns a reason or None."""


class Backend(NamedTuple):
    """The implementation of a rendering, and the reason if it is not the fastest one."""

    name: str
    reason: str = ""
    fused: bool = False

    def __str__(self) -> str:
        """Format for logs: `PyTorch (no fused kernel for SolidField)`."""
        return f"{self.name} ({self.reason})" if self.reason else self.name


def choose_backend(request: Request) -> tuple[Backend, Callable[[Request], RaySums]]:
    """Return the backend of a request and its function.

    Raises `ConfigError` if `renderer.path` names kernels that do not support the request.
    """
    o, device = request.options, request.rays.origins.device.type
    names = (name for name, (_, kind) in KERNELS.items() if kind == device)
    name = next(names, "") if o.path == "auto" else o.path
    if name == "plain":
        return Backend("PyTorch", "as configured"), render_in_chunks
    reason = _unsupported(name, request) if name else f"no kernels for device {device}"
    in_fp32 = f"in fp32: renderer.precision={o.precision} is for triton"
    if not reason:
        kernel = _load(name)
        note = in_fp32 if name == "numba" and o.precision != "fp32" else ""
        return Backend(kernel.describe(request), note, fused=True), kernel.render_request
    if o.path != "auto":
        message = f"generator.renderer.path={o.path}: {reason}; use auto or plain"
        raise ConfigError(message, field="path")
    return Backend("PyTorch", reason if o.precision == "fp32" else f"{reason}; {in_fp32}"), (
        render_in_chunks
    )


def _unsupported(name: str, request: Request) -> str:
    """Return why kernels do not support a request; empty if they do."""
    device = request.rays.origins.device.type
    if torch.is_grad_enabled() and _require_grad(request.rays, request.span):
        return "the rays require a gradient"
    if isinstance(request.lowered, NotLowered):
        return request.lowered.reason
    kind = KERNELS[name][1]
    # Triton's interpreter runs kernels on a CPU, very slowly: for tests that name the path.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and request.options.path == "triton"
    if device != kind and not interpreted:
        return f"{name} runs on {kind}, the rays are on {device}"
    try:
        kernel = _load(name)
    except Exception as error:  # a broken installation raises more than ImportError
        return f"{name} cannot be imported, {type(error).__name__}: {error}"
    return kernel.unsupported(request) or find_fault(name, kernel.render_request, request)


def _load(name: str) -> Any:
    return importlib.import_module(KERNELS[name][0])


def _require_grad(*values: object) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in pytree.tree_leaves(values))

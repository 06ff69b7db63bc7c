"""Which code marches the rays: the plain path that serves any field, or a fused twin of it.

A fused path takes the field apart (`Field.lower`) and computes what `renderers.march.march` does
without keeping what lies between points and pixels. It differentiates by the field's tensors and
the decoder's weights, and by nothing else.
"""

import importlib
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from lightning_gan3d.cameras import Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Field, SceneConfig
from lightning_gan3d.networks.lowering import LoweredGrid, NotLowered
from renderers.config import VolumeRendererConfig
from renderers.fused.kernel_check import fault
from renderers.march import Random, Sums
from renderers.sampling import Span

PathName = Literal["auto", "plain", "numba", "triton"]


class Request(NamedTuple):
    """All that the rendering of r rays of each of b scenes depends on."""

    options: VolumeRendererConfig
    grid: LoweredGrid
    scene_cfg: SceneConfig
    rays: Rays
    part: Span
    random: Random


@runtime_checkable
class Kernel(Protocol):
    """A fused path; a module with these functions."""

    def refuses(self, request: Request) -> str | None:
        """Say why this request has to take the plain path, or None."""
        ...

    def describe(self, request: Request) -> str:
        """Say what runs, for reports: such as `numba, AVX-512, 2 threads`."""
        ...

    def march(self, request: Request) -> Sums:
        """Do what `renderers.march.march` does, for all rays; chunks are its own affair."""
        ...


KERNELS: dict[str, tuple[str, str]] = {
    "numba": ("renderers.fused.cpu", "cpu"),
    "triton": ("renderers.fused.gpu.march_triton", "cuda"),
}
"""Modules of the fused paths, and the type of device that each serves."""


class Chosen(NamedTuple):
    """The path of a rendering, in words for the reports; `why` it is not what was asked for."""

    name: str
    why: str = ""

    def __str__(self) -> str:
        """Such as `plain (NerfField has no kernel)`."""
        return f"{self.name} ({self.why})" if self.why else self.name


def choose(
    o: VolumeRendererConfig, field: Field, rays: Rays, part: Span, random: Random
) -> tuple[Chosen, Kernel | None, Request | None]:
    """Choose the path: as configured, else the fastest one that can; None is the plain path.

    Raises a `ConfigError` where a path is asked for by name that cannot serve this call.
    """
    if o.path == "plain":
        return Chosen("plain", "as configured"), None, None
    why = []
    for name in _candidates(o.path, rays.origins.device):
        reason, kernel, request = _try(name, o, field, rays, part, random)
        if kernel is not None and request is not None:
            read = name == "triton" or o.precision == "fp32"
            return Chosen(kernel.describe(request), "" if read else _in_fp32(o)), kernel, request
        why.append(f"{name}: {reason}")
    if o.path != "auto":
        raise ConfigError(
            f"renderer.path={o.path}: {'; '.join(why)}. Use auto or plain", field="path"
        )
    reason = "; ".join(why) or f"no kernels for device {rays.origins.device.type}"
    if o.precision != "fp32":
        reason = f"{reason}; {_in_fp32(o)}"
    return Chosen("plain", reason), None, None


def _in_fp32(o: VolumeRendererConfig) -> str:
    return f"in fp32: renderer.precision={o.precision} is for triton"


def _candidates(asked: PathName, device: torch.device) -> Iterator[str]:
    for name, (_, kind) in KERNELS.items():
        if asked == name or (asked == "auto" and kind == device.type):
            yield name


def _try(
    name: str,
    o: VolumeRendererConfig,
    field: Field,
    rays: Rays,
    part: Span,
    random: Random,
) -> tuple[str, Kernel | None, Request | None]:
    if torch.is_grad_enabled() and _requires_grad((rays, part)):
        return "the rays require a gradient", None, None
    grid = field.lower()
    if isinstance(grid, NotLowered):
        return grid.why, None, None
    module, kind = KERNELS[name]
    # Triton's interpreter runs kernels on a CPU, very slowly: where asked for by name, for tests.
    interpreted = name == o.path == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if rays.origins.device.type != kind and not interpreted:
        return f"serves {kind}, the rays are on {rays.origins.device.type}", None, None
    try:
        kernel = cast(Kernel, importlib.import_module(module))
    except Exception as error:  # a broken installation raises more than ImportError
        return f"it cannot be imported, {type(error).__name__}: {error}", None, None
    request = Request(o, grid, field.scene_cfg, rays, part, random)

    def fused(some: Field, rays: Rays, part: Span, random: Random) -> Sums:
        lowered = some.lower()
        assert isinstance(lowered, LoweredGrid)
        return kernel.march(Request(o, lowered, some.scene_cfg, rays, part, random))

    reason = kernel.refuses(request) or fault(name, fused, o, field, grid, rays, part, random)
    return (reason, None, None) if reason else ("", kernel, request)


def _requires_grad(values: object) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in pytree.tree_leaves(values))

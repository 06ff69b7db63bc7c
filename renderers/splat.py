"""The splat renderer: projects 3D Gaussians and composites them from front to back.

As 3D Gaussian splatting (Kerbl et al. 2023): Gaussians are ordered by the camera z of their means;
in a pixel, opacities below 1/255 are dropped and others cut at 0.99; a pixel is finished before its
transmittance would fall to 1e-4.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, Positive, Share
from lightning_gan3d.contract import Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from renderers.backends import Backend
from renderers.compositing import expected_depth
from renderers.footprints import MAX_ALPHA, MIN_ALPHA, Footprints, project
from representations.splats import Splats

FINISHED = 1e-4
"""Transmittance at which a pixel is finished."""
KERNELS: dict[str, tuple[str, str]] = {
    "numba": ("renderers.fused.cpu.splat_rendering", "cpu"),
    "gsplat": ("renderers.fused.gpu.gsplat_rendering", "cuda"),
}
"""Module and device type of each set of kernels. A module defines `project` and `composite`, as
those of PyTorch, and `describe()`."""


@dataclass(frozen=True)
class SplatRendererConfig:
    """Options of splatting."""

    background: Share = 0.0
    """Value of all background channels in [0, 1]: 0 black, 1 white."""
    near: Positive = 0.01
    """Camera z in world units up to which Gaussians are left out."""
    antialias: bool = True
    """Lower the opacity of a Gaussian by the ratio in which the pixel filter enlarges it
    (Mip-Splatting, Yu et al. 2024): else small Gaussians grow brighter from afar."""
    path: Literal["auto", "plain", "numba", "gsplat"] = "auto"
    """Implementation: a kernel (`numba` on a CPU, the package `gsplat` on CUDA), or PyTorch
    (`plain`), whose memory grows with Gaussians times pixels. `auto`: a kernel if there is one."""


class SplatSums(NamedTuple):
    """Weighted sums over the Gaussians of each pixel, row by row."""

    feature: Float[Tensor, "v c p"]
    distance: Float[Tensor, "v 1 p"]
    opacity: Float[Tensor, "v 1 p"]


def composite(footprints: Footprints, resolution: int) -> SplatSums:
    """Composite in PyTorch, in any dtype: the twin of the kernels.

    Memory: several times Gaussians times pixels; times views if it needs a gradient.
    """
    one_view = (
        Footprints(*parts) for parts in zip(*(torch.split(x, 1) for x in footprints), strict=True)
    )
    sums = [_composite(view, resolution) for view in one_view]
    return SplatSums(*(torch.cat(parts) for parts in zip(*sums, strict=True)))


def _composite(footprints: Footprints, resolution: int) -> SplatSums:
    order = footprints.depth_z.argsort(dim=1, stable=True)
    mean, conic, opacity, feature, distance = (
        x.take_along_dim(order if x.ndim == 2 else order[:, None], dim=-1) for x in footprints[:5]
    )
    centre = torch.arange(resolution, device=mean.device, dtype=mean.dtype) + 0.5
    y, x = (c.flatten() for c in torch.meshgrid(centre, centre, indexing="ij"))
    dx, dy = mean[:, 0, :, None] - x, mean[:, 1, :, None] - y  # v n p
    a, b, c = conic[..., None].unbind(dim=1)
    alpha = opacity[..., None] * torch.exp(-((a * dx * dx + c * dy * dy) / 2 + b * dx * dy))
    alpha = torch.where(alpha >= MIN_ALPHA, alpha.clamp(max=MAX_ALPHA), 0.0)
    passed = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], dim=1)
    weights = torch.where(passed > FINISHED, before * alpha, 0.0)
    return SplatSums(feature @ weights, distance[:, None] @ weights, weights.sum(1, keepdim=True))


class SplatRequest(NamedTuple):
    """Gaussians to project, and how."""

    scene: Splats
    cameras: Cameras
    resolution: int
    near: float
    antialias: bool


class Plain:
    """Splatting in PyTorch."""

    project = staticmethod(project)
    composite = staticmethod(composite)


def choose_kernel(request: SplatRequest, path: str) -> tuple[Backend, Any]:
    """Return the backend of a request, and its functions `project` and `composite`.

    Raises `ConfigError` if `path` names a kernel that does not support the request.
    """
    device = request.scene.means.device.type
    names = (name for name, (_, kind) in KERNELS.items() if kind == device)
    name = next(names, "") if path == "auto" else path
    if name == "plain":
        return Backend("PyTorch", "as configured"), Plain
    reason = _unsupported(name, request) if name else f"no kernels for device {device}"
    if not reason:
        kernel = importlib.import_module(KERNELS[name][0])
        return Backend(kernel.describe(), fused=True), kernel
    if path != "auto":
        message = f"generator.renderer.path={path}: {reason}; use auto or plain"
        raise ConfigError(message, field="path")
    return Backend("PyTorch", reason), Plain


def _unsupported(name: str, request: SplatRequest) -> str:
    """Return why a kernel does not support a request; empty if it does."""
    module, kind = KERNELS[name]
    means = request.scene.means
    if means.device.type != kind:
        return f"{name} runs on {kind}, the scene is on {means.device.type}"
    if means.dtype != torch.float32:
        return f"a scene of {means.dtype}; the kernels compute in float32"
    try:
        kernel = importlib.import_module(module)
    except Exception as error:  # a broken installation raises more than ImportError
        return f"{name} cannot be imported, {type(error).__name__}: {error}"
    find_fault = importlib.import_module("renderers.fused.splat_check").find_fault
    return str(find_fault(name, kernel, request))


class SplatRenderer(Renderer):
    """Renders Gaussians by a kernel, if there is one, else in PyTorch."""

    accepts = Splats

    def __init__(self, cfg: SplatRendererConfig) -> None:
        """Store the options."""
        super().__init__()
        self.cfg = cfg
        self.backend: Backend | None = None
        """Backend of the last rendering, for logs and reports."""

    def forward(
        self,
        scene: Splats,
        cameras: Cameras,
        resolution: int,
        draws: Draws | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Rendering:
        """Render v = b * k square views of `resolution`; camera i sees scene i // k."""
        views = len(cameras.cam2world)
        if views % scene.batch:
            raise ValueError(
                f"{views} cameras for {scene.batch} scenes: use a multiple of {scene.batch}"
            )
        request = SplatRequest(scene, cameras, resolution, self.cfg.near, self.cfg.antialias)
        self.backend, kernel = choose_kernel(request, self.cfg.path)
        sums = kernel.composite(kernel.project(*request), resolution)
        feature, distance, opacity = (
            rearrange(x, "v c (h w) -> v c h w", h=resolution) for x in sums
        )
        feature = feature + (1 - opacity) * self.cfg.background
        behind = cameras.origins.norm(dim=-1)[:, None, None, None] + scene.box / 2 * 3**0.5
        depth = expected_depth(distance, opacity, behind.expand_as(opacity))
        return Rendering(feature * 2 - 1, depth, opacity)

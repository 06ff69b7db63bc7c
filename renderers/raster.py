"""The exact renderer: first visible faces of a thresholded solid, without a gradient.

The renderer of IG-GAN (Lunz et al. 2020) in its simplest form: opaque voxels under Lambert's law
with ambient light, without shadows.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Interval
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, Count, Share
from lightning_gan3d.contract import Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from renderers.backends import Backend
from renderers.exact import mitsuba_backend, opengl
from renderers.exact.views import NORMALS, Views
from representations.grids import full_precision
from representations.solid import Solid


@dataclass(frozen=True)
class LightConfig:
    """One distant light, ambient light, and the background."""

    light: tuple[float, float, float] = (0.4, 1.0, 0.7)
    """Direction toward the light; its length does not matter."""
    light_frame: Literal["world", "camera"] = "world"
    """Axes of `light`: the world's (y up, +z toward the frontal camera), or each camera's (x right,
    y down, z forward): 0, 0, -1 is a light at the camera."""
    ambient: Share = 0.4
    """Brightness of a face that is turned away from the light; one that faces it has 1."""
    background: Share = 0.0
    """Value of all background channels in [0, 1]: 0 black, 1 white."""

    def __post_init__(self) -> None:
        """Check the light."""
        if not 0 < sum(x * x for x in self.light) < float("inf"):
            raise ConfigError(
                f"generator.renderer.light={list(self.light)}: not a direction; use e.g. [0, 1, 0]",
                "light",
            )


@dataclass(frozen=True)
class RasterConfig(LightConfig):
    """Light, threshold and backend."""

    threshold: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    """Occupancy above which a voxel is filled. Meshes and metrics of geometry use 0.5."""
    samples: Count = 1
    """Rays per pixel along each axis; their mean softens edges, and opacity is then a coverage."""
    backend: Literal["auto", "grid_walk", "moderngl", "mitsuba"] = "auto"
    """Implementation: walk of rays on a CPU (extra `numba`), or OpenGL (extra `raster`, and EGL).
    `auto`: the walk, which is exact in float64, if numba is installed; the choice is logged.
    `mitsuba` (extra `mitsuba`) traces paths on a CPU: the same faces, with shadows and light that
    voxels reflect on each other. Cameras need square pixels."""
    spp: Literal[4, 16, 64, 256, 1024] = 16
    """Paths per ray of `mitsuba`: the noise falls with their number."""

    def __post_init__(self) -> None:
        """Check across fields."""
        super().__post_init__()
        if self.spp != RasterConfig.spp and self.backend != "mitsuba":
            raise ConfigError(
                f"generator.renderer.spp={self.spp}: only mitsuba traces paths; use "
                f"backend=mitsuba, or spp={RasterConfig.spp}",
                "spp",
            )


class RasterRenderer(Renderer):
    """Renders solids exactly, on the CPU or by OpenGL, wherever the solid is stored."""

    accepts = Solid
    differentiable: ClassVar[bool] = False

    def __init__(self, cfg: RasterConfig) -> None:
        """Store the options. Raises `ConfigError` if Mitsuba is chosen and not installed."""
        super().__init__()
        if cfg.backend == "mitsuba":  # before a training; the others start at the first rendering
            choose_backend(cfg.backend)
        self.cfg = cfg
        self.backend: Backend | None = None
        """Backend of the last rendering, for logs and reports."""

    @torch.no_grad()
    def forward(
        self,
        scene: Solid,
        cameras: Cameras,
        resolution: int,
        draws: Draws | None = None,  # noqa: ARG002  # deterministic
    ) -> Rendering:
        """Render v = b * k square views of `resolution`; camera i sees scene i // k.

        Depth is the mean distance of the rays of a pixel that hit, and behind the box without any.
        """
        num = len(cameras.cam2world)
        if num % scene.batch:
            raise ValueError(
                f"{num} cameras for {scene.batch} scenes: use a multiple of {scene.batch}"
            )
        like = cameras.cam2world
        if scene.occupancy.is_meta:  # the count of FLOPs, of which there are none
            colour, plane = (like.new_empty(num, c, resolution, resolution) for c in (3, 1))
            return Rendering(colour, plane, plane)
        self.backend, module = choose_backend(self.cfg.backend)
        hits = [module.render(views) for views in self._views(scene, cameras, resolution)]
        colour = torch.from_numpy(np.concatenate([h.colour for h in hits])).to(like)
        t = torch.from_numpy(np.concatenate([h.t for h in hits])).to(like)
        behind = cameras.origins.norm(dim=-1) + scene.box / 2 * 3**0.5
        return self._pixels(colour, t, behind)

    def _views(self, scene: Solid, cameras: Cameras, resolution: int) -> list[Views]:
        """The arrays of each scene and its cameras."""
        filled = (scene.occupancy[:, 0] > self.cfg.threshold).cpu().numpy()
        colour = full_precision(scene.colour).float().cpu().contiguous().numpy()
        seen_by = cameras.to("cpu", torch.float64)
        shade = face_shade(self.cfg, seen_by).float().numpy()
        poses, intrinsics = (x.contiguous().numpy() for x in seen_by)
        k = len(poses) // scene.batch
        size, spp = resolution * self.cfg.samples, self.cfg.spp
        return [
            Views(filled[i], colour[i], scene.box, poses[s], intrinsics[s], shade[s], size, spp)
            for i, s in enumerate(slice(i * k, (i + 1) * k) for i in range(scene.batch))
        ]

    def _pixels(
        self,
        colour: Float[Tensor, "v h w 3"],
        t: Float[Tensor, "v h w"],
        behind: Float[Tensor, " v"],
    ) -> Rendering:
        """Average the rays of each pixel."""
        hit = t.isfinite()
        s = {"i": self.cfg.samples, "j": self.cfg.samples}
        feature = torch.where(hit[..., None], colour, self.cfg.background)
        feature = reduce(feature, "v (h i) (w j) c -> v c h w", "mean", **s)
        opacity = reduce(hit.to(t), "v (h i) (w j) -> v 1 h w", "mean", **s)
        depth = reduce(torch.where(hit, t, 0.0), "v (h i) (w j) -> v 1 h w", "mean", **s)
        depth = torch.where(opacity > 0, depth / opacity, behind[:, None, None, None])
        return Rendering(feature * 2 - 1, depth, opacity)


def lights(cfg: LightConfig, cameras: Cameras) -> Float[Tensor, "v 3"]:
    """Unit vectors toward the light of each camera, in the world."""
    light = torch.nn.functional.normalize(cameras.cam2world.new_tensor(cfg.light), dim=0)
    if cfg.light_frame == "world":
        return light.expand(len(cameras.cam2world), 3)
    return cameras.cam2world[:, :3, :3] @ light


def face_shade(cfg: LightConfig, cameras: Cameras) -> Float[Tensor, "v 6"]:
    """Brightness of the six faces of a voxel: ambient + (1 - ambient) max(0, normal . light)."""
    cosine = lights(cfg, cameras) @ cameras.cam2world.new_tensor(NORMALS).mT
    return cfg.ambient + (1 - cfg.ambient) * cosine.clamp_min(0)


def choose_backend(requested: str) -> tuple[Backend, ModuleType]:
    """Return the backend and its module. Raises `ConfigError` if it cannot be used."""
    if requested == "mitsuba":
        if fault := mitsuba_backend.unavailable():
            raise ConfigError(
                f"generator.renderer.backend=mitsuba: {fault}; or use auto", "backend"
            )
        return Backend(mitsuba_backend.describe(), fused=True), mitsuba_backend
    try:
        from renderers.exact import grid_walk

        missing = ""
    except Exception as error:  # a broken installation raises more than ImportError
        missing = str(error)
    if requested != "moderngl" and not missing:
        return Backend(grid_walk.describe(), fused=True), grid_walk
    if requested == "grid_walk":
        raise ConfigError(
            f"generator.renderer.backend=grid_walk: {missing}; or use moderngl", "backend"
        )
    if fault := opengl.unavailable():
        other = f"; grid_walk: {missing}" if missing else "; or use grid_walk"
        raise ConfigError(f"generator.renderer.backend={requested}: {fault}{other}", "backend")
    return Backend(opengl.describe(), missing, fused=True), opengl

"""The volume renderer: renders any field by quadrature along rays."""

import dataclasses
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.contract import Field, Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from lightning_gan3d.networks.lowering import LoweredGrid
from lightning_gan3d.networks.precision import DTYPES, without_autocast
from renderers.backends import Backend, choose_backend
from renderers.compositing import clamped_depth, expected_depth
from renderers.config import VolumeRendererConfig
from renderers.occupancy import OccupiedField, find_occupied, render_occupied
from renderers.ray_marching import RaySums, Request, draw_jitter
from renderers.sampling import ray_span

__all__ = ["RayRendering", "VolumeRenderer", "VolumeRendererConfig"]


class RayRendering(NamedTuple):
    """Features in [0, 1] over the background, expected distance and opacity of rays."""

    feature: Float[Tensor, "b r c"]
    depth: Float[Tensor, "b r 1"]
    opacity: Float[Tensor, "b r 1"]


class VolumeRenderer(Renderer):
    """Renders fields, by fused kernels if they support the field, else in PyTorch."""

    accepts = Field

    def __init__(self, cfg: VolumeRendererConfig) -> None:
        """Store the options."""
        super().__init__()
        self.cfg = cfg
        self.backend: Backend | None = None
        """Backend of the last rendering, for logs and reports."""

    def prepare(self, scene: Field) -> Field:  # type: ignore[override]  # accepts fields
        """Precompute what several views share, without gradient.

        Finds occupied cells if `skip_cells` is set, and stores grids in `cache_precision`.
        """
        if isinstance(scene, OccupiedField):
            return scene
        dtype = DTYPES[self.cfg.cache_precision]
        stored = scene
        if dtype is not None and isinstance(scene.lower(), LoweredGrid):
            stored = scene.detach().to(dtype=dtype)
        if not self.cfg.skip_cells:
            return stored
        return dataclasses.replace(
            find_occupied(scene, self.cfg.skip_cells, self.cfg.skip_opacity), field=stored
        )

    def forward(
        self, scene: Field, cameras: Cameras, resolution: int, draws: Draws | None = None
    ) -> Rendering:
        """Render v = b * k square views of `resolution`; camera i sees scene i // k."""
        views = len(cameras.cam2world)
        if views % scene.batch:
            raise ValueError(
                f"{views} cameras for {scene.batch} scenes: use a multiple of {scene.batch}"
            )
        with without_autocast(cameras.cam2world.device):
            rays = cameras.rays(resolution)  # too coarse in half precision
        # The views of a scene become more of its rays, so the scene is not copied.
        rays = Rays(*(rearrange(x, "(b k) r c -> b (k r) c", b=scene.batch) for x in rays))
        feature, depth, opacity = (
            rearrange(x, "b (k h w) c -> (b k) c h w", h=resolution, w=resolution)
            for x in self.render_rays(scene, rays, draws)
        )
        return Rendering(feature * 2 - 1, depth, opacity)

    def render_rays(self, field: Field, rays: Rays, draws: Draws | None = None) -> RayRendering:
        """Render r rays of each of b scenes.

        Without draws, samples lie in the middle of their strata and u = (i + 1/2) / N. The jitter
        of all rays is drawn at once: only it grows with rays times samples.
        """
        o = self.cfg.oversampled() if draws is None else self.cfg
        span, background = ray_span(rays, field.box, o)
        request = Request(o, field, rays, span, draw_jitter(o, rays.origins, draws))
        if not isinstance(field, OccupiedField):
            sums = self._render(request)
        elif torch.is_grad_enabled():
            sums = self._render(dataclasses.replace(request, field=field.field))
        else:
            sums = render_occupied(request, field, self._render)
        if o.rules == "eg3d":
            ends = sums.nearest.amin(), sums.farthest.amax()
            depth = clamped_depth(sums.depth, sums.opacity, *ends)
        else:
            depth = expected_depth(sums.depth, sums.opacity, background)
        feature = sums.feature
        behind = field.backdrop(rays)
        if behind is not None:
            feature = feature + (1 - sums.opacity) * behind
        elif o.background:
            feature = feature + (1 - sums.opacity) * o.background
        return RayRendering(feature, depth, sums.opacity)

    def _render(self, request: Request) -> RaySums:
        self.backend, render = choose_backend(request)
        return render(request)

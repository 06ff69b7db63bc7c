"""The volume renderer: any field, queried along rays in chunks that bound its memory."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.contract import Field, Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Rendering
from lightning_gan3d.networks.lowering import LoweredGrid
from lightning_gan3d.networks.precision import DTYPES, without_autocast
from renderers.compositing import clamped_depth, expected_depth
from renderers.config import VolumeRendererConfig
from renderers.march import Random, Sums, draw, ends_of_empty, march
from renderers.occupancy import OccupiedField, find_occupied
from renderers.paths import Chosen, choose
from renderers.sampling import Span, span

__all__ = ["RayRendering", "VolumeRenderer", "VolumeRendererConfig"]


CHUNK, CACHED_CHUNK = 1 << 17, 1 << 14
"""Points in a call of the field, where the configuration does not say."""


class RayRendering(NamedTuple):
    """What rays see: features in [0, 1] over the background, expected distance, opacity."""

    feature: Float[Tensor, "b r c"]
    depth: Float[Tensor, "b r 1"]
    opacity: Float[Tensor, "b r 1"]


class VolumeRenderer(Renderer):
    """Renders any field by quadrature along rays."""

    accepts = Field

    def __init__(self, cfg: VolumeRendererConfig) -> None:
        """Keep the options."""
        super().__init__()
        self.cfg = cfg
        self.path_taken: Chosen | None = None
        """Which path the last rendering took, for reports; None before the first."""

    def prepare(self, scene: Field) -> Field:  # type: ignore[override]  # accepts fields
        """Do what pays over several views of the scenes; without a gradient.

        Finds where they have anything, if `skip_cells` asks for it, and stores grids in
        `cache_precision`.
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
        self,
        scene: Field,
        cameras: Cameras,
        resolution: int,
        draws: Draws | None = None,
    ) -> Rendering:
        """Render v = b * k square views of `resolution`; camera i sees scene i // k."""
        views = len(cameras.cam2world)
        if views % scene.batch:
            raise ValueError(
                f"{views} cameras for {scene.batch} scenes: use a multiple of {scene.batch}"
            )
        with without_autocast(cameras.cam2world.device):
            rays = cameras.rays(resolution)  # half precision would bend them
        # The views of a scene become more rays of it, so that the scene is not copied.
        rays = Rays(*(rearrange(x, "(b k) r c -> b (k r) c", b=scene.batch) for x in rays))
        seen = self.render_rays(scene, rays, draws)
        feature, depth, opacity = (
            rearrange(x, "b (k h w) c -> (b k) c h w", h=resolution, w=resolution) for x in seen
        )
        return Rendering(feature * 2 - 1, depth, opacity)

    def render_rays(
        self,
        field: Field,
        rays: Rays,
        draws: Draws | None = None,
    ) -> RayRendering:
        """Render r rays of each of b scenes.

        `draws=None` takes the middles of strata and u = (i + 1/2) / N. Draws are made for all rays
        at once: they are the one thing here that grows with rays times samples, and they are
        scalars.
        """
        o = self.cfg.oversampled() if draws is None else self.cfg
        part, background = span(*rays, field.box, o.bounds, o.near, o.far)
        random = draw(o, rays.origins, draws)
        total = self._march(o, field, rays, part, random)
        if o.rules == "eg3d":
            ends = total.nearest.amin(), total.farthest.amax()
            depth = clamped_depth(total.depth, total.opacity, *ends)
        else:
            depth = expected_depth(total.depth, total.opacity, background)
        feature = total.feature
        if o.background:
            feature = feature + (1 - total.opacity) * o.background
        return RayRendering(feature, depth, total.opacity)

    def _march(
        self, o: VolumeRendererConfig, field: Field, rays: Rays, part: Span, random: Random
    ) -> Sums:
        """March the rays by the path that serves them, and keep which one that was."""
        if isinstance(field, OccupiedField) and not torch.is_grad_enabled():
            return self._march_some(o, field, rays, part, random)
        self.path_taken, kernel, request = choose(o, field, rays, part, random)
        if kernel is not None and request is not None:
            return kernel.march(request)
        return _march_in_chunks(o, field, rays, part, random)

    def _march_some(
        self, o: VolumeRendererConfig, field: OccupiedField, rays: Rays, part: Span, random: Random
    ) -> Sums:
        """March what meets something, scene by scene; elsewhere the sums are zero."""
        meets = field.meets(rays, part)
        shape = part.near.shape
        channels = field.scene_cfg.feature_dim
        nothing = rays.origins.new_zeros
        # The clamp of rules=eg3d reads the ends of all rays; else nobody reads those of empty ones.
        ends = ends_of_empty(o, part, random) if o.rules == "eg3d" else tuple(part)
        total = Sums(
            nothing(*shape[:2], channels),
            nothing(shape),
            nothing(shape),
            *(x.clone() for x in ends),
        )
        for i in range(field.batch):
            keep = meets[i].nonzero()[:, 0]
            if not len(keep):
                continue
            one = slice(i, i + 1)
            some = self._march(
                o,
                field.field.index(one),
                Rays(*(x[one, keep] for x in rays)),
                Span(*(x[one, keep] for x in part)),
                Random(*(None if x is None else x[one, keep] for x in random)),
            )
            for whole, marched in zip(total, some, strict=True):
                whole[one, keep] = marched
        return total


def _march_in_chunks(
    o: VolumeRendererConfig, field: Field, rays: Rays, part: Span, random: Random
) -> Sums:
    """The plain path: `march`, for as many rays at a time as the field may be asked points."""
    again = o.recompute and torch.is_grad_enabled()
    rows = []
    for scenes, columns in _chunks(rays.origins, o):
        some = field.index(scenes)
        row = []
        for column in columns:
            here = (scenes, column)
            args = (
                o,
                some,
                Rays(rays.origins[here], rays.dirs[here]),
                Span(part.near[here], part.far[here]),
                random.part(*here),
            )
            sums = (
                checkpoint(march, *args, use_reentrant=False, preserve_rng_state=False)
                if again
                else march(*args)
            )
            row.append(sums)
        rows.append(_join(row, dim=1))
    return _join(rows, dim=0)


def _chunks(
    origins: Float[Tensor, "b r 3"], o: VolumeRendererConfig
) -> Iterator[tuple[slice, list[slice]]]:
    """Cut scenes, then rays, so that no call of the field sees more than `chunk` points."""
    num_scenes, num_rays = origins.shape[:2]
    samples = max(o.samples_coarse, o.samples_fine)
    if (chunk := o.chunk) is None:
        # With a gradient, each chunk costs a pass over the gradient of the whole scene.
        cached = origins.device.type == "cpu" and not torch.is_grad_enabled()
        chunk = max(CACHED_CHUNK if cached else CHUNK, samples)
    scenes = min(num_scenes, chunk // samples)
    rays = chunk // (samples * scenes)
    for i in range(0, num_scenes, scenes):
        columns = [slice(j, min(j + rays, num_rays)) for j in range(0, num_rays, rays)]
        yield slice(i, min(i + scenes, num_scenes)), columns


def _join(parts: list[Sums], dim: int) -> Sums:
    if len(parts) == 1:
        return parts[0]
    return Sums(*(torch.cat(x, dim) for x in zip(*parts, strict=True)))

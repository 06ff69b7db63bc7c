"""Renders scenes of parts: each object within its own box, then the background behind them."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.config import ConfigError, Count, NonNegative, Share
from lightning_gan3d.contract import Renderer
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Layers, Rendering
from lightning_gan3d.networks.precision import without_autocast
from renderers.backends import Backend
from renderers.compositing import expected_depth, weights_of
from renderers.config import VolumeRendererConfig
from renderers.ray_marching import CHUNK
from renderers.sampling import RaySpan, interval_edges, ray_span, stratified
from renderers.volume import VolumeRenderer
from representations.parts import Composed, Placed


@dataclass(frozen=True)
class ComposedRendererConfig:
    """How objects are sampled and ordered."""

    order: Literal["layers", "joint"] = "layers"
    """`layers`: each object is one layer, ordered by its depth in each pixel: exact for objects
    that do not overlap, and rendered by fused kernels. `joint`: all objects' samples are sorted
    along each ray, as DiscoScene (Xu et al. 2023)."""
    samples_coarse: Count = 12
    """Stratified samples per ray and object, within its box."""
    samples_fine: Annotated[int, Ge(0)] = 0
    """Importance samples per ray and object; `layers` only."""
    background: Share = 1.0
    """Value of all channels in [0, 1] behind scenes without a background."""
    density_noise: NonNegative = 0.0
    """Standard deviation of noise on the raw density in training; GIRAFFE: 1. `layers` only."""
    path: Literal["auto", "plain", "numba", "triton"] = "auto"
    """Implementation of `layers`, as of the volume renderer."""

    def __post_init__(self) -> None:
        """Check across fields."""
        for name in ("samples_fine", "density_noise"):
            value = getattr(self, name)
            if self.order == "joint" and value:
                raise ConfigError(
                    f"generator.renderer.{name}={value}: order=joint has none; use 0, or "
                    "order=layers",
                    field=name,
                )

    @property
    def of_object(self) -> VolumeRendererConfig:
        """Options of the renderer of one object."""
        return VolumeRendererConfig(
            samples_coarse=self.samples_coarse,
            samples_fine=self.samples_fine,
            density_noise=self.density_noise,
            path=self.path,
        )


class Sums(NamedTuple):
    """What n objects contribute to each ray, behind nearer ones. Features are in [0, 1]."""

    feature: Float[Tensor, "n b r c"]
    depth: Float[Tensor, "n b r 1"]
    """Weighted sum of distances in world units."""
    opacity: Float[Tensor, "n b r 1"]


class ComposedRenderer(Renderer):
    """Renders objects in their own coordinates, and composites them."""

    accepts = Composed
    has_masks = True

    def __init__(self, cfg: ComposedRendererConfig) -> None:
        """Build the renderer of one object."""
        super().__init__()
        self.cfg = cfg
        self.of_object = VolumeRenderer(cfg.of_object)

    @property
    def backend(self) -> Backend | None:
        """Backend of the last rendering, for logs and reports."""
        return self.of_object.backend

    def forward(
        self, scene: Composed, cameras: Cameras, resolution: int, draws: Draws | None = None
    ) -> Rendering:
        """Render v = b * k square views; camera i sees scene i // k. `layers` has each part."""
        batch, views = scene.batch, len(cameras.cam2world)
        if views % batch:
            raise ValueError(f"{views} cameras for {batch} scenes: use a multiple of {batch}")
        with without_autocast(cameras.cam2world.device):
            rays = cameras.rays(resolution)
        rays = Rays(*(rearrange(x, "(b k) r c -> b (k r) c", b=batch) for x in rays))
        sums = self._sums(scene, rays, draws)

        def images(x: Tensor) -> Tensor:
            return rearrange(x, "... b (k h w) c -> ... (b k) c h w", h=resolution, w=resolution)

        behind = scene.backdrop(rays)
        if behind is None:
            shape = (*rays.origins.shape[:2], scene.scene_cfg.feature_dim)
            behind = rays.origins.new_full(shape, self.cfg.background)
        opacity = sums.opacity.sum(0)
        feature = sums.feature.sum(0) + (1 - opacity) * behind
        _, far = ray_span(rays, scene.box, self.of_object.cfg)
        depth = expected_depth(sums.depth.sum(0), opacity, far)
        objects = rearrange(images(sums.feature), "n v c h w -> v n c h w")
        mask = rearrange(images(sums.opacity), "n v 1 h w -> v n h w")
        codes = tuple(x.code for x in scene.objects)
        layers = Layers(objects, mask, images(behind), codes)
        return Rendering(images(feature) * 2 - 1, images(depth), images(opacity), layers)

    def _sums(self, scene: Composed, rays: Rays, draws: Draws | None) -> Sums:
        if not scene.objects:
            empty = rays.origins.new_zeros(0, *rays.origins.shape[:2], 1)
            return Sums(empty.expand(-1, -1, -1, scene.scene_cfg.feature_dim), empty, empty)
        of = [
            None if draws is None else draws.scope(f"object{i}") for i in range(len(scene.objects))
        ]
        if self.cfg.order == "layers":
            return self._in_layers(scene.objects, rays, of)
        if draws is not None or torch.is_grad_enabled():
            return self._joint(scene.objects, rays, of)
        # Without a gradient, memory does not grow with the number of rays.
        num = max(1, CHUNK // (scene.batch * self.cfg.samples_coarse * len(scene.objects)))
        chunks = zip(*(torch.split(x, num, dim=1) for x in rays), strict=True)
        parts = [self._joint(scene.objects, Rays(*chunk), of) for chunk in chunks]
        return Sums(*(torch.cat(x, dim=2) for x in zip(*parts, strict=True)))

    def _in_layers(
        self, objects: tuple[Placed, ...], rays: Rays, draws: list[Draws | None]
    ) -> Sums:
        """Render each object alone, then hide the farther ones behind the nearer."""
        parts = []
        for placed, own in zip(objects, draws, strict=True):
            feature, depth, opacity = self.of_object.render_rays(
                placed.field, placed.local_rays(rays), own
            )
            parts.append((feature, depth * placed.factor[:, None, None], opacity))
        feature, depth, opacity = (torch.stack(x) for x in zip(*parts, strict=True))
        order = depth.argsort(dim=0)
        through = torch.cumprod(1 - opacity.gather(0, order), dim=0)
        through = torch.cat([torch.ones_like(through[:1]), through[:-1]])
        visible = torch.empty_like(through).scatter(0, order, through)
        return Sums(visible * feature, visible * opacity * depth, visible * opacity)

    def _joint(self, objects: tuple[Placed, ...], rays: Rays, draws: list[Draws | None]) -> Sums:
        """Sort the samples of all objects along each ray."""
        each = [self._samples(x, rays, own) for x, own in zip(objects, draws, strict=True)]
        t, tau = (torch.cat(x, dim=-1) for x in zip(*((s[0], s[1]) for s in each), strict=True))
        order = t.argsort(dim=-1)
        weights, _ = weights_of(tau.gather(-1, order))
        weights = torch.empty_like(weights).scatter(-1, order, weights)
        num = len(objects)
        by_object = rearrange(weights, "b r (n s) -> n b r s", n=num)
        feature = torch.stack(
            [(w[..., None] * s[2]).sum(2) for w, s in zip(by_object, each, strict=True)]
        )
        depth = (by_object * rearrange(t, "b r (n s) -> n b r s", n=num)).sum(-1, keepdim=True)
        return Sums(feature, depth, by_object.sum(-1, keepdim=True))

    def _samples(
        self, placed: Placed, rays: Rays, draws: Draws | None
    ) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r s"], Float[Tensor, "b r s c"]]:
        """World distance, optical depth and feature of the samples of one object."""
        options, field, local = self.of_object.cfg, placed.field, placed.local_rays(rays)
        span, _ = ray_span(local, field.box, options)
        shape = (*rays.origins.shape[:2], options.samples_coarse)
        device = rays.origins.device
        jitter = None if draws is None else draws.uniform("jitter", shape, device, on_device=True)
        t, span = stratified(RaySpan(*span), options.samples_coarse, jitter, options.rules)
        points = local.origins[:, :, None] + t[..., None] * local.dirs[:, :, None]
        dirs = None
        if field.needs_dirs:
            dirs = local.dirs[:, :, None].expand_as(points).flatten(1, 2)
        sample = field(points.flatten(1, 2), dirs)
        sigma = field.sigma(sample.sigma_raw).view(shape)
        edges = interval_edges(t, span)
        tau = sigma * (edges[..., 1:] - edges[..., :-1])
        return t * placed.factor[:, None, None], tau, sample.feature.view(*shape, -1)

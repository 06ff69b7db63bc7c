"""Ray marching in PyTorch: sample, query the field, composite, in chunks of rays.

It renders any field. The fused kernels take the same `Request` and return the same `RaySums`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_gan3d.cameras import Rays
from lightning_gan3d.contract import Field
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.lowering import Lowered, LoweredField, LoweredGrid, NotLowered
from renderers.compositing import pair_weights, share_pairs, standard_weights
from renderers.config import VolumeRendererConfig
from renderers.sampling import (
    PARTS,
    RaySpan,
    eg3d_importance,
    interval_edges,
    invert_cdf,
    nucleus,
    split_intervals,
    spread,
    stratified,
)

CHUNK, CACHED_CHUNK = 1 << 17, 1 << 14
"""Default number of points per query of the field; on a CPU without gradient, fewer, which stay in
its cache."""


class Jitter(NamedTuple):
    """Random numbers of all rays of a batch; None: deterministic. Independent of chunks."""

    strata: Float[Tensor, "b r s"] | None = None
    """Position within the stratum, in [0, 1)."""
    u: Float[Tensor, "b r f"] | None = None
    """Of the importance samples, in [0, 1)."""
    noise: Float[Tensor, "b r n"] | None = None
    """Added to the raw density of the coarse samples, then of the fine ones."""


class RaySums(NamedTuple):
    """Weighted sums along each ray, and the depths of its first and last sample."""

    feature: Float[Tensor, "b r c"]
    depth: Float[Tensor, "b r 1"]
    opacity: Float[Tensor, "b r 1"]
    nearest: Float[Tensor, "b r 1"]
    farthest: Float[Tensor, "b r 1"]


@dataclass(frozen=True)
class Request:
    """Everything that the rendering of r rays of each of b scenes depends on."""

    options: VolumeRendererConfig
    field: Field
    rays: Rays
    span: RaySpan
    jitter: Jitter

    @cached_property
    def lowered(self) -> Lowered:
        """The field as fused kernels read it."""
        return self.field.lower()

    @property
    def lowered_field(self) -> LoweredField:
        """The same, of a field that kernels support."""
        assert not isinstance(self.lowered, NotLowered)
        return self.lowered

    @property
    def grid(self) -> LoweredGrid:
        """The same, of a field of grids."""
        assert isinstance(self.lowered, LoweredGrid)
        return self.lowered

    def select(self, rays: slice | Tensor, scenes: slice | None = None) -> "Request":
        """Select rays, of all or of some scenes."""
        items = slice(None) if scenes is None else scenes, rays
        return replace(
            self,
            field=self.field if scenes is None else self.field.index(scenes),
            rays=Rays(*(x[items] for x in self.rays)),
            span=RaySpan(*(x[items] for x in self.span)),
            jitter=Jitter(*(None if x is None else x[items] for x in self.jitter)),
        )


def draw_jitter(
    o: VolumeRendererConfig, origins: Float[Tensor, "b r 3"], draws: Draws | None
) -> Jitter:
    """Draw positions of samples and density noise for all rays; nothing without draws."""
    if draws is None:
        return Jitter()
    rays, device = origins.shape[:2], origins.device

    def uniform(purpose: str, num: int) -> Tensor:
        return draws.uniform(purpose, (*rays, num), device, on_device=True).to(origins.dtype)

    strata = uniform("jitter", o.samples_coarse)
    u = uniform("importance", o.samples_fine) if o.samples_fine else None
    noise = None
    if o.density_noise:
        shape = (*rays, o.samples_coarse + o.samples_fine)
        noise = o.density_noise * draws.normal("density_noise", shape, device, on_device=True)
    return Jitter(strata, u, noise)


def render_in_chunks(request: Request) -> RaySums:
    """Render as many rays at a time as the number of points per query of the field allows."""
    recompute = request.options.recompute and torch.is_grad_enabled()
    rows = []
    for scenes, columns in _chunks(request):
        row = request.select(slice(None), scenes)
        chunks = [row.select(column) for column in columns]
        if recompute:
            sums = [
                checkpoint(render_request, x, use_reentrant=False, preserve_rng_state=False)
                for x in chunks
            ]
        else:
            sums = [render_request(x) for x in chunks]
        rows.append(_join(sums, dim=1))
    return _join(rows, dim=0)


def _chunks(request: Request) -> Iterator[tuple[slice, list[slice]]]:
    """Split scenes, then rays, so that no query of the field exceeds `chunk` points."""
    origins, o = request.rays.origins, request.options
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


def _join(chunks: list[RaySums], dim: int) -> RaySums:
    if len(chunks) == 1:
        return chunks[0]
    return RaySums(*(torch.cat(x, dim) for x in zip(*chunks, strict=True)))


class _Samples(NamedTuple):
    sigma_raw: Float[Tensor, "b r s"]
    feature: Float[Tensor, "b r s c"]
    inside: Bool[Tensor, "b r s"] | None


def render_request(request: Request) -> RaySums:
    """Sample coarsely, then finely by the coarse weights, and composite both."""
    o = request.options
    t, span = stratified(request.span, o.samples_coarse, request.jitter.strata, o.rules)
    coarse = _query(request, t, 0)
    if not o.samples_fine:
        weights, opacity = _weights(request, coarse.sigma_raw, coarse.inside, t, span)
        feature = _weighted(weights, coarse.feature)
        return RaySums(feature, _along(weights, t), opacity, t[..., :1], t[..., -1:])
    with torch.no_grad():
        t_fine = _place_fine(request, coarse, t, span)
    fine = _query(request, t_fine, o.samples_coarse)
    t, order = torch.cat([t, t_fine], dim=-1).sort(dim=-1)
    sigma_raw = torch.cat([coarse.sigma_raw, fine.sigma_raw], dim=-1).gather(-1, order)
    inside = None
    if coarse.inside is not None and fine.inside is not None:
        inside = torch.cat([coarse.inside, fine.inside], dim=-1).gather(-1, order)
    weights, opacity = _weights(request, sigma_raw, inside, t, span)
    unsorted = torch.empty_like(weights).scatter(-1, order, weights)
    feature = _weighted(unsorted[..., : o.samples_coarse], coarse.feature)
    feature = feature + _weighted(unsorted[..., o.samples_coarse :], fine.feature)
    return RaySums(feature, _along(weights, t), opacity, t[..., :1], t[..., -1:])


def _query(request: Request, t: Float[Tensor, "b r s"], first: int) -> _Samples:
    """Query the field at samples `first`, first + 1, ... of each ray."""
    field, noise = request.field, request.jitter.noise
    num_rays, samples = t.shape[1:]
    # Channels first, as fields gather and multiply; they receive the transpose, a view.
    origins, dirs = (rearrange(x, "b r c -> b c r 1") for x in request.rays)
    points = torch.addcmul(origins, dirs, t[:, None])
    point_dirs = None
    if field.needs_dirs:
        point_dirs = rearrange(dirs.expand_as(points), "b c r s -> b (r s) c")
    sample = field(rearrange(points, "b c r s -> b (r s) c"), point_dirs)
    sigma_raw = rearrange(sample.sigma_raw, "b (r s) 1 -> b r s", r=num_rays).to(t.dtype)
    if noise is not None:
        sigma_raw = sigma_raw + noise[..., first : first + samples]
    inside = points.abs().amax(dim=1) <= field.box / 2 if request.options.masked else None
    feature = rearrange(sample.feature, "b (r s) c -> b r s c", r=num_rays)
    return _Samples(sigma_raw, feature, inside)


def _weights(
    request: Request,
    sigma_raw: Float[Tensor, "b r s"],
    inside: Bool[Tensor, "b r s"] | None,
    t: Float[Tensor, "b r s"],
    span: RaySpan,
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Return the weight of each sample and the opacity of each ray."""
    if request.options.rules == "eg3d":
        pairs = _pair_weights(request.field, sigma_raw, inside, t)
        return share_pairs(pairs), pairs.sum(-1, keepdim=True)
    sigma = request.field.sigma(sigma_raw)
    if inside is not None:
        sigma = torch.where(inside, sigma, 0.0)
    return standard_weights(sigma, interval_edges(t, span))


def _pair_weights(
    field: Field,
    sigma_raw: Float[Tensor, "b r s"],
    inside: Bool[Tensor, "b r s"] | None,
    t: Float[Tensor, "b r s"],
) -> Float[Tensor, "b r m"]:
    """Weights of the intervals between samples; an interval that leaves the box is empty."""
    sigma = field.sigma((sigma_raw[..., 1:] + sigma_raw[..., :-1]) / 2)
    if inside is not None:
        sigma = torch.where(inside[..., 1:] & inside[..., :-1], sigma, 0.0)
    return pair_weights(sigma, t)


def _place_fine(
    request: Request, coarse: _Samples, t: Float[Tensor, "b r s"], span: RaySpan
) -> Float[Tensor, "b r f"]:
    """Place the fine samples by the weights of the coarse ones."""
    u, o = _uniform(request, t), request.options
    if o.rules == "eg3d":
        weights = _pair_weights(request.field, coarse.sigma_raw, coarse.inside, t)
        return eg3d_importance(t, weights, u)
    edges, inside = interval_edges(t, span), coarse.inside
    if o.importance == "weights":
        weights, _ = _weights(request, coarse.sigma_raw, inside, t, span)
        return invert_cdf(edges, spread(weights), u)
    edges, raw = split_intervals(t, edges, coarse.sigma_raw, inside)
    sigma = request.field.sigma(raw)
    if inside is not None:
        sigma = torch.where(inside.repeat_interleave(PARTS, dim=-1), sigma, 0.0)
    weights, _ = standard_weights(sigma, edges)
    return invert_cdf(edges, nucleus(edges, weights, o.nucleus_mass), u)


def _uniform(request: Request, t: Float[Tensor, "b r s"]) -> Float[Tensor, "b r f"]:
    """Arguments of the inverse distribution: one per stratum of [0, 1), or EG3D's independent u."""
    o, u = request.options, request.jitter.u
    stratum = torch.arange(o.samples_fine, device=t.device, dtype=t.dtype)
    if u is None:
        return ((stratum + 0.5) / o.samples_fine).expand(*t.shape[:2], -1)
    return u if o.rules == "eg3d" else (stratum + u) / o.samples_fine


def ends_of_empty(request: Request) -> tuple[Float[Tensor, "b r 1"], Float[Tensor, "b r 1"]]:
    """Depths of the first and last sample on rays without density, under EG3D's rules."""
    o = request.options
    t, _ = stratified(request.span, o.samples_coarse, request.jitter.strata, o.rules)
    ends = t[..., :1], t[..., -1:]
    if o.samples_fine:
        u = _uniform(request, t)
        u = torch.cat([u.amin(-1, keepdim=True), u.amax(-1, keepdim=True)], dim=-1)
        fine = eg3d_importance(t, torch.zeros_like(t[..., 1:]), u)
        ends = torch.minimum(ends[0], fine[..., :1]), torch.maximum(ends[1], fine[..., 1:])
    return ends


def _weighted(
    weights: Float[Tensor, "b r s"], feature: Float[Tensor, "b r s c"]
) -> Float[Tensor, "b r c"]:
    return (weights[..., None] * feature).sum(dim=2)


def _along(weights: Float[Tensor, "b r s"], t: Float[Tensor, "b r s"]) -> Float[Tensor, "b r 1"]:
    return (weights * t).sum(-1, keepdim=True)

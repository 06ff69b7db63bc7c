"""From rays to sums along them: sample, query the field, weigh. One chunk of rays at a time."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.cameras import Rays
from lightning_gan3d.contract import Field
from lightning_gan3d.draws import Draws
from renderers.compositing import pair_weights, share_pairs, standard_weights
from renderers.config import Rules, VolumeRendererConfig
from renderers.sampling import Span, edges_of, eg3d_importance, invert_cdf, stratified


class Random(NamedTuple):
    """What is drawn for all rays of a batch at once, so that chunks do not change it."""

    jitter: Float[Tensor, "b r s"] | None = None
    u: Float[Tensor, "b r f"] | None = None
    noise: Float[Tensor, "b r n"] | None = None

    def part(self, scenes: slice, rays: slice) -> "Random":
        """Select the draws of a chunk."""
        return Random(*(None if x is None else x[scenes, rays] for x in self))


class Sums(NamedTuple):
    """Sums of weighted samples along each ray, and the ray's first and last sample."""

    feature: Float[Tensor, "b r c"]
    depth: Float[Tensor, "b r 1"]
    opacity: Float[Tensor, "b r 1"]
    nearest: Float[Tensor, "b r 1"]
    farthest: Float[Tensor, "b r 1"]


class _Samples(NamedTuple):
    sigma_raw: Float[Tensor, "b r s"]
    feature: Float[Tensor, "b r s c"]
    inside: Bool[Tensor, "b r s"] | None


def draw(o: VolumeRendererConfig, origins: Float[Tensor, "b r 3"], draws: Draws | None) -> Random:
    """Draw jitter, importance samples and density noise, or nothing."""
    if draws is None:
        return Random()
    rays, device = origins.shape[:2], origins.device

    def uniform(purpose: str, num: int) -> Tensor:
        return draws.uniform(purpose, (*rays, num), device, on_device=True).to(origins.dtype)

    jitter = uniform("jitter", o.samples_coarse)
    u = uniform("importance", o.samples_fine) if o.samples_fine else None
    noise = None
    if o.density_noise:
        shape = (*rays, o.samples_coarse + o.samples_fine)
        noise = o.density_noise * draws.normal("density_noise", shape, device, on_device=True)
    return Random(jitter, u, noise)


def march(o: VolumeRendererConfig, field: Field, rays: Rays, part: Span, random: Random) -> Sums:
    """Sample coarsely, then finely where that found density, and composite both."""
    t, part = stratified(part, o.samples_coarse, random.jitter, o.rules)
    coarse = _query(o, field, rays, t, random.noise, 0)
    if not o.samples_fine:
        weights, opacity = _weigh(o.rules, field, coarse.sigma_raw, coarse.inside, t, part)
        feature = _weighted(weights, coarse.feature)
        return Sums(feature, _along(weights, t), opacity, t[..., :1], t[..., -1:])
    with torch.no_grad():
        t_fine = _place_fine(o, field, coarse, t, part, random.u)
    fine = _query(o, field, rays, t_fine, random.noise, o.samples_coarse)
    t, order = torch.cat([t, t_fine], dim=-1).sort(dim=-1)
    sigma_raw = torch.cat([coarse.sigma_raw, fine.sigma_raw], dim=-1).gather(-1, order)
    inside = None
    if coarse.inside is not None and fine.inside is not None:
        inside = torch.cat([coarse.inside, fine.inside], dim=-1).gather(-1, order)
    weights, opacity = _weigh(o.rules, field, sigma_raw, inside, t, part)
    own = torch.empty_like(weights).scatter(-1, order, weights)  # to where the features lie
    feature = _weighted(own[..., : o.samples_coarse], coarse.feature)
    feature = feature + _weighted(own[..., o.samples_coarse :], fine.feature)
    return Sums(feature, _along(weights, t), opacity, t[..., :1], t[..., -1:])


def _query(
    o: VolumeRendererConfig,
    field: Field,
    rays: Rays,
    t: Float[Tensor, "b r s"],
    noise: Float[Tensor, "b r n"] | None,
    first: int,
) -> _Samples:
    num_rays, samples = t.shape[1:]
    # Channels first, as fields gather and multiply; they are handed the transpose, a view.
    origins, dirs = (rearrange(x, "b r c -> b c r 1") for x in rays)
    points = torch.addcmul(origins, dirs, t[:, None])
    toward = None
    if field.needs_dirs:
        toward = rearrange(dirs.expand_as(points), "b c r s -> b (r s) c")
    sample = field(rearrange(points, "b c r s -> b (r s) c"), toward)
    sigma_raw = rearrange(sample.sigma_raw, "b (r s) 1 -> b r s", r=num_rays).to(t.dtype)
    if noise is not None:
        sigma_raw = sigma_raw + noise[..., first : first + samples]
    inside = None
    if o.masked:
        inside = points.abs().amax(dim=1) <= field.box / 2
    return _Samples(
        sigma_raw, rearrange(sample.feature, "b (r s) c -> b r s c", r=num_rays), inside
    )


def _weigh(
    rules: Rules,
    field: Field,
    sigma_raw: Float[Tensor, "b r s"],
    inside: Bool[Tensor, "b r s"] | None,
    t: Float[Tensor, "b r s"],
    part: Span,
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Return the weight of each sample and the opacity of each ray."""
    if rules == "eg3d":
        pairs = _weigh_pairs(field, sigma_raw, inside, t)
        return share_pairs(pairs), pairs.sum(-1, keepdim=True)
    sigma = field.sigma(sigma_raw)
    if inside is not None:
        sigma = torch.where(inside, sigma, 0.0)
    return standard_weights(sigma, edges_of(t, part))


def _weigh_pairs(
    field: Field,
    sigma_raw: Float[Tensor, "b r s"],
    inside: Bool[Tensor, "b r s"] | None,
    t: Float[Tensor, "b r s"],
) -> Float[Tensor, "b r m"]:
    """Weigh the intervals between samples; one that leaves the box is empty."""
    sigma = field.sigma((sigma_raw[..., 1:] + sigma_raw[..., :-1]) / 2)
    if inside is not None:
        sigma = torch.where(inside[..., 1:] & inside[..., :-1], sigma, 0.0)
    return pair_weights(sigma, t)


def _place_fine(
    o: VolumeRendererConfig,
    field: Field,
    coarse: _Samples,
    t: Float[Tensor, "b r s"],
    part: Span,
    u: Float[Tensor, "b r f"] | None,
) -> Float[Tensor, "b r f"]:
    """Place the fine samples by what the coarse ones found."""
    u = _shares(o, t, u)
    if o.rules == "eg3d":
        return eg3d_importance(t, _weigh_pairs(field, coarse.sigma_raw, coarse.inside, t), u)
    weights, _ = _weigh("standard", field, coarse.sigma_raw, coarse.inside, t, part)
    return invert_cdf(edges_of(t, part), weights, u)


def _shares(
    o: VolumeRendererConfig, t: Float[Tensor, "b r s"], u: Float[Tensor, "b r f"] | None
) -> Float[Tensor, "b r f"]:
    """Shares of mass to place at. Drawn u are one per stratum of [0, 1); EG3D's are independent."""
    stratum = torch.arange(o.samples_fine, device=t.device, dtype=t.dtype)
    if u is None:
        return ((stratum + 0.5) / o.samples_fine).expand(*t.shape[:2], -1)
    return (stratum + u) / o.samples_fine if o.rules == "standard" else u


def ends_of_empty(
    o: VolumeRendererConfig, part: Span, random: Random
) -> tuple[Float[Tensor, "b r 1"], Float[Tensor, "b r 1"]]:
    """Return the first and the last sample that `march` would take of rays that meet nothing."""
    t, part = stratified(part, o.samples_coarse, random.jitter, o.rules)
    ends = t[..., :1], t[..., -1:]
    if o.samples_fine:
        u = _shares(o, t, random.u)
        u = torch.cat([u.amin(-1, keepdim=True), u.amax(-1, keepdim=True)], dim=-1)
        if o.rules == "eg3d":
            fine = eg3d_importance(t, torch.zeros_like(t[..., 1:]), u)
        else:
            fine = invert_cdf(edges_of(t, part), torch.zeros_like(t), u)
        ends = torch.minimum(ends[0], fine[..., :1]), torch.maximum(ends[1], fine[..., 1:])
    return ends


def _weighted(
    weights: Float[Tensor, "b r s"], feature: Float[Tensor, "b r s c"]
) -> Float[Tensor, "b r c"]:
    return (weights[..., None] * feature).sum(dim=2)


def _along(weights: Float[Tensor, "b r s"], t: Float[Tensor, "b r s"]) -> Float[Tensor, "b r 1"]:
    return (weights * t).sum(-1, keepdim=True)

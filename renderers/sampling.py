"""Samples along rays: the rendered span, strata, and importance sampling.

`t` is distance along a unit-length ray, in world units. The rules `eg3d` are those of EG3D's
release (Chan et al. 2022).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_gan3d.cameras import Rays
from renderers.config import Rules, VolumeRendererConfig

PARTS = 4
"""Parts of a coarse interval that a nucleus keeps or drops, each alone."""


class RaySpan(NamedTuple):
    """The rendered part of each ray; its length is zero if the ray misses the bounds."""

    near: Float[Tensor, "b r 1"]
    far: Float[Tensor, "b r 1"]


def slab(rays: Rays, box: float) -> RaySpan:
    """Intersect rays with the cube [-box/2, box/2] (slab method); near > far if a ray misses it."""
    # A ray parallel to a face would divide 0 by 0; 1e-12 is below float32's resolution here.
    tiny = torch.where(rays.dirs < 0, -1e-12, 1e-12)
    inverse = 1 / torch.where(rays.dirs.abs() < 1e-12, tiny, rays.dirs)
    one, two = (-box / 2 - rays.origins) * inverse, (box / 2 - rays.origins) * inverse
    near = torch.minimum(one, two).amax(-1, keepdim=True)
    return RaySpan(near, torch.maximum(one, two).amin(-1, keepdim=True))


def ball(rays: Rays, radius: float) -> RaySpan:
    """Intersect rays with the ball around the world's origin; near > far if a ray misses it."""
    closest = -(rays.origins * rays.dirs).sum(-1, keepdim=True)
    squared = radius**2 - (rays.origins + closest * rays.dirs).square().sum(-1, keepdim=True)
    half = squared.clamp_min(1e-12).sqrt()  # the clamp keeps the gradient of a tangent finite
    return RaySpan(closest - half, torch.where(squared > 0, closest + half, closest - 2 * half))


def ray_span(
    rays: Rays, box: float, o: VolumeRendererConfig
) -> tuple[RaySpan, Float[Tensor, "b r 1"]]:
    """Return the span of each ray within the bounds, and the depth of its background.

    That depth is `far`, or if not given the distance beyond which the bounds end. A ray that misses
    the bounds starts and ends there, whatever the other rays do. (EG3D uses the farthest end in the
    whole batch.)
    """
    if o.far is None:
        reach = box / 2 if o.bounds == "sphere" else box / 2 * 3**0.5
        background = rays.origins.norm(dim=-1, keepdim=True) + reach
    else:
        background = torch.full_like(rays.origins[..., :1], o.far)
    if o.bounds == "near_far":
        return RaySpan(torch.full_like(background, o.near or 0.0), background), background
    near, far = slab(rays, box) if o.bounds == "box" else ball(rays, box / 2)
    near = near.clamp_min(o.near or 0.0)
    far = torch.minimum(far, background)
    hit = far > near
    span = RaySpan(torch.where(hit, near, background), torch.where(hit, far, background))
    return span, background


def stratified(
    span: RaySpan, num: int, jitter: Float[Tensor, "b r s"] | None, rules: Rules
) -> tuple[Float[Tensor, "b r s"], RaySpan]:
    """Place one sample in each stratum: NeRF (Mildenhall et al. 2020) eq. 2.

    `jitter` in [0, 1) is the position within the stratum; None: its middle. `standard` divides the
    span into `num` strata. `eg3d` steps by (far - near) / (num - 1), so that the last stratum is
    [far, far + step]. Returns the samples, and the span of all strata.
    """
    step = (span.far - span.near) / (num if rules == "standard" else num - 1)
    index = torch.arange(num, device=step.device, dtype=step.dtype)
    t = torch.addcmul(span.near, index + (0.5 if jitter is None else jitter), step)
    return t, span if rules == "standard" else RaySpan(span.near, span.far + step)


def interval_edges(t: Float[Tensor, "b r s"], span: RaySpan) -> Float[Tensor, "b r e"]:
    """Edges of one interval per sample: near, the midpoints between samples, far."""
    return torch.cat([span.near, (t[..., 1:] + t[..., :-1]) / 2, span.far], dim=-1)


def invert_cdf(
    edges: Float[Tensor, "b r e"], mass: Float[Tensor, "b r m"], u: Float[Tensor, "b r f"]
) -> Float[Tensor, "b r f"]:
    """Map u in [0, 1) by the inverse of a piecewise-constant distribution; e = m + 1 edges.

    The masses of a ray need not add up to 1, but at least one is positive.
    """
    cdf = torch.cumsum(mass / mass.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1)
    below = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, mass.shape[-1] - 1)
    left, right = cdf.gather(-1, below), cdf.gather(-1, below + 1)
    start, stop = edges.gather(-1, below), edges.gather(-1, below + 1)
    share = ((u - left) / (right - left).clamp_min(1e-8)).clamp(0, 1)
    return torch.lerp(start, stop, share)


def spread(weights: Float[Tensor, "b r m"]) -> Float[Tensor, "b r m"]:
    """Masses in proportion to the weights; an empty ray is sampled evenly over its intervals."""
    return weights + 1e-5


def split_intervals(
    t: Float[Tensor, "b r m"],
    edges: Float[Tensor, "b r e"],
    raw: Float[Tensor, "b r m"],
    inside: Bool[Tensor, "b r m"] | None,
) -> tuple[Float[Tensor, "b r e4"], Float[Tensor, "b r m4"]]:
    """Divide the interval of each sample into PARTS; return all edges, and the raw densities.

    These are interpolated linearly between neighbouring samples; beyond the first, the last, and
    samples outside the box they are constant.
    """
    start, stop = edges[..., :-1, None], edges[..., 1:, None]
    part = torch.arange(PARTS, device=t.device, dtype=t.dtype) / PARTS
    ends = torch.lerp(start, stop, part).flatten(-2)
    middles = torch.lerp(start, stop, part + 0.5 / PARTS)
    before = middles < t[..., None]
    other_t, other_raw, other_inside = (
        None if x is None else torch.where(before, *_neighbours(x)) for x in (t, raw, inside)
    )
    assert other_t is not None
    assert other_raw is not None
    if other_inside is not None:
        other_raw = torch.where(other_inside, other_raw, raw[..., None])
    distance = other_t - t[..., None]
    share = (middles - t[..., None]) / torch.where(distance == 0, 1.0, distance)
    ends = torch.cat([ends, edges[..., -1:]], dim=-1)
    return ends, torch.lerp(raw[..., None].expand_as(share), other_raw, share).flatten(-2)


def _neighbours(x: Shaped[Tensor, "b r m"]) -> tuple[Tensor, Tensor]:
    """The samples before and after each one; at the ends, the sample itself."""
    before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
    return before[..., None], torch.cat([x[..., 1:], x[..., -1:]], dim=-1)[..., None]


def nucleus(
    edges: Float[Tensor, "b r e"], weights: Float[Tensor, "b r m"], share: float
) -> Float[Tensor, "b r m"]:
    """Masses that are uniform over the fewest intervals which hold `share` of a ray's weight.

    The robust sampling of Trevithick et al. (2024). An interval is kept if the heavier ones, of
    equal ones the nearer, do not hold the share without it. An empty ray keeps all.
    """
    heaviest, order = weights.sort(dim=-1, descending=True, stable=True)
    total = heaviest.sum(-1, keepdim=True)
    kept = (heaviest.cumsum(-1) - heaviest < share * total) | (total <= 0)
    kept = torch.zeros_like(kept).scatter(-1, order, kept)
    # A ray that misses the bounds has intervals of length 0.
    return torch.where(kept, (edges[..., 1:] - edges[..., :-1]).clamp_min(1e-6), 0.0)


def eg3d_importance(
    t: Float[Tensor, "b r s"], weights: Float[Tensor, "b r m"], u: Float[Tensor, "b r f"]
) -> Float[Tensor, "b r f"]:
    """Importance sampling of EG3D's release, from the m = s - 1 weights between samples.

    Neighbouring weights are max-pooled, averaged, and raised by 0.01. These masses omit both ends,
    but are paired with the midpoints counted from the first: mass moves half an interval toward the
    camera, and no sample reaches the last midpoint.
    """
    pooled = torch.maximum(weights[..., :-1], weights[..., 1:])
    smooth = (pooled[..., :-1] + pooled[..., 1:]) / 2 + 0.01
    midpoints = (t[..., 1:] + t[..., :-1]) / 2
    return invert_cdf(midpoints[..., :-1], spread(smooth), u)

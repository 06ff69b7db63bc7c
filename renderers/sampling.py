"""Where a ray is sampled: its part within the bounds, strata along it, importance sampling.

`t` is distance along a unit-length ray, in world units. What EG3D's release (Chan et al. 2022) does
differently is an option.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from renderers.config import Bounds, Rules


class Span(NamedTuple):
    """The part of each ray that is rendered; of length zero where a ray misses the bounds."""

    near: Float[Tensor, "b r 1"]
    far: Float[Tensor, "b r 1"]


def slab(origins: Float[Tensor, "b r 3"], dirs: Float[Tensor, "b r 3"], box: float) -> Span:
    """Enter and leave the cube [-box/2, box/2]; near > far where a ray misses it (slab method)."""
    # A ray parallel to a face would divide 0 by 0; so small a slope moves nothing in float32.
    tiny = torch.where(dirs < 0, -1e-12, 1e-12)
    inverse = 1 / torch.where(dirs.abs() < 1e-12, tiny, dirs)
    one, two = (-box / 2 - origins) * inverse, (box / 2 - origins) * inverse
    near = torch.minimum(one, two).amax(-1, keepdim=True)
    return Span(near, torch.maximum(one, two).amin(-1, keepdim=True))


def ball(origins: Float[Tensor, "b r 3"], dirs: Float[Tensor, "b r 3"], radius: float) -> Span:
    """Enter and leave the ball around the world's origin; near > far where a ray misses it."""
    closest = -(origins * dirs).sum(-1, keepdim=True)
    squared = radius**2 - (origins + closest * dirs).square().sum(-1, keepdim=True)
    half = squared.clamp_min(1e-12).sqrt()  # the clamp keeps the gradient of a tangent finite
    return Span(closest - half, torch.where(squared > 0, closest + half, closest - 2 * half))


def span(
    origins: Float[Tensor, "b r 3"],
    dirs: Float[Tensor, "b r 3"],
    box: float,
    bounds: Bounds,
    near: float | None,
    far: float | None,
) -> tuple[Span, Float[Tensor, "b r 1"]]:
    """Bound each ray, and return the depth of its background.

    That depth is `far`, or where none is given the distance beyond which nothing of the bounds can
    lie. A ray that misses the bounds begins and ends there. Each ray is decided alone. (EG3D gives
    rays that miss the farthest end in the whole batch.)
    """
    if far is None:
        reach = box / 2 if bounds == "sphere" else box / 2 * 3**0.5
        background = origins.norm(dim=-1, keepdim=True) + reach
    else:
        background = torch.full_like(origins[..., :1], far)
    if bounds == "near_far":
        return Span(torch.full_like(background, near or 0.0), background), background
    enter, leave = slab(origins, dirs, box) if bounds == "box" else ball(origins, dirs, box / 2)
    enter = enter.clamp_min(near or 0.0)
    leave = torch.minimum(leave, background)
    hit = leave > enter
    part = Span(torch.where(hit, enter, background), torch.where(hit, leave, background))
    return part, background


def stratified(
    part: Span, num: int, jitter: Float[Tensor, "b r s"] | None, rules: Rules
) -> tuple[Float[Tensor, "b r s"], Span]:
    """Place one sample in each stratum: NeRF (Mildenhall et al. 2020) eq. 2.

    `jitter` in [0, 1) places it within its stratum, None in the middle. `standard` cuts [near,
    far] into `num` strata. `eg3d` steps by (far - near) / (num - 1), so that the last stratum is
    [far, far + step]. Returned with the samples: what the strata span.
    """
    step = (part.far - part.near) / (num if rules == "standard" else num - 1)
    index = torch.arange(num, device=step.device, dtype=step.dtype)
    t = torch.addcmul(part.near, index + (0.5 if jitter is None else jitter), step)
    return t, part if rules == "standard" else Span(part.near, part.far + step)


def edges_of(t: Float[Tensor, "b r s"], part: Span) -> Float[Tensor, "b r e"]:
    """Cut the ray into an interval per sample: at near, midway between samples, and at far."""
    return torch.cat([part.near, (t[..., 1:] + t[..., :-1]) / 2, part.far], dim=-1)


def invert_cdf(
    edges: Float[Tensor, "b r e"], mass: Float[Tensor, "b r m"], u: Float[Tensor, "b r f"]
) -> Float[Tensor, "b r f"]:
    """Map u in [0, 1) by the inverse of a piecewise-constant distribution; e = m + 1 edges."""
    mass = mass + 1e-5  # an empty ray is sampled everywhere
    cdf = torch.cumsum(mass / mass.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1)
    below = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, mass.shape[-1] - 1)
    left, right = cdf.gather(-1, below), cdf.gather(-1, below + 1)
    start, stop = edges.gather(-1, below), edges.gather(-1, below + 1)
    share = ((u - left) / (right - left).clamp_min(1e-8)).clamp(0, 1)
    return torch.lerp(start, stop, share)


def eg3d_importance(
    t: Float[Tensor, "b r s"], weights: Float[Tensor, "b r m"], u: Float[Tensor, "b r f"]
) -> Float[Tensor, "b r f"]:
    """Importance sampling as EG3D's release does it, from the m = s - 1 weights between samples.

    Neighbouring weights are max-pooled, then averaged, and raised by 0.01. These masses leave out
    both ends, but meet the midpoints counted from the first: mass moves half an interval toward the
    camera, and the last midpoint is out of reach.
    """
    pooled = torch.maximum(weights[..., :-1], weights[..., 1:])
    smooth = (pooled[..., :-1] + pooled[..., 1:]) / 2 + 0.01
    midpoints = (t[..., 1:] + t[..., :-1]) / 2
    return invert_cdf(midpoints[..., :-1], smooth, u)

"""Where a ray is sampled: its part within the bounds, strata along it, and importance sampling.

`t` is distance along a unit-length ray, in world units. EG3D's variants (Chan et al. 2022, as released) are options.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Bounds = Literal["near_far", "box", "sphere"]
Strata = Literal["within", "eg3d"]
Importance = Literal["standard", "eg3d"]


class Span(NamedTuple):
    """The part of each ray that is rendered. A ray that misses the bounds has near = far, length zero."""

    near: Float[Tensor, "b r 1"]
    far: Float[Tensor, "b r 1"]


def slab(origins: Float[Tensor, "b r 3"], dirs: Float[Tensor, "b r 3"], box: float) -> Span:
    """Enter and leave the cube [-box/2, box/2]; a ray that misses it enters after it leaves (slab method)."""
    # A direction within a face's plane would divide 0 by 0; this far below float32's resolution it moves nothing.
    tiny = torch.where(dirs < 0, -1e-12, 1e-12)
    inverse = 1 / torch.where(dirs.abs() < 1e-12, tiny, dirs)
    one, two = (-box / 2 - origins) * inverse, (box / 2 - origins) * inverse
    return Span(
        torch.minimum(one, two).amax(-1, keepdim=True),
        torch.maximum(one, two).amin(-1, keepdim=True),
    )


def ball(origins: Float[Tensor, "b r 3"], dirs: Float[Tensor, "b r 3"], radius: float) -> Span:
    """Enter and leave the ball around the world origin; a ray that misses it enters after it leaves."""
    closest = -(origins * dirs).sum(-1, keepdim=True)
    squared = radius**2 - (origins + closest * dirs).square().sum(-1, keepdim=True)
    half = squared.clamp_min(1e-12).sqrt()  # the clamp keeps the gradient of a tangent ray finite
    return Span(closest - half, torch.where(squared > 0, closest + half, closest - 2 * half))


def outer_distance(
    origins: Float[Tensor, "b r 3"], box: float, bounds: Bounds
) -> Float[Tensor, "b r 1"]:
    """Distance beyond which nothing of the bounds can lie, seen from each origin: the depth of the background."""
    reach = box / 2 if bounds == "sphere" else box / 2 * 3**0.5
    return origins.norm(dim=-1, keepdim=True) + reach


def span(
    origins: Float[Tensor, "b r 3"],
    dirs: Float[Tensor, "b r 3"],
    box: float,
    bounds: Bounds,
    near: float | None,
    far: float | None,
) -> tuple[Span, Float[Tensor, "b r 1"]]:
    """Bound each ray, and return the depth of its background: `far`, or the outer distance where none is given.

    Decided for each ray alone. (EG3D gives a ray that misses the farthest end of the whole batch.)
    """
    outer = outer_distance(origins, box, bounds)
    if far is not None:
        outer = torch.full_like(outer, far)
    if bounds == "near_far":
        assert near is not None and far is not None, "checked by the configuration"
        return Span(torch.full_like(outer, near), outer), outer
    enter, leave = slab(origins, dirs, box) if bounds == "box" else ball(origins, dirs, box / 2)
    enter = enter.clamp_min(0.0 if near is None else near)
    leave = torch.minimum(leave, outer)
    hit = leave > enter
    return Span(torch.where(hit, enter, outer), torch.where(hit, leave, outer)), outer


def stratified(
    bounds: Span, num: int, jitter: Float[Tensor, "b r s"] | None, strata: Strata
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Place one sample in each stratum (NeRF, Mildenhall et al. 2020, eq. 2); return them and where the last one ends.

    `jitter` in [0, 1) places it within the stratum; None takes the middle. `within` cuts [near, far] into `num`
    strata. `eg3d` steps by (far - near) / (num - 1), so that the last stratum is [far, far + step].
    """
    step = (bounds.far - bounds.near) / (num if strata == "within" else num - 1)
    index = torch.arange(num, device=step.device, dtype=step.dtype)
    index = index + (0.5 if jitter is None else jitter)
    t = torch.addcmul(bounds.near, index, step)
    return t, (bounds.far if strata == "within" else bounds.far + step)


def edges_of(
    t: Float[Tensor, "b r s"], near: Float[Tensor, "b r 1"], end: Float[Tensor, "b r 1"]
) -> Float[Tensor, "b r e"]:
    """Cut the ray into one interval per sample: at near, midway between samples, and at its end."""
    return torch.cat([near, (t[..., 1:] + t[..., :-1]) / 2, end], dim=-1)


def invert_cdf(
    edges: Float[Tensor, "b r e"], mass: Float[Tensor, "b r m"], u: Float[Tensor, "b r f"]
) -> Float[Tensor, "b r f"]:
    """Map u in [0, 1) through the inverse of a piecewise-constant distribution; e = m + 1 edges."""
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
    """Importance sampling as EG3D's release does it, from the m = s - 1 weights of adjacent pairs.

    Weights are max-pooled and averaged over neighbours and get +0.01; the interior ones, without the first and the
    last, meet the midpoints counted from the first: mass moves half an interval toward the camera, and the last
    midpoint is out of reach.
    """
    padded = torch.nn.functional.pad(weights, (1, 1), value=-torch.inf)
    pooled = torch.maximum(padded[..., :-1], padded[..., 1:])
    smooth = (pooled[..., :-1] + pooled[..., 1:]) / 2 + 0.01
    midpoints = (t[..., 1:] + t[..., :-1]) / 2
    return invert_cdf(midpoints[..., :-1], smooth[..., 1:-1], u)

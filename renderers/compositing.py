"""Compositing: quadrature weights along a ray, and the depth of a ray.

Each rule gives one weight per sample, so that a pixel is a weighted sum of features in any order:
merging coarse and fine samples sorts scalars, never features.
"""

import torch
from jaxtyping import Float
from torch import Tensor

EMPTY = 1e-3
"""Opacity below which a ray counts as empty and gets the depth of the background."""


def standard_weights(
    sigma: Float[Tensor, "b r s"], edges: Float[Tensor, "b r e"]
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Return the weights T_i (1 - exp(-sigma_i delta_i)), and their sum, the opacity.

    NeRF (Mildenhall et al. 2020) eq. 3. `sigma`: density per world unit, >= 0, constant within its
    interval; `edges`: the e = s + 1 ends of the intervals. Constant density over length L gives the
    opacity 1 - exp(-sigma L) for any number of samples. (NeRF's last interval is infinite; ours
    ends with the ray.)
    """
    return weights_of(sigma * (edges[..., 1:] - edges[..., :-1]))


def weights_of(
    tau: Float[Tensor, "b r s"],
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Return the weights of intervals of optical depth tau along a ray, and the opacity."""
    total = torch.cumsum(tau, dim=-1)
    weights = -torch.expm1(-tau) * torch.exp(tau - total)
    return weights, -torch.expm1(-total[..., -1:])


def pair_weights(
    sigma: Float[Tensor, "b r m"], t: Float[Tensor, "b r s"]
) -> Float[Tensor, "b r m"]:
    """EG3D's weights of the m = s - 1 intervals between samples; `sigma`: density at their middle.

    The ray before the first sample and after the last one is empty.
    """
    alpha = -torch.expm1(-sigma * (t[..., 1:] - t[..., :-1]))
    trans = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * torch.cat([torch.ones_like(trans[..., :1]), trans[..., :-1]], dim=-1)


def share_pairs(weights: Float[Tensor, "b r m"]) -> Float[Tensor, "b r s"]:
    """Give each end half of its pair's weight: sum w_i (c_i + c_i+1) / 2 = sum omega_i c_i."""
    zero = torch.zeros_like(weights[..., :1])
    return (torch.cat([zero, weights], dim=-1) + torch.cat([weights, zero], dim=-1)) / 2


def expected_depth(
    depth_sum: Float[Tensor, "*s"], opacity: Float[Tensor, "*s"], background: Float[Tensor, "*s"]
) -> Float[Tensor, "*s"]:
    """Expected distance, sum w t / opacity; that of the background if the ray is empty."""
    return torch.where(opacity < EMPTY, background, depth_sum / opacity.clamp_min(EMPTY))


def clamped_depth(
    depth_sum: Float[Tensor, "b r 1"],
    opacity: Float[Tensor, "b r 1"],
    nearest: Float[Tensor, ""],
    farthest: Float[Tensor, ""],
) -> Float[Tensor, "b r 1"]:
    """EG3D's depth: sum w t / sum w (0 / 0 is infinite), clamped to the range of all samples."""
    hit = opacity > 0
    depth = torch.where(hit, depth_sum / torch.where(hit, opacity, 1.0), torch.inf)
    return torch.minimum(torch.maximum(depth, nearest), farthest)

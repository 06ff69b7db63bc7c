"""How samples become a pixel: quadrature weights along a ray, and the depth that they mean.

Each rule returns one weight per sample, so that a pixel is a weighted sum of features: the order of the samples
matters to scalars alone, and features of coarse and fine samples are never sorted.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Compositing = Literal["standard", "eg3d"]

EMPTY = 1e-3
"""Opacity below which a ray has no surface, and its depth is that of the background."""


def standard_weights(
    sigma: Float[Tensor, "b r s"], edges: Float[Tensor, "b r e"]
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Quadrature weights T_i (1 - exp(-sigma_i delta_i)), NeRF (Mildenhall et al. 2020) eq. 3, and their sum.

    `sigma`: density per world unit, >= 0, constant within its interval; `edges`: the s + 1 ends of the intervals.
    Constant density over length L gives the opacity 1 - exp(-sigma L) for any number of samples. (NeRF's last
    interval is infinite; here it ends with the ray.)
    """
    tau = sigma * (edges[..., 1:] - edges[..., :-1])
    total = torch.cumsum(tau, dim=-1)
    weights = -torch.expm1(-tau) * torch.exp(tau - total)
    return weights, -torch.expm1(-total[..., -1:])


def pair_weights(
    sigma: Float[Tensor, "b r m"], t: Float[Tensor, "b r s"]
) -> Float[Tensor, "b r m"]:
    """EG3D's weights of the m = s - 1 intervals between adjacent samples; `sigma` is taken at their middles.

    Both ends of the ray are left out: what lies before the first and after the last sample absorbs nothing.
    """
    alpha = -torch.expm1(-sigma * (t[..., 1:] - t[..., :-1]))
    trans = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * torch.cat([torch.ones_like(trans[..., :1]), trans[..., :-1]], dim=-1)


def share_pairs(weights: Float[Tensor, "b r m"]) -> Float[Tensor, "b r s"]:
    """Give half of each pair's weight to either sample: sum w_i (c_i + c_i+1) / 2 = sum omega_i c_i."""
    none = torch.zeros_like(weights[..., :1])
    return (torch.cat([none, weights], dim=-1) + torch.cat([weights, none], dim=-1)) / 2


def expected_depth(
    depth_sum: Float[Tensor, "b r 1"],
    opacity: Float[Tensor, "b r 1"],
    background: Float[Tensor, "b r 1"],
) -> Float[Tensor, "b r 1"]:
    """Expected distance of what stops the ray: sum w t / opacity, and the background's where nothing does."""
    return torch.where(opacity < EMPTY, background, depth_sum / opacity.clamp_min(EMPTY))


def clamped_depth(
    depth_sum: Float[Tensor, "b r 1"],
    opacity: Float[Tensor, "b r 1"],
    nearest: Float[Tensor, ""],
    farthest: Float[Tensor, ""],
) -> Float[Tensor, "b r 1"]:
    """EG3D's depth: sum w t / sum w, not a number becoming infinite, clamped to the samples of the whole batch."""
    depth = torch.where(opacity > 0, depth_sum / opacity.clamp_min(1e-38), torch.inf)
    return torch.minimum(torch.maximum(depth, nearest), farthest)

"""PSNR, and SSIM of images in which only some pixels are valid."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d

LEAST_ERROR = 1e-10
"""Squared error at which PSNR saturates, at 100 dB: equal images would have infinity."""
WINDOW, SIGMA = 11, 1.5
"""Side and deviation in pixels of SSIM's Gaussian window (Wang et al. 2004, section III-B)."""
LEAST_SHARE = 0.5
"""Share of a window's weight that must lie on valid pixels."""


def psnr(squared_error: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Peak signal-to-noise ratio in dB of a mean squared error in [0, 1] images; at most 100."""
    return -10 * squared_error.clamp(min=LEAST_ERROR).log10()


def ssim_map(
    a: Float[Tensor, "v c h w"], b: Float[Tensor, "v c h w"], valid: Bool[Tensor, "v 1 h w"]
) -> tuple[Float[Tensor, "v h1 w1"], Bool[Tensor, "v h1 w1"]]:
    """Return SSIM of [0, 1] images per window, and which windows count.

    Wang et al. 2004, eq. 13, mean over channels, for windows entirely inside the image. Means,
    variances and covariance are those of a window's valid pixels, their weights normalised to 1. A
    window counts if its centre and at least half of its weight are valid. If all pixels are valid,
    the mean over windows is the usual SSIM. Images below 11 pixels have no window.
    """
    v, c, h, w = a.shape
    if min(h, w) < WINDOW:
        return a.new_zeros(v, 0, 0), valid.new_zeros(v, 0, 0)
    offset = torch.arange(WINDOW, device=a.device, dtype=a.dtype) - WINDOW // 2
    line = torch.exp(-offset.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def smooth(x: Tensor) -> Tensor:
        flat = rearrange(x, "v c h w -> (v c) 1 h w")
        flat = conv2d(conv2d(flat, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
        return rearrange(flat, "(v c) 1 h w -> v c h w", v=v)

    mask = valid.to(a.dtype)
    # Replace rather than multiply: invalid pixels may be NaN.
    a, b = torch.where(valid, a, 0.0), torch.where(valid, b, 0.0)
    weight = smooth(mask)
    sums = smooth(torch.cat([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, square_a, square_b, product = torch.split(
        sums / weight.clamp(min=1e-6), c, dim=1
    )
    var_a = (square_a - mean_a.square()).clamp(min=0)
    var_b = (square_b - mean_b.square()).clamp(min=0)
    covariance = product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
    r = WINDOW // 2
    counts = valid[:, 0, r : h - r, r : w - r] & (weight[:, 0] >= LEAST_SHARE)
    return similarity.mean(dim=1), counts

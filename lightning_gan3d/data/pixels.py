"""The one pair of conversions between stored images (uint8) and images in [-1, 1]."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_float(image: UInt8[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return an image in [-1, 1]: 0 becomes -1 and 255 becomes 1."""
    return image.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(image: Float[Tensor, "*s"]) -> UInt8[Tensor, "*s"]:
    """Return an image as it is stored: clipped to [-1, 1], then the nearest of 0..255."""
    return image.float().mul(127.5).add_(128.0).clamp_(0, 255).to(torch.uint8)

"""Image containers, conversion to and from uint8, and resizing."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class Rendering(NamedTuple):
    """A renderer's output: `feature` in [-1, 1], rgb first; `depth`, the expected distance."""

    feature: Float[Tensor, "v c h w"]
    depth: Float[Tensor, "v 1 h w"] | None
    opacity: Float[Tensor, "v 1 h w"] | None


class Images(NamedTuple):
    """A generator's output and a discriminator's input.

    Images are in [-1, 1]; `image_raw` is the rendering before super-resolution, at the rendering
    resolution h0; `depth` is the distance along the ray in world units.
    """

    image: Float[Tensor, "v 3 h w"]
    image_raw: Float[Tensor, "v 3 h0 w0"]
    depth: Float[Tensor, "v 1 h0 w0"] | None = None
    opacity: Float[Tensor, "v 1 h0 w0"] | None = None


def to_float(image: UInt8[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Convert a stored image to [-1, 1]: 0 becomes -1 and 255 becomes 1."""
    return image.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(image: Float[Tensor, "*s"]) -> UInt8[Tensor, "*s"]:
    """Convert an image in [-1, 1] to 0..255: clip, then round to nearest."""
    return image.float().mul(127.5).add_(128.0).clamp_(0, 255).to(torch.uint8)


def quantise(image: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Round an image to 8 bits, as if it were stored and read; values that are not finite are NaN.

    No metric may turn NaN or infinity into a number.
    """
    image = image.float()
    return torch.where(image.isfinite(), to_float(to_uint8(image)), torch.nan)


def resize(image: Float[Tensor, "v c h w"], resolution: int) -> Float[Tensor, "v c r r"]:
    """Resize bilinearly with antialiasing; returns the same tensor if the size fits already."""
    if image.shape[-1] == resolution:
        return image
    return nn.functional.interpolate(
        image, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True
    )

"""The discriminator's input: real images reduced as fakes are, and blur at the start."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d

from lightning_gan3d.images import Images, resize, to_float


def real_pair(stored: UInt8[Tensor, "v 3 h w"], rendering_resolution: int, reduced: bool) -> Images:
    """Return real images as a generator would; `image_raw` is an antialiased reduction.

    `reduced`: the generator has no super-resolution and enlarges its rendering. Real images are
    then reduced and enlarged too, or the discriminator would separate them by sharpness alone.
    """
    image = to_float(stored)
    image_raw = resize(image, rendering_resolution)
    return Images(resize(image_raw, image.shape[-1]) if reduced else image, image_raw)


def blur_kernel(sigma: float) -> Float[Tensor, " k"]:
    """Weights 2 ** -(i / sigma)^2, |i| <= floor(3 sigma), normalised, as EG3D."""
    radius = math.floor(3 * sigma)
    i = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp2(-((i / sigma) ** 2))
    return kernel / kernel.sum()


def blur(image: Float[Tensor, "v c h w"], sigma: float) -> Float[Tensor, "v c h w"]:
    """Blur by `sigma` pixels with zero padding. A radius below one pixel does nothing."""
    if math.floor(3 * sigma) < 1:
        return image
    kernel = blur_kernel(sigma).to(image)
    radius = len(kernel) // 2
    x = rearrange(image, "v c h w -> (v c) 1 h w")
    x = conv2d(x, kernel[None, None, :, None], padding=(radius, 0))
    x = conv2d(x, kernel[None, None, None, :], padding=(0, radius))
    return rearrange(x, "(v c) 1 h w -> v c h w", v=image.shape[0])


def blur_pair(images: Images, sigma: float, real: bool, eg3d: bool) -> Images:
    """Blur `image` by `sigma` of its pixels, and `image_raw` in proportion.

    `eg3d`: blur `image_raw` only if real, by `sigma` of its own, larger pixels.
    """
    if sigma <= 0:
        return images
    image, image_raw = images.image, images.image_raw
    scaled = sigma if eg3d else sigma * image_raw.shape[-1] / image.shape[-1]
    return Images(blur(image, sigma), blur(image_raw, scaled) if real or not eg3d else image_raw)

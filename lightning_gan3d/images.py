"""Containers of images and renderings; conversion, resizing, blur. Images are in [-1, 1]."""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate


class Layers(NamedTuple):
    """The n objects and the background of a rendering; features are in [0, 1].

    The feature of a pixel is the sum of `objects` + (1 - sum of `mask`) * `background`.
    """

    objects: Float[Tensor, "v n c h w"]
    """Features of each object times its mask."""
    mask: Float[Tensor, "v n h w"]
    """Visible share of each object in each pixel."""
    background: Float[Tensor, "v c h w"]
    codes: tuple[int, ...]
    """`Placed.code` of each object."""


class Rendering(NamedTuple):
    """A renderer's output: `feature` in [-1, 1], rgb first; `depth`, the expected distance."""

    feature: Float[Tensor, "v c h w"]
    depth: Float[Tensor, "v 1 h w"] | None
    opacity: Float[Tensor, "v 1 h w"] | None
    layers: Layers | None = None
    """Of scenes of parts."""


class Images(NamedTuple):
    """A generator's output and a discriminator's input.

    Images are in [-1, 1]; `image_raw` is the rendering before super-resolution, at the rendering
    resolution h0; `depth` is the distance along the ray in world units.
    """

    image: Float[Tensor, "v 3 h w"]
    image_raw: Float[Tensor, "v 3 h0 w0"]
    depth: Float[Tensor, "v 1 h0 w0"] | None = None
    opacity: Float[Tensor, "v 1 h0 w0"] | None = None
    mask: Float[Tensor, "v n h1 w1"] | None = None
    """Visible share of each object in each pixel, for scenes of parts."""
    boxes: Float[Tensor, "v m 4"] | None = None
    """Boxes of objects for `discriminator.objects`: left, top, right, bottom, in units of the image
    size; NaN for missing objects. They have no gradient."""


class Upscaled(NamedTuple):
    """A head's output: the image and the rendered colours in [-1, 1], and the objects' masks."""

    image: Float[Tensor, "v 3 r r"]
    image_raw: Float[Tensor, "v 3 h w"]
    mask: Float[Tensor, "v n h1 w1"] | None = None
    """None: those of the rendering."""


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


def recolour(images: Images, colour: Float[Tensor, "v 3 1 1"], background: float) -> Images:
    """Replace a solid background by another: image + (1 - opacity) (colour - background).

    Colours are in [-1, 1]. `opacity` has the size of the image or of `image_raw`; there is no
    super-resolution beyond `resize`.
    """
    assert images.opacity is not None, "checked with the configuration"
    change = (1 - images.opacity) * (colour - background)
    image = images.image + resize(change, images.image.shape[-1])
    return images._replace(
        image=image, image_raw=images.image_raw + resize(change, images.image_raw.shape[-1])
    )


def real_pair(stored: UInt8[Tensor, "v 3 h w"], rendering_resolution: int, reduced: bool) -> Images:
    """Return real images as a generator would; `image_raw` is an antialiased reduction.

    `reduced`: the generator has no super-resolution and enlarges its rendering. Real images are
    then reduced and enlarged too, or the discriminator would separate them by sharpness alone.
    """
    image = to_float(stored)
    image_raw = resize(image, rendering_resolution)
    return Images(resize(image_raw, image.shape[-1]) if reduced else image, image_raw)


def at_level(
    image: Float[Tensor, "v c h w"], resolution: int, alpha: float = 1.0
) -> Float[Tensor, "v c r r"]:
    """Reduce by means of square blocks; mix in 1 - alpha of means of 2 x 2 pixels (ProGAN)."""
    factor = image.shape[-1] // resolution
    image = image if factor == 1 else avg_pool2d(image, factor)
    if alpha == 1:
        return image
    return interpolate(avg_pool2d(image, 2), scale_factor=2).lerp(image, alpha)


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

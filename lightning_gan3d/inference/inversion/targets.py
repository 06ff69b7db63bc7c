"""Images that a generator is to show: reading with crop and mask, and distances to them."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lightning_gan3d.config import ConfigError
from lightning_gan3d.images import resize
from lightning_gan3d.metrics.consistency.image_similarity import LEAST_SIDE, LpipsMap


class Target(NamedTuple):
    """An image in [-1, 1], and the weights of its pixels in [0, 1]; it is 0 where they are 0."""

    image: Float[Tensor, "1 3 r r"]
    mask: Float[Tensor, "1 1 r r"]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Left, top, width and height of the crop, in units of the file's image."""

    @property
    def digest(self) -> str:
        """Digest of image and mask."""
        content = self.image.cpu().numpy().tobytes() + self.mask.cpu().numpy().tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def to(self, device: torch.device) -> "Target":
        """Move image and mask."""
        return self._replace(image=self.image.to(device), mask=self.mask.to(device))


def read_target(path: Path, resolution: int, crop: str = "", mask: Path | None = None) -> Target:
    """Read an image, its alpha channel or another file as mask; crop to a square and resize.

    `crop`: LEFT:TOP:SIDE in pixels, default the central square. Pixels outside the mask do not
    influence the result. Raises ConfigError, which names the file.
    """
    rgba = _read(path, "RGBA")
    height, width = rgba.shape[:2]
    left, top, side = _square(crop, width, height, path)
    if mask is not None:
        weights = _read(mask, "L")
        if weights.shape != rgba.shape[:2]:
            raise ConfigError(
                f"mask={mask}: {weights.shape[1]}x{weights.shape[0]}, but {path} is "
                f"{width}x{height}",
                field="mask",
            )
        rgba[..., 3] = weights
    square = torch.from_numpy(rgba[top : top + side, left : left + side]).permute(2, 0, 1)[None]
    weight = square[:, 3:].float() / 255
    image = square[:, :3].float() / 127.5 - 1
    small = resize(weight, resolution)
    if not bool((small > 0).any()):
        raise ConfigError(f"{mask or path}: the mask is empty inside the crop")
    image = resize(image * weight, resolution) / small.clamp(min=1e-6)
    box = (left / width, top / height, side / width, side / height)
    return Target(image * (small > 0), small, box)


def _read(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as file:
            if file.mode.startswith("I"):  # Pillow would clip it at 255
                raise ValueError("16-bit grey; convert it to 8 bits")
            return np.array(ImageOps.exif_transpose(file).convert(mode))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not a readable image: {error}") from None


def _square(crop: str, width: int, height: int, path: Path) -> tuple[int, int, int]:
    """Parse a crop and check that it is inside the image."""
    if not crop:
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, side
    try:
        left, top, side = (int(part) for part in crop.split(":"))
    except ValueError:
        raise ConfigError(
            f"crop={crop}: use LEFT:TOP:SIDE in pixels, e.g. 20:0:256", field="crop"
        ) from None
    if left < 0 or top < 0 or side < 1 or left + side > width or top + side > height:
        raise ConfigError(f"crop={crop}: not inside {path}, {width}x{height}", field="crop")
    return left, top, side


def image_distance(
    image: Float[Tensor, "v 3 r r"], target: Target, levels: int = 4
) -> Float[Tensor, " v"]:
    """Mean squared error over an image pyramid of halved sizes, weighted by the target's mask."""
    difference = (image - target.image) * target.mask
    total = torch.zeros(len(image), device=image.device, dtype=image.dtype)
    num = 0
    for _ in range(levels):
        total = total + difference.square().flatten(1).mean(dim=1)
        num += 1
        if difference.shape[-1] < 8:
            break
        difference = avg_pool2d(difference, 2)
    return total / (num * target.mask.square().mean())


def perceptual_distance(
    image: Float[Tensor, "v 3 r r"], target: Target, lpips: LpipsMap
) -> Float[Tensor, " v"]:
    """LPIPS with a gradient, mean over the mask; 0 for images that are too small for it."""
    if image.shape[-1] < LEAST_SIDE:
        return image.new_zeros(len(image))
    shown = torch.where(target.mask > 0, image, target.image)
    distance: Tensor = lpips.net.to(image.device)(shown, target.image.expand_as(image))
    return (distance * target.mask).flatten(1).sum(dim=1) / target.mask.sum()


def noise_regulariser(maps: list[Tensor]) -> Tensor:
    """Squared correlation of noise maps with themselves, shifted by one pixel along each axis.

    Over a pyramid of halved sizes down to 8 (Karras et al. 2020, appendix D); for volumes too.
    """
    total = torch.zeros([], device=maps[0].device)
    for noise in maps:
        x = noise
        while True:
            for axis in range(x.ndim):
                total = total + (x * x.roll(1, dims=axis)).mean().square()
            if x.shape[-1] <= 8:
                break
            for axis in range(x.ndim):
                even, odd = torch.unbind(torch.unflatten(x, axis, (-1, 2)), axis + 1)
                x = (even + odd) / 2**0.5
    return total

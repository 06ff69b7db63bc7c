"""Undistort photographs: the distortion of OpenCV's and COLMAP's camera models."""

import functools
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


class Lens(NamedTuple):
    """Distortion in OpenCV's coefficients; the default is a pinhole."""

    radial: tuple[float, ...] = ()
    """k1, k2, ...: of r^2, r^4, ..."""
    tangential: tuple[float, float] = (0.0, 0.0)
    """p1, p2."""
    denominator: tuple[float, ...] = ()
    """k4, k5, k6 of the rational model: of r^2, r^4, r^6."""
    fisheye: bool = False
    """Equidistant: r is the angle to the axis in radians, not its tangent."""

    @property
    def pinhole(self) -> bool:
        """Whether there is no distortion."""
        return not (any(self.radial + self.tangential + self.denominator) or self.fisheye)

    def distort(self, rays: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Map rays (x/z, y/z) of a pinhole to those of the distorted image."""
        if self.fisheye:
            r = rays.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            rays = rays * r.atan() / r
        square = rays.square().sum(dim=-1, keepdim=True)
        over, under = (
            1 + sum(k * square**i for i, k in enumerate(ks, 1))
            for ks in (self.radial, self.denominator)
        )
        p, cross = rays.new_tensor(self.tangential), 2 * rays.prod(dim=-1, keepdim=True)
        return rays * (over / under) + p * cross + p.flip(0) * (square + 2 * rays.square())


def _sources(
    uv: Float[Tensor, "*n 2"], lens: Lens, intrinsics: Float[np.ndarray, "3 3"]
) -> Float[Tensor, "*n 2"]:
    """Map pixels to those of the distorted image; to infinity beyond the radius where it folds."""
    k = torch.from_numpy(intrinsics)
    rays = (uv - k[:2, 2]) @ torch.linalg.inv(k[:2, :2]).T
    r = rays.norm(dim=-1, keepdim=True)
    line = torch.linspace(0, float(r.max()), 4096, dtype=r.dtype)[:, None] * r.new_tensor([1, 0])
    grows = lens._replace(tangential=(0.0, 0.0)).distort(line)[:, 0].diff() > 0
    folded = r > line[:-1, 0][~grows].amin() if not grows.all() else torch.zeros_like(r).bool()
    return (lens.distort(rays) @ k[:2, :2].T + k[:2, 2]).masked_fill(folded, torch.inf)


@functools.lru_cache(maxsize=256)
def largest_square(lens: Lens, intrinsics: tuple[float, ...], size: tuple[int, int]) -> int:
    """Return the side of the largest central square that the distorted image covers, in pixels."""
    if lens.pinhole:
        return min(size)
    t = torch.linspace(-0.5, 0.5, 129, dtype=torch.float64)
    half = torch.full_like(t, 0.5)
    edge = torch.stack([torch.cat([t, t, half, -half]), torch.cat([half, -half, t, t])], dim=1)
    whole, k = t.new_tensor(size), np.array(intrinsics).reshape(3, 3)

    def leaves(side: int) -> bool:
        source = _sources(whole / 2 + side * edge, lens, k)
        return not bool(((source >= 0) & (source <= whole)).all())

    return bisect_left(range(1, min(size) + 1), True, key=leaves)


def undistort(
    pixels: UInt8[np.ndarray, "h w 3"],
    lens: Lens,
    intrinsics: Float[np.ndarray, "3 3"],
    side: int,
    most: int,
) -> UInt8[np.ndarray, "n n 3"]:
    """Return the central square of the pinhole image with equal intrinsics, sampled bilinearly.

    `side`: of the square, in pixels. n: the same, but at most `most`.
    """
    size, num = torch.tensor(pixels.shape[1::-1], dtype=torch.float64), min(side, most)
    reduced = (size * num / side).round().int().tolist()
    image = torch.from_numpy(np.array(Image.fromarray(pixels).resize(reduced))).permute(2, 0, 1)
    centres = (torch.arange(num) + 0.5) * side / num
    uv = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1) + (size - side) / 2
    grid = (2 * _sources(uv, lens, intrinsics) / size - 1).float()
    sampled = torch.nn.functional.grid_sample(
        image[None].float(), grid[None], padding_mode="border", align_corners=False
    )
    return sampled[0].round().byte().permute(1, 2, 0).numpy()

"""Sliced Wasserstein distance between patches of Laplacian pyramids: needs no trained network.

Karras et al. 2018 (Progressive Growing of GANs, section 5). For each level of the Laplacian
pyramids of two sets of images, 7x7 patches are projected onto random directions, where the distance
between two distributions is the mean difference of their sorted values.
"""

from collections.abc import Iterable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.config import PATCH, SwdConfig

BLOCKS = 4096
"""Most numbers that describe the distribution along one direction: means of blocks of its sorted
values."""
CHUNK = 64
"""Directions that are projected and sorted at a time."""


def blur(image: Float[Tensor, "n c h w"], gain: float = 1.0) -> Float[Tensor, "n c h w"]:
    """Filter by the binomial kernel [1, 4, 6, 4, 1] / 16 both ways, mirrored at the borders."""
    n, c = image.shape[:2]
    row = image.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = torch.outer(row, row)[None, None] * gain
    padded = pad(rearrange(image, "n c h w -> (n c) 1 h w"), (2, 2, 2, 2), mode="reflect")
    return rearrange(conv2d(padded, kernel), "(n c) 1 h w -> n c h w", n=n, c=c)


def laplacian_pyramid(
    image: Float[Tensor, "n 3 h w"], coarsest: int
) -> dict[int, Float[Tensor, "n 3 _ _"]]:
    """Split images into frequency bands (Burt & Adelson 1983), by side in pixels, the finest first.

    Each level is what the next coarser one lacks; the last is the reduced image itself. A side is
    halved while it is even and its half is at least `coarsest`.
    """
    levels = {}
    while image.shape[-1] % 2 == 0 and image.shape[-1] // 2 >= coarsest:
        reduced = blur(image)[:, :, ::2, ::2]
        zeros = torch.zeros_like(image)
        zeros[:, :, ::2, ::2] = reduced
        levels[image.shape[-1]] = image - blur(zeros, gain=4.0)
        image = reduced
    levels[image.shape[-1]] = image
    return levels


def random_patches(
    image: Float[Tensor, "n 3 h w"], count: int, draws: list[Draws]
) -> Float[Tensor, "m 3 49"]:
    """Cut `count` patches at random places of each image, which its own draws pick."""
    h, w = (side - PATCH + 1 for side in image.shape[-2:])
    place = torch.stack([d.integers(f"patches/{w}", h * w, (count,)) for d in draws])
    place = place.to(image.device)
    windows = image.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # n 3 h w 7 7, a view
    which = torch.arange(len(image), device=image.device)[:, None]
    patches = windows[which, :, place // w, place % w]
    return rearrange(patches, "n p c y x -> (n p) c (y x)")


class Descriptors:
    """Collects, batch by batch, what the distance needs of images; they need not be kept.

    Memory: 588 bytes for each patch, e.g. 75 MB a level for 1,000 images of 128 patches.
    """

    def __init__(self, cfg: SwdConfig, seed: int = 0) -> None:
        """Start empty.

        Sets to be compared take the same seed: equal sets are then at distance zero exactly.
        """
        self.cfg = cfg
        self.num_images = 0
        self._draws = Draws(seed).scope("swd")
        self._levels: dict[str, list[Tensor]] = {}

    def add(self, images: Float32[Tensor, "n 3 h w"]) -> None:
        """Take in images in [-1, 1]."""
        draws = [self._draws.at(self.num_images + i) for i in range(len(images))]
        for side, level in laplacian_pyramid(images, self.cfg.coarsest).items():
            patches = random_patches(level, self.cfg.patches, draws)
            self._levels.setdefault(str(side), []).append(patches.cpu())
        side = min(self.cfg.coarsest, images.shape[-1])
        small = interpolate(images, (side, side), mode="bilinear", antialias=True)
        self._levels.setdefault("pixels", []).append(small.flatten(2).cpu())
        self.num_images += len(images)

    def level(self, name: str) -> Float32[Tensor, "m 3 d"]:
        """All descriptors of a level."""
        return torch.cat(self._levels[name])

    @property
    def names(self) -> list[str]:
        """The levels: sides in pixels, then `pixels`, whole images reduced to the coarsest side."""
        return list(self._levels)


def _statistics(x: Float32[Tensor, "m 3 d"]) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim=(0, 2), keepdim=True)
    # A level without any contrast (a set of plain images) is compared in absolute terms.
    std = x.std(dim=(0, 2), keepdim=True, correction=0)
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


def _sorted_blocks(
    x: Float32[Tensor, "m d"], directions: Float32[Tensor, "d p"]
) -> tuple[Float32[Tensor, "p k"], Float32[Tensor, " k"]]:
    """Project, sort, and average blocks of neighbours in rank.

    This is the quantile function along each direction, in steps whose mass is returned too.
    """
    count = len(x)
    edges = np.linspace(0, count, min(count, BLOCKS) + 1).round().astype(np.int64)
    sizes = np.diff(edges)
    blocks = []
    for part in torch.split(directions, CHUNK, dim=1):
        # numpy sorts float32 with vector instructions, some twenty times faster than torch on one
        # core.
        ranked = np.sort((part.mT @ x.mT).numpy(), axis=1)
        blocks.append(np.add.reduceat(ranked, edges[:-1], axis=1) / sizes)
    return torch.from_numpy(np.concatenate(blocks).astype(np.float32)), torch.from_numpy(
        (sizes / count).astype(np.float32)
    )


class SlicedWasserstein:
    """The distance of sets of images to one set of real images, prepared once.

    `tensors` are all that it holds, so that it can be kept: for each level mean and deviation of
    the channels, the directions, and the sorted blocks of the real images with their mass.
    """

    def __init__(self, cfg: SwdConfig, num_images: int, tensors: dict[str, Tensor]) -> None:
        """Take up what `of` prepared."""
        self.cfg, self.num_images, self.tensors = cfg, num_images, tensors

    @classmethod
    def of(cls, real: Descriptors, seed: int = 0) -> "SlicedWasserstein":
        """Prepare the real images. The directions depend on the seed."""
        draws = Draws(seed).scope("swd")
        tensors: dict[str, Tensor] = {}
        for name in real.names:
            x = real.level(name)
            mean, std = _statistics(x)
            size = x[0].numel()
            directions = draws.normal(f"directions/{name}", (size, real.cfg.projections))
            directions = directions / directions.norm(dim=0, keepdim=True)
            blocks, mass = _sorted_blocks(((x - mean) / std).flatten(1), directions)
            parts = {"mean": mean, "std": std, "directions": directions, "blocks": blocks}
            tensors |= {f"{name}/{k}": v for k, v in {**parts, "mass": mass}.items()}
        return cls(real.cfg, real.num_images, tensors)

    def distance(self, images: Descriptors) -> dict[str, float]:
        """Return the distance at each level, and under `mean` that over the levels of the pyramid.

        A unit is a standard deviation of a descriptor's entries. Both sets hold equally many
        images: the distance grows as sets shrink, so that only equal counts compare.
        """
        if images.num_images != self.num_images:
            raise ValueError(
                f"sliced Wasserstein distance of {images.num_images} to {self.num_images} images: "
                "its sampling error depends on the count; compare equally many"
            )
        result = {}
        for name in images.names:
            x = images.level(name)
            keys = ("mean", "std", "directions", "blocks", "mass")
            mean, std, directions, blocks, mass = (self.tensors[f"{name}/{k}"] for k in keys)
            if self.cfg.normalisation == "each":
                mean, std = _statistics(x)
            found, _ = _sorted_blocks(((x - mean) / std).flatten(1), directions)
            result[name] = float(((found - blocks).abs() * mass).sum(dim=1).mean())
        sides = [value for name, value in result.items() if name != "pixels"]
        return {"mean": sum(sides) / len(sides), **result}


def describe(
    batches: Iterable[Float32[Tensor, "_ 3 h w"]], cfg: SwdConfig, seed: int = 0
) -> Descriptors:
    """Collect the descriptors of batches of images in [-1, 1]."""
    result = Descriptors(cfg, seed)
    for batch in batches:
        result.add(batch)
    return result

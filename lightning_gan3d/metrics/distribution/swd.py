"""Sliced Wasserstein distance (SWD) between patches of Laplacian pyramids; needs no network.

Karras et al. 2018 (Progressive Growing of GANs), section 5: for each level of the pyramids of two
sets of images, 7x7 patches are projected onto random directions. Along a direction, the distance
between two distributions is the mean difference of their sorted values.
"""

from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from lightning_gan3d.draws import Draws
from lightning_gan3d.images import quantise, to_float
from lightning_gan3d.metrics.config import PATCH, SwdConfig
from lightning_gan3d.metrics.protocol import cached
from lightning_gan3d.metrics.sources import ImageSet, ViewSource

BLOCKS = 4096
"""Largest number of values that describe a distribution along one direction."""
CHUNK = 64
"""Directions projected and sorted at a time."""
READ_BATCH = 256
"""Real images read at a time."""


def blur(image: Float[Tensor, "n c h w"], gain: float = 1.0) -> Float[Tensor, "n c h w"]:
    """Filter by the binomial kernel [1, 4, 6, 4, 1] / 16 in both directions; mirrored borders."""
    n, c = image.shape[:2]
    row = image.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = torch.outer(row, row)[None, None] * gain
    padded = pad(rearrange(image, "n c h w -> (n c) 1 h w"), (2, 2, 2, 2), mode="reflect")
    return rearrange(conv2d(padded, kernel), "(n c) 1 h w -> n c h w", n=n, c=c)


def laplacian_pyramid(
    image: Float[Tensor, "n 3 h w"], coarsest: int
) -> dict[int, Float[Tensor, "n 3 _ _"]]:
    """Frequency bands (Burt & Adelson 1983) by side in pixels, the finest first.

    Each level is its image minus the next coarser one, enlarged; the last is the reduced image. A
    side is halved while it is even and its half is at least `coarsest`.
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
    """Cut `count` patches at random positions of each image, by one `Draws` per image."""
    h, w = (side - PATCH + 1 for side in image.shape[-2:])
    position = torch.stack([d.integers(f"patches/{w}", h * w, (count,)) for d in draws])
    position = position.to(image.device)
    windows = image.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # n 3 h w 7 7, a view
    number = torch.arange(len(image), device=image.device)[:, None]
    patches = windows[number, :, position // w, position % w]
    return rearrange(patches, "n p c y x -> (n p) c (y x)")


class Descriptors:
    """Patches of images, collected batch by batch; the images need not stay in memory.

    Memory: 588 bytes a patch, e.g. 75 MB a level for 1,000 images of 128 patches.
    """

    def __init__(self, cfg: SwdConfig, seed: int = 0) -> None:
        """Start empty. Compare sets of one seed only: equal sets are then at distance 0."""
        self.cfg = cfg
        self.num_images = 0
        self._draws = Draws(seed).scope("swd")
        self._levels: dict[str, list[Tensor]] = {}

    def add(self, images: Float32[Tensor, "n 3 h w"]) -> None:
        """Add images in [-1, 1]."""
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
    # A level without contrast (constant images) is compared in absolute terms.
    std = x.std(dim=(0, 2), keepdim=True, correction=0)
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


def _sorted_blocks(
    x: Float32[Tensor, "m d"], directions: Float32[Tensor, "d p"]
) -> tuple[Float32[Tensor, "p k"], Float32[Tensor, " k"]]:
    """Quantile function along each direction, as means of neighbours in rank, and their mass."""
    count = len(x)
    edges = np.linspace(0, count, min(count, BLOCKS) + 1).round().astype(np.int64)
    sizes = np.diff(edges)
    blocks = []
    for part in torch.split(directions, CHUNK, dim=1):
        # numpy sorts float32 with vector instructions, about 20 times faster than torch on a core.
        ranked = np.sort((part.mT @ x.mT).numpy(), axis=1)
        blocks.append(np.add.reduceat(ranked, edges[:-1], axis=1) / sizes)
    quantiles = np.concatenate(blocks).astype(np.float32)
    return torch.from_numpy(quantiles), torch.from_numpy((sizes / count).astype(np.float32))


class SlicedWasserstein:
    """Distance of sets of images to one set of real images, prepared once.

    `tensors` are its whole state, for the cache: for each level, mean and deviation of the
    channels, the directions, and the sorted blocks of the real images with their mass.
    """

    def __init__(self, cfg: SwdConfig, num_images: int, tensors: dict[str, Tensor]) -> None:
        self.cfg, self.num_images, self.tensors = cfg, num_images, tensors

    @classmethod
    def of(cls, real: Descriptors, seed: int = 0) -> "SlicedWasserstein":
        """Prepare the real images; the seed draws the directions."""
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
        """Return the distance at each level, and as `mean` that over the levels of the pyramid.

        The unit is a standard deviation of a descriptor's entries. The distance grows as sets
        shrink: only sets of equal size compare.
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
            mean, std, directions, real_blocks, mass = (self.tensors[f"{name}/{k}"] for k in keys)
            if self.cfg.normalisation == "each":
                mean, std = _statistics(x)
            blocks, _ = _sorted_blocks(((x - mean) / std).flatten(1), directions)
            result[name] = float(((blocks - real_blocks).abs() * mass).sum(dim=1).mean())
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


class ImageDistance:
    """SWD of generated to held-out images, over at most `num_images` of each; and its floor.

    The floor is the distance of as many training images to the same held-out ones. If none are held
    out, disjoint halves of the training images replace both sets.
    """

    def __init__(
        self,
        train: ImageSet,
        test: ImageSet | None,
        cfg: SwdConfig,
        num_images: int,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        """Read the real images, or their tensors from the cache."""
        self.cfg, self.seed = cfg, seed
        self.held_out = test is not None
        draws = Draws(seed).scope("distance")
        order = draws.permutation("train", len(train))
        if test is None:
            self.num_images = min(num_images, len(train) // 2)
            real, indices = train, order[self.num_images : 2 * self.num_images]
        else:
            self.num_images = min(num_images, len(train), len(test))
            real, indices = test, draws.permutation("test", len(test))[: self.num_images]
        if self.num_images < 1:
            raise ValueError("sliced Wasserstein distance: needs at least two real images")
        self._train, self._indices, self._cache = train, order[: self.num_images], cache
        sets = [train.fingerprint, real.fingerprint, self.held_out]
        self._key = [*sets, asdict(cfg), self.num_images, seed]

        def prepare() -> dict[str, Tensor]:
            return SlicedWasserstein.of(self._describe(real, indices), seed).tensors

        tensors = cached(cache, "swd", self._key, prepare)
        self.real = SlicedWasserstein(cfg, self.num_images, tensors)

    @cached_property
    def floor(self) -> dict[str, float]:
        """The floor by level and as `mean`, computed at the first access."""

        def compute() -> dict[str, Tensor]:
            floor = self.real.distance(self._describe(self._train, self._indices))
            return {name: torch.tensor(value) for name, value in floor.items()}

        floor = cached(self._cache, "swd-floor", self._key, compute)
        return {name: float(value) for name, value in floor.items()}

    def _describe(self, images: ImageSet, indices: Int64[Tensor, " n"]) -> Descriptors:
        batches = torch.split(indices, READ_BATCH)
        return describe((to_float(images.images(x)) for x in batches), self.cfg, self.seed)

    def of(self, source: ViewSource, batch: int) -> dict[str, float]:
        """Return the distance of a generator's images, by level and as `mean`."""
        batches = torch.split(torch.arange(self.num_images), batch)
        images = (quantise(source.views(x, source.base(x)).image) for x in batches)
        return self.real.distance(describe(images, self.cfg, self.seed))

    @property
    def protocol(self) -> str:
        """Description for the notes of metrics."""
        cfg, n = self.cfg, self.num_images
        names = {name.partition("/")[0] for name in self.real.tensors} - {"pixels"}
        sides = sorted(names, key=int, reverse=True)
        statistics = "the real images'" if cfg.normalisation == "real" else "each set's own"
        other = "held-out images" if self.held_out else "training images (none are held out)"
        return (
            "sliced Wasserstein distance (Karras et al. 2018), mean over Laplacian levels "
            f"{', '.join(sides)}; n = {n} against {n} {other}; {cfg.patches} patches of 7x7 an "
            f"image, {cfg.projections} directions, channels standardised by {statistics} mean and "
            "deviation"
        )

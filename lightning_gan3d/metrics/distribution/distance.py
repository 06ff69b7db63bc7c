"""The distance of a generator's images to held-out ones, and its floor: that of real images."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float, to_uint8
from lightning_gan3d.metrics.cache import cached
from lightning_gan3d.metrics.config import SwdConfig
from lightning_gan3d.metrics.distribution.swd import Descriptors, SlicedWasserstein, describe
from lightning_gan3d.metrics.sources import ImageSet, ViewSource

READ_AT_ONCE = 256
"""Real images read at a time."""


class Fakes(NamedTuple):
    """Generated images as they would be stored, and the cameras that were asked for."""

    images: Float32[Tensor, "n 3 h w"]
    cameras: Cameras


def fakes(source: ViewSource, num: int, batch: int) -> Iterator[Fakes]:
    """Generate the first `num` items from their own cameras, as stored in 8 bits.

    Values that are not finite stay so: no measure may turn them into numbers.
    """
    for items in torch.split(torch.arange(num), batch):
        cameras = source.base(items)
        image = source.views(items, cameras).image.float()
        stored = to_float(to_uint8(image))
        yield Fakes(torch.where(image.isfinite(), stored, torch.nan), cameras)


def reals(images: ImageSet, which: Int64[Tensor, " n"]) -> Iterator[Float32[Tensor, "n 3 h w"]]:
    """Read real images in [-1, 1]."""
    for some in torch.split(which, READ_AT_ONCE):
        yield to_float(images.images(some))


class ImageDistance:
    """Sliced Wasserstein distance to held-out images, of as many as there are up to `num_images`.

    The floor is the distance of as many training images to the same held-out ones. Where nothing is
    held out, the training images are split into disjoint halves that take these places.
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
        """Read the real images, or take what was kept in the cache folder."""
        self.cfg, self.seed = cfg, seed
        self.held_out = test is not None
        draws = Draws(seed).scope("distance")
        order = draws.permutation("train", len(train))
        if test is None:
            self.num_images = min(num_images, len(train) // 2)
            second, held_out = order[self.num_images :][: self.num_images], train
        else:
            self.num_images = min(num_images, len(train), len(test))
            second = draws.permutation("test", len(test))[: self.num_images]
            held_out = test
        if self.num_images < 1:
            raise ValueError("an image distance needs two real images or more")
        first = order[: self.num_images]

        def prepare() -> dict[str, Tensor]:
            return SlicedWasserstein.of(describe(reals(held_out, second), cfg, seed), seed).tensors

        def measure_floor() -> dict[str, Tensor]:
            found = self.real.distance(describe(reals(train, first), cfg, seed))
            return {name: torch.tensor(value) for name, value in found.items()}

        sets = [train.fingerprint, held_out.fingerprint, self.held_out]
        key = [*sets, asdict(cfg), self.num_images, seed]
        self.real = SlicedWasserstein(cfg, self.num_images, cached(cache, "swd", key, prepare))
        self._measure_floor: Callable[[], dict[str, Tensor]] = partial(
            cached, cache, "swd-floor", key, measure_floor
        )

    @cached_property
    def floor(self) -> dict[str, float]:
        """The floor by level and under `mean`, measured when it is first asked for."""
        return {name: float(value) for name, value in self._measure_floor().items()}

    def collect(self) -> Descriptors:
        """Begin to collect the images of a generator."""
        return Descriptors(self.cfg, self.seed)

    def of(self, source: ViewSource, batch: int) -> dict[str, float]:
        """Return the distance of a generator's images, by level and under `mean`."""
        images = (f.images for f in fakes(source, self.num_images, batch))
        return self.real.distance(describe(images, self.cfg, self.seed))

    @property
    def protocol(self) -> str:
        """The protocol in words."""
        cfg, n = self.cfg, self.num_images
        names = {name.partition("/")[0] for name in self.real.tensors} - {"pixels"}
        sides = sorted(names, key=int, reverse=True)
        whose = "the real images'" if cfg.normalisation == "real" else "each set's own"
        other = "held-out images" if self.held_out else "training images (none are held out)"
        return (
            "sliced Wasserstein distance (Karras et al. 2018), mean over Laplacian levels "
            f"{', '.join(sides)}; n = {n} "
            f"against {n} {other}; {cfg.patches} patches of 7x7 an image, {cfg.projections} "
            "directions, channels "
            f"standardised by {whose} mean and deviation"
        )

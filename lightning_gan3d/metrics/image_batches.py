"""Batches of real and generated images as stored in 8 bits; cameras of labels, or drawn ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, to_float, to_uint8
from lightning_gan3d.metrics.config import PosesConfig
from lightning_gan3d.metrics.sources import ImageSet, ViewSource

READ_BATCH = 256
"""Real images read at a time."""


class Fakes(NamedTuple):
    """Generated images in [-1, 1], rounded to 8 bits, and the cameras that rendered them."""

    images: Float32[Tensor, "n 3 h w"]
    cameras: Cameras


class Stored(NamedTuple):
    """Images in 8 bits, and which of them were finite before the conversion."""

    images: UInt8[Tensor, "n 3 h w"]
    finite: Bool[Tensor, " n"]


def fakes(source: ViewSource, num: int, batch: int) -> Iterator[Fakes]:
    """Generate the first `num` items, each from its own camera. Non-finite values become NaN."""
    for items in torch.split(torch.arange(num), batch):
        cameras = source.base(items)
        image = source.views(items, cameras).image.float()
        rounded = to_float(to_uint8(image))
        yield Fakes(torch.where(image.isfinite(), rounded, torch.nan), cameras)


def reals(images: ImageSet, which: Int64[Tensor, " n"]) -> Iterator[Float32[Tensor, "n 3 h w"]]:
    """Read real images in [-1, 1]."""
    for indices in torch.split(which, READ_BATCH):
        yield to_float(images.images(indices))


def stored_fakes(source: ViewSource, items: Int64[Tensor, " n"]) -> Stored:
    """Generate items, each from its own camera."""
    image = source.views(items, source.base(items)).image.float().cpu()
    return Stored(to_uint8(image.nan_to_num()), image.isfinite().flatten(1).all(1))


def stored_reals(images: ImageSet, items: Int64[Tensor, " n"]) -> Stored:
    """Read real images."""
    return Stored(images.images(items), torch.ones(len(items), dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class PosedSource(ViewSource):
    """Another source, each item from a camera of a distribution instead of its own.

    Distance from the origin, intrinsics and the conditioning label stay those of the item.
    """

    source: ViewSource
    cfg: PosesConfig
    seed: int = 0

    @property
    def protocol(self) -> str:
        """Cameras, truncation and seed."""
        return f"{self.cfg.words}, no truncation, seed {self.seed}"

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Draw a camera for each item, a function of (seed, item) alone."""
        own = self.source.base(items)
        draws, cfg = Draws(self.seed).scope("evaluation/poses"), self.cfg
        if cfg.kind == "gaussian":
            drawn = [draws.at(int(i)).normal("angles", (2,)) for i in items]
        else:
            drawn = [2 * draws.at(int(i)).uniform("angles", (2,)) - 1 for i in items]
        angles = torch.stack(drawn) * torch.tensor([cfg.azimuth, cfg.elevation])
        # Stay off the poles, where "up" is undefined.
        elevation = (angles[:, 1] + cfg.mean_elevation).clamp(-1.5, 1.5)
        cam2world = Cameras.on_sphere(angles[:, 0], elevation, 1.0).cam2world.to(own.cam2world)
        cam2world[:, :3, 3] *= own.origins.norm(dim=1, keepdim=True)
        return Cameras(cam2world, own.intrinsics)

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Render the items."""
        return self.source.views(items, cameras)

"""The common end of all preparers: cut, resize, copy and write images, and sum up."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError, Source
from lightning_gan3d.data.decode import decode
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.conventions import azimuth
from lightning_gan3d.data.preparers.plan import Planned, View, plan_views
from lightning_gan3d.data.squares import centre_square
from lightning_gan3d.data.writer import DatasetWriter

Progress = Callable[[int, int], None]
Cut = Callable[[int, str], int]
"""Takes the side of the square that is stored, and the image's name; returns that of the centred
square to show. Both are in pixels."""


@dataclass(frozen=True)
class Prepared:
    """What was written: lengths in world units, angles in degrees, focal in image widths.

    Of cameras the smallest, the median and the largest value.
    """

    out: str
    resolution: int
    num_images: int
    num_sources: int
    num_mirrored: int
    images_without: int
    cameras_without: int
    splits: dict[str, int]
    distance: tuple[float, float, float]
    yaw: tuple[float, float, float]
    focal: tuple[float, float, float]

    def __str__(self) -> str:
        """Return the lines that a user reads."""
        lines = [
            f"{self.out}: {self.num_images:,} images of {self.resolution}x{self.resolution} pixels "
            f"({self.num_mirrored:,} of them mirrored) from {self.num_sources:,} images",
            "splits: " + (", ".join(f"{k} {v:,}" for k, v in self.splits.items()) or "none"),
            _three("camera distance", self.distance, "world units from the origin"),
            _three("yaw", self.yaw, "degrees"),
            _three("focal length", self.focal, "image widths"),
        ]
        if self.images_without or self.cameras_without:
            lines.append(
                f"left out: {self.images_without:,} images without a camera, "
                f"{self.cameras_without:,} cameras without an image"
            )
        return "\n".join(lines)


def write_views(
    source: Source,
    out: Path,
    views: Sequence[View],
    cfg: PrepareConfig,
    kind: str,
    where: str,
    cut: Cut | None = None,
    without: tuple[int, int] = (0, 0),
    listed: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write the data set, and sum it up.

    Args:
        source: the images.
        out: a folder or `.zip` to make.
        views: images and cameras, in the order in which the source lists them.
        cfg: what to do with them.
        kind: key of `dataset.json` that keeps the options.
        where: the file of the cameras, for errors.
        cut: which square to cut out of each image; None: all is shown.
        without: images without a camera and cameras without an image that were left out.
        listed: how many cameras `where` has; None: those of `views` and `without`.
        overwrite: replace what is there.
        progress: called with the images read and their number.

    Raises:
        DataError: an image or a camera is not as it must be; nothing is written.
    """
    total = len(views) + without[1] if listed is None else listed
    planned = plan_views(views, cfg, source, where, total)
    num_objects = 1 + max((v.object_id or 0 for v in views), default=0)
    copies: dict[str, str] = {}
    rows: list[torch.Tensor] = []
    splits: Counter[str] = Counter()
    with DatasetWriter(out, overwrite) as writer:
        for done, plan in enumerate(planned, 1):
            labels = (plan.label, Cameras.from_label(plan.label[None]).mirror().to_label()[0])
            pictures = _pictures(source, plan, cfg, cut) if plan.names else {}
            for (mirrored, _), name in plan.names.items():
                number = plan.view.object_id
                if number is not None and mirrored:
                    number += num_objects  # a mirrored object is another one
                writer.image(name, pictures[mirrored], labels[mirrored].numpy(), plan.split, number)
                rows.append(labels[mirrored])
                if plan.split:
                    splits[plan.split] += 1
                if name != plan.original:
                    copies[name] = plan.original
            if progress is not None:
                progress(done, len(planned))
        writer.note("copies", copies)
        # where the files were is nobody's business
        files = {key: Path(getattr(cfg, key)).name for key in ("cameras", "rebalance")}
        writer.note(kind, {**asdict(cfg), **files})
    written = torch.stack(rows)
    return Prepared(
        out=str(out),
        resolution=cfg.resolution,
        num_images=len(rows),
        num_sources=len(planned),
        num_mirrored=sum(mirrored for plan in planned for mirrored, _ in plan.names),
        images_without=without[0],
        cameras_without=without[1],
        splits=dict(splits),
        distance=_spread(Cameras.from_label(written).origins.norm(dim=1).numpy()),
        yaw=_spread(np.degrees(azimuth(written))),
        focal=_spread(written[:, [16, 20]].numpy()),
    )


def _pictures(
    source: Source, plan: Planned, cfg: PrepareConfig, cut: Cut | None
) -> dict[bool, UInt8[np.ndarray, "r r 3"]]:
    """Return the image as it is written, and mirrored (True)."""
    name = plan.view.source
    data = source.read(name)
    image = Image.fromarray(
        decode(data, name, convert=cfg.background, square=not cfg.centre_square)
    )
    side = min(image.size) if cut is None else cut(min(image.size), name)
    if side < cfg.resolution:
        raise DataError(
            f"{name} shows {side} pixels a side, resolution={cfg.resolution} would enlarge it: "
            f"give resolution={side} or less"
        )
    pixels = _shown(image, side, cfg.resolution)
    return {False: pixels, True: pixels[:, ::-1].copy()}


def _shown(image: Image.Image, side: int, resolution: int) -> UInt8[np.ndarray, "r r 3"]:
    """Return the middle square of `side` pixels, to a half of a pixel, reduced with Lanczos.

    What is cut off does not shine in: whole pixels outside go before the reduction, as in EG3D's.
    """
    left, top, _ = centre_square(*image.size, side)
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(left + side), math.ceil(top + side)))
    box = (left - x, top - y, left - x + side, top - y + side)
    return np.array(image.resize((resolution,) * 2, Image.Resampling.LANCZOS, box=box))


def _spread(values: Float[np.ndarray, "..."]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return float(low), float(middle), float(high)


def _three(name: str, spread: tuple[float, float, float], unit: str) -> str:
    low, middle, high = spread
    return f"{name}: {low:.3g} to {high:.3g}, median {middle:.3g} {unit}"

"""Write a prepared data set: crop, reduce, copy, summarise."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset_writer import write_dataset
from lightning_gan3d.data.image_files import centre_square, decode
from lightning_gan3d.data.preparers.selection import Selected, select_views, yaw
from lightning_gan3d.data.preparers.source_views import PrepareConfig, SourceViews
from lightning_gan3d.progress import track


@dataclass(frozen=True)
class PreparedDataset:
    """Summary of what was written: world units, degrees, focal lengths in image widths.

    `distance`, `yaw` and `focal` are (smallest, median, largest).
    """

    out: str
    resolution: int
    num_images: int
    num_sources: int
    num_mirrored: int
    num_without_camera: int
    num_without_image: int
    splits: dict[str, int]
    distance: tuple[float, float, float]
    yaw: tuple[float, float, float]
    focal: tuple[float, float, float]

    def __str__(self) -> str:
        """Lines for the user."""
        lines = [
            f"{self.out}: {self.num_images:,} images of {self.resolution}x{self.resolution} pixels "
            f"({self.num_mirrored:,} of them mirrored) from {self.num_sources:,} images",
            "splits: " + (", ".join(f"{k} {v:,}" for k, v in self.splits.items()) or "none"),
            _range("camera distance", self.distance, "world units from the origin"),
            _range("yaw", self.yaw, "degrees"),
            _range("focal length", self.focal, "image widths"),
        ]
        if self.num_without_camera or self.num_without_image:
            lines.append(
                f"left out: {self.num_without_camera:,} images without a camera, "
                f"{self.num_without_image:,} cameras without an image"
            )
        return "\n".join(lines)


def write_views(
    read: SourceViews,
    out: Path,
    cfg: PrepareConfig,
    kind: str,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write the data set, and summarise it; `kind` is the key of the options in `dataset.json`."""
    selected = select_views(read, cfg)
    num_objects = 1 + max((v.object_id or 0 for v in read.views), default=0)
    copies: dict[str, str] = {}
    rows: list[torch.Tensor] = []
    splits: Counter[str] = Counter()
    with write_dataset(out, overwrite) as writer:
        for item in track(selected, "images"):
            labels = (item.label, Cameras.from_label(item.label[None]).mirror().to_label()[0])
            images = _plain_and_mirrored(read, item, cfg) if item.names else ()
            for (mirrored, _), name in item.names.items():
                number = item.view.object_id
                if number is not None and mirrored:
                    number += num_objects  # a mirrored object is another one
                writer.image(name, images[mirrored], labels[mirrored].numpy(), item.split, number)
                rows.append(labels[mirrored])
                if item.split:
                    splits[item.split] += 1
                if name != item.original:
                    copies[name] = item.original
        writer.metadata("copies", copies)
        # a data set does not disclose the user's folders
        files = {key: Path(getattr(cfg, key)).name for key in ("cameras", "rebalance")}
        writer.metadata(kind, {**asdict(cfg), **files})
    written = torch.stack(rows)
    return PreparedDataset(
        out=str(out),
        resolution=cfg.resolution,
        num_images=len(rows),
        num_sources=len(selected),
        num_mirrored=sum(mirrored for item in selected for mirrored, _ in item.names),
        num_without_camera=read.num_without_camera,
        num_without_image=read.num_without_image,
        splits=dict(splits),
        distance=_quantiles(Cameras.from_label(written).origins.norm(dim=1).numpy()),
        yaw=_quantiles(np.degrees(yaw(written))),
        focal=_quantiles(written[:, [16, 20]].numpy()),
    )


def _plain_and_mirrored(
    read: SourceViews, item: Selected, cfg: PrepareConfig
) -> tuple[UInt8[np.ndarray, "r r 3"], UInt8[np.ndarray, "r r 3"]]:
    name = item.view.source
    pixels = decode(
        read.source.read(name), name, convert=cfg.background, square=not cfg.centre_square
    )
    shorter = min(pixels.shape[:2])
    side = shorter if read.crop is None else read.crop(shorter, name)
    if side < cfg.resolution:
        raise DataError(
            f"{name} shows {side} pixels a side: use resolution={side} or less instead of "
            f"{cfg.resolution}; images are never enlarged"
        )
    plain = crop_and_reduce(Image.fromarray(pixels), side, cfg.resolution)
    return plain, plain[:, ::-1].copy()


def crop_and_reduce(image: Image.Image, side: int, resolution: int) -> UInt8[np.ndarray, "r r c"]:
    """Reduce the central square of `side` pixels, to half a pixel, with Lanczos.

    Pixels outside it are cropped first, as in EG3D, so that they do not contribute.
    """
    left, top, _ = centre_square(*image.size, side)
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(left + side), math.ceil(top + side)))
    box = (left - x, top - y, left - x + side, top - y + side)
    return np.array(image.resize((resolution,) * 2, Image.Resampling.LANCZOS, box=box))


def _quantiles(values: Float[np.ndarray, "..."]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return float(low), float(middle), float(high)


def _range(name: str, values: tuple[float, float, float], unit: str) -> str:
    low, middle, high = values
    return f"{name}: {low:.3g} to {high:.3g}, median {middle:.3g} {unit}"

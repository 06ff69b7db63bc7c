"""The path that all preparers share: find images and cameras, crop, resize, write, summarise."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import (
    DataError,
    Progress,
    Source,
    report_progress,
    write_dataset,
)
from lightning_gan3d.data.image_files import centre_square, decode, image_names
from lightning_gan3d.data.preparers.camera_files import (
    CameraFile,
    Match,
    find_camera_file,
    match_cameras,
)
from lightning_gan3d.data.preparers.selection import (
    PrepareConfig,
    Selected,
    View,
    select_views,
    yaw,
)

Crop = Callable[[int, str], int]
"""From an image's shorter side and name to the side of the central square to show, in pixels."""
_CAMERA_SIGNS = {"opencv": (1.0, 1.0, 1.0), "opengl": (1.0, -1.0, -1.0)}
_WORLD_ROTATIONS = {
    "y": np.eye(3),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}
"""Rotations from the up axis to y."""


def find_images(source: Source) -> list[str]:
    """Return the images of a source, without hidden files and those of macOS archives."""
    return [
        n
        for n in image_names(source)
        if "__MACOSX" not in n.split("/") and not PurePosixPath(n).name.startswith(".")
    ]


def to_opencv(pose: Float[np.ndarray, "n 4 4"], cfg: PrepareConfig) -> Float[np.ndarray, "n 4 4"]:
    """Convert cam2world to OpenCV axes in a world with y up."""
    rotation = _WORLD_ROTATIONS[cfg.world_up]
    out = pose.copy()
    out[:, :3, :3] = rotation @ pose[:, :3, :3] * np.array(_CAMERA_SIGNS[cfg.convention])
    out[:, :3, 3] = pose[:, :3, 3] @ rotation.T
    return out


@dataclass(frozen=True)
class SourceViews:
    """What a preparer reads: the images of a source with their cameras."""

    source: Source
    views: Sequence[View]
    """In the order of the source."""
    camera_file: str
    """Path, for errors."""
    num_listed: int
    """Cameras in that file."""
    images_without: int = 0
    """Images without a camera, left out."""
    cameras_without: int = 0
    """Cameras without an image, left out."""
    crop: Crop | None = None
    """The square to crop; None: the largest one."""


class ListedImages(NamedTuple):
    """Images with the cameras of a camera file, in its order."""

    source: Source
    file: CameraFile
    match: Match
    pose: Float[np.ndarray, "n 4 4"]
    """cam2world in our axes; at the origin if the file has rotations only."""
    intrinsics: Float[np.ndarray, "n 3 3"] | None
    """As in the file; None if it has rotations only."""

    def name(self, index: int) -> str:
        """Name a camera, for errors."""
        return f"{self.match.pairs[index][1]} in {self.file.name}"

    def views(
        self,
        pose: Float[np.ndarray, "n 4 4"],
        intrinsics: Float[np.ndarray, "n 3 3"],
        crop: Crop | None = None,
    ) -> SourceViews:
        """Return the images with these cameras, and with objects and splits of the file."""
        object_of, split_of = self._objects(), self._splits()
        labels = np.concatenate([pose.reshape(-1, 16), intrinsics.reshape(-1, 9)], axis=1)
        number_of = {key: i for i, key in enumerate(self.file.numbers)}
        views = [
            View(
                image,
                str(PurePosixPath(image).with_suffix("")),
                label,
                number_of[key],
                object_id=object_of.get(key),
                split=split_of.get(key),
            )
            for (image, key), label in zip(self.match.pairs, labels, strict=True)
        ]
        without = self.match.images_without, self.match.cameras_without
        return SourceViews(self.source, views, self.file.name, len(number_of), *without, crop)

    def _objects(self) -> dict[str, int]:
        objects = self.file.tree.get("objects", {}) if self.file.kind == "labels" else {}
        if not isinstance(objects, dict) or not all(type(v) is int for v in objects.values()):
            raise DataError(f"{self.file.name}: `objects` must map image names to int")
        return objects

    def _splits(self) -> dict[str, str]:
        splits: Any = self.file.tree.get("splits", {}) if self.file.kind == "labels" else {}
        if not isinstance(splits, dict) or not all(
            isinstance(names, list) and all(isinstance(n, str) for n in names)
            for names in splits.values()
        ):
            raise DataError(f"{self.file.name}: `splits` must map names of splits to image lists")
        return {name: split for split, names in splits.items() for name in names}


def read_listed(
    source: Source, cfg: PrepareConfig, names: Sequence[str], others: Sequence[str] = ()
) -> ListedImages:
    """Read the camera file, and match it to the images `names`; `others` are not selected."""
    file = find_camera_file(source, cfg.cameras)
    match = match_cameras(names, file, cfg.missing, others)
    rows = np.stack([file.numbers[key] for _, key in match.pairs])
    if file.kind == "rotations":
        pose, intrinsics = np.tile(np.eye(4), (len(rows), 1, 1)), None
        pose[:, :3, :3] = rows.reshape(-1, 3, 3)
    else:
        pose, intrinsics = rows[:, :16].reshape(-1, 4, 4), rows[:, 16:].reshape(-1, 3, 3)
    return ListedImages(source, file, match, to_opencv(pose, cfg), intrinsics)


@dataclass(frozen=True)
class PreparedDataset:
    """Summary of what was written: world units, degrees, focal lengths in image widths.

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
        """Lines for the user."""
        lines = [
            f"{self.out}: {self.num_images:,} images of {self.resolution}x{self.resolution} pixels "
            f"({self.num_mirrored:,} of them mirrored) from {self.num_sources:,} images",
            "splits: " + (", ".join(f"{k} {v:,}" for k, v in self.splits.items()) or "none"),
            _range("camera distance", self.distance, "world units from the origin"),
            _range("yaw", self.yaw, "degrees"),
            _range("focal length", self.focal, "image widths"),
        ]
        if self.images_without or self.cameras_without:
            lines.append(
                f"left out: {self.images_without:,} images without a camera, "
                f"{self.cameras_without:,} cameras without an image"
            )
        return "\n".join(lines)


def write_views(
    read: SourceViews,
    out: Path,
    cfg: PrepareConfig,
    kind: str,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PreparedDataset:
    """Write the data set, and summarise it; `kind` is the key of the options in `dataset.json`."""
    selected = select_views(read.views, cfg, read.source, read.camera_file, read.num_listed)
    num_objects = 1 + max((v.object_id or 0 for v in read.views), default=0)
    copies: dict[str, str] = {}
    rows: list[torch.Tensor] = []
    splits: Counter[str] = Counter()
    with write_dataset(out, overwrite) as writer:
        for item in report_progress(selected, progress):
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
        images_without=read.images_without,
        cameras_without=read.cameras_without,
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
    plain = _crop_and_reduce(Image.fromarray(pixels), side, cfg.resolution)
    return plain, plain[:, ::-1].copy()


def _crop_and_reduce(image: Image.Image, side: int, resolution: int) -> UInt8[np.ndarray, "r r 3"]:
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

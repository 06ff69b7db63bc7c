"""Images with cameras in EG3D's format: a folder or stored zip with `dataset.json`."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, missing
from lightning_gan3d.data.camera_checks import find_duplicates, unusual_cameras
from lightning_gan3d.data.checked_data import Checks, open_checked
from lightning_gan3d.data.image_files import decode, matte_of, open_image
from lightning_gan3d.data.labels import KEYS, is_intact, mirror_objects
from lightning_gan3d.data.packed_names import PackedNames
from lightning_gan3d.files import sha256_of_text
from lightning_gan3d.ranges import parse_ranges

_SAMPLE = 8
"""Pairs of images with equal or mirrored cameras whose pixels are compared."""
HoldoutShare = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True)
class DataConfig:
    """A data set, and how it is used."""

    path: str = ""
    """A folder or zip of images with `dataset.json`."""
    make: str = ""
    """Command that makes the data set; printed if `path` does not exist."""
    resolution: Annotated[int, Ge(4)] | None = None
    """Side in pixels: null for the files' own; else a divisor of it, by averaging pixels."""
    mirror: bool = False
    """Double the training images by mirrored ones with mirrored poses."""
    holdout: HoldoutShare = 0.0
    """Share of images held out, by the hash of their names; objects and copies stay together.
    Above 0 it replaces the data set's own splits."""
    train_split: str = "train"
    """The data set's own split to train on."""
    test_split: str = "test"
    """The data set's own split to hold out."""
    objects: str = ""
    """Objects to use, such as `1-10,15`, if the data set numbers objects. Empty: all."""
    labels: Literal["camera", "class", "none"] = "camera"
    """For 2D generators and metrics of images, without cameras: `class` reads a class per image
    from `dataset.json`; `none` reads no labels, and `dataset.json` may be missing."""
    num_classes: Annotated[int, Ge(0)] = 0
    """Classes of `labels: class`, numbered from 0; otherwise 0."""
    convert: Literal["none", "black", "white"] = "none"
    """Background colour for converting images to 8-bit RGB; `none` rejects other formats."""
    random_background: bool = False
    """Train on images with an alpha channel and on generated ones over random solid colours, a new
    one each time. Metrics see both over `convert`, the background of the renderer."""
    repair_cameras: bool = False
    """Replace invalid rotations by the nearest valid ones."""
    memory_mb: Annotated[int, Ge(0)] = 2048
    """Decode all images at the start if they fit; else each time they are used."""
    num_workers: Annotated[int, Ge(0)] = 0
    """Processes that read images; the batches do not depend on it."""

    def __post_init__(self) -> None:
        """Check `objects` and `num_classes`."""
        if (self.labels == "class") != (self.num_classes > 0):
            raise ConfigError(
                f"data.num_classes={self.num_classes} with data.labels={self.labels}: set the "
                "number of classes with labels=class, and 0 without",
                field="num_classes",
            )
        if self.random_background and self.convert == "none":
            raise ConfigError(
                "data.random_background=true: set data.convert to the background of the renderer, "
                "white or black",
                field="random_background",
            )
        try:
            parse_ranges(self.objects)
        except ValueError as error:
            raise ConfigError(
                f"data.objects={self.objects}: {error}; use numbers and ranges, e.g. 1-10,15",
                field="objects",
            ) from None


def hold_out(names: Sequence[str], share: float, group_of: Mapping[str, str]) -> set[str]:
    """Return the images to hold out: the smallest number of groups that holds `share` of them.

    `group_of`: the photograph or object that an image shows, by default the image itself. Groups
    are ordered by the hash of their names, so the order survives adding and removing images.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of.get(name, name), []).append(name)
    held = set[str]()
    for group in sorted(groups, key=lambda g: hashlib.sha256(g.encode()).digest()):
        if len(held) >= round(share * len(names)):
            break
        held.update(groups[group])
    return held


def check_exists(cfg: DataConfig) -> None:
    """Raise `ConfigError` if the data set is missing, with the command that makes it if known."""
    if not cfg.path:
        raise ConfigError(
            "data.path is empty: use a folder or zip of images with dataset.json", field="path"
        )
    path = Path(cfg.path).expanduser()
    if not path.exists():
        if cfg.path in cfg.make.split():
            raise DataError(f"{cfg.path} does not exist; to make the preset's data: {cfg.make}")
        raise missing(path)


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """One split of a data set, ordered by file name; mirrored images follow the plain ones.

    `split`: "train" or "test" as configured, "all", or the name of a split of the data set.

    Attributes:
        label_table: labels of the images; batches read rows of it.
        resolution: side of the images in pixels.
        names: files of the plain images.
        fingerprint: 16 hexadecimal digits that identify content and selection.
        boxes: (n, m, 4), boxes of objects for training; None unless `use_boxes` was called.
        name: name of the file or folder.
        rows: (m,), positions of the plain images in the whole data set.
        metadata: `dataset.json` without labels and annotations.
        annotations: what else is read of it, of all images.
        mirrored: whether mirrored images follow the plain ones.
        has_cameras: whether the labels are cameras.
    """

    def __init__(self, cfg: DataConfig, split: str = "train", again: bool = False) -> None:
        """Check the whole data set, and decode the images of the split if they fit in memory.

        A large data set that was checked before is not checked, unless `again` is set.
        """
        check_exists(cfg)
        self.cfg, self.name = cfg, Path(cfg.path).stem
        self.has_cameras = cfg.labels == "camera"
        checks = Checks(cfg.labels, cfg.num_classes, cfg.convert, cfg.repair_cameras)
        self._data = data = open_checked(cfg.path, checks, again)
        self.source, self.metadata, self.annotations = data.source, data.metadata, data.annotations
        assert data.labels is not None, "missing labels are an error here"
        self._all_labels = data.labels
        self.resolution = cfg.resolution or data.side
        if data.side % self.resolution:
            raise ConfigError(
                f"data.resolution={self.resolution}: use a divisor of {data.side}, the "
                f"resolution of {cfg.path}",
                field="resolution",
            )
        self._select(split)
        if data.index is None:
            decoded = set(self.names if self.in_memory else ())
            for name in (n for n in data.names if n not in decoded):
                open_image(self.source.read(name), name, data.side, cfg.convert)

    def _select(self, split: str) -> None:
        cfg, data, self.split = self.cfg, self._data, split
        self.mirrored = cfg.mirror and split == "train"
        of = (split, cfg.train_split, cfg.test_split, cfg.holdout, cfg.objects, cfg.mirror)
        file = "selection-" + sha256_of_text(repr((*of, self.resolution)), 16)
        stored = data.index and data.index.read(file)
        if stored:
            self.rows = stored[0]["rows"]
        else:
            self.rows = self._choose()
            self._reject_mirrored_copies()
        if isinstance(data.names, PackedNames):
            self.names: Sequence[str] = data.names.select(self.rows.numpy())
        else:
            self.names = [data.names[i] for i in self.rows.tolist()]
        self.label_table = replace(self._all_labels, selected=self.rows, mirrored=self.mirrored)
        self.fingerprint: str = stored[1]["fingerprint"] if stored else self._fingerprint()
        if data.index and not stored:
            data.index.write(file, {"rows": self.rows}, {"fingerprint": self.fingerprint})
        self.boxes: Float[Tensor, "n m 4"] | None = None
        self._images: UInt8[Tensor, "n 3 h w"] | None = None
        if len(self.names) * 3 * self.resolution**2 <= cfg.memory_mb * 2**20:
            self._images = torch.stack([self._read(i) for i in range(len(self.names))])

    def _reject_mirrored_copies(self) -> None:
        if not (self.mirrored and self.has_cameras) or self.copies is None:
            return
        names = self._data.names
        mirrored = find_duplicates(self._all_labels.dense()).num_mirrored
        if 4 * mirrored > len(names):
            raise ConfigError(
                f"data.mirror=true: {self.cfg.path} already has mirrored copies ({mirrored:,} of "
                f"{len(names):,} images); leave `mirror` out",
                field="mirror",
            )

    def of_split(self, split: str, cfg: DataConfig) -> "ImageDataset":
        """Return another split of the same files, which are not checked again."""
        other = copy.copy(self)
        other.cfg = cfg
        other._select(split)
        return other

    @property
    def labels(self) -> Float[Tensor, "n label_dim"]:
        """Camera, NaN if unknown, then zeros and a one per class; float32, made when first used."""
        return self.label_table.tensor

    @property
    def objects(self) -> Int[Tensor, " n"] | None:
        """Object number of each image, -1 if unknown; None without object numbers."""
        objects = self.annotations.objects
        return None if objects is None else objects[self.rows].repeat(1 + self.mirrored)

    @cached_property
    def copies(self) -> Int[Tensor, " n"] | None:
        """The image that each image of the data set repeats or mirrors, -1 for none.

        From `copies` of `dataset.json`, else by cameras and pixels; None if there are none.
        """
        given = self.annotations
        if given.copies is not None or given.objects is not None or not self.has_cameras:
            return given.copies  # the images of an object share cameras
        index, file = self._data.index, f"copies-{self.resolution}"
        stored = index and index.read(file)
        if not stored:
            copies = self._find_copies()
            stored = ({} if copies is None else {"copies": copies}, {})
            if index:
                index.write(file, *stored)
        return stored[0].get("copies")

    def _find_copies(self) -> Int[Tensor, " n"] | None:
        first = torch.tensor(find_duplicates(self._all_labels.dense()).first)
        copies = torch.where(first == torch.arange(len(first)), -1, first)
        images = (copies >= 0).nonzero()[:, 0].tolist()
        sample = images[:: len(images) // _SAMPLE + 1]
        agree = sum(self._is_copy(i, int(copies[i])) for i in sample)
        return copies.int() if 2 * agree > len(sample) else None

    def _is_copy(self, row: int, other: int) -> bool:
        """Whether two images are equal or mirrored, but for compression."""
        a, b = self._read_row(row).float(), self._read_row(other).float()
        difference = torch.minimum((a - b).abs().mean(), (a - b.flip(-1)).abs().mean())
        return bool(difference <= 0.2 * (a - a.mean()).abs().mean())

    def warnings(self, box: float = 1.0) -> list[str]:
        """Describe what is valid but rarely intended. `box`: edge of the scene in world units."""
        cameras = Cameras.from_label(self.label_table.dense())
        warnings = unusual_cameras(cameras, box) if self.has_cameras else []
        unused = ascii(sorted(self.metadata.keys() - KEYS))
        if unused != "[]":
            warnings.append(f"dataset.json has keys that are not used: {unused[1:-1][:200]}")
        splits = self.annotations.splits if self.cfg.holdout == 0 else {}
        copies = self.copies if splits else None
        if copies is not None:
            split_of = torch.full((len(copies),), -1)
            for i, images in enumerate(splits.values()):
                split_of[images.long()] = i
            leaks = ((copies >= 0) & (split_of != split_of[copies.long()])).nonzero()[:, 0]
            if len(leaks):
                name = self._data.names[int(leaks[0])]
                warnings.append(
                    f"{len(leaks):,} images are in another split than the image that they repeat "
                    f"or mirror, e.g. {name}: use data.holdout, or correct `splits`"
                )
        return warnings

    def how_to_resize(self, resolution: int) -> str:
        """Return what leads to images of another resolution, for messages."""
        if self._data.side % resolution == 0:
            return f"set data.resolution={resolution}"
        return f"prepare data of {resolution} pixels (these have {self._data.side})"

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return self._images is not None

    def __len__(self) -> int:
        """Return the number of images, mirrored ones included."""
        return len(self.label_table)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, " label_dim"]]:
        """Return an image and its label."""
        indices = torch.tensor([range(len(self))[index]])
        return self.images(indices)[0], self.label_table.rows(indices)[0]

    def images(self, indices: Sequence[int] | Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 h w"]:
        """Return images by index."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        plain = indices % len(self.names)
        if self._images is None:
            images = torch.stack([self._read(i) for i in plain.tolist()])
        else:
            images = self._images[plain]
        return self._flip(images, indices)

    def mattes(self, indices: Int[Tensor, " k"]) -> UInt8[Tensor, "k 1 h w"]:
        """Return the opacity of images by index, 0 to 255."""
        names = [self.names[i] for i in (indices % len(self.names)).tolist()]
        mattes = [self._reduce(matte_of(self.source.read(name), name)) for name in names]
        return self._flip(torch.stack(mattes), indices)

    def placements(self, index: int) -> Float[Tensor, "m 9"]:
        """Objects of an image, mirrored with it, see `labels.read_placements`."""
        objects, ends = torch.zeros(0, 9), self.annotations.placement_ends
        if self.annotations.placements is not None and ends is not None:
            row = int(self.rows[index % len(self.names)])
            objects = self.annotations.placements[int(ends[row - 1]) if row else 0 : int(ends[row])]
        return mirror_objects(objects) if index >= len(self.names) else objects

    def use_boxes(self, most: int) -> None:
        """Set `boxes`: those of all images' objects, at most the `most` largest within the image.

        x0, y0, x1, y1 as shares of the image size, not clipped to it; NaN for missing objects.
        """
        rows = []
        for i in range(len(self)):
            boxes = self.placements(i)[:, :4]
            inside = boxes.clamp(0, 1)
            area = (inside[:, 2:] - inside[:, :2]).prod(dim=1)
            rows.append(boxes[area.argsort(descending=True, stable=True)[:most].sort().values])
        self.boxes = pad_sequence(rows, batch_first=True, padding_value=torch.nan)
        if not self.boxes.numel():
            raise DataError(
                f"split `{self.split}` of {self.source.path}: `placements` has no box of its "
                "images; add boxes to dataset.json, or set discriminator.objects=null"
            )

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a run's manifest keeps: `fingerprint`, and that of the boxes if they are used."""
        prints = {"dataset_fingerprint": self.fingerprint}
        if self.boxes is not None:
            digest = hashlib.sha256(self.boxes.numpy().tobytes()).hexdigest()
            prints["boxes_fingerprint"] = digest[:16]
        return prints

    def _flip(self, images: UInt8[Tensor, "k c h w"], indices: Tensor) -> UInt8[Tensor, "k c h w"]:
        """Mirror those that follow the plain images."""
        if not self.mirrored:
            return images
        flipped = (indices >= len(self.names))[:, None, None, None]
        return torch.where(flipped, images.flip(-1), images)

    def _read(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self._read_row(int(self.rows[index]))

    def _read_row(self, row: int) -> UInt8[Tensor, "3 h w"]:
        name, sha256 = self._data.names[row], self.annotations.sha256
        data = self.source.read(name)
        if sha256 is not None and not is_intact(data, sha256[row]):
            raise DataError(f"{name}: bad checksum in {self.source.path}; copy the dataset again")
        return self._reduce(decode(data, name, self._data.side, self.cfg.convert))

    def _reduce(self, pixels: UInt8[np.ndarray, "y x c"]) -> UInt8[Tensor, "c h w"]:
        """Average pixels to the resolution of the data set."""
        image = torch.from_numpy(pixels)
        factor = self._data.side // self.resolution
        if factor == 1:
            return rearrange(image, "h w c -> c h w").contiguous()
        mean = reduce(image.float(), "(h p) (w q) c -> c h w", "mean", p=factor, q=factor)
        return mean.round().to(torch.uint8)

    def _choose(self) -> Int[Tensor, " m"]:
        """Return the images of the split, restricted to the selected objects."""
        cfg, objects = self.cfg, self.annotations.objects
        split = {"train": cfg.train_split, "test": cfg.test_split}.get(self.split, self.split)
        splits = self.annotations.splits if cfg.holdout == 0 else {}
        chosen = torch.ones(len(self._data.names), dtype=torch.bool)
        if self.split == "all":
            pass
        elif splits:
            if split not in splits:
                raise DataError(f"{cfg.path} has no split `{split}`; it has {', '.join(splits)}")
            chosen = torch.zeros_like(chosen)
            chosen[splits[split].long()] = True
        else:
            chosen = self._held_out(split)
        if cfg.objects:
            if objects is None:
                raise ConfigError(
                    f"data.objects={cfg.objects}: {cfg.path} does not number its objects; leave "
                    "it out",
                    field="objects",
                )
            selected = parse_ranges(cfg.objects)
            chosen &= torch.tensor([number in selected for number in objects.tolist()])
        if not chosen.any():
            suffix = f" for objects {cfg.objects}" if cfg.objects else ""
            raise DataError(f"split `{self.split}` of {cfg.path} is empty{suffix}")
        return chosen.nonzero()[:, 0].int()

    def _held_out(self, split: str) -> Bool[Tensor, " n"]:
        """Split by the hash of the name, with objects and copies on one side.

        Otherwise a generator would be compared with other views of its training objects.
        """
        cfg, names, objects = self.cfg, self._data.names, self.annotations.objects
        group_of, copies = {}, self.copies if cfg.holdout else None
        for i, name in enumerate(names) if cfg.holdout else ():
            original = -1 if copies is None else int(copies[i])
            original = i if original < 0 else original  # a copy may have another object number
            number = -1 if objects is None else int(objects[original])
            group_of[name] = f"object {number}" if number >= 0 else names[original]
        held = hold_out(names, cfg.holdout, group_of)
        if split != cfg.test_split and split != cfg.train_split:
            raise DataError(f"{cfg.path} has no split `{split}`")
        if split != cfg.train_split and not held:
            fault = f"data.holdout={cfg.holdout} of {len(names)} images rounds to none"
            fault = fault if cfg.holdout else f"{cfg.path} has no splits"
            raise DataError(f"{fault}: set data.holdout, e.g. {max(0.1, 1 / len(names)):.2g}")
        return torch.tensor([(name in held) != (split == cfg.train_split) for name in names])

    def _fingerprint(self) -> str:
        digest = self.source.digest()
        digest.update(self.label_table.dense().numpy().data)
        rest = ([*self.names], self.mirrored, self.resolution, self.cfg.convert)
        digest.update(repr(rest).encode())
        return digest.hexdigest()[:16]

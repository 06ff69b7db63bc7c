"""Images with cameras in EG3D's format: a folder or stored zip with `dataset.json`."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, checksum, missing, open_source
from lightning_gan3d.data.camera_checks import check_cameras, find_duplicates, unusual_cameras
from lightning_gan3d.data.image_files import decode, image_names, matte_of, open_image
from lightning_gan3d.data.labels import KEYS, check_index, mirror_objects, read_index
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
        labels: (n, 25 + classes), float32: camera, NaN if unknown, then zeros and a one per class.
        resolution: side of the images in pixels.
        names: files of the plain images.
        objects: object number of each image, -1 if unknown; None without object numbers.
        fingerprint: 16 hexadecimal digits that identify content and selection.
        boxes: (n, m, 4), boxes of objects for training; None unless `use_boxes` was called.
        name: name of the file or folder.
        index: all of `dataset.json`.
        annotations: what is read of it, checked.
        mirrored: whether mirrored images follow the plain ones.
        has_cameras: whether the labels are cameras.
    """

    def __init__(self, cfg: DataConfig, split: str = "train") -> None:
        """Check the whole data set, and decode the images of the split if they fit in memory."""
        check_exists(cfg)
        self.cfg, self.split, self.name = cfg, split, Path(cfg.path).stem
        self.source = open_source(cfg.path)
        self._all = names = image_names(self.source)
        self.has_cameras = cfg.labels == "camera"
        bare = cfg.labels == "none" and "dataset.json" not in self.source.names
        self.index = {} if bare else read_index(self.source)
        self.annotations = check_index(
            self.index, names, self.source, cfg.labels != "none", cfg.num_classes
        )
        self._cameras = self.annotations.labels.float()
        if self.has_cameras:
            cameras = check_cameras(self.annotations.labels, names, cfg.repair_cameras)
            self._cameras = cameras.float()
        first = open_image(self.source.read(names[0]), names[0], convert=cfg.convert)
        self._file_size = first.size[0]
        self.resolution = cfg.resolution or self._file_size
        if self._file_size % self.resolution:
            raise ConfigError(
                f"data.resolution={self.resolution}: use a divisor of {self._file_size}, the "
                f"resolution of {cfg.path}",
                field="resolution",
            )
        self._select(split)
        decoded = set(self.names if self.in_memory else ())
        for name in (n for n in names if n not in decoded):
            open_image(self.source.read(name), name, self._file_size, cfg.convert)

    def _select(self, split: str) -> None:
        cfg, self.split = self.cfg, split
        chosen = self._choose()
        self.names = [self._all[i] for i in chosen]
        self.mirrored = cfg.mirror and split == "train"
        labels = self._cameras[chosen]
        if self.mirrored:
            known = self.has_cameras and self.copies
            mirrored = find_duplicates(self._cameras).num_mirrored if known else 0
            if 4 * mirrored > len(self._all):
                raise ConfigError(
                    f"data.mirror=true: {cfg.path} already has mirrored copies ({mirrored:,} of "
                    f"{len(self._all):,} images); leave `mirror` out",
                    field="mirror",
                )
            mirrored_cameras = Cameras.from_label(labels).mirror().to_label()
            classes = labels[:, LABEL_DIM:]
            labels = torch.cat([labels, torch.cat([mirrored_cameras, classes], dim=1)])
        self.labels: Float[Tensor, "n label_dim"] = labels
        objects, repeated = self.annotations.objects, self.names * (2 if self.mirrored else 1)
        self.objects = torch.tensor([objects.get(n, -1) for n in repeated]) if objects else None
        self.fingerprint = self._fingerprint(self._all)
        self.boxes: Float[Tensor, "n m 4"] | None = None
        self._images: UInt8[Tensor, "n 3 h w"] | None = None
        if len(self.names) * 3 * self.resolution**2 <= cfg.memory_mb * 2**20:
            self._images = torch.stack([self._read(n) for n in self.names])

    def of_split(self, split: str, cfg: DataConfig) -> "ImageDataset":
        """Return another split of the same files, which are not checked again."""
        other = copy.copy(self)
        other.cfg = cfg
        other._select(split)
        return other

    @cached_property
    def copies(self) -> dict[str, str]:
        """The image that an image repeats or mirrors: `copies`, else by cameras and pixels."""
        annotated = self.annotations.copies or self.annotations.objects  # objects share cameras
        if annotated or not self.has_cameras:
            return self.annotations.copies
        first = find_duplicates(self._cameras).first
        pairs = [(self._all[i], self._all[j]) for i, j in enumerate(first) if i != j]
        sample = pairs[:: len(pairs) // _SAMPLE + 1]
        return dict(pairs) if 2 * sum(self._is_copy(*p) for p in sample) > len(sample) else {}

    def _is_copy(self, name: str, other: str) -> bool:
        """Whether two images are equal or mirrored, but for compression."""
        a, b = self._read(name).float(), self._read(other).float()
        difference = torch.minimum((a - b).abs().mean(), (a - b.flip(-1)).abs().mean())
        return bool(difference <= 0.2 * (a - a.mean()).abs().mean())

    def warnings(self, box: float = 1.0) -> list[str]:
        """Describe what is valid but rarely intended. `box`: edge of the scene in world units."""
        cameras = Cameras.from_label(self.labels)
        warnings = unusual_cameras(cameras, box) if self.has_cameras else []
        unused = ascii(sorted(self.index.keys() - KEYS))
        if unused != "[]":
            warnings.append(f"dataset.json has keys that are not used: {unused[1:-1][:200]}")
        splits = self.annotations.splits if self.cfg.holdout == 0 else {}
        of = {name: split for split, names in splits.items() for name in names}
        leaks = [n for n, o in (self.copies if of else {}).items() if of.get(n) != of.get(o)]
        if leaks:
            warnings.append(
                f"{len(leaks):,} images are in another split than the image that they repeat or "
                f"mirror, e.g. {leaks[0]}: use data.holdout, or correct `splits`"
            )
        return warnings

    def how_to_resize(self, resolution: int) -> str:
        """Return what leads to images of another resolution, for messages."""
        if self._file_size % resolution == 0:
            return f"set data.resolution={resolution}"
        return f"prepare data of {resolution} pixels (these have {self._file_size})"

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return self._images is not None

    def __len__(self) -> int:
        """Return the number of images, mirrored ones included."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, " label_dim"]]:
        """Return an image and its label."""
        return self.images([index])[0], self.labels[index]

    def images(self, indices: Sequence[int] | Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 h w"]:
        """Return images by index."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        plain = indices % len(self.names)
        if self._images is None:
            images = torch.stack([self._read(self.names[i]) for i in plain.tolist()])
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
        rows = self.annotations.placements.get(self.names[index % len(self.names)], [])
        objects = torch.tensor(rows, dtype=torch.float32).view(-1, 9)
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

    def _read(self, name: str) -> UInt8[Tensor, "3 h w"]:
        data = self.source.read(name)
        if name in self.annotations.sha256 and checksum(data) != self.annotations.sha256[name]:
            raise DataError(f"{name}: bad checksum in {self.source.path}; copy the dataset again")
        return self._reduce(decode(data, name, self._file_size, self.cfg.convert))

    def _reduce(self, pixels: UInt8[np.ndarray, "y x c"]) -> UInt8[Tensor, "c h w"]:
        """Average pixels to the resolution of the data set."""
        image = torch.from_numpy(pixels)
        factor = self._file_size // self.resolution
        if factor == 1:
            return rearrange(image, "h w c -> c h w").contiguous()
        mean = reduce(image.float(), "(h p) (w q) c -> c h w", "mean", p=factor, q=factor)
        return mean.round().to(torch.uint8)

    def _choose(self) -> list[int]:
        """Return the indices of the images of the split, restricted to the selected objects."""
        cfg, names, objects = self.cfg, self._all, self.annotations.objects
        split = {"train": cfg.train_split, "test": cfg.test_split}.get(self.split, self.split)
        splits = self.annotations.splits if cfg.holdout == 0 else {}
        if self.split == "all":
            chosen = set(names)
        elif splits:
            if split not in splits:
                raise DataError(f"{cfg.path} has no split `{split}`; it has {', '.join(splits)}")
            chosen = set(splits[split])
        else:
            chosen = self._held_out(names, split)
        if cfg.objects:
            if not objects:
                raise ConfigError(
                    f"data.objects={cfg.objects}: {cfg.path} does not number its objects; leave "
                    "it out",
                    field="objects",
                )
            selected = parse_ranges(cfg.objects)
            chosen = {n for n in chosen if objects.get(n) in selected}
        if not chosen:
            suffix = f" for objects {cfg.objects}" if cfg.objects else ""
            raise DataError(f"split `{self.split}` of {cfg.path} is empty{suffix}")
        return [i for i, name in enumerate(names) if name in chosen]

    def _held_out(self, names: list[str], split: str) -> set[str]:
        """Split by the hash of the name, with objects and copies on one side.

        Otherwise a generator would be compared with other views of its training objects.
        """
        cfg, objects = self.cfg, self.annotations.objects
        group_of = {}
        for name in names if cfg.holdout else ():
            original = self.copies.get(name, name)  # a mirrored copy may have another object number
            known = objects.get(original, -1) >= 0
            group_of[name] = f"object {objects[original]}" if known else original
        held = hold_out(names, cfg.holdout, group_of)
        if split == cfg.train_split:
            return set(names) - held
        if split != cfg.test_split:
            raise DataError(f"{cfg.path} has no split `{split}`")
        if not held:
            fault = f"data.holdout={cfg.holdout} of {len(names)} images rounds to none"
            fault = fault if cfg.holdout else f"{cfg.path} has no splits"
            raise DataError(f"{fault}: set data.holdout, e.g. {max(0.1, 1 / len(names)):.2g}")
        return held

    def _fingerprint(self, names: list[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0{self.source.mark(name)}\n".encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(repr((self.names, self.mirrored, self.resolution, self.cfg.convert)).encode())
        return digest.hexdigest()[:16]

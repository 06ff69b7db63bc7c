"""Images with cameras in EG3D's format: a folder or stored zip with `dataset.json`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, checksum, missing, open_source
from lightning_gan3d.data.image_files import decode, image_names, open_image
from lightning_gan3d.data.labels import check_cameras, name_map, read_index, read_labels
from lightning_gan3d.ranges import parse_ranges

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
    convert: Literal["none", "black", "white"] = "none"
    """Background colour for converting images to 8-bit RGB; `none` rejects other formats."""
    repair_cameras: bool = False
    """Replace invalid rotations by the nearest valid ones."""
    memory_mb: Annotated[int, Ge(0)] = 2048
    """Decode all images at the start if they fit; else each time they are used."""
    num_workers: Annotated[int, Ge(0)] = 0
    """Processes that read images; the batches do not depend on it."""

    def __post_init__(self) -> None:
        """Check `objects`."""
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
        labels: (n, 25), float32.
        resolution: side of the images in pixels.
        names: files of the plain images.
        objects: object number of each image, -1 if unknown; None without object numbers.
        fingerprint: 16 hexadecimal digits that identify content and selection.
        name: name of the file or folder.
        index: all of `dataset.json`.
        mirrored: whether mirrored images follow the plain ones.
    """

    def __init__(self, cfg: DataConfig, split: str = "train") -> None:
        """Check the whole data set, and decode the images of the split if they fit in memory."""
        check_exists(cfg)
        self.cfg, self.split, self.name = cfg, split, Path(cfg.path).stem
        self.source = open_source(cfg.path)
        names = image_names(self.source)
        self.index = read_index(self.source)
        labels = check_cameras(
            read_labels(self.index, names, self.source), names, cfg.repair_cameras
        ).float()
        copies = self._name_map("copies", str)
        _check_existing("`copies`", {*copies, *copies.values()}, names, cfg.path)
        self._checksums = self._name_map("sha256", str)
        first = open_image(self.source.read(names[0]), names[0], convert=cfg.convert)
        self._file_size = first.size[0]
        self.resolution = cfg.resolution or self._file_size
        if self._file_size % self.resolution:
            raise ConfigError(
                f"data.resolution={self.resolution}: use a divisor of {self._file_size}, the "
                f"resolution of {cfg.path}",
                field="resolution",
            )
        chosen = self._choose(names)
        self.names = [names[i] for i in chosen]
        self.mirrored = cfg.mirror and split == "train"
        labels = labels[chosen]
        if self.mirrored:
            labels = torch.cat([labels, Cameras.from_label(labels).mirror().to_label()])
        self.labels: Float[Tensor, "n 25"] = labels
        objects = self._name_map("objects", int)
        repeated = self.names * (2 if self.mirrored else 1)
        self.objects = torch.tensor([objects.get(n, -1) for n in repeated]) if objects else None
        self.fingerprint = self._fingerprint(names)
        self._images: UInt8[Tensor, "n 3 h w"] | None = None
        if len(self.names) * 3 * self.resolution**2 <= cfg.memory_mb * 2**20:
            self._images = torch.stack([self._read(n) for n in self.names])
        else:
            for name in names:
                open_image(self.source.read(name), name, self._file_size, cfg.convert)

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

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "25"]]:
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
        if not self.mirrored:
            return images
        flipped = (indices >= len(self.names))[:, None, None, None]
        return torch.where(flipped, images.flip(-1), images)

    def _read(self, name: str) -> UInt8[Tensor, "3 h w"]:
        data = self.source.read(name)
        if name in self._checksums and checksum(data) != self._checksums[name]:
            raise DataError(f"{name}: bad checksum in {self.source.path}; copy the dataset again")
        image = torch.from_numpy(decode(data, name, self._file_size, self.cfg.convert))
        factor = self._file_size // self.resolution
        if factor == 1:
            return rearrange(image, "h w c -> c h w").contiguous()
        mean = reduce(image.float(), "(h p) (w q) c -> c h w", "mean", p=factor, q=factor)
        return mean.round().to(torch.uint8)

    def _name_map(self, key: str, kind: type) -> dict[str, Any]:
        return name_map(self.index, key, kind, f"dataset.json of {self.cfg.path}")

    def _choose(self, names: list[str]) -> list[int]:
        """Return the indices of the images of the split, restricted to the selected objects."""
        cfg = self.cfg
        split = {"train": cfg.train_split, "test": cfg.test_split}.get(self.split, self.split)
        splits = self.index.get("splits") if cfg.holdout == 0 else None
        if self.split == "all":
            chosen = set(names)
        elif isinstance(splits, dict) and splits:
            if split not in splits:
                raise DataError(f"{cfg.path} has no split `{split}`; it has {', '.join(splits)}")
            chosen = set(splits[split])
            _check_existing(f"split `{split}`", chosen, names, cfg.path)
        else:
            chosen = self._held_out(names, split)
        if cfg.objects:
            objects = self._name_map("objects", int)
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
        cfg = self.cfg
        copies = self._name_map("copies", str)
        objects = self._name_map("objects", int)
        group_of = {}
        for name in names:
            original = copies.get(name, name)  # a mirrored copy may have another object number
            known = objects.get(original, -1) >= 0
            group_of[name] = f"object {objects[original]}" if known else original
        held = hold_out(names, cfg.holdout, group_of)
        if split == cfg.train_split:
            return set(names) - held
        if split != cfg.test_split:
            raise DataError(f"{cfg.path} has no split `{split}`")
        if not held:
            raise DataError(f"{cfg.path} has no splits: set data.holdout, e.g. 0.1")
        return held

    def _fingerprint(self, names: list[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0{self.source.mark(name)}\n".encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(repr((self.names, self.mirrored, self.resolution, self.cfg.convert)).encode())
        return digest.hexdigest()[:16]


def _check_existing(key: str, images: set[str], names: list[str], path: str) -> None:
    missing = sorted(images - set(names))
    if missing:
        raise DataError(
            f"{key} of {path} names {missing[0]}, which does not exist: fix dataset.json, or "
            "prepare the data set again"
        )

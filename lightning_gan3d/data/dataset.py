"""Images with cameras, in EG3D's format.

A folder or a stored zip with `dataset.json`, checked before use.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, checksum, open_source
from lightning_gan3d.data.decode import decode, is_image, open_image
from lightning_gan3d.data.labels import check_cameras, read_index, read_labels
from lightning_gan3d.data.splits import hold_out
from lightning_gan3d.draws import Draws


@dataclass(frozen=True)
class DataConfig:
    """A data set, and which part of it is used how."""

    path: str = ""
    """A folder or a zip of images with `dataset.json`."""
    resolution: int | None = None
    """Side in pixels: the files' own (None), or that divided by a whole number (pixel means)."""
    mirror: bool = False
    """Double the training images by mirrored ones, with mirrored poses."""
    holdout: float = 0.0
    """Share of images held out, whole objects where the data set names these; picked by name.
    Above 0 it replaces the data set's own splits."""
    train_split: str = "train"
    """Which of the data set's own splits is trained on, where it names any."""
    test_split: str = "test"
    """Which of the data set's own splits is held out."""
    objects: str = ""
    """Object numbers to use, such as `1-10,15`, where the data set knows objects. Empty: all."""
    convert: Literal["none", "black", "white"] = "none"
    """Background over which other images are converted to 8-bit RGB; `none` refuses them."""
    repair_cameras: bool = False
    """Take the nearest rotation where a pose holds none."""
    memory_mb: int = 2048
    """Decode images at the start if they take no more than this; else each time they are used."""
    num_workers: int = 0
    """Processes that read images; the batches do not depend on it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.resolution is not None and self.resolution < 4:
            raise ConfigError(
                f"data.resolution={self.resolution}: use 4 or more, or leave it out",
                field="resolution",
            )
        if not 0 <= self.holdout < 1:
            raise ConfigError(
                f"data.holdout={self.holdout}: use a share in [0, 1), e.g. 0.1", field="holdout"
            )
        if self.num_workers < 0:
            raise ConfigError(
                f"data.num_workers={self.num_workers}: use 0 or more", field="num_workers"
            )
        if self.memory_mb < 0:
            raise ConfigError(
                f"data.memory_mb={self.memory_mb}: use 0 (never) or more", field="memory_mb"
            )
        try:
            parse_ranges(self.objects)
        except ValueError:
            raise ConfigError(
                f"data.objects={self.objects}: write numbers and ranges, e.g. 1-10,15",
                field="objects",
            ) from None


def parse_ranges(text: str) -> set[int]:
    """Return the numbers of `1-10,15`."""
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else []:
        first, dash, last = part.partition("-")
        found = range(int(first), int(last if dash else first) + 1)
        if not found:
            raise ValueError(f"{part}: the range is empty")
        numbers.update(found)
    return numbers


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """One split of a data set, in the order of its names; mirrored images follow the plain ones.

    `split` is "train" or "test" (which of the data set's splits that is, the configuration says),
    "all", or a split's own name.

    Attributes:
        labels: (n, 25), float32.
        resolution: side of the images in pixels.
        names: files of the plain images.
        objects: object number of each image, -1 where unknown; None where none is known.
        fingerprint: 16 hexadecimal digits that stand for content and selection.
        name: that of the file or folder.
        index: the whole of `dataset.json`.
        mirrored: whether mirrored images follow the plain ones.
    """

    def __init__(self, cfg: DataConfig, split: str = "train") -> None:
        """Check the whole data set, then load or remember the images of the split."""
        if not cfg.path:
            raise ConfigError(
                "data.path is empty: give a folder or a zip of images with dataset.json",
                field="path",
            )
        self.cfg, self.split, self.name = cfg, split, Path(cfg.path).stem
        self.source = open_source(cfg.path)
        names = [n for n in self.source.names if is_image(n)]
        if not names:
            raise DataError(f"{cfg.path} holds no images (.png, .jpg, .webp, .bmp)")
        self.index = read_index(self.source)
        labels = check_cameras(
            read_labels(self.index, names, self.source), names, cfg.repair_cameras
        ).float()
        _check_copies(_mapping(self.index, "copies", str, cfg.path), names, cfg.path)
        self._checksums = _mapping(self.index, "sha256", str, cfg.path)
        self._file_size = open_image(
            self.source.read(names[0]), names[0], convert=cfg.convert
        ).size[0]
        self.resolution = cfg.resolution or self._file_size
        if self._file_size % self.resolution:
            raise ConfigError(
                f"data.resolution={self.resolution}: images of {cfg.path} have {self._file_size} "
                "pixels; "
                "use that number divided by a whole one",
                field="resolution",
            )
        chosen = self._choose(names)
        self.names = [names[i] for i in chosen]
        self.mirrored = cfg.mirror and split == "train"
        labels = labels[chosen]
        if self.mirrored:
            labels = torch.cat([labels, Cameras.from_label(labels).mirror().to_label()])
        self.labels: Float[Tensor, "n 25"] = labels
        known = _mapping(self.index, "objects", int, cfg.path)
        repeat = 2 if self.mirrored else 1
        self.objects = (
            torch.tensor([known.get(n, -1) for n in self.names] * repeat) if known else None
        )
        self.fingerprint = self._fingerprint(names)
        self._images: UInt8[Tensor, "n 3 h w"] | None = None
        if len(self.names) * 3 * self.resolution**2 <= cfg.memory_mb * 2**20:
            self._images = torch.stack([self._read(n) for n in self.names])
        else:
            for name in names:
                open_image(self.source.read(name), name, self._file_size, cfg.convert)

    @property
    def in_memory(self) -> bool:
        """Whether the images were decoded at the start."""
        return self._images is not None

    def __len__(self) -> int:
        """Return the number of images, mirrored ones included."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "25"]]:
        """Return an image and its label."""
        return self.images([index])[0], self.labels[index]

    def images(self, indices: Sequence[int] | Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 h w"]:
        """Return images by their number."""
        which = torch.as_tensor(indices, dtype=torch.long)
        plain = which % len(self.names)
        found = (
            torch.stack([self._read(self.names[i]) for i in plain.tolist()])
            if self._images is None
            else self._images[plain]
        )
        if not self.mirrored:
            return found
        return torch.where((which >= len(self.names))[:, None, None, None], found.flip(-1), found)

    def sample_labels(self, draws: Draws, n: int) -> Float[Tensor, "n 25"]:
        """Draw labels uniformly with replacement, mirrored ones included."""
        return self.labels[draws.integers("labels", len(self), (n,))]

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

    def _choose(self, names: list[str]) -> list[int]:
        """Return the numbers of the images in the split that show the objects asked for."""
        cfg, place = self.cfg, {n: i for i, n in enumerate(names)}
        wanted = {"train": cfg.train_split, "test": cfg.test_split}.get(self.split, self.split)
        splits = self.index.get("splits") if cfg.holdout == 0 else None
        if self.split == "all":
            chosen = set(range(len(names)))
        elif isinstance(splits, dict) and splits:
            if wanted not in splits:
                raise DataError(f"{cfg.path} has no split `{wanted}`; it has {', '.join(splits)}")
            unknown = [n for n in splits[wanted] if n not in place]
            if unknown:
                raise DataError(
                    f"split `{wanted}` of {cfg.path} names {unknown[0]}, which is not there"
                )
            chosen = {place[n] for n in splits[wanted]}
        else:
            chosen = self._held_out(names, wanted)
        if cfg.objects:
            known = _mapping(self.index, "objects", int, cfg.path)
            if not known:
                raise ConfigError(
                    f"data.objects={cfg.objects}: {cfg.path} does not say which object is in an "
                    "image",
                    field="objects",
                )
            keep = parse_ranges(cfg.objects)
            chosen = {i for i in chosen if known.get(names[i]) in keep}
        if not chosen:
            raise DataError(
                f"split `{self.split}` of {cfg.path} is empty"
                + (f" for objects {cfg.objects}" if cfg.objects else "")
            )
        return sorted(chosen)

    def _held_out(self, names: list[str], wanted: str) -> set[int]:
        """Split by the hash of the name.

        Images of one object, and copies of one picture, stay together where `dataset.json` tells of
        them: else a generator would be compared with other views of what it was trained on.
        """
        copies = _mapping(self.index, "copies", str, self.cfg.path)
        objects = _mapping(self.index, "objects", int, self.cfg.path)
        first = {n: copies.get(n, n) for n in names}  # a mirrored copy may have another object
        group_of = {
            n: f"object {objects[f]}" if objects.get(f, -1) >= 0 else f for n, f in first.items()
        }
        held = hold_out(names, self.cfg.holdout, group_of)
        if wanted == self.cfg.test_split and wanted != self.cfg.train_split:
            if not held:
                raise DataError(
                    f"{self.cfg.path} names no splits: set `holdout`, e.g. 0.1, to hold images out"
                )
            return {i for i, n in enumerate(names) if n in held}
        if wanted == self.cfg.train_split:
            return {i for i, n in enumerate(names) if n not in held}
        raise DataError(f"{self.cfg.path} has no split `{wanted}`")

    def _fingerprint(self, names: list[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0{self.source.mark(name)}\n".encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(repr((self.names, self.mirrored, self.resolution, self.cfg.convert)).encode())
        return digest.hexdigest()[:16]


def _check_copies(copies: dict[str, str], names: list[str], path: str) -> None:
    gone = sorted({*copies, *copies.values()} - set(names))
    if gone:
        raise DataError(
            f"`copies` of {path} names {gone[0]}, which is not there: take the entry out of "
            "dataset.json, or prepare the data set again"
        )


def _mapping(index: dict[str, Any], key: str, kind: type, path: str) -> dict[str, Any]:
    found = index.get(key, {})
    if not isinstance(found, dict) or not all(type(v) is kind for v in found.values()):
        raise DataError(f"dataset.json of {path}: `{key}` must map image names to {kind.__name__}")
    return found

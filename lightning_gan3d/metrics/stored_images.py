"""Images that somebody's generator made and stored, to be measured as they are."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.data.archive import DataError, Source, checksum, open_source
from lightning_gan3d.data.decode import decode, is_image, open_image
from lightning_gan3d.data.labels import check_cameras, read_index, read_labels
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, to_float

SAME_CAMERA = 1e-4
"""Numbers of two labels may differ by this much and mean one camera."""


class Orbits(NamedTuple):
    """Items that were seen from the same cameras."""

    images: Int64[Tensor, "m v"]
    """Number of each item's image from each camera."""
    cameras: Cameras
    """The v cameras."""


class StoredImages:
    """A folder or zip of images, in the order of their names.

    With a `dataset.json` in the format of data sets each image has the label of its camera, and
    `objects` says which images show one item. Without one, measures that need these are missing.

    Attributes:
        names: files of the images.
        resolution: side of the images in pixels.
        labels: (n, 25) labels of their cameras; None without `dataset.json`.
        objects: number of the item that each image shows, -1 where unknown; None without.
        fingerprint: 16 hexadecimal digits that stand for names, content and cameras.
    """

    def __init__(self, path: str | Path) -> None:
        """List the images and read their labels; raises a `DataError` where they are unusable."""
        self.source: Source = open_source(path)
        self.names = [n for n in self.source.names if is_image(n)]
        if not self.names:
            raise DataError(f"{path} holds no images (.png, .jpg, .webp, .bmp)")
        first = self.names[0]
        self.resolution: int = open_image(self.source.read(first), first).size[0]
        self.labels: Float[Tensor, "n 25"] | None = None
        self.objects: Int64[Tensor, " n"] | None = None
        self._checksums: dict[str, str] = {}
        if "dataset.json" in self.source.names:
            index = read_index(self.source)
            labels = read_labels(index, self.names, self.source)
            self.labels = check_cameras(labels, self.names, repair=False).float()
            known = index.get("objects")
            if isinstance(known, dict) and known:
                self.objects = torch.tensor([int(known.get(n, -1)) for n in self.names])
            self._checksums = dict(index.get("sha256", {}))
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\0{self.source.mark(name)}\n".encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.names)

    @property
    def path(self) -> Path:
        """Where they lie."""
        return self.source.path

    def images(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k 3 h w"]:
        """Read some images; raises a `DataError` for one that is damaged or of another size."""
        return torch.stack([self._read(self.names[int(i)]) for i in indices])

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the cameras of some images: not a number where nobody knows them."""
        if self.labels is None:
            return Cameras.from_label(torch.full((len(items), LABEL_DIM), torch.nan))
        return Cameras.from_label(self.labels[items])

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Return some images as a generator's. From any other camera than theirs, nothing is known.

        Raises a `ValueError` for other cameras.
        """
        own = self.base(items).to_label()
        asked = cameras.to_label().to(own)
        if own.shape != asked.shape or not torch.allclose(own, asked, equal_nan=True):
            raise ValueError("stored images can be seen from their own cameras alone")
        image = to_float(self.images(items))
        return Images(image, image)

    def orbits(self, views: int) -> Orbits | str:
        """Find the items that the same `views` cameras or more have seen; else say why not."""
        if self.labels is None:
            return "the images come without cameras (dataset.json)"
        if self.objects is None:
            return "dataset.json does not say which images show one item (`objects`)"
        items = sorted({i for i in self.objects.tolist() if i >= 0})
        by_item = [(self.objects == item).nonzero()[:, 0] for item in items]
        enough = [rows for rows in by_item if len(rows) >= views]
        if not enough:
            most = max((len(rows) for rows in by_item), default=0)
            return f"it takes {views} views of an item, and there are {most} at most"
        labels = self.labels[enough[0]]
        alike = [
            rows
            for rows in enough
            if len(rows) == len(labels)
            and bool(((self.labels[rows] - labels).abs() < SAME_CAMERA).all())
        ]
        if len(alike) < len(enough):
            return "items were not seen from the same cameras, in the same order of names"
        return Orbits(torch.stack(alike), Cameras.from_label(labels))

    def sample(self, num: int, seed: int) -> "StoredSample":
        """Draw `num` images in a random order that depends on the seed alone.

        A smaller number is the beginning of a larger one. By name, the first of a folder would be
        those of one class or item where it is sorted so.
        """
        which = Draws(seed).scope("stored").permutation("images", len(self))[:num]
        return StoredSample(self, which, seed)

    def _read(self, name: str) -> UInt8[Tensor, "3 h w"]:
        data = self.source.read(name)
        if name in self._checksums and checksum(data) != self._checksums[name]:
            raise DataError(f"{name}: bad checksum in {self.path}; copy the images again")
        image: UInt8[np.ndarray, "h w 3"] = decode(data, name, self.resolution)
        return rearrange(torch.from_numpy(image), "h w c -> c h w").contiguous()


@dataclass(frozen=True, eq=False)
class StoredSample:
    """Some of the stored images, in an order of their own, as a source of views."""

    stored: StoredImages
    which: Int64[Tensor, " n"]
    """Number of each image among all, by name."""
    seed: int
    """What the order was drawn by."""

    @property
    def protocol(self) -> str:
        """What is known of the images, in words: nobody told how they were made."""
        cameras = "cameras" if self.stored.labels is None else "conditioning"
        drawn = f"drawn at random (seed {self.seed}) from {len(self.stored):,}"
        return (
            f"stored images {drawn} (fingerprint {self.stored.fingerprint}), {cameras} and "
            "truncation unknown"
        )

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the cameras of some images, as `StoredImages.base`."""
        return self.stored.base(self.which[items])

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Return some images as a generator's, as `StoredImages.views`."""
        return self.stored.views(self.which[items], cameras)

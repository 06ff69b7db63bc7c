"""Evaluation of stored images, e.g. of another generator."""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from lightning_gan3d.cameras import LABEL_DIM, Cameras
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.checked_data import Checks, open_checked
from lightning_gan3d.data.image_files import Convert, decode
from lightning_gan3d.data.labels import is_intact
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images, to_float
from lightning_gan3d.metrics.sources import ViewSource

SAME_CAMERA = 1e-4
"""Largest difference between two labels of one camera."""


class Orbits(NamedTuple):
    """Objects with views from the same cameras."""

    images: Int64[Tensor, "m v"]
    """Index of each object's image from each camera."""
    cameras: Cameras
    """The v cameras."""


class StoredImages(ViewSource):
    """A folder or zip of images. Item i is image `order[i]`, in the order of names.

    The order is random, since a folder may be sorted by class. A `dataset.json` in the format of
    data sets gives the labels of the cameras (null: unknown), and in `objects` the object of each
    image.

    Attributes:
        names: image files.
        resolution: side of the images in pixels.
        labels: (n, 25) labels of their cameras; None without `dataset.json`.
        objects: index of the object in each image, -1 if unknown; None without.
        order: permutation of the images, a function of `seed` alone.
    """

    fixed_cameras: ClassVar[bool] = True

    def __init__(self, path: str | Path, seed: int = 0, convert: Convert = "none") -> None:
        """List the images and read their labels; raises `DataError` if there are none.

        `convert`: background for converting images to 8-bit RGB, as `data.convert`.
        """
        checks = Checks("if given", convert=convert, headers=False)
        data = open_checked(path, checks)
        self.source, self.seed, self._convert = data.source, seed, convert
        self.names, self.resolution = data.names, data.side
        labels = data.labels
        self.labels: Float[Tensor, "n 25"] | None = None if labels is None else labels.tensor
        self.objects: Int64[Tensor, " n"] | None = data.annotations.objects
        self._sha256 = data.annotations.sha256
        self.order = Draws(seed).scope("stored").permutation("images", len(self.names))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, a digest of names, content and cameras."""
        digest = self.source.digest()
        if self.labels is not None:
            digest.update(self.labels.numpy().data)
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.names)

    @property
    def path(self) -> Path:
        """The folder or zip file."""
        return self.source.path

    @property
    def protocol(self) -> str:
        """Selection of the images; how they were generated is unknown."""
        unknown = "cameras" if self.labels is None else "conditioning"
        return (
            f"stored images drawn at random (seed {self.seed}) from {len(self):,} (fingerprint "
            f"{self.fingerprint}), {unknown} and truncation unknown"
        )

    def images(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k 3 h w"]:
        """Read images by name order; raises `DataError` if one is damaged or has another size."""
        return torch.stack([self._read(int(i)) for i in indices])

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return the items' cameras; NaN if unknown."""
        if self.labels is None:
            return Cameras.from_label(torch.full((len(items), LABEL_DIM), torch.nan))
        return Cameras.from_label(self.labels[self.order[items]])

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Return the items' images; raises `ValueError` for cameras other than their own."""
        own = self.base(items).to_label()
        label = cameras.to_label().to(own)
        if own.shape != label.shape or not torch.allclose(own, label, equal_nan=True):
            raise ValueError("stored images can be rendered from their own cameras only")
        image = to_float(self.images(self.order[items]))
        return Images(image, image)

    def orbits(self, views: int) -> Orbits | str:
        """Return the objects with `views` or more views from the same cameras, or a reason."""
        if self.labels is None:
            return "the images come without cameras (dataset.json)"
        if self.objects is None:
            return "dataset.json does not give the object of each image (`objects`)"
        ids = sorted({i for i in self.objects.tolist() if i >= 0})
        of_objects = [(self.objects == i).nonzero()[:, 0] for i in ids]
        images = [indices for indices in of_objects if len(indices) >= views]
        if not images:
            most = max(map(len, of_objects), default=0)
            return f"each object needs {views} views, and has at most {most}"
        labels = self.labels[images[0]]
        for indices in images:
            difference = self.labels[indices] - labels if len(indices) == len(labels) else None
            if difference is None or not bool((difference.abs() < SAME_CAMERA).all()):
                return "the objects do not have the same cameras, in the same order of names"
        return Orbits(torch.stack(images), Cameras.from_label(labels))

    def _read(self, row: int) -> UInt8[Tensor, "3 h w"]:
        name = self.names[row]
        data = self.source.read(name)
        if self._sha256 is not None and not is_intact(data, self._sha256[row]):
            raise DataError(f"{name}: bad checksum in {self.path}; copy the images again")
        image = torch.from_numpy(decode(data, name, self.resolution, self._convert))
        return rearrange(image, "h w c -> c h w").contiguous()

"""Feature vectors in files ("shards") of `SHARD` items. Ranks compute them, rank 0 stores them.

Shards are written atomically, so that an interrupted evaluation continues with the next missing
one. Their values depend on their items alone: the same bits for any number of ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from lightning_gan3d.config import UserError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metrics.distribution.features import Extractor
from lightning_gan3d.metrics.process_group import from_main, gather_to_main, rank, world_size
from lightning_gan3d.metrics.sources import ImageSet, ViewSource

SHARD = 512
"""Items of a shard: 4 MB at 2048 numbers each."""


class StoreError(UserError):
    """Features that cannot be written."""


class Features(ABC):
    """Feature vectors, read in parts: they need not fit in memory."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the vectors."""

    @abstractmethod
    def rows(self, indices: Int64[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Read the vectors of these indices."""

    def blocks(self, size: int = SHARD) -> Iterator[Float[Tensor, "_ d"]]:
        """Read all vectors in order, at most `size` at a time."""
        for indices in torch.split(torch.arange(len(self)), size):
            yield self.rows(indices)


@dataclass(frozen=True, eq=False)
class Subset(Features):
    """Vectors of another set, in a given order."""

    source: Features
    indices: Int64[Tensor, " m"]

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self.indices)

    def rows(self, indices: Int64[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Read the vectors of these indices."""
        return self.source.rows(self.indices[indices])


@dataclass(frozen=True, eq=False)
class Shards(Features):
    """Vectors of an extractor, in a folder of shards."""

    folder: Path
    num: int
    extractor: Extractor

    def __len__(self) -> int:
        """Count the vectors."""
        return self.num

    def spans(self) -> list[tuple[int, int]]:
        """First item of each shard, and one past its last."""
        return [(i, min(i + SHARD, self.num)) for i in range(0, self.num, SHARD)]

    def missing(self) -> list[tuple[int, int]]:
        """Spans of missing or damaged shards."""
        return [span for span in self.spans() if not self._valid(span)]

    def write(self, span: tuple[int, int], vectors: Float32[Tensor, "_ d"]) -> None:
        """Write a shard atomically; raises `StoreError` if that fails."""
        path = self._path(span)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, vectors.numpy())
        except OSError as error:
            size = self.num * self.extractor.dim * 4 / 1e6
            raise StoreError(
                f"cannot write features to {self.folder}: {error.strerror}; they need "
                f"{size:.0f} MB: make room, or set XDG_CACHE_HOME (real "
                "images) or TMPDIR (generated images) to another folder"
            ) from None

    def rows(self, indices: Int64[Tensor, " m"]) -> Float32[Tensor, "m d"]:
        """Read the vectors of these indices, shard by shard."""
        result = torch.empty(len(indices), self.extractor.dim)
        shard = indices // SHARD
        for number in sorted(set(shard.tolist())):
            in_shard = shard == number
            start = number * SHARD
            # Mapped: often a few vectors of 512 are read.
            mapped = np.load(self._path((start, min(start + SHARD, self.num))), mmap_mode="r")
            result[in_shard] = torch.from_numpy(mapped[(indices[in_shard] - start).numpy()])
        return result

    def blocks(self, size: int = SHARD) -> Iterator[Float32[Tensor, "_ d"]]:
        """Read all vectors; a block never spans two shards."""
        for span in self.spans():
            yield from torch.split(torch.from_numpy(np.load(self._path(span))), size)

    def _path(self, span: tuple[int, int]) -> Path:
        return self.folder / f"{span[0]:08d}-{span[1]:08d}.npy"

    def _valid(self, span: tuple[int, int]) -> bool:
        try:
            vectors = np.load(self._path(span), mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        shape = (span[1] - span[0], self.extractor.dim)
        return bool(vectors.shape == shape and vectors.dtype == np.float32)


def compute_features(images: ImageSet | ViewSource, stores: Sequence[Shards], batch: int) -> None:
    """Compute the missing shards of all stores, one per rank at a time; rank 0 writes them.

    `images`: real images, or items to render from their own cameras; read or rendered once for all
    stores. Vectors of non-finite images are NaN. Stores hold equally many vectors; those of other
    ranks than 0 stay empty. Raises `StoreError` if rank 0 cannot write.
    """
    missing = from_main([store.missing() for store in stores])
    incomplete = [store for store, spans in zip(stores, missing, strict=True) if spans]
    spans = sorted({span for spans in missing for span in spans})
    for first in range(0, len(spans), world_size()):
        of_ranks = spans[first : first + world_size()]
        blocks = [torch.zeros(SHARD, store.extractor.dim) for store in incomplete]
        if rank() < len(of_ranks):
            start, stop = of_ranks[rank()]
            for items in torch.split(torch.arange(start, stop), batch):
                finite = torch.ones(len(items), dtype=torch.bool)
                if isinstance(images, ViewSource):
                    image = images.views(items, images.base(items)).image.float().cpu()
                    finite = image.isfinite().flatten(1).all(1)
                    stored = to_uint8(image.nan_to_num())
                else:
                    stored = images.images(items)
                for block, store in zip(blocks, incomplete, strict=True):
                    vectors = store.extractor(stored)
                    vectors[~finite] = torch.nan
                    block[items - start] = vectors
        for block, store in zip(blocks, incomplete, strict=True):
            for span, vectors in zip(of_ranks, gather_to_main(block), strict=False):
                store.write(span, vectors[: span[1] - span[0]])

"""Feature vectors in files ("shards") of `SHARD` items. Ranks compute them, rank 0 stores them.

A shard appears whole or not at all, so that an interrupted evaluation continues with the next
missing one. Its values depend on its items alone: the same bits for any number of ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from lightning_gan3d.config import UserError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.metrics.distribution.features import Extractor
from lightning_gan3d.metrics.image_batches import Stored
from lightning_gan3d.metrics.process_group import from_main, gather_to_main, rank, world_size

SHARD = 512
"""Items of a shard: 4 MB at 2048 numbers each."""


Read = Callable[[Int64[Tensor, " n"]], Stored]
"""From items to their images."""


class StoreError(UserError):
    """Features that cannot be written."""


class Features(ABC):
    """Feature vectors that are read in parts; they need not fit in memory."""

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
    """Vectors in a folder of shards."""

    folder: Path
    num: int
    dim: int

    def __len__(self) -> int:
        """Count the vectors."""
        return self.num

    def spans(self) -> list[tuple[int, int]]:
        """First item and one past the last, of each shard."""
        return [(i, min(i + SHARD, self.num)) for i in range(0, self.num, SHARD)]

    def missing(self) -> list[tuple[int, int]]:
        """Spans of the shards that are not there, or damaged."""
        return [span for span in self.spans() if not self._valid(span)]

    def write(self, span: tuple[int, int], vectors: Float32[Tensor, "_ d"]) -> None:
        """Write a shard atomically; raises `StoreError` if that fails."""
        path = self._path(span)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, vectors.numpy())
        except OSError as error:
            raise StoreError(
                f"cannot write features to {self.folder}: {error.strerror}; they need "
                f"{self.num * self.dim * 4 / 1e6:.0f} MB: make room, or set XDG_CACHE_HOME (real "
                "images) or TMPDIR (generated images) to another folder"
            ) from None

    def rows(self, indices: Int64[Tensor, " m"]) -> Float32[Tensor, "m d"]:
        """Read the vectors of these indices, shard by shard."""
        result = torch.empty(len(indices), self.dim)
        shard = indices // SHARD
        for number in sorted(set(shard.tolist())):
            here = shard == number
            start = number * SHARD
            # Mapped: often a few vectors of 512 are read.
            mapped = np.load(self._path((start, min(start + SHARD, self.num))), mmap_mode="r")
            result[here] = torch.from_numpy(mapped[(indices[here] - start).numpy()])
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
        shape = (span[1] - span[0], self.dim)
        return bool(vectors.shape == shape and vectors.dtype == np.float32)


def compute_features(
    read: Read,
    extractors: Sequence[Extractor],
    stores: Sequence[Shards],
    batch: int,
) -> None:
    """Compute the missing shards of each extractor's store: one per rank at a time, to rank 0.

    All extractors share the images that are read. Vectors of non-finite images are NaN.
    Stores hold equally many vectors; those of other ranks than 0 stay empty.

    Raises:
        StoreError: rank 0 cannot write to a folder.
    """
    missing = from_main([store.missing() for store in stores])
    todo = [x for x in zip(extractors, stores, missing, strict=True) if x[2]]
    spans = sorted({span for _, _, spans in todo for span in spans})
    for first in range(0, len(spans), world_size()):
        shared = spans[first : first + world_size()]
        blocks = [torch.zeros(SHARD, extractor.dim) for extractor, _, _ in todo]
        if rank() < len(shared):
            start, stop = shared[rank()]
            for items in torch.split(torch.arange(start, stop), batch):
                images, finite = read(items)
                for block, (extractor, _, _) in zip(blocks, todo, strict=True):
                    vectors = extractor(images)
                    vectors[~finite] = torch.nan
                    block[items - start] = vectors
        for block, (_, store, _) in zip(blocks, todo, strict=True):
            for span, vectors in zip(shared, gather_to_main(block), strict=False):
                store.write(span, vectors[: span[1] - span[0]])

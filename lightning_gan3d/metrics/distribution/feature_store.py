"""Feature vectors on disk, in shards: a broken-off evaluation continues, processes share the work.

A shard holds the vectors of `SHARD` consecutive items as float32 and appears whole or not at all.
Whoever finds it there skips it, so any number of processes, on any number of machines that share
the folder, may fill it at once, each its own part (`lightning_gan3d.metrics.distribution.crew`).
What a shard holds depends on its items alone, hence the same bits whoever computed it, and however
often the work was broken off.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from lightning_gan3d.config import UserError
from lightning_gan3d.metrics.distribution.crew import ALONE, Crew
from lightning_gan3d.metrics.distribution.features import Extractor

SHARD = 512
"""Items of a shard: 4 MB of 2048 numbers each."""


class StoreError(UserError):
    """Features that cannot be written."""


class Pictures(NamedTuple):
    """Images as stored, and which of them were finite before they were converted."""

    images: UInt8[Tensor, "n 3 h w"]
    finite: Bool[Tensor, " n"]


@runtime_checkable
class Rows(Protocol):
    """Vectors that need not be in memory."""

    def __len__(self) -> int:
        """Count the vectors."""
        ...

    def rows(self, indices: Int64[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Read some vectors."""
        ...

    def blocks(self, size: int = SHARD) -> Iterator[Float[Tensor, "_ d"]]:
        """Read all vectors in their order, at most `size` at a time."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Vectors in memory."""

    vectors: Float[Tensor, "n d"]

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self.vectors)

    def rows(self, indices: Int64[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Pick some vectors."""
        return self.vectors[indices]

    def blocks(self, size: int = SHARD) -> Iterator[Float[Tensor, "_ d"]]:
        """Split the vectors."""
        yield from torch.split(self.vectors, size)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the vectors of another set, in a given order."""

    source: Rows
    indices: Int64[Tensor, " m"]

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self.indices)

    def rows(self, indices: Int64[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Read some of them."""
        return self.source.rows(self.indices[indices])

    def blocks(self, size: int = SHARD) -> Iterator[Float[Tensor, "_ d"]]:
        """Read all of them."""
        for some in torch.split(self.indices, size):
            yield self.source.rows(some)


@dataclass(frozen=True)
class Shards:
    """Vectors in a folder; at most one shard is in memory at a time, besides what is asked for."""

    folder: Path
    num: int
    dim: int

    def __len__(self) -> int:
        """Count the vectors."""
        return self.num

    def spans(self) -> list[tuple[int, int]]:
        """First item and the one after the last of each shard."""
        return [(i, min(i + SHARD, self.num)) for i in range(0, self.num, SHARD)]

    def path(self, span: tuple[int, int]) -> Path:
        """File of a shard."""
        return self.folder / f"{span[0]:08d}-{span[1]:08d}.npy"

    def has(self, span: tuple[int, int]) -> bool:
        """Whether a shard is there, of the right size."""
        try:
            found = np.load(self.path(span), mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        shape = (span[1] - span[0], self.dim)
        return bool(found.shape == shape and found.dtype == np.float32)

    def read(self, span: tuple[int, int]) -> Float32[Tensor, "_ d"]:
        """Read a shard."""
        return torch.from_numpy(np.load(self.path(span)))

    def write(self, span: tuple[int, int], vectors: Float32[Tensor, "_ d"]) -> None:
        """Write a shard, whole or not at all.

        Raises:
            StoreError: the folder cannot be written to, or the disk is full.
        """
        path = self.path(span)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, vectors.numpy())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            need = self.num * self.dim * 4 / 1e6
            raise StoreError(
                f"features cannot be written to {self.folder}: {error.strerror}; set "
                f"XDG_CACHE_HOME to a folder with {need:.0f} MB free"
            ) from None

    def rows(self, indices: Int64[Tensor, " m"]) -> Float32[Tensor, "m d"]:
        """Read some vectors, shard by shard."""
        result = torch.empty(len(indices), self.dim)
        owner = indices // SHARD
        for number in sorted(set(owner.tolist())):
            here = owner == number
            span = (number * SHARD, min((number + 1) * SHARD, self.num))
            # Mapped, so that only what is asked for is read: a few of 512 vectors, often.
            mapped = np.load(self.path(span), mmap_mode="r")
            result[here] = torch.from_numpy(mapped[(indices[here] - span[0]).numpy()])
        return result

    def blocks(self, size: int = SHARD) -> Iterator[Float32[Tensor, "_ d"]]:
        """Read all vectors; a block never spans two shards."""
        for span in self.spans():
            yield from torch.split(self.read(span), size)


def collect(
    read: Callable[[Int64[Tensor, " n"]], Pictures],
    num: int,
    extractors: Sequence[Extractor],
    folders: Sequence[Path],
    batch: int,
    crew: Crew = ALONE,
    wait_minutes: float = 60.0,
) -> list[Shards]:
    """Have the vectors of items 0 to `num` - 1 of each extractor in its folder.

    `read(items)` shows items; each is shown once for all extractors that lack it, and not at all
    where none does. Vectors of images that are not finite are NaN. Of several processes, process 0
    waits until all parts are there, as long as new ones come; the others return with their own.

    Raises:
        CrewError: no shard of another process has come for `wait_minutes`.
        StoreError: the folder cannot be written to.
    """
    stores = [Shards(f, num, e.dim) for e, f in zip(extractors, folders, strict=True)]
    if not stores:
        return []
    spans = stores[0].spans()
    for span in crew.part(spans):
        lacking = [(s, e) for s, e in zip(stores, extractors, strict=True) if not s.has(span)]
        if not lacking:
            continue
        found: list[list[Tensor]] = [[] for _ in lacking]
        for items in torch.split(torch.arange(*span), batch):
            pictures = read(items)
            for vectors, (_, extractor) in zip(found, lacking, strict=True):
                new = extractor(pictures.images)
                new[~pictures.finite] = torch.nan
                vectors.append(new)
        for vectors, (store, _) in zip(found, lacking, strict=True):
            store.write(span, torch.cat(vectors))
    if crew.leads:
        crew.wait(spans, lambda span: all(s.has(span) for s in stores), wait_minutes)
    return stores

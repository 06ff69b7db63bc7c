"""Training batches that depend only on seed and step: not on workers, ranks or resumes."""

import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.draws import Draws

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that stop a training after its step; processes that read its images ignore them."""


class Batch(NamedTuple):
    """This rank's share of the global batch of a step."""

    images: UInt8[Tensor, "b 3 h w"]
    labels: Float[Tensor, "b label_dim"]
    step: int
    mattes: UInt8[Tensor, "b 1 h w"] | None = None
    """Opacity of the images, for random backgrounds."""
    boxes: Float[Tensor, "b m 4"] | None = None
    """Boxes of the objects, see `ImageDataset.use_boxes`."""


class KeyedOrder:
    """An endless order of images: a sequence of keyed permutations, cut into batches."""

    def __init__(self, num: int, batch: int, seed: int) -> None:
        """Permutations are computed on demand."""
        self.num, self.batch = num, batch
        self._draws = Draws(seed).scope("data")
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Int[Tensor, " n"]:
        if epoch not in self._epochs:
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = self._draws.at(epoch).permutation("order", self.num)
        return self._epochs[epoch]

    def indices(self, step: int) -> Int[Tensor, " b"]:
        """Return the images of the global batch of a step; it may span permutations."""
        position, end, parts = step * self.batch, (step + 1) * self.batch, []
        while position < end:
            epoch, offset = divmod(position, self.num)
            parts.append(self._epoch(epoch)[offset : offset + end - position])
            position += len(parts[-1])
        return torch.cat(parts)


class StepBatches(Dataset[Batch | DataError]):
    """Item s is one rank's share of the global batch of step s: workers need no shared state.

    The item of a broken image is its error, since an exception in a worker prints a traceback.
    """

    def __init__(self, dataset: ImageDataset, order: KeyedOrder, rank: int, world: int) -> None:
        """Rank r of `world` reads the r-th contiguous share of each batch."""
        self.dataset, self.order = dataset, order
        share = order.batch // world
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, step: int) -> Batch | DataError:
        """Return this rank's share of a step."""
        indices = self.order.indices(step)[self._share]
        try:
            images, labels = self.dataset.images(indices), self.dataset.label_table.rows(indices)
            random = self.dataset.cfg.random_background
            mattes = self.dataset.mattes(indices) if random else None
            boxes = None if self.dataset.boxes is None else self.dataset.boxes[indices]
            return Batch(images, labels, step, mattes, boxes)
        except DataError as error:
            return error


class _Loader(DataLoader[Any]):
    """Raises the items that are errors."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator is enough
        for item in super().__iter__():
            if isinstance(item, DataError):
                raise item
            yield item


class _StepsFrom(Sampler[int]):
    """Yields step numbers without end, from the present position."""

    def __init__(self, position: Callable[[], int]) -> None:
        self.position = position

    def __iter__(self) -> Iterator[int]:
        step = self.position()
        while True:
            yield step
            step += 1


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_stop_signals(worker: int) -> None:
    """Leave stop signals, which schedulers send to all processes, to the training process.

    It ends the workers after its last step; without it they end themselves.
    """
    del worker
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


class DataModule(lightning.LightningDataModule):
    """Real images: `train`, and `test` (None without held-out images).

    `batch` is the global batch size. Each rank's share must be a whole number of microbatches, the
    unit of all random draws.
    """

    def __init__(
        self,
        cfg: DataConfig,
        batch: int,
        microbatch: int,
        seed: int,
        num_workers: int | None = None,
    ) -> None:
        """Open and check the data set. `num_workers`: None for the configured number."""
        super().__init__()
        if batch < 1 or microbatch < 1 or batch % microbatch:
            raise ConfigError(
                f"batch={batch}: use a multiple of microbatch={microbatch}, both 1 or more"
            )
        self.cfg, self.batch, self.microbatch, self.seed = cfg, batch, microbatch, seed
        self.num_workers = cfg.num_workers if num_workers is None else num_workers
        self.train = ImageDataset(cfg, "train")
        self.test = open_test(cfg, self.train)
        self._start_step = 0

    def set_start_step(self, step: int) -> None:
        """Start with the batch of this step, without a trainer."""
        self._start_step = step

    def _next_step(self) -> int:
        """Return the step after the last one of the trainer's module."""
        module = self.trainer and self.trainer.lightning_module
        return int(getattr(module, "steps_done", self._start_step))

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def train_dataloader(
        self, rank: int | None = None, world: int | None = None
    ) -> "DataLoader[Batch]":
        """Endless stream of `Batch`; rank and world size default to the trainer's."""
        own_rank, own_world = self._world()
        rank, world = own_rank if rank is None else rank, own_world if world is None else world
        if self.batch % (self.microbatch * world):
            raise ConfigError(
                f"batch={self.batch} in microbatches of {self.microbatch} does not divide among "
                f"{world} ranks; use a multiple of {self.microbatch * world}"
            )
        order = KeyedOrder(len(self.train), self.batch, self.seed)
        return _Loader(
            StepBatches(self.train, order, rank, world),
            batch_size=None,
            sampler=_StepsFrom(self._next_step),
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_ignore_stop_signals,
        )


def open_test(cfg: DataConfig, train: ImageDataset) -> ImageDataset | None:
    """Open the held-out images; None if the data set has no splits and `holdout` is 0."""
    if cfg.holdout == 0 and not train.annotations.splits:
        return None
    test = train.of_split("test", cfg)
    both = torch.isin(test.rows, train.rows).nonzero()[:, 0]
    if len(both):
        raise DataError(
            f"{cfg.path}: {len(both)} images are in both splits, among them "
            f"{test.names[int(both[0])]}"
        )
    return test

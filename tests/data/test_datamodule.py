import itertools
import multiprocessing
import os

import pytest
import torch
from data_parts import NUM, Parts

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.datamodule import IGNORED, Batch, DataModule, KeyedOrder
from lightning_gan3d.data.dataset import DataConfig
from lightning_gan3d.training.signals import STOP_SIGNALS


@pytest.fixture
def cfg(tmp_path):
    return DataConfig(path=Parts().zip(tmp_path / "set.zip"), mirror=True, holdout=0.2)


def steps(module: DataModule, num: int, start: int = 0, **rank: int) -> list[Batch]:
    module.set_start_step(start)
    return list(itertools.islice(module.train_dataloader(**rank), num))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) and x.step == y.step
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(cfg, workers):
    plain = steps(DataModule(cfg, 6, 3, seed=1), 5)
    assert same(plain, steps(DataModule(cfg, 6, 3, seed=1, num_workers=workers), 5))


def test_ranks_share_the_global_batch(cfg):
    whole = steps(DataModule(cfg, 8, 2, seed=1), 5)
    shares = [steps(DataModule(cfg, 8, 2, seed=1), 5, rank=r, world=2) for r in range(2)]
    for i, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([s[i].images for s in shares]))
        assert torch.equal(batch.labels, torch.cat([s[i].labels for s in shares]))


def test_a_resumed_stream_continues(cfg):
    whole = steps(DataModule(cfg, 6, 3, seed=1), 9)
    assert same(whole[4:], steps(DataModule(cfg, 6, 3, seed=1), 5, start=4))
    assert [b.step for b in whole] == list(range(9))


def test_orders_differ_between_seeds_and_epochs():
    orders = [KeyedOrder(50, 50, seed).indices(step) for seed in (0, 1) for step in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_each_image_occurs_once_per_epoch():
    order = KeyedOrder(7, 3, seed=0)
    order_of_images = torch.cat([order.indices(step) for step in range(7)])
    for epoch in order_of_images.view(3, 7):
        assert sorted(epoch.tolist()) == list(range(7))


def test_the_order_does_not_depend_on_earlier_calls():
    order = KeyedOrder(7, 3, seed=0)
    late = [order.indices(s) for s in (40, 3, 41, 0)]
    fresh = [KeyedOrder(7, 3, seed=0).indices(s) for s in (40, 3, 41, 0)]
    assert all(torch.equal(a, b) for a, b in zip(late, fresh, strict=True))


def test_a_batch_may_exceed_the_data_set(cfg):
    batch = steps(DataModule(cfg, 64, 8, seed=0), 1)[0]
    assert batch.images.shape == (64, 3, 16, 16)


def test_labels_stay_with_their_images(cfg):
    module = DataModule(cfg, 6, 3, seed=1)
    for batch in steps(module, 4):
        for image, label in zip(batch.images, batch.labels, strict=True):
            matches = (module.train.labels == label).all(1).nonzero()[:, 0]
            assert any(torch.equal(image, module.train.images([int(i)])[0]) for i in matches)


def test_the_test_split_is_not_in_the_training_data(cfg):
    module = DataModule(cfg, 6, 3, seed=1)
    assert module.test is not None
    assert not set(module.test.names) & set(module.train.names)
    assert len(module.train) + 2 * len(module.test) == 2 * NUM
    assert DataModule(DataConfig(path=cfg.path), 6, 3, seed=1).test is None


def test_num_workers_comes_from_the_configuration(cfg):
    module = DataModule(DataConfig(path=cfg.path, num_workers=2), 6, 3, seed=1)
    assert module.train_dataloader().num_workers == 2


def test_shares_must_be_whole_microbatches(cfg):
    with pytest.raises(ConfigError, match="multiple of microbatch=4"):
        DataModule(cfg, 6, 4, seed=0)
    with pytest.raises(ConfigError, match="does not divide among 2 ranks"):
        DataModule(cfg, 6, 2, seed=0).train_dataloader(0, 2)


def test_stop_signals_do_not_end_the_processes_that_read_images(cfg):
    assert set(IGNORED) == set(STOP_SIGNALS)
    batches = iter(DataModule(cfg, 6, 3, seed=1, num_workers=1).train_dataloader(0, 1))
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    for number in STOP_SIGNALS:  # as a scheduler that signals all processes of a job
        os.kill(worker.pid, number)
    assert [next(batches).step for _ in range(4)] == [first.step + n for n in range(1, 5)]
    assert worker.is_alive()
    batches.close()
    del batches
    worker.join(20)
    assert not worker.is_alive()

import torch
from torch import nn

from lightning_gan3d.training.ema import ExponentialMovingAverage

YES, NO = torch.tensor(True), torch.tensor(False)


def moved(value):
    source = nn.BatchNorm1d(3)
    nn.init.zeros_(source.weight)
    average = ExponentialMovingAverage(source)
    nn.init.constant_(source.weight, value)
    source.running_mean.fill_(5)
    source.num_batches_tracked.fill_(9)
    return source, average


def test_the_average_moves_by_its_decay_and_buffers_are_copied():
    source, average = moved(8.0)
    average.update(0.75, YES)
    torch.testing.assert_close(average.module.weight, torch.full((3,), 2.0))
    average.update(0.75, YES)
    torch.testing.assert_close(average.module.weight, torch.full((3,), 3.5))
    assert torch.equal(average.module.running_mean, source.running_mean)
    assert average.module.num_batches_tracked == 9
    assert torch.equal(source.weight, torch.full((3,), 8.0))


def test_no_decay_is_the_source_itself():
    source, average = moved(0.1)
    average.update(0.0, YES)
    torch.testing.assert_close(average.module.weight, source.weight)


def test_behind_a_shut_gate_the_average_does_not_move():
    _, average = moved(8.0)
    average.update(0.5, NO)
    assert torch.equal(average.module.weight, torch.zeros(3))


def test_the_average_is_not_trained_and_not_the_source():
    source, average = moved(1.0)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert all(p.requires_grad for p in source.parameters())
    assert average.module.weight.data_ptr() != source.weight.data_ptr()

import pytest
import torch
from torch import nn

from lightning_gan3d.training.config import AdamConfig
from lightning_gan3d.training.optimizers import (
    ExponentialMovingAverage,
    Gate,
    gated_step,
    make_adam,
)


def norm(value):
    return torch.tensor(value)


def test_the_gate_records_the_first_breakage_and_stays_closed():
    gate = Gate()
    gate.observe(norm(1.0), "G loss", 3)
    assert gate.healthy
    assert gate.broken() is None
    gate.observe(norm(float("nan")), "D penalty", 5)
    gate.observe(norm(float("inf")), "G loss", 6)
    gate.observe(norm(1.0), "G loss", 7)
    assert not gate.healthy
    assert gate.broken() == ("D penalty", 5)


@pytest.mark.parametrize("phase", ["G loss", "G density penalty", "D loss", "D penalty"])
def test_the_gate_records_the_phase_in_step_0(phase):
    gate = Gate()
    gate.observe(norm(float("inf")), phase, 0)
    assert gate.broken() == (phase, 0)


def test_a_closed_gate_changes_neither_weights_nor_moments():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make_adam([weight], AdamConfig())
    weight.grad = torch.ones(2)
    gated_step(optimizer, 1.0, torch.tensor(True))
    before = weight.detach().clone()
    moments = {k: v.clone() for k, v in optimizer.state[weight].items()}
    assert weight.grad is None
    weight.grad = torch.full((2,), float("nan"))
    gated_step(optimizer, 1.0, torch.tensor(False))
    assert torch.equal(weight.detach(), before)
    assert all(torch.equal(v, moments[k]) for k, v in optimizer.state[weight].items())


def test_an_open_gate_is_plain_adam():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizer = make_adam([ours], AdamConfig(lr=0.04, betas=(0.5, 0.9), eps=1e-3))
    reference = torch.optim.Adam([theirs], lr=0.02, betas=(0.5, 0.9), eps=1e-3)
    for _ in range(5):
        ours.grad = torch.randn(4)
        theirs.grad = ours.grad.clone()
        gated_step(optimizer, 0.5, torch.tensor(True))
        reference.step()
    torch.testing.assert_close(ours, theirs)


OPEN, CLOSED = torch.tensor(True), torch.tensor(False)


def updated(value):
    """A module that was changed after its average was created."""
    source = nn.BatchNorm1d(3)
    nn.init.zeros_(source.weight)
    average = ExponentialMovingAverage(source)
    nn.init.constant_(source.weight, value)
    source.running_mean.fill_(5)
    source.num_batches_tracked.fill_(9)
    return source, average


def test_parameters_are_averaged_and_buffers_copied():
    source, average = updated(8.0)
    average.update(0.75, OPEN)
    torch.testing.assert_close(average.module.weight, torch.full((3,), 2.0))
    average.update(0.75, OPEN)
    torch.testing.assert_close(average.module.weight, torch.full((3,), 3.5))
    assert torch.equal(average.module.running_mean, source.running_mean)
    assert average.module.num_batches_tracked == 9
    assert torch.equal(source.weight, torch.full((3,), 8.0))


def test_a_decay_of_0_copies_the_source():
    source, average = updated(0.1)
    average.update(0.0, OPEN)
    torch.testing.assert_close(average.module.weight, source.weight)


def test_a_closed_gate_does_not_change_the_average():
    _, average = updated(8.0)
    average.update(0.5, CLOSED)
    assert torch.equal(average.module.weight, torch.zeros(3))


def test_the_average_is_a_copy_without_gradients():
    source, average = updated(1.0)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert all(p.requires_grad for p in source.parameters())
    assert average.module.weight.data_ptr() != source.weight.data_ptr()

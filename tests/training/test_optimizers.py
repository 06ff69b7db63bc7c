import pytest
import torch
from torch import nn

from lightning_gan3d.training.config import AdamConfig
from lightning_gan3d.training.optimizers import Gate, gated_step, make_adam


def norm(value):
    return torch.tensor(value)


def test_the_gate_remembers_the_first_breakage_and_stays_shut():
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
def test_the_gate_names_the_phase_even_in_step_0(phase):
    gate = Gate()
    gate.observe(norm(float("inf")), phase, 0)
    assert gate.broken() == (phase, 0)


def test_a_shut_gate_leaves_weights_and_moments_as_they_are():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make_adam([weight], AdamConfig())
    weight.grad = torch.ones(2)
    gated_step(optimizer, 0.1, torch.tensor(True))
    before = weight.detach().clone()
    moments = {k: v.clone() for k, v in optimizer.state[weight].items()}
    assert weight.grad is None
    weight.grad = torch.full((2,), float("nan"))
    gated_step(optimizer, 0.1, torch.tensor(False))
    assert torch.equal(weight.detach(), before)
    assert all(torch.equal(v, moments[k]) for k, v in optimizer.state[weight].items())


def test_an_open_gate_is_plain_adam():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizer = make_adam([ours], AdamConfig(betas=(0.5, 0.9), eps=1e-3))
    reference = torch.optim.Adam([theirs], lr=0.02, betas=(0.5, 0.9), eps=1e-3)
    for _ in range(5):
        ours.grad = torch.randn(4)
        theirs.grad = ours.grad.clone()
        gated_step(optimizer, 0.02, torch.tensor(True))
        reference.step()
    torch.testing.assert_close(ours, theirs)

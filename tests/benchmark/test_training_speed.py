"""The training step in the benchmark."""

from pathlib import Path

import pytest
import torch

from lightning_gan3d.benchmark import training
from lightning_gan3d.benchmark.speed import Protocol
from lightning_gan3d.benchmark.stages import Profiler
from lightning_gan3d.benchmark.training import mean_step, phase_intervals, step_kinds
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.training.config import LossConfig

CPU = torch.device("cpu")
ONCE = Profiler(Protocol(0, 1, 1, 0.0), CPU)


@pytest.fixture
def config(tiny: Path) -> ExperimentConfig:
    return load_experiment(tiny)


def test_phases_have_the_intervals_of_the_configuration() -> None:
    assert phase_intervals(LossConfig(r1_gamma=0.0, density_reg=0.0)) == {"G loss": 1, "D loss": 1}
    every_step = LossConfig(r1_interval=1, density_reg=1.0, density_reg_interval=1)
    assert phase_intervals(every_step) == {"G loss": 1, "D loss": 1}
    assert phase_intervals(LossConfig(r1_interval=16, density_reg=1.0, density_reg_interval=4)) == {
        "G loss": 1,
        "D loss": 1,
        "G density penalty": 4,
        "D penalty": 16,
    }


def test_kinds_of_steps_repeat_by_the_intervals() -> None:
    loss = LossConfig(r1_gamma=1.0, r1_interval=8, density_reg=0.25, density_reg_interval=4)
    plain, density, both = (), ("G density penalty",), ("G density penalty", "D penalty")
    assert step_kinds(loss) == [both, plain, plain, plain, density, plain, plain, plain]
    assert step_kinds(LossConfig(r1_gamma=0.0, density_reg=0.0)) == [plain]
    # A penalty in every step makes no other kind.
    assert step_kinds(LossConfig(r1_interval=1, density_reg=0.0)) == [plain]


def test_the_mean_step_weights_kinds_by_their_share() -> None:
    kinds = [("D penalty",), *[()] * 7]
    assert mean_step(kinds, {(): 1.0, ("D penalty",): 4.0}) == pytest.approx((7 * 1.0 + 4.0) / 8)


def test_each_kind_of_step_runs_at_the_end_of_the_schedules(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(
        training.AdversarialModule, "training_step", lambda _, batch, __: steps.append(batch.step)
    )
    training.measure_training(config, 16, ONCE)
    assert set(steps) == {244, 245, 246}  # of 250; a cycle has 4


def test_training_memory_includes_networks_average_and_moments(config: ExperimentConfig) -> None:
    module, batch = training.make_step(config, 16, CPU)
    module.training_step(batch, 0)
    g = sum(p.numel() for p in module.generator.parameters())
    d = sum(p.numel() for p in module.discriminator.parameters())
    persistent = training.persistent_bytes(module)
    assert persistent == pytest.approx(4 * ((1 + 1 + 2) * g + (1 + 2) * d), rel=0.15)
    rows = {m.key: m for m in training.measure_training(config, 16, ONCE)}
    memory = rows["memory.train_mb"].value
    assert memory is not None
    # A step needs at least the gradients of the larger network.
    assert memory * 1e6 > persistent + 4 * max(g, d)
    # The process also holds what other allocators take, such as oneDNN's.
    of_process = rows["memory.train_process_mb"]
    assert of_process.value is not None
    assert of_process.value > 0.9 * memory
    assert "resident memory" in of_process.note

"""The whole benchmark of a tiny generator, and the training step in it."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan3d.benchmark import bench, setup, training
from lightning_gan3d.benchmark.phases import intervals
from lightning_gan3d.benchmark.speed import Protocol, Timing
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.devices import choose_device
from lightning_gan3d.experiment import ExperimentConfig, load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, missing, read_measures
from lightning_gan3d.runs import Run
from lightning_gan3d.training.config import LossConfig

CPU = torch.device("cpu")
ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0)
TINY = """
name: tiny
data: {resolution: 16}
generator:
  z_dim: 8
  w_dim: 8
  scene: {feature_dim: 3, decoder: {hidden_dim: 8}}
  representation: REPRESENTATION
  renderer: {kind: volume, samples_coarse: 4, samples_fine: 0}
discriminator: {channels: [8, 8, 8], mapping_layers: 1}
training: {batch: 4, threads: 1, kimg: 1}
loss: {r1_interval: 4, density_reg: 0.25, density_reg_interval: 2, density_reg_num_points: 8}
"""
PLANES = "{kind: triplane, resolution: 8, channels: 4, synthesis: {channels: [8, 6]}}"
PICTURE = "{kind: image2d, synthesis: {channels: [8, 8, 6]}}"
STAGES = (
    "mapping", "scene", "rendering", "rendering_gradient", "view", "image", "discriminator",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench, training):
        monkeypatch.setattr(module, "QUICK", ONCE)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("REPRESENTATION", PLANES))
    return path


@pytest.fixture
def tiny_picture(tmp_path: Path) -> Path:
    text = TINY.replace("REPRESENTATION", PICTURE).replace("density_reg: 0.25", "density_reg: 0")
    path = tmp_path / "picture.yaml"
    path.write_text(text.replace("volume, samples_coarse: 4, samples_fine: 0", "picture"))
    return path


def by_name(rows: list[Metric]) -> dict[str, Metric]:
    assert len({m.metric for m in rows}) == len(rows), "two rows of one name"
    return {m.metric: m for m in rows}


def test_a_configuration_is_measured_and_written(tiny: Path, tmp_path: Path) -> None:
    out, command = tmp_path / "out", ["gan3d", "bench", "a b"]
    rows = bench.benchmark_run(load_experiment(tiny), "cpu", True, command, out)
    assert read_measures(out / "bench.json") == rows
    found = by_name(rows)
    for stage in STAGES:
        assert (found[f"speed.{stage}_ms"].value or 0) > 0
        assert (found[f"memory.{stage}_mb"].value or 0) > 0
        # No stage beats its floor. (Near it a noisy clock might: the stages here are far from it.)
        assert 0 < (found[f"speed.{stage}_floor_share"].value or 0) < 1
    for phase in ("g", "g_density", "d", "d_penalty"):
        assert (found[f"speed.train_{phase}_ms"].value or 0) > 0
        assert (found[f"memory.train_{phase}_mb"].value or 0) > 0
    assert (found["speed.train_img_s"].value or 0) > 0
    assert (found["speed.image_img_s"].value or 0) > 0
    assert found["cost.scene_bytes"].value == 4 * 3 * 4 * 8**2
    assert found["growth.grid.scene_bytes@16"].value == 4 * found["cost.scene_bytes"].value
    assert all(m.value is not None for m in rows)
    # The first row says on what all this was measured.
    assert rows[0].metric == "speed.threads"
    assert rows[0].value == 1.0
    for words in (
        "cpu",
        f"torch {torch.__version__}",
        "Python",
        "gan3d bench 'a b'",
        "quick",
        "layers: ",
    ):
        assert words in rows[0].note


def test_a_picture_has_no_cached_scene_and_says_so(tiny_picture: Path) -> None:
    config = load_experiment(tiny_picture)
    generator = Generator(config.generator, 16)
    found = by_name(bench.measure_generator(generator, quick=True, batch=2))
    assert "nothing is cached" in found["speed.view_ms"].note
    assert not {"speed.rendering_ms", "speed.superresolution_ms", "speed.fused"} & set(found)
    assert found["growth.grid"].value is None
    assert found["growth.rendering"].value is None
    # Another view is another picture: it takes what a whole image takes, and more than its scene.
    assert found["memory.view_mb"].value >= found["memory.scene_mb"].value  # type: ignore[operator]


def test_the_path_of_the_rays_and_super_resolution_are_told(tiny: Path) -> None:
    config = load_experiment(tiny, ["generator.superresolution.factor=2"])
    generator = Generator(config.generator, 16)
    generator.renderer.cfg = dataclasses.replace(generator.renderer.cfg, path="plain")
    found = by_name(bench.measure_generator(generator, quick=True, batch=2))
    assert found["speed.fused"].value == 0
    assert found["speed.fused"].note == "plain (as configured)"
    assert (found["speed.superresolution_ms"].value or 0) > 0


def test_phases_that_a_configuration_lacks_are_not_listed() -> None:
    assert intervals(LossConfig(r1_gamma=0.0, density_reg=0.0)) == {"G loss": 1, "D loss": 1}
    every_step = LossConfig(r1_interval=1, density_reg=1.0, density_reg_interval=1)
    assert intervals(every_step) == {"G loss": 1, "D loss": 1}
    assert intervals(LossConfig(r1_interval=16, density_reg=1.0, density_reg_interval=4)) == {
        "G loss": 1,
        "D loss": 1,
        "G density penalty": 4,
        "D penalty": 16,
    }


def test_a_run_is_measured_in_its_own_directory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_experiment(tiny)
    save_generator(tmp_path / "run", Generator(config.generator, 16), config)
    run = Run(tmp_path / "run")
    row = Metric.of_key("cost.flops", 1.0)
    monkeypatch.setattr(bench, "measure_generator", lambda *_: [row])
    monkeypatch.setattr(bench, "measure_training", lambda *_: [])
    assert bench.benchmark_run(run, "cpu", quick=True)[1:] == [row]
    assert read_measures(run.path / "bench.json")[1:] == [row]


def test_targets_are_files_and_folders_and_gaps_are_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "runs" / "tiny" / "abc-s0"
    begun.mkdir(parents=True)
    (begun / "config.yaml").write_text(tiny.read_text())
    rows = [Metric.of_key("speed.view_ms", 1.5, "ms"), missing("growth.grid", "no grid")]
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench, "benchmark_run", lambda *args: asked.append(args) or rows)
    text = bench.bench_targets([str(tiny), str(tmp_path / "runs")], tmp_path, "cpu", True, ["x"])
    assert asked == [(load_experiment(tiny), "cpu", True, ["x"], tmp_path / "bench" / "tiny")]
    assert text.splitlines()[:3] == [
        "tiny",
        "  speed.view_ms           1.5 ms",
        "  growth.grid    missing: no grid",
    ]
    assert f"{begun}: not measured: " in text


def test_a_mistake_in_the_last_target_costs_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "benchmark_run", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="no preset `nonesuch`"):
        bench.bench_targets([str(tiny), "nonesuch"], tmp_path)


def test_images_of_unknown_size_are_refused(tiny: Path) -> None:
    config = load_experiment(tiny, ["data.resolution=null"])
    with pytest.raises(ConfigError, match=r"set data\.resolution, e\.g\. 128"):
        bench.benchmark_run(config, "cpu", quick=True)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device=tpu: use one of auto, cpu, cuda, mps"):
        choose_device("tpu")


def test_threads_are_those_of_the_run_and_are_given_back() -> None:
    before = torch.get_num_threads()
    with setup.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with setup.cpu_threads(None):
        assert torch.get_num_threads() == before


def test_kinds_of_steps_come_as_often_as_their_intervals_say() -> None:
    loss = LossConfig(r1_gamma=1.0, r1_interval=8, density_reg=0.25, density_reg_interval=4)
    example, often, cycle = training.kinds_of_steps(loss)
    assert cycle == 8
    assert often == Counter({(False, False): 6, (False, True): 1, (True, True): 1})
    assert example == {(True, True): 0, (False, False): 1, (False, True): 4}
    none = LossConfig(r1_gamma=0.0, density_reg=0.0)
    assert training.kinds_of_steps(none)[1] == Counter({(False, False): 1})
    within = LossConfig(r1_interval=1, density_reg=0.0)  # a penalty in every step is no other kind
    assert training.kinds_of_steps(within)[1] == Counter({(False, False): 1})


def test_a_step_costs_the_weighted_mean_of_its_kinds() -> None:
    timings = {(False, False): Timing((1.0,)), (True, False): Timing((3.0, 5.0, 4.0))}
    often = Counter({(False, False): 7, (True, False): 1})
    got = training.seconds_per_step(timings, often, lambda t: t.median)
    assert got == pytest.approx((7 * 1.0 + 4.0) / 8)


def test_steps_of_the_right_kind_run_at_the_end_of_the_schedules(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_experiment(tiny, ["training.kimg=1"])  # 250 steps; the cycle is 4
    steps: list[int] = []
    monkeypatch.setattr(
        training.AdversarialModule, "training_step", lambda _, batch, __: steps.append(batch.step)
    )
    training.measure_training(config, 16, CPU, quick=True)
    assert {s % 4 for s in steps} == {0, 1, 2}
    assert set(steps) == {244, 245, 246}


def test_training_memory_holds_networks_average_and_moments(tiny: Path) -> None:
    config: ExperimentConfig = load_experiment(tiny)
    module, batch = training.make_step(config, 16, CPU)
    module.training_step(batch, 0)
    g = sum(p.numel() for p in module.generator.parameters())
    d = sum(p.numel() for p in module.discriminator.parameters())
    held = training.held_bytes(module)
    assert held == pytest.approx(4 * ((1 + 1 + 2) * g + (1 + 2) * d), rel=0.15)
    row = by_name(training.measure_training(config, 16, CPU, quick=True))["memory.train_mb"]
    assert row.value is not None
    # Within a step there are at least the gradients of the larger network.
    assert row.value * 1e6 > held + 4 * max(g, d)

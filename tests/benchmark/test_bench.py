"""The whole benchmark of a tiny generator."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan3d.benchmark import bench
from lightning_gan3d.benchmark.bench import BenchOptions
from lightning_gan3d.benchmark.speed import Protocol
from lightning_gan3d.benchmark.stages import Profiler, measure_generation
from lightning_gan3d.checkpoints.stored_networks import save_generator
from lightning_gan3d.config import ConfigError
from lightning_gan3d.devices import choose_device
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, read_metrics
from lightning_gan3d.runs import Run

ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0)
QUICK = BenchOptions("cpu", quick=True)
STAGES = (
    "mapping", "scene", "rendering", "rendering_gradient", "view", "image", "discriminator",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_call_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "QUICK", ONCE)
    monkeypatch.setattr(bench, "in_fresh_processes", _here)


def _here(targets: Iterable[str], function: Any, *args: Any) -> list[Any]:
    return [function(target, *args) for target in targets]


def by_key(rows: list[Metric]) -> dict[str, Metric]:
    assert len({m.key for m in rows}) == len(rows), "two rows of one key"
    return {m.key: m for m in rows}


def value(rows: dict[str, Metric], key: str) -> float:
    number = rows[key].value
    assert number is not None, key
    return number


@pytest.fixture(autouse=True)
def _accept_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a part may take longer than its whole."""
    monkeypatch.setattr("lightning_gan3d.benchmark.speed.SLACK", 1e9)


def test_a_configuration_is_measured(tiny: Path) -> None:
    options = dataclasses.replace(QUICK, command=("gan3d", "bench", "a b"))
    metrics = bench.measure_target(str(tiny), options, True)
    timings = {m.key for m in bench.measure_target(str(tiny), options, False)}
    assert timings == {
        m.key
        for m in metrics
        if m.name.startswith("speed") and m.name not in ("speed.threads", "speed.fused")
    }
    assert all(m.value is not None for m in metrics)
    rows = by_key(metrics)
    for stage in STAGES:
        assert value(rows, f"speed.{stage}_ms") > 0
        assert value(rows, f"memory.{stage}_mb") > 0
        # Stages this small are far from their lower bound, for any noise.
        assert 0 < value(rows, f"speed.{stage}_floor_share") < 1
    for phase in ("g", "g_density", "d", "d_penalty"):
        assert value(rows, f"speed.train_{phase}_ms") > 0
        assert value(rows, f"memory.train_{phase}_mb") > 0
    assert value(rows, "speed.train_img_s") > 0
    assert value(rows, "speed.image_img_s") > 0
    assert value(rows, "cost.scene_bytes") == 4 * 3 * 4 * 8**2
    assert value(rows, "growth.grid.scene_bytes@16") == 4 * value(rows, "cost.scene_bytes")
    first = metrics[0]
    assert (first.name, first.value) == ("speed.threads", 1.0)
    for part in (
        "cpu", f"torch {torch.__version__}", "Python", "gan3d bench 'a b'", "quick", "layers: ",
    ):  # fmt: skip
        assert part in first.note


def test_a_picture_has_no_cached_scene(tiny_picture: Path) -> None:
    generator = Generator(load_experiment(tiny_picture).generator, 16)
    profiler = Profiler(ONCE, torch.device("cpu"))
    rows = by_key(measure_generation(generator, profiler, 2))
    assert "nothing is cached" in rows["speed.view_ms"].note
    assert not {"speed.rendering_ms", "speed.superresolution_ms", "speed.fused"} & set(rows)
    growth = by_key(bench.measure_growth(generator, profiler, quick=True))
    assert growth["growth.grid"].value is None
    assert growth["growth.rendering"].value is None
    # Another view is another image: it needs more memory than its scene.
    assert value(rows, "memory.view_mb") >= value(rows, "memory.scene_mb")


def test_the_rendering_path_and_super_resolution_are_reported(tiny: Path) -> None:
    config = load_experiment(tiny, ["generator.superresolution.factor=2"])
    generator = Generator(config.generator, 16)
    generator.renderer.cfg = dataclasses.replace(generator.renderer.cfg, path="plain")
    profiler = Profiler(ONCE, torch.device("cpu"))
    rows = by_key(measure_generation(generator, profiler, 2))
    assert rows["speed.fused"].value == 0
    assert rows["speed.fused"].note == "PyTorch (as configured)"
    assert value(rows, "speed.superresolution_ms") > 0


ROWS = [
    Metric(name="speed.view_ms", value=1.5, unit="ms"),
    Metric(name="growth.grid", value=None, note="no grid"),
]


def test_a_finished_run_is_measured_into_its_directory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_experiment(tiny)
    for name, manifest in (("a", '{"finished": true}'), ("b", "{ broken")):
        save_generator(tmp_path / "runs" / name, Generator(config.generator, 16), config)
        (tmp_path / "runs" / name / "manifest.json").write_text(manifest)
    run = Run(tmp_path / "runs" / "a")
    monkeypatch.setattr(bench, "measure_generation", lambda *_: ROWS[:1])
    monkeypatch.setattr(bench, "measure_training", lambda *_: [])
    monkeypatch.setattr(bench, "measure_growth", lambda *_: [])
    text = bench.bench_targets([str(tmp_path / "runs")], QUICK)
    rows = by_key(read_metrics(run.path / "bench.json"))
    assert rows["speed.view_ms"].value == 1.5
    assert text.startswith(f"{run.path}\n  speed.threads")
    assert f"{tmp_path / 'runs' / 'b'}: not measured: " in text


def test_targets_are_files_and_folders_of_runs(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "runs" / "tiny" / "abc-s0"
    unfinished.mkdir(parents=True)
    (unfinished / "config.yaml").write_text(tiny.read_text())
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench, "measure_target", lambda *args: calls.append(args) or ROWS)
    text = bench.bench_targets([str(tiny), str(tmp_path / "runs")], QUICK, tmp_path)
    assert calls == [(str(tiny), QUICK, True), (str(tiny), QUICK, False)]
    assert len(read_metrics(tmp_path / "bench" / "tiny" / "bench.json")) == len(ROWS)
    assert text.splitlines()[:3] == [
        str(tiny),
        "  speed.view_ms           1.5 ms",
        "  growth.grid    missing: no grid",
    ]
    assert f"{unfinished}: not measured: unfinished" in text


def test_every_round_measures_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []
    view = iter([3.0, 5.0, 6.0, 1.0])

    def measure(target: str, _: BenchOptions, full: bool) -> list[Metric]:
        calls.append((target, full))
        rows = [Metric("speed.view_ms", next(view), "ms", 9, 0.1, "a note")]
        return rows + [Metric("cost.flops", 2.0)] * full

    monkeypatch.setattr(bench, "measure_target", measure)
    (first, _), (a, b) = bench.measure_in_rounds(["a", "b"], QUICK)
    assert first[0].value == 3.0
    assert calls == [("a", True), ("b", True), ("b", False), ("a", False)]
    assert (a[0].value, a[0].n) == (2.0, 2)
    assert a[0].spread == pytest.approx(2**0.5)
    assert a[0].note == "median of 2 fresh processes (3, 1 ms); first: a note"
    assert (b[0].value, a[1]) == (5.5, Metric("cost.flops", 2.0))


def test_a_process_without_a_timing_is_left_out() -> None:
    broken = Metric("speed.view_ms", None, "ms", note="not ordered")
    for processes in ([ROWS[:1], [broken]], [[broken], ROWS[:1]]):
        (row,) = bench.combine(processes)
        assert (row.value, row.n, row.spread) == (1.5, 1, None)
        assert row.note.endswith("left out 1 of 2 processes: not ordered")
    assert bench.combine([[broken], [broken]]) == [broken]


def test_all_targets_are_read_before_measuring(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure_target", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="no preset `nonesuch`"):
        bench.bench_targets([str(tiny), "nonesuch"], QUICK, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no run directory; one contains config"):
        bench.bench_targets([str(tiny), str(tmp_path / "empty")], QUICK, tmp_path)


def test_unknown_image_sizes_and_devices_are_rejected(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("resolution: 16", "resolution: null"))
    with pytest.raises(ConfigError, match=r"set data\.resolution, e\.g\. 128"):
        bench.bench_targets([str(tiny)], QUICK)
    with pytest.raises(ConfigError, match=r"device=tpu: use one of auto, cpu, cuda, mps"):
        choose_device("tpu")


def _pid(target: str) -> int:
    if target == "killed":
        os._exit(9)
    return os.getpid()


def test_each_process_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    calls = bench.in_fresh_processes(["a", "b", "killed"], _pid)
    assert len({os.getpid(), next(calls), next(calls)}) == 3
    with pytest.raises(ConfigError, match="killed: the process of the benchmark ended early"):
        next(calls)


@pytest.mark.slow
def test_a_target_is_measured_in_its_process(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    targets = [str(tiny), "nonesuch"]
    calls = bench.in_fresh_processes(targets, bench._in_process, QUICK, False)
    metrics = next(calls)
    assert "speed.view_ms" in {m.key for m in metrics}
    with pytest.raises(ConfigError, match="no preset `nonesuch`"):
        next(calls)

"""The comparison with the official code; where a checkout is at hand, with that code itself."""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan3d.benchmark.eg3d import compare as comparison
from lightning_gan3d.benchmark.eg3d import synthesis_work, training_work
from lightning_gan3d.benchmark.eg3d.compare import Result, Work, compare, steps
from lightning_gan3d.benchmark.eg3d.official import Checkout
from lightning_gan3d.benchmark.speed import Protocol
from lightning_gan3d.config import ConfigError

ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0)


def result(key: str, official: float, ours: float, every: float = 1.0, **changes: Any) -> Result:
    values = {
        "what": key, "precision": "fp32", "ratio": official / ours, "ratio_low": official / ours,
        "ratio_high": official / ours, "rounds": 3, "official_mb": 10.0, "ours_mb": 5.0,
        "agreement": "", "path": "",
    } | changes  # fmt: skip
    return Result(key=key, official_ms=official, ours_ms=ours, every=every, **values)


def test_a_step_counts_lazy_phases_by_how_often_they_come() -> None:
    rows = [
        result("train_Gmain", 100.0, 50.0),
        result("train_Greg", 40.0, 20.0, every=4.0, ours_mb=9.0),
        result("train_Dmain", 60.0, 20.0),
        result("train_Dreg", 160.0, 160.0, every=16.0),
    ]
    (step,) = steps(rows)
    assert step.official_ms == pytest.approx(100 + 10 + 60 + 10)
    assert step.ours_ms == pytest.approx(50 + 5 + 20 + 10)
    assert step.ratio == pytest.approx(180 / 85)
    assert (step.official_mb, step.ours_mb) == (10.0, 9.0)
    assert not list(steps(rows[:3]))  # a step without one of its phases is none


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Works that note what is asked of them, in place of the official code's."""
    asked: list[str] = []

    def works(_code: Any, _device: Any, precisions: Any, wanted: Any) -> Iterator[Work]:
        for key in ("view", "image"):
            if wanted(key):
                calls = {p: (lambda p=p, key=key: asked.append(f"{key} {p}")) for p in precisions}
                yield Work(
                    key,
                    key,
                    lambda key=key: asked.append(f"{key} official"),
                    calls,
                    lambda p: f"{p} agrees",
                    lambda: "a path",
                )

    monkeypatch.setattr(synthesis_work, "works", works)
    monkeypatch.setattr(training_work, "works", lambda *_: iter(()))
    monkeypatch.setattr(comparison, "QUICK", ONCE)

    class Code:
        def __init__(self, path: Path) -> None:
            self.path = path

        def plugins(self) -> str:
            return "none"

    monkeypatch.setattr(comparison, "Checkout", Code)
    return asked


def test_each_work_runs_on_both_sides_and_is_written(fake: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "against.json"
    text = compare(
        tmp_path, "cpu", ("fp32", "bf16"), quick=True, threads=1, command=["gan3d"], out=out
    )
    assert {"view official", "view fp32", "view bf16", "image official"} <= set(fake)
    stored = json.loads(out.read_text())
    assert [(r["key"], r["precision"]) for r in stored["rows"]] == [
        ("view", "fp32"), ("view", "bf16"), ("image", "fp32"), ("image", "bf16"),
    ]  # fmt: skip
    assert stored["rows"][1]["agreement"] == "bf16 agrees"
    assert stored["about"]["threads"] == 1
    assert "torch" in stored["about"]["versions"]
    assert "a path" in text


@pytest.mark.usefixtures("fake")
def test_work_can_be_picked_and_unknown_work_is_refused(tmp_path: Path) -> None:
    text = compare(tmp_path, "cpu", ("fp32",), quick=True, only=("vi",))
    assert "view" in text
    assert "image" not in text
    with pytest.raises(ConfigError, match="--only nothing"):
        compare(tmp_path, "cpu", ("fp32",), quick=True, only=("nothing",))
    with pytest.raises(ConfigError, match="--precision int8: use one of fp32"):
        compare(tmp_path, "cpu", ("int8",), quick=True)


@pytest.mark.usefixtures("fake")
def test_a_result_that_cannot_be_written_costs_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*name a file in a folder of yours"):
        compare(tmp_path, "cpu", ("fp32",), quick=True, out=tmp_path / "file" / "against.json")
    with pytest.raises(ConfigError, match=r"--out .*is a folder"):
        compare(tmp_path, "cpu", ("fp32",), quick=True, out=tmp_path)


def test_a_folder_without_the_official_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"no training/triplane\.py there"):
        Checkout(tmp_path)
    (tmp_path / "eg3d" / "training").mkdir(parents=True)
    (tmp_path / "eg3d" / "training" / "triplane.py").touch()
    monkeypatch.setattr("sys.path", list(sys.path))

    def missing(name: str) -> None:
        raise ImportError(f"{name} needs what is not installed")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"training\.triplane cannot be imported"):
        Checkout(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("EG3D_CHECKOUT" not in os.environ, reason="EG3D_CHECKOUT names no checkout")
def test_both_sides_agree_on_the_official_weights() -> None:
    code = Checkout(Path(os.environ["EG3D_CHECKOUT"]))
    keys = ("backbone", "renderer_64_forward_backward", "superresolution")
    device = torch.device("cpu")
    for work in synthesis_work.works(code, device, ("fp32",), lambda key: key in keys):
        first, *rest = work.agreement("fp32").split(", gradient of the planes ")
        assert float(first) < 1e-5
        assert all(float(x) < 1e-3 for x in rest)

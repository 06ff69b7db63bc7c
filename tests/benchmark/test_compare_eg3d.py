"""The comparison with the official code; with that code itself if there is a checkout."""

import dataclasses
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
from lightning_gan3d.benchmark.eg3d import (
    inference_work,
    stylegan3_work,
    training_work,
    usage_work,
)
from lightning_gan3d.benchmark.eg3d.compare import CompareOptions, Result, compare, mean_steps
from lightning_gan3d.benchmark.eg3d.official import Checkout, Work
from lightning_gan3d.benchmark.eg3d.stylegan3_work import StyleGAN3Checkout
from lightning_gan3d.benchmark.speed import Protocol, Timing
from lightning_gan3d.config import ConfigError

ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, budget=0.0)
QUICK = CompareOptions("cpu", ("fp32",), quick=True)


def result(key: str, official: float, ours: float, every: float = 1.0, **changes: Any) -> Result:
    values = {
        "description": key, "precision": "fp32", "ratio": official / ours,
        "ratio_low": official / ours, "ratio_high": official / ours, "rounds": 3,
        "official_mb": 10.0, "ours_mb": 5.0, "agreement": "", "path": "",
    } | changes  # fmt: skip
    return Result(key=key, official_ms=official, ours_ms=ours, every=every, **values)


def test_mean_step_weights_lazy_phases_by_their_interval() -> None:
    rows = [
        result("train_Gmain", 100.0, 50.0),
        result("train_Greg", 40.0, 20.0, every=4.0, ours_mb=9.0),
        result("train_Dmain", 60.0, 20.0),
        result("train_Dreg", 160.0, 160.0, every=16.0),
    ]
    (step,) = mean_steps(rows)
    assert (step.key, step.every) == ("step", 1.0)
    assert step.official_ms == pytest.approx(100 + 10 + 60 + 10)
    assert step.ours_ms == pytest.approx(50 + 5 + 20 + 10)
    assert step.ratio == pytest.approx(180 / 85)
    assert (step.ratio_low, step.ratio_high) == pytest.approx((180 / 85, 180 / 85))
    assert (step.official_mb, step.ours_mb) == (10.0, 9.0)
    unknown = [dataclasses.replace(r, official_mb=None) for r in rows]
    assert next(mean_steps(unknown)).official_mb is None
    assert not list(mean_steps(rows[:3]))  # a phase is missing


def test_the_time_of_a_part_is_scaled_to_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = {"official": Timing((0.1, 0.3, 0.2)), "fp32": Timing((0.4, 0.4, 0.4))}
    monkeypatch.setattr(comparison, "time_rounds", lambda *_: timings)
    work = Work("shape", "", lambda: None, {"fp32": lambda: None}, lambda _: "", share=0.1)
    (row,) = comparison.measure(work, torch.device("cpu"), ONCE)
    assert (row.official_ms, row.ours_ms) == pytest.approx((2000, 400))
    assert (row.ratio_low, row.ratio, row.ratio_high) == pytest.approx((3.75, 5, 6.25))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of fake works that replace those of the official code."""
    called: list[str] = []

    def works(_code: Any, _device: Any, precisions: Any, selected: Any) -> Iterator[Work]:
        for key in filter(selected, ("view", "image")):
            ours = {p: (lambda p=p, key=key: called.append(f"{key} {p}")) for p in precisions}
            yield Work(
                key,
                key,
                lambda key=key: called.append(f"{key} official"),
                ours,
                lambda p: f"{p} agrees",
                lambda: "a path",
            )

    class FakeCheckout:
        def __init__(self, path: Path) -> None:
            self.path = path

        def plugins(self) -> str:
            return "none"

    monkeypatch.setattr(inference_work, "works", works)
    for module in (training_work, usage_work):
        monkeypatch.setattr(module, "works", lambda *_: iter(()))
    monkeypatch.setattr(comparison, "QUICK", ONCE)
    monkeypatch.setattr(comparison, "Checkout", FakeCheckout)
    return called


def test_each_work_runs_on_both_sides_and_is_written(calls: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "against.json"
    options = dataclasses.replace(
        QUICK, precisions=("fp32", "bf16"), threads=1, command=("gan3d",), out=out
    )
    text = compare(tmp_path, options)
    assert {"view official", "view fp32", "view bf16", "image official"} <= set(calls)
    stored = json.loads(out.read_text())
    assert [(r["key"], r["precision"]) for r in stored["rows"]] == [
        ("view", "fp32"), ("view", "bf16"), ("image", "fp32"), ("image", "bf16"),
    ]  # fmt: skip
    assert stored["rows"][1]["agreement"] == "bf16 agrees"
    assert stored["about"]["threads"] == 1
    assert "torch" in stored["about"]["versions"]
    assert "a path" in text


@pytest.mark.usefixtures("calls")
def test_only_selects_works_by_prefix(tmp_path: Path) -> None:
    text = compare(tmp_path, dataclasses.replace(QUICK, only=("vi",)))
    assert "view" in text
    assert "image" not in text
    with pytest.raises(ConfigError, match="--only nothing"):
        compare(tmp_path, dataclasses.replace(QUICK, only=("nothing",)))


def test_an_unknown_precision_is_rejected() -> None:
    with pytest.raises(ConfigError, match="--precision int8: use one of fp32"):
        CompareOptions(precisions=("int8",))


@pytest.mark.usefixtures("calls")
def test_an_unwritable_result_is_rejected_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "against.json"
    with pytest.raises(ConfigError, match=r"--out .*name a file in a writable folder"):
        compare(tmp_path, dataclasses.replace(QUICK, out=out))
    with pytest.raises(ConfigError, match=r"--out .*is a folder"):
        compare(tmp_path, dataclasses.replace(QUICK, out=tmp_path))


def test_a_folder_without_the_official_code_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"no training/triplane\.py there"):
        Checkout(tmp_path)
    (tmp_path / "eg3d" / "training").mkdir(parents=True)
    (tmp_path / "eg3d" / "training" / "triplane.py").touch()
    monkeypatch.setattr("sys.path", list(sys.path))

    def fail(name: str) -> None:
        raise ImportError(f"{name} has missing dependencies")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ConfigError, match=r"training\.triplane cannot be imported"):
        Checkout(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("EG3D_CHECKOUT" not in os.environ, reason="EG3D_CHECKOUT is not set")
def test_both_sides_agree_on_the_official_weights() -> None:
    code = Checkout(Path(os.environ["EG3D_CHECKOUT"]))
    keys = ("backbone", "renderer_64_forward_backward", "superresolution")
    works = list(inference_work.works(code, torch.device("cpu"), ("fp32",), keys.__contains__))
    assert tuple(work.key for work in works) == keys
    for work in works:
        first, *rest = work.agreement("fp32").split(", gradient of the planes ")
        assert float(first) < 1e-5
        assert all(float(x) < 1e-3 for x in rest)


def test_stylegan3_is_recognised(tmp_path: Path) -> None:
    """EG3D's repository, which has a copy of StyleGAN3's network, stays EG3D's."""
    assert not StyleGAN3Checkout.recognises(tmp_path)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "networks_stylegan3.py").touch()
    assert StyleGAN3Checkout.recognises(tmp_path)
    (tmp_path / "training" / "triplane.py").touch()
    assert not StyleGAN3Checkout.recognises(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("STYLEGAN3_CHECKOUT" not in os.environ, reason="STYLEGAN3_CHECKOUT is not set")
@pytest.mark.parametrize("variant", ["t", "r"])
def test_stylegan3_agrees_with_the_official_network(variant: str) -> None:
    code = StyleGAN3Checkout(Path(os.environ["STYLEGAN3_CHECKOUT"]))
    key = f"stylegan3_{variant}_256"
    keys = (key, f"{key}_backward") if variant == "t" else (key,)
    works = list(stylegan3_work.works(code, torch.device("cpu"), ("fp32",), keys.__contains__))
    assert tuple(work.key for work in works) == keys
    for work in works:
        limit = 1e-6 if work.key.endswith("backward") else 1e-5  # in float64, in float32
        assert float(work.agreement("fp32").split()[-1]) < limit

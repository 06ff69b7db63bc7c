"""Works of evaluation and use, with stand-ins of the official code."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lightning_gan3d.benchmark.eg3d import usage_work
from lightning_gan3d.benchmark.eg3d.inference_work import Sides
from lightning_gan3d.benchmark.eg3d.official import Checkout
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator


def test_both_sides_query_the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_work, "CHUNK", 1000)
    torch.manual_seed(0)
    generator = Generator(load_experiment("demo/triplane").generator, 32).eval()
    z, label = torch.randn(1, 64), Cameras.orbit(1).to_label()
    ws = generator.mapping(z, label).detach()
    field: Any = generator.scene(ws)

    def sample(points: Tensor, dirs: Tensor, *_: Any, **__: Any) -> dict[str, Tensor]:
        assert dirs.shape == points.shape == (1, 1000, 3)
        return {"sigma": field.density(points)}

    net = SimpleNamespace(sample=sample, rendering_kwargs={"box_warp": 2.0})
    cameras = Cameras.from_label(label)
    sides = Sides(net, {"fp32": generator}, z, label, cameras, ws)
    work = usage_work._shape("shape", sides, 12)
    assert float(work.agreement("fp32")) < 1e-5
    assert work.share == pytest.approx(1000 / 12**3)


def test_both_sides_compute_the_same_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_work, "FEATURES", (300, 6))

    class FeatureStats:
        def __init__(self, **_: Any) -> None:
            self.rows: list[np.ndarray] = []

        def append_torch(self, x: Tensor) -> None:
            self.rows.append(x.double().numpy())

    stats: Any = SimpleNamespace(
        FeatureStats=FeatureStats,
        compute_feature_stats_for_dataset=None,
        compute_feature_stats_for_generator=None,
    )

    def compute_fid(*_: Any) -> float:
        a, b = (
            np.concatenate(compute(opts=None).rows)
            for compute in (
                stats.compute_feature_stats_for_dataset,
                stats.compute_feature_stats_for_generator,
            )
        )
        root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
        gap = np.square(a.mean(0) - b.mean(0)).sum()
        return float(gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real))

    modules = {
        "metrics.frechet_inception_distance": SimpleNamespace(compute_fid=compute_fid),
        "metrics.metric_utils": stats,
    }

    class StandIn(Checkout):
        def __init__(self) -> None:
            pass

        def module(self, name: str) -> Any:
            return modules[name]

    work = usage_work._fid(StandIn())
    assert float(work.agreement("fp32")) < 1e-8
    assert stats.compute_feature_stats_for_dataset is None  # restored

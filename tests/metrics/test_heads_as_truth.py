"""Evaluation of procedural heads: the metrics that read the data's own objects."""

import pytest
import torch
from metric_views import context

from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.metrics.config import ConsistencyConfig, GeometryConfig
from lightning_gan3d.metrics.consistency.reference import known_objects, rendered_views
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency
from lightning_gan3d.metrics.evaluate_target import _synth, _truth
from lightning_gan3d.metrics.geometry.shape_statistics import measure_geometry


@pytest.mark.parametrize("kind", ["figures", "heads"])
def test_objects_of_both_kinds_are_their_own_truth(tmp_path, kind):
    cfg = SynthConfig(kind=kind, num_images=24, num_objects=12, resolution=48)
    make_synth(cfg, tmp_path / "data")
    data = DataConfig(path=str(tmp_path / "data"))
    train, test = ImageDataset(data, "train"), ImageDataset(data, "test")
    truth = _truth(data, train, test)
    assert truth is not None
    assert _synth(train) == cfg
    assert list(truth.objects) == [9, 10, 11]
    options = {
        "consistency": ConsistencyConfig(items=2, steps=1, flicker=None),
        "geometry": GeometryConfig(items=2, grid=24),
    }
    ctx = context(truth, train, test, truth=truth, **options)
    assert known_objects(ctx) is truth
    metrics = {m.key: m.value for m in [*measure_consistency(ctx), *measure_geometry(ctx)]}
    assert metrics["consistency.depth_error"] < 0.002
    assert metrics["consistency.psnr"] > 28
    assert metrics["geometry.relief"] > 0.2
    assert metrics["geometry.billboards"] == 0
    assert metrics["geometry.floaters"] == 0
    assert metrics["geometry.normals_deg"] < 15
    cameras = truth.base(torch.arange(2))
    views = rendered_views(ctx, torch.arange(2), cameras, 48)
    assert torch.equal(views.depth, truth.views(torch.arange(2), cameras).depth)

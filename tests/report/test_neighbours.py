import json

import pytest
import torch
from fabricated_runs import Ball, make_run

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metrics.sources import GeneratorSource
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.plots import neighbours as module
from lightning_gan3d.report.plots.neighbours import neighbours
from lightning_gan3d.report.records import find_runs

TABLE = {
    "protocol": "images reduced to 16x16 pixels",
    "data": "f00d",
    "items": [5, 2],
    "training_images": [[1, 3], [0, 2]],
    "distances": [[0.01, 0.2], [0.125, 0.25]],
}


class Data:
    labels = Cameras.orbit(4, 0.2, 3.2, 1.5).to_label()
    resolution = 24
    fingerprint = "f00d"

    def __len__(self):
        return 4

    def images(self, indices):
        return torch.stack([torch.full((3, 24, 24), 60 * i, dtype=torch.uint8) for i in indices])


@pytest.fixture
def comparison(tmp_path):
    path = make_run(tmp_path, "triplane")
    (path / "neighbours.json").write_text(json.dumps(TABLE))
    make_run(tmp_path, "voxel")  # memorisation was not measured
    return compare(find_runs([tmp_path]))


def test_samples_stand_beside_the_images_that_the_file_names(comparison, monkeypatch):
    kept, draw = [], module._draw
    monkeypatch.setattr(module, "_draw", lambda *a: kept.append(a[3]) or draw(*a))
    (plot,) = neighbours(comparison, lambda _: Ball(), lambda _: Data())
    assert set(plot.files) == {"png", "svg", "dark"}
    assert plot.title.endswith(": triplane")
    assert "16x16" in plot.caption
    first, second = kept[0]
    assert first.words == ["sample 5", "0.01", "0.2"]
    assert [int(p.mean()) for p in first.pictures[1:]] == [60, 180]
    assert [int(p.mean()) for p in second.pictures[1:]] == [0, 120]
    source, items = GeneratorSource(Ball(), 4, Data.labels), torch.tensor([5])
    wanted = to_uint8(source.views(items, source.base(items)).image)[0].permute(1, 2, 0)
    assert (first.pictures[0] == wanted.numpy()).all()


def test_what_cannot_be_read_leaves_a_reason(comparison):
    def other(_):
        data = Data()
        data.fingerprint = "beef"
        return data

    (plot,) = neighbours(comparison, lambda _: Ball(), other)
    assert plot.files == {}
    assert "the data are beef now, f00d when measured" in plot.why
    (plot,) = neighbours(comparison, lambda _: Ball())
    assert "no images" in plot.why

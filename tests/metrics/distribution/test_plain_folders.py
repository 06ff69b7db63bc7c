"""Two folders of images without dataset.json."""

import json

import numpy as np
import pytest
import stand_in
from metric_views import RealFigures
from PIL import Image

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.metrics.evaluate_target import open_target

OPTIONS = [
    *("data.labels=none", "data.holdout=0.3", "evaluation.num_images=12"),
    *("evaluation.swd.patches=4", "evaluation.swd.projections=4", "evaluation.features.items=2"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(folder, num, seed, cameras=False):
    folder.mkdir()
    figures = RealFigures(num, seed)
    names = [f"{i:02d}.png" for i in range(num)]
    for name, image in zip(names, figures.images(range(num)), strict=True):
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0))).save(folder / name)
    if cameras:
        labels = [list(pair) for pair in zip(names, figures.labels.tolist(), strict=True)]
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def test_metrics_of_images_need_no_cameras(tmp_path):
    nets = {"inception": stand_in.save(stand_in.Inception(channels=1), tmp_path / "i.pt")}
    real, fake = write(tmp_path / "real", 20, 1), write(tmp_path / "fake", 12, 2)
    with pytest.raises(DataError, match=r"no dataset\.json .* data\.labels=none"):
        open_target(fake, [f"data.path={real}"], "cpu")
    options = [f"data.path={real}", *OPTIONS]
    metrics = {m.key: m for m in open_target(fake, options, "cpu", weights=nets).measure().metrics}
    shown = {"frechet", "kernel", "class_score", "precision_inception", "swd", "sharpness"}
    assert shown <= {m.name.partition(".")[2] for m in metrics.values() if m.value is not None}
    assert metrics["memorisation.excess"].value is not None
    reason = (
        "the data are used without cameras (data.labels=none); if they have some, evaluate with "
        "data.labels=camera"
    )
    names = ("pose.median_deg", "refit.psnr", "features.score")
    assert {metrics[name].note for name in names} == {reason}
    posed = write(tmp_path / "posed", 12, 2, cameras=True)
    metrics = {m.key: m for m in open_target(posed, options, "cpu").measure().metrics}
    assert {metrics[name].note for name in names} == {reason}


def test_an_image_of_another_size_is_named(tmp_path):
    real, fake = write(tmp_path / "real", 20, 1), write(tmp_path / "fake", 12, 2)
    Image.new("RGB", (9, 9)).save(fake / "03.png")
    with pytest.raises(DataError, match=r"03\.png is 9x9, expected 32x32"):
        open_target(fake, [f"data.path={real}", *OPTIONS], "cpu").measure()

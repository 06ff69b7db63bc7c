import numpy as np
import pytest
from data_parts import Parts
from PIL import Image

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.dataset import DataConfig


def test_summary_and_sheet(tmp_path):
    sheet = tmp_path / "sheet.png"
    summary = check_dataset(Parts().zip(tmp_path / "a.zip"), sheet)
    assert (summary.num_images, summary.resolution, summary.num_objects) == (10, 16, None)
    assert summary.distance == pytest.approx((2.7, 2.7))
    assert summary.elevation == pytest.approx((np.degrees(0.3), np.degrees(0.3)), abs=1e-3)
    assert summary.focal == pytest.approx((1.5, 1.5))
    assert summary.warnings == ()
    assert "10 images of 16x16 pixels" in str(summary)
    picture = np.asarray(Image.open(sheet).convert("RGB"))
    assert picture.shape[0] > 400
    assert (picture.std(axis=(0, 1)) > 10).all()


def turned(parts: Parts, columns: tuple[float, ...]) -> None:
    for i in range(10):
        pose = np.array(parts.label(i)[:16]).reshape(4, 4)
        pose[:3, :3] *= columns
        parts.label(i)[:16] = pose.ravel().tolist()


def test_unusual_cameras_give_warnings(tmp_path):
    parts = Parts()
    turned(parts, (1, -1, -1))  # OpenGL's axes
    warnings = check_dataset(parts.zip(tmp_path / "a.zip")).warnings
    assert any("10 cameras look away from the origin" in w for w in warnings)
    parts = Parts()
    turned(parts, (-1, -1, 1))
    warnings = check_dataset(parts.zip(tmp_path / "b.zip")).warnings
    assert any("upside down" in w for w in warnings)
    parts = Parts()
    for i in range(10):
        parts.label(i)[:] = parts.label(0)
    warnings = check_dataset(parts.zip(tmp_path / "c.zip")).warnings
    assert any("all cameras are the same" in w for w in warnings)
    parts = Parts()
    for i in range(10):
        parts.label(i)[3] += 5.0
    warnings = check_dataset(parts.zip(tmp_path / "d.zip")).warnings
    assert any("look past the origin" in w for w in warnings)


def test_every_image_is_decoded_without_memory(tmp_path):
    parts = Parts()
    parts.files["img9.png"] = parts.files["img9.png"][:400]
    path = parts.folder(tmp_path / "set")
    with pytest.raises(DataError, match=r"img9\.png"):
        check_dataset(DataConfig(path=path, memory_mb=0))


def test_splits_and_objects_are_counted(tmp_path):
    parts = Parts()
    names = sorted(parts.files)
    parts.index["splits"] = {"train": names[:7], "test": names[7:]}
    parts.index["objects"] = {n: i // 5 for i, n in enumerate(names)}
    summary = check_dataset(parts.zip(tmp_path / "a.zip"))
    assert summary.splits == {"train": 7, "test": 3}
    assert summary.num_objects == 2
    assert "splits: train 7, test 3" in str(summary)

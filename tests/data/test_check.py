import numpy as np
import pytest
from data_parts import Parts, noise, png
from PIL import Image

from lightning_gan3d.cli import main
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.datamodule import DataModule
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


def test_check_and_training_warn_alike(tmp_path):
    """Millimetres, a principal point in a corner, a world whose z is up, rolled cameras."""
    rotation = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    roll = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    changes = {
        "10 cameras are far from the scale of the box (1)": lambda p, _: np.copyto(
            p[:3, 3], 1000 * p[:3, 3]
        ),
        "10 cameras have a principal point far from": lambda _, k: np.copyto(k[:2, 2], 0.0),
        "y is up: z seems to be up": lambda p, _: np.copyto(p[:3], rotation @ p[:3]),
        "y is up: the cameras are rolled": lambda p, _: np.copyto(p[:3, :3], p[:3, :3] @ roll),
    }
    for i, (message, change) in enumerate(changes.items()):
        parts = Parts()
        for n in range(10):
            label = np.array(parts.label(n))
            change(label[:16].reshape(4, 4), label[16:].reshape(3, 3))
            parts.label(n)[:] = label.tolist()
        path = parts.zip(tmp_path / f"{i}.zip")
        (warning,) = check_dataset(path).warnings
        assert message in warning
        assert DataModule(DataConfig(path=path), 2, 2, 0).train.warnings() == [warning]


def test_check_and_training_reject_alike(tmp_path):
    """An image outside the splits, of another size; an image in both splits; an absent split."""
    parts = Parts()
    names = sorted(parts.files)
    parts.index["splits"] = {"train": names[:5], "test": names[5:8], "angles": names[8:]}
    parts.files["img9.png"] = png(noise(9, 8))
    cases = {"img9.png is 8x8": parts.zip(tmp_path / "size.zip")}
    parts = Parts()
    parts.index["splits"] = {"train": names[:5], "test": names[4:]}
    cases["1 images are in both splits"] = parts.zip(tmp_path / "both.zip")
    parts.index["splits"] = {"train": names, "test": names[7:]}
    cases["3 images are in both splits, among them img7"] = parts.zip(tmp_path / "all.zip")
    for message, path in cases.items():
        for open_ in (check_dataset, lambda p: DataModule(DataConfig(path=p), 2, 2, 0)):
            with pytest.raises(DataError, match=message):
                open_(path)
    parts.index["splits"] = {"train": names[:5], "val": names[5:]}
    path = parts.zip(tmp_path / "absent.zip")
    assert check_dataset(path).warnings == ("training needs data.test_split, one of train, val",)
    check_dataset(DataConfig(path=path, test_split="val"))


def test_check_reads_the_options_of_training(tmp_path, capsys):
    parts = Parts()
    parts.files["img2.png"] = png(noise(2)[..., 0])
    path = parts.zip(tmp_path / "a # b.zip")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", path])
    assert stopped.value.code == 2
    assert "set `convert` to black or white" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", path, "data.convert=black", "resolution=8"])
    assert stopped.value.code == 0
    assert "10 images of 8x8 pixels" in capsys.readouterr().out

"""Copies and mirrored copies of images stay in one split, where data is trained on directly."""

import io

import numpy as np
import pytest
from data_parts import NUM, Parts, noise, png
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.data.dataset import DataConfig, ImageDataset


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def smooth(i: int) -> np.ndarray:
    return np.asarray(Image.fromarray(noise(i, 4)).resize((16, 16), Image.Resampling.BICUBIC))


def with_copies(kind: str = "mirrored") -> Parts:
    """Ten photographs, each followed by its copy, as EG3D's archives."""
    parts = Parts()
    cameras = Cameras.on_sphere(*(x.float() for x in angles()))
    other = cameras.mirror() if kind != "equal" else cameras
    labels = [c.to_label().double().tolist() for c in (cameras, other)]
    parts.files, parts.index = {}, {"labels": []}
    for i in range(NUM):
        pixels = smooth(i)
        twin = {"mirrored": pixels[:, ::-1], "equal": pixels, "others": smooth(i + NUM)}[kind]
        for side, image in enumerate((pixels, twin)):
            name = f"img{2 * i + side:02d}.jpg"
            parts.files[name] = jpeg(np.ascontiguousarray(image))
            parts.index["labels"].append([name, labels[side][i]])
    return parts


def angles():
    import torch

    return torch.linspace(0.1, 1, NUM), torch.linspace(-0.2, 0.3, NUM)


def pair(name: str) -> int:
    return int(name[3:5]) // 2


@pytest.mark.parametrize("kind", ["mirrored", "equal"])
def test_copies_are_held_out_together(tmp_path, kind):
    data = DataModule(
        DataConfig(path=with_copies(kind).zip(tmp_path / "a.zip"), holdout=0.3), 2, 2, 0
    )
    assert data.test is not None
    assert len(data.test) == 6
    assert not {pair(n) for n in data.test.names} & {pair(n) for n in data.train.names}


def test_other_images_from_mirrored_cameras_are_no_copies(tmp_path):
    path = with_copies("others").zip(tmp_path / "a.zip")
    assert ImageDataset(DataConfig(path=path)).copies is None
    assert len(ImageDataset(DataConfig(path=path, mirror=True))) == 4 * NUM


@pytest.mark.parametrize("known", [False, True])
def test_mirrored_copies_are_not_mirrored_again(tmp_path, known):
    parts = with_copies()
    if known:
        parts.index["copies"] = {
            f"img{2 * i + 1:02d}.jpg": f"img{2 * i:02d}.jpg" for i in range(NUM)
        }
        parts.index["objects"] = {n: i for i, n in enumerate(sorted(parts.files))}
    path = parts.zip(tmp_path / "a.zip")
    for open_ in (check_dataset, lambda cfg: DataModule(cfg, 2, 2, 0)):
        with pytest.raises(ConfigError, match=r"mirrored copies \(10 of 20 images\); leave `mir"):
            open_(DataConfig(path=path, mirror=True))
    equal = with_copies("equal").zip(tmp_path / "b.zip")
    assert len(ImageDataset(DataConfig(path=equal, mirror=True))) == 4 * NUM


def test_copies_in_two_splits_give_a_warning(tmp_path):
    parts = with_copies()
    names = sorted(parts.files)
    parts.index["splits"] = {"train": names[:13], "test": names[13:]}
    path = parts.zip(tmp_path / "a.zip")
    expected = "1 images are in another split than the image that they repeat or mirror, e.g. img13"
    assert any(expected in w for w in check_dataset(path).warnings)
    assert any(expected in w for w in DataModule(DataConfig(path=path), 2, 2, 0).train.warnings())


def test_the_smallest_share_is_named(tmp_path):
    path = Parts().zip(tmp_path / "a.zip")
    with pytest.raises(Exception, match=r"holdout=0\.01 of 10 images rounds to none: set .*0\.1"):
        DataModule(DataConfig(path=path, holdout=0.01), 2, 2, 0)


def test_png_of_a_preparer(tmp_path):
    """Exact copies of noise, which no compression changed."""
    parts = with_copies()
    for i in range(NUM):
        parts.files[f"img{2 * i:02d}.jpg"] = png(noise(i))
        parts.files[f"img{2 * i + 1:02d}.jpg"] = png(np.ascontiguousarray(noise(i)[:, ::-1]))
    copies = ImageDataset(DataConfig(path=parts.zip(tmp_path / "a.zip"))).copies
    assert copies is not None
    assert copies.tolist() == [x for i in range(NUM) for x in (-1, 2 * i)]

import copy

import numpy as np
import pytest
import torch
from data_parts import NUM, Parts, noise, png

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.datamodule import open_test
from lightning_gan3d.data.dataset import DataConfig, ImageDataset, parse_ranges
from lightning_gan3d.draws import Draws


@pytest.fixture
def path(tmp_path):
    return Parts().zip(tmp_path / "set.zip")


def test_images_and_labels_belong_together(path, tmp_path):
    for where in (path, Parts().folder(tmp_path / "folder")):
        dataset = ImageDataset(DataConfig(path=where))
        assert (len(dataset), dataset.resolution) == (NUM, 16)
        for i in range(NUM):
            image, label = dataset[i]
            assert np.array_equal(image.permute(1, 2, 0).numpy(), noise(i))
            torch.testing.assert_close(label, torch.tensor(Parts().label(i)))


def test_order_of_the_index_does_not_matter(tmp_path, path):
    parts = Parts()
    parts.index["labels"].reverse()
    other = ImageDataset(DataConfig(path=parts.zip(tmp_path / "b.zip")))
    assert torch.equal(other.labels, ImageDataset(DataConfig(path=path)).labels)


def test_mirrored_images_have_mirrored_poses(path):
    """Column x of the image and of its mirror image show the same ray of mirrored worlds."""
    dataset = ImageDataset(DataConfig(path=path, mirror=True))
    assert len(dataset) == 2 * NUM
    assert torch.equal(dataset.images([NUM + 3])[0], dataset.images([3])[0].flip(-1))
    plain, mirrored = (
        Cameras.from_label(dataset.labels[[3]]),
        Cameras.from_label(dataset.labels[[NUM + 3]]),
    )
    points = torch.randn(1, 20, 3) * 0.3
    uv, z = plain.project(points)
    uv_mirrored, z_mirrored = mirrored.project(points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(uv_mirrored, torch.stack([1 - uv[..., 0], uv[..., 1]], -1))
    torch.testing.assert_close(z, z_mirrored)
    assert torch.linalg.det(mirrored.cam2world[:, :3, :3]) > 0


def test_only_training_images_are_mirrored(path):
    cfg = DataConfig(path=path, mirror=True, holdout=0.3)
    assert len(ImageDataset(cfg, "train")) == 14
    assert len(ImageDataset(cfg, "test")) == 3


def test_resolution_averages_pixels(path):
    small = ImageDataset(DataConfig(path=path, resolution=4)).images([2])[0]
    want = noise(2).astype(float).reshape(4, 4, 4, 4, 3).mean((1, 3)).round()
    assert np.abs(small.permute(1, 2, 0).numpy() - want).max() <= 1  # halves may round either way
    with pytest.raises(ConfigError, match="resolution=6"):
        ImageDataset(DataConfig(path=path, resolution=6))


def test_memory_limit_changes_nothing_but_when_images_are_read(path):
    eager, lazy = (ImageDataset(DataConfig(path=path, mirror=True, memory_mb=m)) for m in (16, 0))
    assert eager.in_memory
    assert not lazy.in_memory
    which = torch.tensor([0, 13, 5, 19, 5])
    assert torch.equal(eager.images(which), lazy.images(which))


def test_holdout_partitions_and_is_stable(tmp_path, path):
    cfg = DataConfig(path=path, holdout=0.3)
    train, test = ImageDataset(cfg, "train"), ImageDataset(cfg, "test")
    assert len(test) == 3
    assert sorted(train.names + test.names) == sorted(Parts().files)
    parts = Parts()
    del parts.files[train.names[0]]
    parts.index["labels"] = [x for x in parts.index["labels"] if x[0] != train.names[0]]
    fewer = ImageDataset(DataConfig(path=parts.zip(tmp_path / "b.zip"), holdout=0.3), "test")
    assert fewer.names == test.names
    with pytest.raises(DataError, match="set `holdout`"):
        ImageDataset(DataConfig(path=path), "test")


def with_splits(tmp_path):
    parts = Parts()
    names = sorted(parts.files)
    parts.index["splits"] = {"train": names[:6], "angles": names[6:8], "test": names[8:]}
    parts.index["objects"] = {n: i % 3 for i, n in enumerate(names)}
    return parts, parts.zip(tmp_path / "split.zip")


def test_own_splits_and_their_names(tmp_path):
    _, path = with_splits(tmp_path)
    cfg = DataConfig(path=path)
    sizes = {s: len(ImageDataset(cfg, s)) for s in ("train", "test", "angles", "all")}
    assert sizes == {"train": 6, "test": 2, "angles": 2, "all": 10}
    other = DataConfig(path=path, test_split="angles", train_split="test")
    assert ImageDataset(other, "test").names == ["img6.png", "img7.png"]
    assert ImageDataset(other, "train").names == ["img8.png", "img9.png"]
    with pytest.raises(DataError, match=r"no split `val`; it has train, angles, test"):
        ImageDataset(cfg, "val")
    with pytest.raises(DataError, match="both splits"):
        open_test(DataConfig(path=path, test_split="train"), ImageDataset(cfg))


def test_selecting_objects(tmp_path, path):
    _, split = with_splits(tmp_path)
    dataset = ImageDataset(DataConfig(path=split, objects="0, 2-2"))
    assert dataset.objects is not None
    assert set(dataset.objects.tolist()) == {0, 2}
    with pytest.raises(DataError, match="empty for objects 7"):
        ImageDataset(DataConfig(path=split, objects="7"))
    with pytest.raises(ConfigError, match="does not say"):
        ImageDataset(DataConfig(path=path, objects="1"))
    assert parse_ranges("1-3, 9") == {1, 2, 3, 9}


def test_split_that_names_a_missing_image(tmp_path):
    parts, _ = with_splits(tmp_path)
    parts.index["splits"]["train"].append("ghost.png")
    with pytest.raises(DataError, match=r"ghost\.png"):
        ImageDataset(DataConfig(path=parts.zip(tmp_path / "b.zip")))


def test_labels_are_sampled_from_all_including_mirrored(path):
    dataset = ImageDataset(DataConfig(path=path, mirror=True))
    labels = dataset.sample_labels(Draws(0), 4000)
    which = (labels[:, None] == dataset.labels).all(-1).float()
    counts = which.sum(0) / (which.sum(1, keepdim=True).max())
    assert torch.equal(labels, dataset.sample_labels(Draws(0), 4000))
    assert not torch.equal(labels, dataset.sample_labels(Draws(1), 4000))
    assert which.any(1).all()
    assert counts.min() > 0


def test_fingerprint_follows_content_and_selection(tmp_path, path):
    def of(parts: Parts, name: str, split: str = "train", **options) -> str:
        return ImageDataset(
            DataConfig(path=parts.zip(tmp_path / name), **options), split
        ).fingerprint

    first = ImageDataset(DataConfig(path=path)).fingerprint
    assert first == of(Parts(), "moved.zip")
    pixels, label = Parts(), Parts()
    pixels.files["img3.png"] = png(noise(99))
    label.label(3)[16] = 1.6
    more = copy.deepcopy(Parts())
    more.files["img99.png"] = png(noise(5))
    more.index["labels"].append(["img99.png", more.label(0)])
    others = [
        of(pixels, "1.zip"),
        of(label, "2.zip"),
        of(more, "3.zip"),
        of(Parts(), "4.zip", mirror=True),
        of(Parts(), "5.zip", resolution=8),
        of(Parts(), "6.zip", holdout=0.3),
        of(Parts(), "7.zip", "test", holdout=0.3),
    ]
    assert len({first, *others}) == 8


@pytest.mark.parametrize(
    "tree",
    [
        {"resolution": 2},
        {"holdout": 1.0},
        {"num_workers": -1},
        {"memory_mb": -5},
        {"objects": "1-x"},
        {"objects": "9-3"},
        {"convert": "pink"},
    ],
)
def test_impossible_values_are_refused(tree):
    with pytest.raises(ConfigError, match=next(iter(tree))):
        build(DataConfig, tree)

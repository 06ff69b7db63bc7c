import copy

import numpy as np
import pytest
import torch
from data_parts import NUM, Parts, noise, png

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.datamodule import open_test
from lightning_gan3d.data.dataset import DataConfig, ImageDataset, hold_out
from lightning_gan3d.ranges import parse_ranges


@pytest.fixture
def path(tmp_path):
    return Parts().zip(tmp_path / "set.zip")


def test_images_and_labels_belong_together(path, tmp_path):
    for each in (path, Parts().folder(tmp_path / "folder")):
        dataset = ImageDataset(DataConfig(path=each))
        assert (len(dataset), dataset.resolution) == (NUM, 16)
        for i in range(NUM):
            image, label = dataset[i]
            assert np.array_equal(image.permute(1, 2, 0).numpy(), noise(i))
            torch.testing.assert_close(label, torch.tensor(Parts().label(i)))


def test_the_order_of_labels_does_not_matter(tmp_path, path):
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
    expected = noise(2).astype(float).reshape(4, 4, 4, 4, 3).mean((1, 3)).round()
    assert np.abs(small.permute(1, 2, 0).numpy() - expected).max() <= 1  # rounding of halves
    with pytest.raises(ConfigError, match="resolution=6"):
        ImageDataset(DataConfig(path=path, resolution=6))


def test_the_memory_limit_only_changes_when_images_are_read(path):
    eager, lazy = (ImageDataset(DataConfig(path=path, mirror=True, memory_mb=m)) for m in (16, 0))
    assert eager.in_memory
    assert not lazy.in_memory
    indices = torch.tensor([0, 13, 5, 19, 5])
    assert torch.equal(eager.images(indices), lazy.images(indices))


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
    with pytest.raises(DataError, match=r"set data\.holdout"):
        ImageDataset(DataConfig(path=path), "test")


def with_splits(tmp_path):
    parts = Parts()
    names = sorted(parts.files)
    parts.index["splits"] = {"train": names[:6], "angles": names[6:8], "test": names[8:]}
    parts.index["objects"] = {n: i % 3 for i, n in enumerate(names)}
    return parts, parts.zip(tmp_path / "split.zip")


def test_splits_of_the_data_set_and_their_names(tmp_path):
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
    with pytest.raises(ConfigError, match="does not number its objects"):
        ImageDataset(DataConfig(path=path, objects="1"))
    assert parse_ranges("1-3, 9") == [1, 2, 3, 9]


def test_a_split_with_a_missing_image_is_rejected(tmp_path):
    parts, _ = with_splits(tmp_path)
    parts.index["splits"]["train"].append("ghost.png")
    with pytest.raises(DataError, match=r"ghost\.png"):
        ImageDataset(DataConfig(path=parts.zip(tmp_path / "b.zip")))


def test_the_fingerprint_identifies_content_and_selection(tmp_path, path):
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
def test_invalid_values_are_rejected(tree):
    with pytest.raises(ConfigError, match=next(iter(tree))):
        build(DataConfig, tree)


def test_hold_out_follows_the_order_of_hashes_and_keeps_groups():
    names = [f"{i}.png" for i in range(50)]
    held = hold_out(names, 0.2, {})
    assert len(held) == 10
    assert held == hold_out(names[::-1], 0.2, {})
    assert hold_out(names, 0.1, {}) < held
    assert hold_out(names, 0.0, {}) == set()
    pairs = {n: str(int(n[:-4]) // 2) for n in names}
    together = hold_out(names, 0.2, pairs)
    assert np.bincount([int(pairs[n]) for n in together]).tolist().count(1) == 0
    assert len(together) == 10


def test_copies_stay_in_one_split(tmp_path):
    parts = Parts()
    parts.index["copies"] = {f"img{i}.png": "img0.png" for i in (3, 5, 8)}
    path = parts.zip(tmp_path / "a.zip")
    for holdout in (0.1, 0.3, 0.5):
        test = ImageDataset(DataConfig(path=path, holdout=holdout), "test").names
        train = ImageDataset(DataConfig(path=path, holdout=holdout), "train").names
        assert sorted(test + train) == [f"img{i}.png" for i in range(10)]
        assert len({n in test for n in ("img0.png", "img3.png", "img5.png", "img8.png")}) == 1
        assert len(test) >= 10 * holdout
    parts.index["copies"] = {"img3.png": 0}
    path = parts.zip(tmp_path / "b.zip")
    with pytest.raises(DataError, match="`copies` must map image names to str"):
        ImageDataset(DataConfig(path=path, holdout=0.3))


def test_copies_of_missing_images_are_rejected(tmp_path):
    parts = Parts()
    for copies in ({"img3.png": "gone.png"}, {"gone.png": "img3.png"}):
        parts.index["copies"] = copies
        path = parts.zip(tmp_path / f"{next(iter(copies))}.zip")
        with pytest.raises(DataError, match=r"`copies` .* names gone\.png, which does not exist"):
            check_dataset(path)


def test_holdout_keeps_the_views_of_an_object_in_one_split(tmp_path):
    """Ten images of three objects; one image is a mirrored copy with its own object number."""
    parts = Parts()
    names = [f"img{i}.png" for i in range(10)]
    parts.index["objects"] = {n: i % 3 for i, n in enumerate(names)}
    parts.index["objects"]["img9.png"] = 7
    parts.index["copies"] = {"img9.png": "img0.png"}
    path = parts.zip(tmp_path / "a.zip")
    for holdout in (0.2, 0.5):
        test, train = (
            ImageDataset(DataConfig(path=path, holdout=holdout), split)
            for split in ("test", "train")
        )
        sides = [{o for o in side.objects.tolist() if o != 7} for side in (test, train)]
        assert not sides[0] & sides[1]
        assert ("img9.png" in test.names) == ("img0.png" in test.names)
        assert len(test.names) >= 10 * holdout
    parts.index["objects"] = dict.fromkeys(names, -1)  # unknown: each image by itself
    path = parts.zip(tmp_path / "b.zip")
    assert len(ImageDataset(DataConfig(path=path, holdout=0.3), "test").names) in (3, 4)

"""Held-out images: picked by name, copies together."""

import numpy as np
import pytest
from data_parts import Parts

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.splits import hold_out


def test_holding_out_without_copies_is_the_order_of_hashes():
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


def test_the_reader_keeps_copies_on_one_side(tmp_path):
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


def test_copies_of_images_that_are_not_there_are_refused(tmp_path):
    parts = Parts()
    for copies in ({"img3.png": "gone.png"}, {"gone.png": "img3.png"}):
        parts.index["copies"] = copies
        path = parts.zip(tmp_path / f"{next(iter(copies))}.zip")
        with pytest.raises(DataError, match=r"`copies` .* names gone\.png, which is not there"):
            check_dataset(path)


def test_holdout_keeps_the_views_of_an_object_on_one_side(tmp_path):
    """Ten images of three objects, of which one is a mirrored copy with a number of its own."""
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

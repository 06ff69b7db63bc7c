import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.images import to_float, to_uint8
from lightning_gan3d.metrics.stored_images import StoredImages

CAMERAS = Cameras.on_sphere(torch.linspace(0, 3, 4), torch.zeros(4), 3.2, focal=1.5).to_label()


def write(folder, num, cameras=None, objects=None, size=8):
    """Images whose first pixel is their number."""
    folder.mkdir()
    names = [f"{i:03d}.png" for i in range(num)]
    for i, name in enumerate(names):
        Image.fromarray(np.full((size, size, 3), i, np.uint8)).save(folder / name)
    if cameras is not None:
        labels = [[n, c.tolist()] for n, c in zip(names, cameras, strict=True)]
        index = {"labels": labels, "objects": dict(zip(names, objects or [], strict=False))}
        (folder / "dataset.json").write_text(json.dumps(index))
    return folder


def numbers(images):
    return to_uint8(images)[:, 0, 0, 0].tolist()


def test_a_plain_folder_is_images_without_cameras(tmp_path):
    stored = StoredImages(write(tmp_path / "a", 5))
    assert (len(stored), stored.resolution, stored.labels, stored.objects) == (5, 8, None, None)
    cameras = stored.base(torch.arange(3))
    assert bool(cameras.cam2world.isnan().all())
    shown = stored.views(torch.arange(3), cameras).image
    assert numbers(shown) == stored.order[:3].tolist()
    assert numbers(to_float(stored.images(torch.tensor([2, 0])))) == [2, 0]
    assert "come without cameras" in stored.orbits(2)


def test_items_are_in_random_order_and_the_protocol_has_the_seed(tmp_path):
    """A folder may be sorted by class."""
    stored = StoredImages(write(tmp_path / "a", 40, CAMERAS.repeat(10, 1)))
    items = torch.arange(40)
    order = numbers(stored.views(items, stored.base(items)).image)
    assert sorted(order) == list(range(40))
    assert max(order[:8]) > 20  # not the first by name
    torch.testing.assert_close(stored.base(items).to_label(), CAMERAS[torch.tensor(order) % 4])
    assert StoredImages(stored.path).order.tolist() == order
    assert StoredImages(stored.path, seed=1).order.tolist() != order
    for text in ("at random (seed 0) from 40", "truncation unknown", stored.fingerprint):
        assert text in stored.protocol
    assert "no truncation" not in stored.protocol


def test_orbits_are_objects_with_the_same_cameras(tmp_path):
    cameras, objects = CAMERAS.repeat(3, 1), [7] * 4 + [2] * 4 + [5] * 4
    stored = StoredImages(write(tmp_path / "a", 12, cameras, objects))
    result = stored.orbits(4)
    assert result.images.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    torch.testing.assert_close(result.cameras.to_label(), CAMERAS)
    torch.testing.assert_close(stored.base(torch.arange(12)).to_label(), cameras[stored.order])
    items = stored.order.argsort()  # by name, so that the cameras of the first two differ
    with pytest.raises(ValueError, match="their own cameras only"):
        stored.views(items[:1], stored.base(items[1:2]))


@pytest.mark.parametrize(
    ("objects", "cameras", "why"),
    [
        ([], CAMERAS.repeat(2, 1), "the object of each image"),
        ([0] * 2 + [1] * 6, CAMERAS[:1].repeat(8, 1), "needs 7 views, and has at most 6"),
        ([0] * 4 + [1] * 4, torch.cat([CAMERAS, CAMERAS.flip(0)]), "do not have the same cameras"),
    ],
)
def test_without_orbits_there_is_a_reason(tmp_path, objects, cameras, why):
    stored = StoredImages(write(tmp_path / "a", 8, cameras, objects))
    assert why in stored.orbits(7 if "7 views" in why else 4)


def test_labels_may_be_null_as_in_data_of_stylegan(tmp_path):
    folder = write(tmp_path / "a", 3)
    (folder / "dataset.json").write_text('{"labels": null}')
    assert StoredImages(folder).labels is None


@pytest.mark.parametrize("odd", [{"objects": {"000.png": "x"}}, {"objects": [1]}, {"sha256": 3}])
def test_an_odd_index_is_rejected_by_its_key(tmp_path, odd):
    folder = write(tmp_path / "a", 3)
    (folder / "dataset.json").write_text(json.dumps({"labels": None, **odd}))
    with pytest.raises(DataError, match=f"`{next(iter(odd))}` must map image names to"):
        StoredImages(folder)


def test_other_formats_are_converted_on_request(tmp_path):
    folder = write(tmp_path / "a", 1)
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(folder / "000.png")
    with pytest.raises(DataError, match=r"000\.png is RGBA"):
        StoredImages(folder)
    assert numbers(to_float(StoredImages(folder, convert="white").images(torch.arange(1)))) == [255]


def test_bad_images_are_rejected_by_name(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        StoredImages(tmp_path)
    folder = write(tmp_path / "a", 3)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "002.png")
    with pytest.raises(DataError, match=r"002\.png is 9x9, expected 8x8"):
        StoredImages(folder).images(torch.arange(3))

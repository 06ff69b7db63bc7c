import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.images import to_uint8
from lightning_gan3d.metrics.distribution.distance import fakes
from lightning_gan3d.metrics.source_key import identity_of
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


def test_a_plain_folder_is_images_without_cameras(tmp_path):
    stored = StoredImages(write(tmp_path / "a", 5))
    assert (len(stored), stored.resolution, stored.labels, stored.objects) == (5, 8, None, None)
    found = list(fakes(stored, 3, 2))
    assert [to_uint8(f.images)[:, 0, 0, 0].tolist() for f in found] == [[0, 1], [2]]
    assert all(f.cameras.cam2world.isnan().all() for f in found)
    assert "come without cameras" in stored.orbits(2)


def test_a_part_of_a_folder_is_drawn_at_random_and_says_so(tmp_path):
    """Sorted by class, the first of a folder would be one class."""
    stored = StoredImages(write(tmp_path / "a", 40, CAMERAS.repeat(10, 1)))
    sample, again = stored.sample(40, 0), stored.sample(8, 0)
    found = torch.cat([to_uint8(f.images)[:, 0, 0, 0] for f in fakes(sample, 40, 16)]).long()
    assert sorted(found.tolist()) == list(range(40))
    assert found[:8].max() > 20  # not the first by name
    assert torch.equal(again.which, found[:8])
    torch.testing.assert_close(sample.base(torch.arange(40)).to_label(), CAMERAS[found % 4])
    assert not torch.equal(stored.sample(40, 1).which, sample.which)
    assert identity_of(again) != identity_of(stored.sample(8, 1))
    for word in ("at random (seed 0) from 40", "truncation unknown", stored.fingerprint):
        assert word in sample.protocol
    assert "no truncation" not in sample.protocol


def test_items_that_one_set_of_cameras_has_seen_are_found(tmp_path):
    cameras, objects = CAMERAS.repeat(3, 1), [7] * 4 + [2] * 4 + [5] * 4
    stored = StoredImages(write(tmp_path / "a", 12, cameras, objects))
    found = stored.orbits(4)
    assert found.images.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    torch.testing.assert_close(found.cameras.to_label(), CAMERAS)
    torch.testing.assert_close(stored.base(torch.arange(12)).to_label(), cameras)
    with pytest.raises(ValueError, match="their own cameras alone"):
        stored.views(torch.tensor([0]), stored.base(torch.tensor([1])))


@pytest.mark.parametrize(
    ("objects", "cameras", "why"),
    [
        ([], CAMERAS.repeat(2, 1), "which images show one item"),
        ([0] * 2 + [1] * 6, CAMERAS[:1].repeat(8, 1), "7 views of an item, and there are 6"),
        ([0] * 4 + [1] * 4, torch.cat([CAMERAS, CAMERAS.flip(0)]), "not seen from the same"),
    ],
)
def test_why_items_cannot_be_compared_between_views_is_said(tmp_path, objects, cameras, why):
    stored = StoredImages(write(tmp_path / "a", 8, cameras, objects))
    assert why in stored.orbits(7 if "7 views" in why else 4)


def test_bad_images_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        StoredImages(tmp_path)
    folder = write(tmp_path / "a", 3)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "002.png")
    with pytest.raises(DataError, match=r"002\.png is 9x9, need 8x8"):
        StoredImages(folder).images(torch.arange(3))

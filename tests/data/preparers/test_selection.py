"""Mirrored and repeated images: their number, names and split."""

import json
from collections import Counter

import pytest
import torch
from preparer_parts import cameras, encoded, index_of, labels_json, opened, ramp, save

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.preparers.faces import FacesConfig, prepare_faces
from lightning_gan3d.data.preparers.selection import find_duplicates


def prepare(tmp_path, cams, out="out.zip", names=None, pictures=None, **options):
    """Prepare images of 8 pixels; blue encodes the photograph."""
    names = names or [f"{i:05d}.png" for i in range(len(cams.cam2world))]
    pictures = pictures or range(len(names))
    files = {n: encoded(ramp(8, blue=i)) for n, i in zip(names, pictures, strict=True)}
    files["dataset.json"] = labels_json(names, cams)
    source = tmp_path / "raw.zip"
    if not source.exists():
        save(files, source)
    cfg = FacesConfig(resolution=8, **options)
    return prepare_faces("ffhq", source, tmp_path / out, cfg)


def yawed(degrees: list[float]) -> Cameras:
    azimuth = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return Cameras.on_sphere(azimuth, torch.linspace(0.1, 0.2, len(azimuth)).double(), 2.7, 4.0)


def photographs(dataset):
    return {int(dataset.images([i])[0, 2, 0, 0]) for i in range(len(dataset))}


def test_copies_of_an_image_stay_in_its_split(tmp_path):
    cfg = {"mirror": True, "rebalance": "yaw", "max_replicas": 3}
    summary = prepare(tmp_path, cameras(40, seed=3), holdout=0.25, **cfg)
    train, test = (opened(tmp_path / "out.zip", s) for s in ("train", "test"))
    assert len(test) == summary.splits["test"] == 10  # no copies
    assert len(train) == summary.splits["train"] > 60
    assert not photographs(train) & photographs(test)
    assert len(photographs(train)) == 30
    check_dataset(str(tmp_path / "out.zip"))
    # holdout of the reader keeps copies together too
    train, test = (opened(tmp_path / "out.zip", s, holdout=0.3) for s in ("train", "test"))
    assert not photographs(train) & photographs(test)
    assert len(train) + len(test) == summary.num_images
    assert len(test) >= 0.3 * summary.num_images


def test_copies_in_the_source_are_detected_by_their_cameras(tmp_path):
    """As in EG3D's FFHQ: each image is followed by its mirrored copy, under another number."""
    once = cameras(12)
    both = Cameras(
        *(torch.stack(x, 1).flatten(0, 1) for x in zip(once, once.mirror(), strict=True))
    )
    pictures = [i // 2 for i in range(24)]
    prepare(tmp_path, both, pictures=pictures, holdout=0.25)
    train, test = (opened(tmp_path / "out.zip", s) for s in ("train", "test"))
    assert not photographs(train) & photographs(test)
    assert len(test) == 6
    copies = index_of(tmp_path / "out.zip")["copies"]
    assert copies == {f"{i + 1:05d}.png": f"{i:05d}.png" for i in range(0, 24, 2)}
    with pytest.raises(DataError, match=r"already has mirrored copies.*12 of 24"):
        prepare(tmp_path, both, out="again.zip", mirror=True)


def test_duplicates_have_equal_or_mirrored_cameras():
    cams = cameras(4)
    rows = [cams.to_label(), cams.mirror().to_label()[1:3], cams.to_label()[:1]]
    duplicates = find_duplicates(torch.cat(rows))
    assert duplicates.first == [0, 1, 2, 3, 1, 2, 0]
    assert duplicates.num_mirrored == 2
    front = Cameras.on_sphere(torch.zeros(2), torch.tensor([0.0, 0.1]))  # its own mirror image
    assert find_duplicates(front.to_label()) == ([0, 1], 0)


def test_rare_yaws_are_repeated(tmp_path):
    yaw = [1.0] * 8 + [-3.0] * 4 + [12.0] * 2 + [-13.0] * 2 + [31.0]
    prepare(tmp_path, yawed(yaw), rebalance="yaw", max_replicas=5)
    written = opened(tmp_path / "out.zip")
    occurrences = Counter(int(written.images([i])[0, 2, 0, 0]) for i in range(len(written)))
    # 12 images within 5 degrees, 4 in 10 to 15, and 1: repeated 12 times, limited to 5
    assert [occurrences[i] for i in range(17)] == [1] * 12 + [3] * 4 + [5]
    assert len(set(written.names)) == len(written) == 12 + 12 + 5
    assert {n for n in written.names if n.startswith("00016")} == {
        "00016.png", *(f"00016_r{r:02d}.png" for r in range(1, 5))
    }  # fmt: skip


def test_counts_come_from_a_file_by_number_or_name(tmp_path):
    counts = {"0": 2, "1": 0, "00002.png": 1, "3": 3}
    (tmp_path / "num_replicas.json").write_text(json.dumps(counts))
    file = str(tmp_path / "num_replicas.json")
    summary = prepare(tmp_path, cameras(4), rebalance=file, mirror=True)
    written = opened(tmp_path / "out.zip")
    occurrences = Counter(int(written.images([i])[0, 2, 0, 0]) for i in range(len(written)))
    assert occurrences == {0: 4, 2: 2, 3: 6}
    assert (summary.num_images, summary.num_mirrored) == (12, 6)
    index = index_of(tmp_path / "out.zip")
    assert index["ffhq"]["rebalance"] == "num_replicas.json"  # without its folder
    assert index["copies"]["00003_mirror_r01.png"] == "00003.png"
    # numbers refer to the camera file, even if an image is missing
    names = ["x.png", "00002.png", "00000.png"]
    (tmp_path / "raw.zip").unlink()
    files = {n: encoded(ramp(8, blue=i)) for i, n in enumerate(names[1:])}
    save({**files, "dataset.json": labels_json(names, cameras(3))}, tmp_path / "raw.zip")
    (tmp_path / "num_replicas.json").write_text(json.dumps({"0": 5, "1": 1, "2": 2}))
    prepare(tmp_path, cameras(3), out="b.zip", rebalance=file, missing="skip")
    assert opened(tmp_path / "b.zip").names == ["00000.png", "00000_r01.png", "00002.png"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"0": 1}', DataError, "no count for 3 of 4 images, e.g. 00001.png"),
        ('{"0": 1, "1": 17, "2": 1, "3": 1}', DataError, "count 17 of image 1.*max_replicas=16"),
        ('{"0": 1, "1": -1, "2": 1, "3": 1}', DataError, "count -1 of image 1"),
        ('{"0": 1, "1": 1, "2": 1, "3": 1, "4": 1}', DataError, "5 counts for 4 images"),
        ('{"0": 0, "1": 0, "2": 0, "3": 0}', DataError, "all counts are 0"),
        ("[1, 1]", DataError, "not a valid JSON object: expected a dict, not a list"),
        ("{", DataError, "not a valid JSON object"),
        (None, ConfigError, "use `yaw`, or a JSON file of counts"),
    ],
)
def test_invalid_counts_are_rejected(tmp_path, text, error, message):
    file = tmp_path / "counts.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(error, match=message):
        prepare(tmp_path, cameras(4), rebalance=str(file))
    assert not (tmp_path / "out.zip").exists()


def test_a_name_that_collides_with_a_copy_is_rejected(tmp_path):
    names = ["a.png", "a_mirror.png", "b.png"]
    with pytest.raises(DataError, match=r"would both be written as a_mirror.png"):
        prepare(tmp_path, cameras(3), names=names, mirror=True)


def test_max_images_selects_the_first_ones(tmp_path):
    prepare(tmp_path, cameras(6), max_images=4)
    assert opened(tmp_path / "out.zip").names == [f"{i:05d}.png" for i in range(4)]


def test_a_split_without_training_images_is_rejected(tmp_path):
    same = cameras(1)
    all_alike = Cameras(same.cam2world.repeat(4, 1, 1), same.intrinsics.repeat(4, 1, 1))
    with pytest.raises(DataError, match="no training image is left of 4"):
        prepare(tmp_path, all_alike, holdout=0.5)


def test_copies_refer_to_written_images(tmp_path):
    """Images 1 and 3 share a camera; a count of 0 leaves out the first."""
    same = [0, 1, 2, 1, 1]
    cams = Cameras(*(x[same] for x in cameras(3)))
    (tmp_path / "counts.json").write_text(json.dumps({"0": 1, "1": 0, "2": 1, "3": 2, "4": 1}))
    prepare(tmp_path, cams, rebalance=str(tmp_path / "counts.json"))
    index = index_of(tmp_path / "out.zip")
    assert index["copies"] == {"00003_r01.png": "00003.png", "00004.png": "00003.png"}
    assert set(index["copies"].values()) <= {name for name, _ in index["labels"]}
    check_dataset(str(tmp_path / "out.zip"))


def test_a_source_without_training_split_is_rejected(tmp_path):
    names = [f"{i:05d}.png" for i in range(4)]
    files = {n: encoded(ramp(8)) for n in names}
    splits = {"training": names[:3], "test": names[3:]}
    files["dataset.json"] = labels_json(names, cameras(4), splits=splits)
    source = save(files, tmp_path / "raw.zip")
    message = r"dataset.json of .* has the splits test, training, .*`train`.*holdout=0\.1"
    with pytest.raises(DataError, match=message):
        prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(resolution=8))
    splits = {"train": names[3:], "test": names[:3]}
    files["dataset.json"] = labels_json(names, cameras(4), splits=splits)
    source = save(files, tmp_path / "late.zip")
    with pytest.raises(DataError, match="max_images=2: none of the first 2 images is in the split"):
        prepare_faces("ffhq", source, tmp_path / "out", FacesConfig(resolution=8, max_images=2))

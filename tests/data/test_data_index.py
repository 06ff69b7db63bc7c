"""Large data sets are opened from an index of their checks, and read as without it."""

import itertools
import json
import logging
import os
import pickle
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_parts import NUM, Parts, noise, png

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data import archive, checked_data, data_index
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.datamodule import DataModule
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.label_table import LabelTable
from lightning_gan3d.metrics.stored_images import StoredImages


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Index every data set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data_index, "MIN_FILES", 1)
    monkeypatch.setattr(data_index, "_SETTLED", -60.0)
    data_index._log_once.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def checks(cache, monkeypatch):  # noqa: ARG001  # a fixture
    """List of the data sets that were checked."""
    checked, check = [], checked_data._check
    monkeypatch.setattr(checked_data, "_check", lambda *a: (checked.append(a[0]), check(*a))[1])
    return checked


def annotated() -> Parts:
    parts = Parts()
    names = [*parts.files]
    parts.files["img4.png"] = png(np.dstack([noise(4), noise(14)[:, :, :1]]))
    parts.index["splits"] = {"train": names[:7], "test": names[7:]}
    parts.index["copies"] = {"img9.png": "img3.png"}
    parts.index["objects"] = {n: i % 3 for i, n in enumerate(names[:9])}
    parts.index["sha256"] = {n: archive.checksum(d) for n, d in parts.files.items()}
    parts.index["splits"]["empty"] = []
    parts.index["placements"] = {"img2.png": [{"box": [0.1, 0.2, 0.3, 0.4]}] * 2, "img5.png": []}
    parts.index["synth"] = {"kind": "figures"}
    return parts


def shards(parts: Parts, path: Path) -> str:
    """Write two tar files of images, and `dataset.json` beside them."""
    path.mkdir()
    items = [*parts.files.items()]
    for i in range(2):
        (path / "images").mkdir()
        with tarfile.open(path / f"{i:06d}.tar", "w") as archive:
            for name, data in items[i::2]:
                (path / "images" / name).write_bytes(data)
                archive.add(path / "images" / name, f"./{name}")
                (path / "images" / name).unlink()
        (path / "images").rmdir()
    (path / "dataset.json").write_text(json.dumps(parts.index))
    return str(path)


def write(kind: str, path: Path, parts: Parts) -> str:
    if kind == "shards":
        return shards(parts, path)
    if kind == "folder":
        return parts.folder(path)
    return parts.zip(path, zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED)


def content(data: ImageDataset) -> list[str]:
    """Return what users of a data set read, as texts, in which NaN equals NaN."""
    images, all_indices = len(data), torch.arange(len(data))
    values = [
        list(data.names), data.labels.tolist(), data.images(range(images)).tolist(),
        data.mattes(all_indices).tolist(), [data.placements(i).tolist() for i in range(images)],
        None if data.objects is None else data.objects.tolist(), data.warnings(),
        None if data.copies is None else data.copies.tolist(), [y.tolist() for _, y in data],
        data.metadata, data.fingerprint, data.source.read("dataset.json"),
        sorted(data.source.names),
    ]  # fmt: skip
    return [repr(value) for value in values]


KINDS = ("zip", "deflated", "folder", "shards")
OPTIONS = [
    ("train", {"mirror": True, "resolution": 8}), ("test", {}), ("all", {}),
    ("test", {"holdout": 0.3}), ("train", {"objects": "0-1"}),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_indexed_data_set_reads_the_same(tmp_path, monkeypatch, checks, kind):
    path = write(kind, tmp_path / "data", annotated())
    for i, (split, options) in enumerate(OPTIONS):
        cfg = DataConfig(path=path, convert="white", memory_mb=16 * (i % 2), **options)
        with monkeypatch.context() as without:
            without.setattr(data_index, "MIN_FILES", 10**6)
            expected = content(ImageDataset(cfg, split))
        for _ in range(2):
            again = ImageDataset(cfg, split)
            assert content(again) == expected
    assert len(checks) == len(OPTIONS) + 1


@pytest.mark.usefixtures("cache")
def test_zip_folder_and_shards_hold_the_same_data_set(tmp_path):
    prints = set()
    for kind in KINDS:
        for i in range(2):
            path = write(kind, tmp_path / f"{kind}{i}", annotated())
            prints.add(ImageDataset(DataConfig(path=path, convert="white")).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("options", [{"labels": "class", "num_classes": 4}, {"labels": "none"}])
def test_other_labels(tmp_path, checks, options):
    parts = Parts()
    if options["labels"] == "class":
        parts.index["labels"] = [[n, i % 4] for i, n in enumerate(parts.files)]
    cfg = DataConfig(path=parts.zip(tmp_path / "a.zip"), mirror=True, **options)
    first, again = ImageDataset(cfg), ImageDataset(cfg)
    assert len(checks) == 1
    torch.testing.assert_close(again.labels, first.labels, equal_nan=True)
    torch.testing.assert_close(again[-3][1], first.labels[-3], equal_nan=True)
    if options["labels"] == "class":
        assert again.labels[:, 25:].argmax(1).tolist() == [i % 4 for i in range(NUM)] * 2


def test_stored_images_have_an_index_of_their_own(tmp_path, checks):
    path = annotated().folder(tmp_path / "a")
    ImageDataset(DataConfig(path=path, convert="white"))
    first, again = (StoredImages(path, convert="white") for _ in range(2))
    assert len(checks) == 2
    assert torch.equal(first.images(torch.arange(NUM)), again.images(torch.arange(NUM)))
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.labels, again.labels)


def change_image(file: Path) -> None:
    """Write as many other bytes, and restore the time of modification."""
    about = file.stat()
    file.write_bytes(b"x" * about.st_size)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_changed_folder_is_checked_again(tmp_path, checks):
    parts = Parts()
    path = parts.folder(tmp_path / "a")
    for change in (
        lambda: (Path(path) / "img3.png").rename(Path(path) / "img3.bmp"),
        lambda: (Path(path) / "dataset.json").write_text(json.dumps(parts.index) + " "),
    ):
        ImageDataset(DataConfig(path=path))
        count = len(checks)
        change()
        ImageDataset(DataConfig(path=path))
        assert len(checks) == count + 1
    (tmp_path / "a" / "img3.bmp").rename(tmp_path / "a" / "img3.png")
    ImageDataset(DataConfig(path=path))
    change_image(tmp_path / "a" / "img3.png")
    with pytest.raises(DataError, match=r"img3\.png is not a readable"):
        ImageDataset(DataConfig(path=path))


def test_a_changed_zip_is_checked_again(tmp_path, checks):
    parts = Parts()
    path = parts.zip(tmp_path / "a.zip")
    first = ImageDataset(DataConfig(path=path))
    parts.files["img3.png"] = png(noise(30))
    parts.zip(tmp_path / "a.zip")
    again = ImageDataset(DataConfig(path=path))
    assert len(checks) == 2
    assert first.fingerprint != again.fingerprint
    ImageDataset(DataConfig(path=path, convert="white"))  # other checks
    assert len(checks) == 3


@pytest.mark.usefixtures("cache")
def test_the_directory_identifies_a_zip(tmp_path, monkeypatch):
    """Also with a comment, with bytes in front, and in the format of large zips."""

    def state(data: bytes) -> str | None:
        path.write_bytes(data)
        return data_index.state_of(path, None)

    path, states = tmp_path / "a.zip", set()
    for limit, comment, front in itertools.product((5, 10**5), (b"", b"note"), (b"", b"#!/bin/sh")):
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", limit)
        Parts().zip(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = comment
        data = front + path.read_bytes()
        listed, content = data.index(b"img0.png", data.index(b"PK\1\2")), data.index(b"IHDR")
        assert state(data) is not None
        assert state(data) == state(data[:content] + b"X" + data[content + 1 :])
        assert state(data) != state(data[:listed] + b"X" + data[listed + 1 :])
        assert b"PK\6\6" in data or limit > 5
        states.add(state(data))
    assert len(states) == 8


def test_a_data_set_that_changes_while_it_is_checked_gets_no_index(tmp_path, monkeypatch, checks):
    parts, check = Parts(), checked_data._check
    path = Path(parts.zip(tmp_path / "a.zip"))
    original = path.read_bytes()

    def change(*arguments):
        parts.files["img3.png"] = png(noise(30))
        Path(parts.zip(tmp_path / "b.zip")).replace(path)
        return check(*arguments)

    with monkeypatch.context() as during:
        during.setattr(checked_data, "_check", change)
        changed = ImageDataset(DataConfig(path=str(path))).fingerprint
    path.write_bytes(original)
    (tmp_path / "other").write_bytes(original)
    fingerprints = [
        ImageDataset(DataConfig(path=str(p))).fingerprint for p in (path, tmp_path / "other")
    ]
    assert len(checks) == 2
    with monkeypatch.context() as without:
        without.setattr(data_index, "MIN_FILES", 10**6)
        expected = ImageDataset(DataConfig(path=str(path))).fingerprint
    assert fingerprints == [expected] * 2
    assert changed != expected


def test_a_folder_that_just_changed_is_not_indexed(tmp_path, monkeypatch, checks):
    """Within one tick of the clock, a change does not change the times of a file."""
    monkeypatch.setattr(data_index, "_SETTLED", 60.0)
    path = Parts().folder(tmp_path / "a")
    for _ in range(2):
        ImageDataset(DataConfig(path=path))
    assert len(checks) == 2


def test_times_in_the_future_do_not_prevent_an_index(tmp_path, checks):
    path = Parts().folder(tmp_path / "a")
    os.utime(tmp_path / "a" / "img3.png", (2**32, 2**32))
    for _ in range(2):
        ImageDataset(DataConfig(path=path))
    assert len(checks) == 1


def damaged(data: bytes, kind: str) -> bytes:
    if kind == "flipped":
        return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    return {"truncated": data[:-1], "empty": b"", "other": b"x" * len(data)}[kind]


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty", "other"])
def test_a_damaged_index_is_written_again(tmp_path, checks, cache, kind):
    cfg = DataConfig(path=annotated().zip(tmp_path / "a.zip"), convert="white")
    expected = content(ImageDataset(cfg))
    for file in cache.rglob("index/*/*"):
        if file.name != "lock":
            file.write_bytes(damaged(file.read_bytes(), kind))
    assert content(ImageDataset(cfg)) == expected
    assert len(checks) == 2
    assert content(ImageDataset(cfg)) == expected
    assert len(checks) == 2


def test_without_a_cache_a_data_set_opens(tmp_path, checks, caplog):
    cfg = DataConfig(path=annotated().zip(tmp_path / "a.zip"), convert="white")
    expected = content(ImageDataset(cfg, "all"))
    (tmp_path / "file").write_text("")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        for _ in range(2):
            assert content(ImageDataset(cfg, "all")) == expected
    assert len(checks) == 3
    assert len([r for r in caplog.records if "no index in" in r.message]) == 1


def test_one_process_checks_while_others_wait(tmp_path, checks):
    cfg = DataConfig(path=annotated().zip(tmp_path / "a.zip"), convert="white")
    start = threading.Barrier(4)

    def opened(_: int) -> str:
        start.wait()
        return ImageDataset(cfg).fingerprint

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(4)))) == 1
    assert len(checks) == 1


@pytest.mark.usefixtures("cache")
def test_reading_an_indexed_zip_compares_checksums(tmp_path):
    path = Path(Parts().zip(tmp_path / "a.zip"))
    cfg = DataConfig(path=str(path), memory_mb=0)
    ImageDataset(cfg)
    with zipfile.ZipFile(path) as z:
        offset = z.getinfo("img3.png").header_offset + 200
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    dataset = ImageDataset(cfg)
    dataset.images([2])
    with pytest.raises(DataError, match=r"img3.png: bad CRC in .*a.zip; copy the dataset again"):
        dataset.images([3])
    with pytest.raises(DataError, match=r"img3.png: bad CRC"):
        check_dataset(cfg)


@pytest.mark.usefixtures("cache")
def test_forked_workers_read_the_same_batches(tmp_path):
    cfg = DataConfig(path=annotated().zip(tmp_path / "a.zip"), convert="white", memory_mb=0)
    ImageDataset(cfg)
    batches = [
        next(iter(DataModule(cfg, 4, 4, 0, workers).train_dataloader())) for workers in (0, 2)
    ]
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].labels, batches[1].labels)


@pytest.mark.usefixtures("cache")
def test_an_indexed_data_set_can_be_pickled(tmp_path):
    cfg = DataConfig(path=annotated().zip(tmp_path / "a.zip"), convert="white", memory_mb=0)
    ImageDataset(cfg)
    data = ImageDataset(cfg)
    assert content(pickle.loads(pickle.dumps(data))) == content(data)


def test_labels_may_be_larger_than_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 2000)
    for kind in KINDS:
        path = write(kind, tmp_path / kind, Parts())
        assert len(ImageDataset(DataConfig(path=path)).names) == NUM
    monkeypatch.setattr(archive, "MAX_LABEL_BYTES", 100)
    for kind in KINDS[::2]:
        with pytest.raises(DataError, match=r"dataset\.json"):
            ImageDataset(DataConfig(path=str(tmp_path / kind)))


def test_rows_of_a_label_table():
    cameras = Cameras.orbit(7, 0.3, 2.7, 1.5).to_label()
    classes = torch.arange(7) % 3
    packed = LabelTable.pack(cameras, classes, num_classes=3)
    table = replace(packed, selected=torch.tensor([6, 0, 5, 2], dtype=torch.int32), mirrored=True)
    plain = torch.cat([cameras, torch.nn.functional.one_hot(classes, 3)], dim=1)[[6, 0, 5, 2]]
    mirror = Cameras.from_label(plain).mirror().to_label()
    expected = torch.cat([plain, torch.cat([mirror, plain[:, 25:]], dim=1)])
    assert packed.stored["columns"].shape[1] < 16
    assert torch.equal(table.tensor, expected)
    assert torch.equal(table.rows(torch.tensor([7, 0, 0])), expected[[7, 0, 0]])
    with pytest.raises(IndexError):
        table.rows(torch.tensor([len(table)]))


def rejected_member(path: Path, member: tarfile.TarInfo, message: str, code: int = 3) -> None:
    Path(shards(Parts(), path))
    with tarfile.open(path / "000001.tar", "a") as archive:
        archive.addfile(member)
    with pytest.raises(DataError, match=message) as error:
        ImageDataset(DataConfig(path=str(path)))
    assert error.value.exit_code == code


def test_unsafe_shards(tmp_path):
    def member(name: str, **fields: object) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        for key, value in fields.items():
            setattr(info, key, value)
        return info

    for i, (name, message) in enumerate([("../x.png", "leaves"), ("/etc/x.png", "leaves")]):
        rejected_member(tmp_path / f"a{i}", member(name), message)
    rejected_member(tmp_path / "b", member("img0.png"), "`img0.png` occurs twice")
    for i, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
        link = member("link.png", type=kind, linkname="/etc/passwd")
        rejected_member(tmp_path / f"c{i}", link, "`link.png` of .* is not a regular file")
    rejected_member(tmp_path / "d", member("big.png", size=2**40), "claims 1099511627776 bytes")
    rejected_member(tmp_path / "e", member("big.png", size=2**20), "is truncated; copy", 2)
    rejected_member(tmp_path / "f", member("a\nb.png"), "control characters", 2)


def test_damaged_shards(tmp_path):
    path = Path(shards(Parts(), tmp_path / "a"))
    dataset = ImageDataset(DataConfig(path=str(path), memory_mb=0))
    data = (path / "000001.tar").read_bytes()
    (path / "000001.tar").write_bytes(data[:1500])
    with pytest.raises(DataError, match="truncated"):
        dataset.images([9])
    with pytest.raises(DataError, match="truncated"):
        ImageDataset(DataConfig(path=str(path)))
    (path / "000001.tar").write_bytes(b"x" * 2048)
    with pytest.raises(DataError, match="as an uncompressed tar file"):
        ImageDataset(DataConfig(path=str(path)))
    (path / "000001.tar").unlink()
    with pytest.raises(DataError, match="does not exist"):
        ImageDataset(DataConfig(path=str(path)))

"""Fingerprints in the manifests of runs: equal data sets keep them in every version."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lightning_gan3d.data.archive import checksum
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.metrics.stored_images import StoredImages

NUM = 12


def bmp(i: int) -> bytes:
    """Return 4x4 pixels, with the same bytes for every version of Pillow."""
    fields = (102, 0, 0, 54, 40, 4, 4, 1, 24, 0, 48, 0, 0, 0, 0)
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", *fields)
    return header + bytes((37 * i + 11 * k) % 256 for k in range(48))


def label(i: int) -> list[float]:
    distance, focal = 2.7 + 0.001 * i, 1.5 + 0.01 * i
    pose = [1, 0, 0, 0.1 * i, 0, -1, 0, 0, 0, 0, -1, distance, 0, 0, 0, 1]
    return [float(x) for x in (*pose, focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1)]


def files(labels: str = "camera") -> dict[str, bytes]:
    images = {f"part{i % 2}/img{i:02d}.bmp": bmp(i) for i in range(NUM)}
    rows = {n: label(i) if labels == "camera" else i % 3 for i, n in enumerate(images)}
    names = sorted(images)
    index: dict[str, Any] = {"labels": list(rows.items())}
    if labels == "camera":
        index["splits"] = {"train": names[:9], "test": names[9:]}
        index["objects"] = {n: i // 2 for i, n in enumerate(names)}
        index["sha256"] = {n: checksum(d) for n, d in images.items()}
    if labels == "none":
        return {**images, "notes.txt": b"not an image"}
    return {**images, "notes.txt": b"not an image", "dataset.json": json.dumps(index).encode()}


def write(path: Path, content: dict[str, bytes]) -> str:
    if path.suffix != ".zip":
        for name, data in content.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return str(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return str(path)


@pytest.mark.parametrize(
    ("name", "labels", "split", "options", "fingerprint"),
    [
        ("a.zip", "camera", "train", {}, "b227b61930b5b3f6"),
        ("a.zip", "camera", "test", {}, "b0bff17ee8e587ec"),
        ("a.zip", "camera", "all", {}, "d69f3e49d17664d3"),
        ("a.zip", "camera", "train", {"mirror": True, "resolution": 2}, "fed51e8e343e0564"),
        ("a.zip", "camera", "train", {"holdout": 0.3, "convert": "white"}, "055627120a1b232e"),
        ("a.zip", "camera", "train", {"objects": "0-2"}, "4d9bb2b51356f726"),
        ("a", "camera", "train", {}, "b227b61930b5b3f6"),
        ("a", "camera", "test", {"holdout": 0.3}, "2a6ac3bc7cd37408"),
        (
            "a.zip",
            "class",
            "train",
            {"labels": "class", "num_classes": 3, "mirror": True},
            "079b5291fc2bc210",
        ),
        ("a", "none", "train", {"labels": "none"}, "cf0e68da3d553c6b"),
    ],
)
def test_a_fingerprint_stays(tmp_path, name, labels, split, options, fingerprint):
    path = write(tmp_path / name, files(labels))
    for memory_mb in (0, 2048):
        cfg = DataConfig(path=path, memory_mb=memory_mb, **options)
        assert ImageDataset(cfg, split).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("name", "labels", "fingerprint"),
    [
        ("a.zip", "camera", "689db98cf080cc29"),
        ("a", "camera", "689db98cf080cc29"),
        ("a", "none", "5e3b7639f9e9b417"),
    ],
)
def test_a_fingerprint_of_stored_images_stays(tmp_path, name, labels, fingerprint):
    assert StoredImages(write(tmp_path / name, files(labels))).fingerprint == fingerprint

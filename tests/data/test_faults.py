"""Invalid data sets are rejected before training, with a message that names the file."""

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_parts import NUM, Parts, noise, png
from PIL import Image

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data import archive
from lightning_gan3d.data.archive import DataError, UnsafeDataError
from lightning_gan3d.data.dataset import DataConfig, ImageDataset


def rejected(path: str, *parts: str, unsafe: bool = False, **options: object) -> None:
    with pytest.raises(UnsafeDataError if unsafe else DataError) as raised:
        ImageDataset(DataConfig(path=path, **options))
    assert raised.value.exit_code == (3 if unsafe else 2)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("memory_mb", [0, 64])
def test_flipped_byte_in_a_zip_is_named_and_not_replaced(tmp_path, memory_mb):
    path = Parts().zip(tmp_path / "faces.zip")
    data = bytearray(Path(path).read_bytes())
    with zipfile.ZipFile(path) as z:
        start = z.getinfo("img3.png").header_offset + 30 + len("img3.png")
    data[start + 200] ^= 1
    Path(path).write_bytes(data)
    rejected(path, "img3.png: bad CRC", "faces.zip", memory_mb=memory_mb)


def test_flipped_byte_in_a_folder_with_checksums(tmp_path):
    parts = Parts()
    parts.index["sha256"] = {n: archive.checksum(d) for n, d in parts.files.items()}
    damaged = Image.fromarray(noise(3) ^ 1)  # decodes: only the checksum differs
    path = Path(parts.folder(tmp_path / "set"))
    ImageDataset(DataConfig(path=str(path)))
    damaged.save(path / "img3.png")
    rejected(str(path), "img3.png: bad checksum")


def test_truncated_image_in_a_folder(tmp_path):
    parts = Parts()
    parts.files["img4.png"] = parts.files["img4.png"][:300]
    rejected(parts.folder(tmp_path / "set"), "img4.png")


def test_file_that_is_not_an_image(tmp_path):
    parts = Parts()
    parts.files["img4.png"] = b"not an image"
    rejected(parts.zip(tmp_path / "a.zip"), "img4.png is not a readable")


def test_no_labels(tmp_path):
    folder = Path(Parts().folder(tmp_path / "set"))
    (folder / "dataset.json").unlink()
    rejected(str(folder), "no dataset.json")
    (folder / "dataset.json").write_text('{"labels": null}')
    rejected(str(folder), "`labels` must be [[", "None")
    (folder / "dataset.json").write_text('{"labels": [')
    rejected(str(folder), "not a valid JSON object")
    (folder / "dataset.json").write_text("[" * 100_000)
    rejected(str(folder), "not a valid JSON object")


def test_partial_labels_and_orphans(tmp_path):
    parts = Parts()
    del parts.index["labels"][2:4]
    rejected(parts.zip(tmp_path / "a.zip"), "2 of 10 images lack a label: img2.png, img3.png")
    parts = Parts()
    del parts.files["img5.png"]
    rejected(parts.zip(tmp_path / "b.zip"), "`labels` of ", "img5.png, which does not exist")
    parts = Parts()
    parts.index["labels"].append(parts.index["labels"][0])
    rejected(parts.zip(tmp_path / "c.zip"), "img0.png: two labels")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([1.0] * 24, ": the label is 24 numbers, expected 25 numbers (16 pose + 9 intrinsics)"),
        (7, ": the label is 7, expected 25 numbers"),
        ([float("nan")] * 25, ": nan in the label is not finite"),
        ([1e999] * 25, ": inf in the label is not finite"),
        (["1.0"] * 25, ": '1.0' in the label is not a number"),
        ([True] * 25, ": True in the label is not a number"),
    ],
)
def test_label_of_wrong_length_or_type(tmp_path, label, message):
    parts = Parts()
    parts.index["labels"][3][1] = label
    rejected(parts.zip(tmp_path / "a.zip"), "img3.png in dataset.json of", message)


def change_label(parts: Parts, change) -> None:
    label = np.array(parts.label(3))
    pose, intrinsics = label[:16].reshape(4, 4), label[16:].reshape(3, 3)
    change(pose, intrinsics)
    parts.label(3)[:] = label.tolist()


def scale(pose, _):
    pose[:3, :3] *= 1.01


def flip(pose, _):
    pose[:3, 1] *= -1


def transpose(pose, _):
    pose[:] = pose.T.copy()


def last_row(pose, _):
    pose[3, 3] = 2


def in_pixels(_, k):
    k[:2] *= 1015


def behind(_, k):
    k[0, 0] *= -1


def centre_in_pixels(_, k):
    k[0, 2] = 64


def extra(_, k):
    k[1, 0] = 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scale, "the pose has no valid rotation"),
        (flip, "the rotation mirrors"),
        (transpose, "it looks transposed"),
        (last_row, "expected 0 0 0 1"),
        (in_pixels, "looks like pixels"),
        (behind, "must be positive"),
        (centre_in_pixels, "looks like pixels"),
        (extra, "[fx s cx; 0 fy cy; 0 0 1]"),
    ],
)
def test_invalid_camera(tmp_path, change, message):
    parts = Parts()
    change_label(parts, change)
    rejected(parts.zip(tmp_path / "a.zip"), "img3.png", message)


def test_repair_uses_the_nearest_rotation(tmp_path):
    right = ImageDataset(DataConfig(path=Parts().zip(tmp_path / "right.zip"))).labels
    parts = Parts()
    change_label(parts, scale)
    path = parts.zip(tmp_path / "a.zip")
    repaired = ImageDataset(DataConfig(path=path, repair_cameras=True)).labels
    torch.testing.assert_close(repaired, right)
    parts = Parts()
    change_label(parts, flip)
    rejected(parts.zip(tmp_path / "b.zip"), "mirrors", repair_cameras=True)


@pytest.mark.parametrize("memory_mb", [0, 64])
@pytest.mark.parametrize("size", [(15, 16), (16, 15), (8, 8)])
def test_odd_size_last(tmp_path, size, memory_mb):
    parts = Parts()
    parts.files["img9.png"] = png(noise(9)[: size[0], : size[1]])
    message = f"img9.png is {size[1]}x{size[0]}, expected 16x16"
    rejected(parts.zip(tmp_path / "a.zip"), message, memory_mb=memory_mb)


def test_non_square_from_the_first(tmp_path):
    parts = Parts()
    parts.files = {n: png(noise(1)[:8]) for n in parts.files}
    rejected(parts.zip(tmp_path / "a.zip"), "expected a square image")


def in_mode(mode: str) -> bytes:
    buffer = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(noise(1)[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    elif mode == "CMYK":
        Image.fromarray(noise(1)).convert(mode).save(buffer, "JPEG")
    elif mode == "RGB;16":
        rows = b"".join(b"\0" + bytes(16 * 6) for _ in range(16))
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))]
        chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        buffer.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in chunks:
            crc = zlib.crc32(kind + body)
            buffer.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc))
    else:
        Image.fromarray(noise(1)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK", "RGB;16"])
def test_other_pixel_formats_need_an_explicit_conversion(tmp_path, mode):
    parts = Parts()
    parts.files["img2.png"] = in_mode(mode)
    path = parts.zip(tmp_path / "a.zip")
    rejected(path, "img2.png is", "expected 8-bit RGB", "set `convert` to black")
    if mode == "RGB;16":
        assert not ImageDataset(DataConfig(path=path, convert="white")).images([2]).any()
    else:
        image = ImageDataset(DataConfig(path=path, convert="white")).images([2])[0]
        gray = np.asarray(Image.fromarray(noise(1)).convert("L")).astype(float)
        if mode in ("L", "LA"):
            assert np.abs(image[0].numpy() - gray).max() == 0
        elif mode == "I;16":
            assert np.array_equal(image[0].numpy(), noise(1)[..., 0])
        else:
            stored = Image.open(io.BytesIO(parts.files["img2.png"])).convert("RGB")
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(stored))


def test_transparent_pixels_take_the_colour_of_convert(tmp_path):
    parts = Parts()
    clear = np.zeros((16, 16, 4), dtype=np.uint8)
    parts.files["img2.png"] = png(clear)
    path = parts.zip(tmp_path / "a.zip")
    for colour, value in (("black", 0), ("white", 255)):
        image = ImageDataset(DataConfig(path=path, convert=colour)).images([2])
        assert torch.all(image == value)


def hostile_zip(path: Path, name: str, data: bytes = b"x") -> str:
    Parts().zip(path)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr(name, data)
    return str(path)


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "..\\x.png", "C:x.png"])
def test_entries_that_leave_the_dataset(tmp_path, name):
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    rejected(hostile_zip(folder / "a.zip", name), "leaves the dataset", unsafe=True)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert files == {"in", "in/side", "in/side/a.zip"}


def test_control_characters(tmp_path):
    rejected(hostile_zip(tmp_path / "a.zip", "a\nb.png"), "cannot contain newlines")


def test_links(tmp_path):
    path = tmp_path / "a.zip"
    Parts().zip(path)
    with zipfile.ZipFile(path, "a") as z:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        z.writestr(link, "/etc/passwd")
    rejected(str(path), "`link.png`", "is a link", unsafe=True)
    (tmp_path / "outside.png").write_bytes(png(noise(1)))
    folder = Path(Parts().folder(tmp_path / "set"))
    (folder / "img3.png").unlink()
    (folder / "img3.png").symlink_to(tmp_path / "outside.png")
    rejected(str(folder), "`img3.png` leaves the dataset", unsafe=True)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates(tmp_path):
    rejected(hostile_zip(tmp_path / "a.zip", "img3.png"), "occurs twice", unsafe=True)


def patch(path: str, name: str, central: int, value: bytes) -> None:
    """Overwrite bytes of an entry in the zip's central directory."""
    data = bytearray(Path(path).read_bytes())
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + central : at + central + len(value)] = value
    Path(path).write_bytes(data)


def test_encrypted(tmp_path):
    path = Parts().zip(tmp_path / "a.zip")
    patch(path, "img9.png", 8, struct.pack("<H", 1))
    rejected(path, "`img9.png`", "encrypted", unsafe=True)


def test_overlapping_entries(tmp_path):
    path = Parts().zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path) as z:
        offset = z.getinfo("img8.png").header_offset
    patch(path, "img9.png", 42, struct.pack("<I", offset + 10))
    rejected(path, "overlap", unsafe=True)


def test_zip_bomb(tmp_path):
    path = tmp_path / "a.zip"
    Parts().zip(path)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("zeros.png", bytes(2**22), compress_type=zipfile.ZIP_DEFLATED)
    rejected(str(path), "`zeros.png`", "limit 100:1", unsafe=True)
    path = Parts().zip(tmp_path / "b.zip")
    patch(path, "img9.png", 24, struct.pack("<I", 2**31))
    rejected(path, "`img9.png`", "claims 2147483648 bytes", unsafe=True)


@pytest.mark.parametrize("side", [60000, 12000])
def test_pixel_bomb_is_rejected_by_its_header(tmp_path, side, monkeypatch):
    data = bytearray(png(noise(7)))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    parts = Parts()
    parts.files["img7.png"] = bytes(data)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(
        "lightning_gan3d.data.dataset.decode", lambda *_: np.zeros((16, 16, 3), "u1")
    )
    rejected(
        parts.zip(tmp_path / "a.zip"),
        "img7.png claims",
        "limit 4096x4096",
        unsafe=True,
        memory_mb=0,
    )


def test_missing_and_invalid_paths(tmp_path):
    rejected(str(tmp_path / "none.zip"), "none.zip does not exist")
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 cut")
    rejected(str(tmp_path / "a.zip"), "is not a folder or a zip")
    (tmp_path / "empty").mkdir()
    rejected(str(tmp_path / "empty"), "has no images")
    with pytest.raises(ConfigError, match=r"data\.path is empty"):
        ImageDataset(DataConfig())


def test_reading_writes_nothing(tmp_path):
    """A read-only data set works: nothing is written beside it."""
    folder = Path(Parts().folder(tmp_path / "a set with 'quotes' ü"))
    before = sorted(os.listdir(folder))
    assert len(ImageDataset(DataConfig(path=str(folder)))) == NUM
    assert sorted(os.listdir(folder)) == before
    json.loads((folder / "dataset.json").read_text())


@pytest.mark.parametrize("name", ["dataset.json", "img.png"])
def test_a_pipe_is_rejected_and_not_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} in .* is not a regular file"):
        ImageDataset(DataConfig(path=str(tmp_path)))

"""Metadata that changes what pixels mean is used or named, for all who read images."""

import io
import zlib

import numpy as np
import pytest
import torch
from data_parts import Parts, noise, png
from PIL import Image, ImageCms

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.check import check_dataset
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.image_files import decode
from lightning_gan3d.metrics.stored_images import StoredImages


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def late_exif(data: bytes) -> bytes:
    """Move the EXIF chunk of a PNG behind its pixels."""
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4])
    return data[:at] + data[end:-12] + data[at:end] + data[-12:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "late PNG"])
def test_rotated_images_are_rejected_with_both_remedies(tmp_path, kind):
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.fromarray(noise(3)), kind.split()[-1], exif=exif)
        parts = Parts()
        parts.files["img3.png"] = late_exif(data) if "late" in kind else data
        path = parts.zip(tmp_path / f"{orientation}.zip")
        if orientation == 1:
            check_dataset(path)
            continue
        for open_ in (
            check_dataset,
            lambda p: ImageDataset(DataConfig(path=p)),
            lambda p: StoredImages(p).images(torch.tensor([3])),
        ):
            with pytest.raises(DataError, match=r"img3\.png has EXIF orientation 6.*exif.*auto"):
                open_(path)


def profile(gamma: float) -> bytes:
    """An RGB profile with sRGB's primaries and a power curve: Pillow's sRGB, edited."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = int.from_bytes(data[128:132])
    for i in range(tags):
        entry = 132 + 12 * i
        if data[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            at = int.from_bytes(data[entry + 4 : entry + 8])
            curve = b"para" + bytes(8) + int(gamma * 65536).to_bytes(4)
            data[at : at + 16] = curve
    return bytes(data)


def test_colour_profiles_become_srgb():
    rgb = noise(1)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = saved(Image.fromarray(rgb), "PNG", icc_profile=srgb)
    assert np.array_equal(decode(plain, "a.png"), rgb)
    linear = decode(saved(Image.fromarray(rgb), "PNG", icc_profile=profile(1.0)), "a.png")
    x = rgb / 255
    expected = 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    assert np.abs(linear - expected).max() <= 2
    clear = Image.fromarray(np.dstack([rgb, np.full((16, 16), 255, np.uint8)]))
    data = saved(clear, "PNG", icc_profile=profile(1.0))
    assert np.array_equal(decode(data, "a.png", convert="white"), linear)


@pytest.mark.parametrize("broken", [b"no profile", b""])
def test_an_invalid_profile_is_named(broken):
    data = saved(Image.fromarray(noise(1)), "PNG", icc_profile=broken)
    if not broken:
        assert np.array_equal(decode(data, "a.png"), noise(1))
        return
    with pytest.raises(DataError, match=r"a\.png cannot be decoded: cannot open profile"):
        decode(data, "a.png")


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_a_transparent_colour_needs_a_background(mode):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 200
    image = Image.fromarray(pixels)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    key = {"RGB": (0, 0, 0), "P": image.getpixel((0, 12)), "L": 0}[mode]
    data = saved(image, "PNG", transparency=key)
    with pytest.raises(DataError, match="with a transparent colour, expected 8-bit RGB"):
        decode(data, "a.png")
    result = decode(data, "a.png", convert="white")
    assert (result[8:] == 255).all()
    assert np.abs(result[:8].astype(int) - 200).max() < 12


def test_16_bit_gray_with_alpha_is_named():
    rows = b"".join(b"\0" + bytes(16 * 4) for _ in range(16))
    data = png(noise(1))
    header = data[:8]
    body = b""
    for name, chunk in (
        (b"IHDR", (16).to_bytes(4) * 2 + bytes([16, 4, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        body += len(chunk).to_bytes(4) + name + chunk + zlib.crc32(name + chunk).to_bytes(4)
    with pytest.raises(DataError, match="is 16-bit LA, expected"):
        decode(header + body, "a.png")


def test_stored_images_are_converted(tmp_path):
    parts = Parts()
    parts.files["img2.png"] = png(np.zeros((16, 16, 4), dtype=np.uint8))
    path = parts.zip(tmp_path / "a.zip")
    assert (StoredImages(path, convert="white").images(torch.tensor([2])) == 255).all()
    with pytest.raises(DataError, match=r"`data\.convert` in training and evaluation"):
        StoredImages(path).images(torch.tensor([2]))

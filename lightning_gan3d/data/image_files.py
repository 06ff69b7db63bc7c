"""Read image files as uint8 RGB; headers are checked before pixels are decoded."""

import functools
import io
import posixpath
import unicodedata
import warnings
from collections.abc import Callable, Container, Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lightning_gan3d.data.archive import SUFFIXES, DataError, UnsafeDataError, is_image

OTHER_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".jfif", ".avif", ".gif", ".exr", ".dng")
"""Image types that are not read."""
MAX_SIDE = 4096
"""Largest side in pixels, checked in the header before memory is allocated."""
MAX_PHOTO_SIDE = 12000  # likewise, of photographs, which are reduced

Convert = Literal["none", "black", "white"]
_MODES = {
    "1": "bilevel", "L": "gray", "LA": "gray with alpha", "P": "palette",
    "PA": "palette with alpha", "RGBA": "RGBA", "CMYK": "CMYK", "I": "32-bit gray",
    "F": "float gray",
}  # fmt: skip


def spelling(name: str) -> str:
    """Normalise a path for comparison: no `./`, forward slashes, folded case, Unicode NFC."""
    path = posixpath.normpath(name.replace("\\", "/"))
    return unicodedata.normalize("NFC", path).casefold()


def _stem(name: str) -> str:
    stem, suffix = posixpath.splitext(spelling(name))
    return stem if suffix in SUFFIXES + OTHER_SUFFIXES else stem + suffix


class ImageIndex:
    """Images by name: an exact name wins; then `spelling` is compared, at last without suffix."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: of all files, relative to the data set."""
        self.names = [n for n in names if is_image(n)]
        self._others = {spelling(n) for n in set(names).difference(self.names)}
        self._indices: dict[Callable[[str], str], dict[str, list[str]]] = {}

    def find(self, candidates: Sequence[str], taken: Container[str] = ()) -> list[str]:
        """Return the images of the first candidate that has any; `taken` ones are left out."""
        for key in (str, spelling, _stem):
            if key not in self._indices:
                index = self._indices.setdefault(key, {})
                for name in self.names:
                    index.setdefault(key(name), []).append(name)
            for candidate in candidates:
                images = self._indices[key].get(key(candidate), [])
                if free := [n for n in images if n not in taken]:
                    return free
        return []

    def has_other(self, candidates: Sequence[str]) -> bool:
        """Whether a candidate is a file that is not an image."""
        return any(spelling(n) in self._others for n in candidates)


def open_image(
    data: bytes,
    name: str,
    size: int | None = None,
    convert: Convert = "none",
    square: bool = True,
) -> Image.Image:
    """Read and check a header.

    `size`: expected side in pixels, None for any. `square`: whether the sides must be equal.
    """
    image = open_header(io.BytesIO(data), name)
    w, h = image.size
    if size is not None and (w, h) != (size, size):
        raise DataError(f"{name} is {w}x{h}, expected {size}x{size}")
    if square and w != h:
        raise DataError(f"{name} is {w}x{h}, expected a square image")
    mode = mode_of(image)
    if mode != "RGB" and convert == "none":
        raise DataError(
            f"{name} is {mode}, expected 8-bit RGB; set `convert` to black or white "
            "(`data.convert` in training and evaluation, `background` in preparers)"
        )
    reject_rotated(image, name)
    return image


def reject_rotated(image: Image.Image, name: str) -> None:
    """Reject an EXIF orientation: the camera may be of the stored or of the rotated pixels."""
    # Pillow would decode a PNG to look for EXIF data behind its pixels.
    orientation = image.getexif().get(0x0112, 1) if "exif" in image.info else 1
    if orientation in range(2, 9):
        raise DataError(
            f"{name} has EXIF orientation {orientation}, which viewers apply: if its camera is of "
            "the stored pixels (as COLMAP's), delete the tag (exiftool -Orientation= FILE); if of "
            "the upright image, rotate the pixels (mogrify -auto-orient FILE)"
        )


def open_header(
    file: io.BytesIO | io.BufferedReader, name: str, max_side: int = MAX_SIDE
) -> Image.Image:
    """Read the header of an image of any shape; rejects other files and huge images."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP"))
    except Image.DecompressionBombError as error:
        raise UnsafeDataError(
            f"{name} claims too many pixels, limit {max_side}x{max_side}: {error}"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        why = str(error).split(" <")[0]  # without the address of a buffer
        raise DataError(f"{name} is not a readable PNG, JPEG, WebP or BMP image: {why}") from None
    w, h = image.size
    if max(w, h) > max_side:
        raise UnsafeDataError(f"{name} claims {w}x{h}, limit {max_side}x{max_side}")
    return image


def decode(
    data: bytes,
    name: str,
    size: int | None = None,
    convert: Convert = "none",
    square: bool = True,
) -> UInt8[np.ndarray, "h w 3"]:
    """Check an image as `open_image` does, and return its pixels."""
    image = open_image(data, name, size, convert, square)
    pixels = pixels_of(image, name, convert)
    reject_rotated(image, name)  # EXIF data of a PNG may follow its pixels
    return pixels


def upright(image: Image.Image, name: str) -> Image.Image:
    """Decode an image whose header was checked, and apply its EXIF orientation."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name} cannot be decoded: {error}") from None


def pixels_of(image: Image.Image, name: str, convert: str = "none") -> UInt8[np.ndarray, "h w 3"]:
    """Return the sRGB pixels of an image whose header was checked; `convert`: background."""
    try:
        if mode_of(image) == "16-bit gray":  # Pillow would clip at 255, not scale
            gray = np.array(image).astype(np.float64) / 257
            return np.repeat(np.rint(gray).astype(np.uint8)[:, :, None], 3, axis=2)
        profile: bytes | None = image.info.get("icc_profile")
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            opaque = Image.new("RGBA", image.size, convert)
            image = Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
        mode, transform = _to_srgb(profile) if profile else ("RGB", None)
        image = image if image.mode in ("RGB", mode) else image.convert("RGB")
        return np.array(image if transform is None else transform.apply(image))
    except (OSError, ValueError, SyntaxError, ImageCms.PyCMSError) as error:
        raise DataError(f"{name} cannot be decoded: {error}") from None


def matte_of(data: bytes, name: str) -> UInt8[np.ndarray, "h w 1"]:
    """Return the opacity of an image's pixels; 255 without an alpha channel."""
    image = open_header(io.BytesIO(data), name)
    try:
        return np.array(image.convert("RGBA").getchannel("A"))[:, :, None]
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name} cannot be decoded: {error}") from None


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode of an ICC profile, and what converts it to sRGB; None if it is sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = {"GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip(), "RGB")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1)
    colours = Image.fromarray(grid.reshape(6, 36, 3)).convert(mode)
    change = np.array(transform.apply(colours)) - np.array(colours.convert("RGB"), np.int16)
    return mode, transform if np.abs(change).max() > 4 else None  # more than rounding


def mode_of(image: Image.Image) -> str:
    """Describe the pixel format; "RGB" means 8-bit RGB."""
    tile = getattr(image, "tile", None)
    raw = str(tile[0][3]) if tile else ""
    if image.mode.startswith("I;16") or (image.mode == "I" and "16" in raw):
        return "16-bit gray"
    mode = _MODES.get(image.mode, image.mode)
    if "16" in raw and image.mode in ("RGB", "RGBA"):
        mode = f"16-bit {raw.split(';')[0]}"
    return f"{mode} with a transparent colour" if "transparency" in image.info else mode


def centre_square(width: int, height: int, side: int | None = None) -> tuple[float, float, int]:
    """Return left, top and side of the central square in pixels; left and top may be halves.

    `side`: at most the image's shorter side, which is the default.
    """
    side = min(width, height) if side is None else side
    return (width - side) / 2, (height - side) / 2, side

"""One image file to uint8 RGB.

Headers are judged before pixels are decoded, and nothing is converted silently.
"""

import io
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from lightning_gan3d.data.archive import DataError, UnsafeDataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_SIDE = 4096
"""No image may claim more pixels on a side; checked in the header, before memory is taken."""

Convert = Literal["none", "black", "white"]
_MODES = {
    "1": "bilevel", "L": "gray", "LA": "gray with alpha", "P": "palette", "PA": "palette with "
    "alpha",
    "RGBA": "RGBA", "CMYK": "CMYK", "I": "32-bit gray", "F": "float gray",
}  # fmt: skip


def is_image(name: str) -> bool:
    """Tell whether a file counts as an image of the data set."""
    return Path(name).suffix.lower() in SUFFIXES


def open_image(
    data: bytes,
    name: str,
    size: int | None = None,
    convert: Convert = "none",
    square: bool = True,
) -> Image.Image:
    """Read a header and check it.

    `size` is the side in pixels that the image must have, None any; then `square` says whether its
    sides must be equal.
    """
    image = open_header(io.BytesIO(data), name)
    w, h = image.size
    if size is not None and (w, h) != (size, size):
        raise DataError(f"{name} is {w}x{h}, need {size}x{size}")
    if square and w != h:
        raise DataError(f"{name} is {w}x{h}, need square images")
    kind = kind_of(image)
    if kind != "RGB" and convert == "none":
        raise DataError(
            f"{name} is {kind}, need 8-bit RGB; `convert: black` or `convert: white` converts it"
        )
    return image


def open_header(
    file: io.BytesIO | io.BufferedReader, name: str, max_side: int = MAX_SIDE
) -> Image.Image:
    """Read the header of an image of any shape, and refuse what is no image or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP"))
    except Image.DecompressionBombError as error:
        raise UnsafeDataError(
            f"{name} claims too many pixels, limit {max_side}x{max_side}: {error}"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name} is not a readable PNG, JPEG, WebP or BMP image: {error}") from None
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
    """Return the pixels of an image.

    Transparent ones are laid over the colour that `convert` names; `size` and `square` as in
    `open_image`.
    """
    return pixels_of(open_image(data, name, size, convert, square), name, convert)


def pixels_of(
    image: Image.Image, name: str, convert: Convert = "none"
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an image whose header was judged."""
    try:
        if kind_of(image) == "RGB":
            return np.array(image)
        if kind_of(image).startswith("16-bit gray"):  # Pillow would clip at 255, not scale
            gray = np.array(image).astype(np.float64) / 257
            return np.repeat(np.rint(gray).astype(np.uint8)[:, :, None], 3, axis=2)
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            opaque = Image.new("RGBA", image.size, convert)
            return np.array(Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB"))
        return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name} cannot be decoded: {error}") from None


def kind_of(image: Image.Image) -> str:
    """Return what an image holds, in words; "RGB" where that is 8-bit RGB."""
    tile = getattr(image, "tile", None)
    raw = str(tile[0][3]) if tile else ""
    if image.mode.startswith("I;16") or (image.mode == "I" and "16" in raw):
        return "16-bit gray"
    if "16" in raw and image.mode in ("RGB", "RGBA"):
        return f"16-bit {image.mode}"
    return "RGB" if image.mode == "RGB" else _MODES.get(image.mode, image.mode)

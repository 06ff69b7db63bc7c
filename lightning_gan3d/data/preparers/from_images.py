"""Prepare any photographs, with or without cameras, as square images; find duplicates."""

import hashlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Interval
from jaxtyping import UInt8, UInt64
from PIL import Image
from scipy.fft import dctn

from lightning_gan3d.data import dataset_writer, image_files
from lightning_gan3d.data.archive import DataError, Source, image_names, open_source
from lightning_gan3d.data.camera_checks import check_cameras
from lightning_gan3d.data.dataset import HoldoutShare, hold_out
from lightning_gan3d.data.preparers.camera_files import Missing
from lightning_gan3d.data.preparers.prepare import crop_and_reduce
from lightning_gan3d.data.preparers.source_views import PrepareConfig, View, read_listed
from lightning_gan3d.draws import Draws
from lightning_gan3d.progress import track

_NEAR_BITS = 8
"""Largest distance of near-duplicates, of 99 bits. 113 photographs that are halved or encoded as
JPEG (quality 30 to 90) change by at most 6; two of them differ by at least 10, 99 % by 28."""
_NEAR_COLOUR = 8.0  # of 255: mean colours differ at most by this; the hash ignores them


@dataclass(frozen=True)
class FromImagesConfig:
    """How photographs become a data set."""

    resolution: Annotated[int, Interval(ge=8, le=4096)] = 256
    """Side of the images in pixels; photographs are reduced (Lanczos), never enlarged."""
    crop: Literal["centre", "none"] = "centre"
    """How rectangles become squares; `none` rejects them."""
    background: Literal["white", "black", "gray", "random", "keep"] = "white"
    """Colour behind transparent pixels; random: one per image, drawn by its name. `keep` writes the
    alpha channel; training then needs `data.convert`, and can use `data.random_background`."""
    unusable: Literal["skip", "reject"] = "skip"
    """Broken files and images smaller than `resolution`: leave them out, or raise an error."""
    duplicates: Literal["report", "drop"] = "report"
    """Images that repeat another one, exactly or but for size and compression: list them in
    `copies`, which keeps them in one split, or leave them out."""
    cameras: str = ""
    """`dataset.json` or `cameras.json` with cameras of the squares. Empty: no cameras."""
    missing: Missing = "reject"
    """Images without a camera and cameras without an image: raise an error, or skip them."""
    holdout: HoldoutShare = 0.0
    """Share of images in the split `test`, by the hash of their names."""


@dataclass
class ImportedImages:
    """What was written and what was left out; names are of the source."""

    copies: dict[str, str]
    """The earlier image that an image repeats."""
    small: list[str]
    broken: dict[str, str]
    """Why files were left out."""
    num_images: int = 0
    num_exact: int = 0
    num_test: int = 0

    def __str__(self) -> str:
        lines = [f"{self.num_images:,} images, {self.num_test:,} of them held out"]
        if self.copies:
            num, example = len(self.copies), " repeats ".join(next(iter(self.copies.items())))
            lines.append(f"{num:,} duplicates, {self.num_exact:,} of them exact, e.g. {example}")
        if self.small:
            lines.append(f"left out: {len(self.small):,} too small, e.g. {self.small[0]}")
        return "\n".join([*lines, *(f"left out: {reason}" for reason in self.broken.values())])


class _Originals:
    """Images that repeat no earlier one, with what identifies them."""

    def __init__(self, num: int) -> None:
        self._digests: dict[str, bytes] = {}
        self._hashes = np.zeros((num, 2), dtype=np.uint64)
        self._colours = np.zeros((num, 3))

    def of(self, name: str, pixels: UInt8[np.ndarray, "h w 3"]) -> tuple[str, bool]:
        """Return the original of an image, maybe itself, and whether their pixels are equal."""
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        code, colour, num = perceptual_hash(pixels), pixels.mean(axis=(0, 1)), len(self._digests)
        near = np.bitwise_count(self._hashes[:num] ^ code).sum(axis=1) <= _NEAR_BITS
        near &= np.abs(self._colours[:num] - colour).max(axis=1) <= _NEAR_COLOUR
        if near.any():
            name = list(self._digests)[int(near.argmax())]
        else:
            self._hashes[num], self._colours[num] = code, colour
        return name, self._digests.setdefault(name, digest) == digest


def perceptual_hash(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt64[np.ndarray, "2"]:
    """Compare 99 low frequencies with their median (pHash, Zauner 2010)."""
    gray = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
    low = dctn(np.asarray(gray, dtype=np.float64))[:10, :10].ravel()[1:]
    return np.packbits(np.pad(low > np.median(low), (0, 29))).view(np.uint64)


def prepare_images(
    source_path: Path, out: Path, cfg: FromImagesConfig, overwrite: bool = False
) -> ImportedImages:
    """Write the data set in one pass over the images."""
    source = open_source(source_path)
    views = _views(source, cfg)
    output_of = {n: PurePosixPath(n).with_suffix(".png").as_posix() for n in views}
    dataset_writer.reject_collisions((output, name) for name, output in output_of.items())
    others = [n for n in source.names if n.lower().endswith(image_files.OTHER_SUFFIXES)]
    broken = {n: f"{n} is of a type that is not read; convert it to PNG or JPEG" for n in others}
    result, originals = ImportedImages({}, [], broken), _Originals(len(views))
    group_of: dict[str, str] = {}
    with dataset_writer.write_dataset(out, overwrite) as writer:
        for name, view in track(views.items(), "images", len(views)):
            try:
                pixels, content = _read(source, name, cfg)
            except DataError as error:
                broken[name] = str(error)
                continue
            h, w = pixels.shape[:2]
            if cfg.crop == "none" and h != w:
                raise DataError(f"{name} is {w}x{h}, expected a square; crop=centre crops it")
            if min(h, w) < cfg.resolution:
                result.small.append(name)
                continue
            original, is_exact = originals.of(name, content)
            if original != name:
                result.copies[name] = original
                result.num_exact += is_exact
                if cfg.duplicates == "drop":
                    continue
            square = crop_and_reduce(Image.fromarray(pixels), min(h, w), cfg.resolution)
            label, split, number = (view.label, view.split, view.object_id) if view else (None,) * 3
            writer.image(output_of[name], square, label, None if cfg.holdout else split, number)
            group_of[name] = original if number is None else f"object {number}"
        held = hold_out([*group_of], cfg.holdout, group_of)
        result.num_images, result.num_test = len(group_of), len(held)
        if not group_of or (cfg.unusable == "reject" and (result.small or broken)):
            raise DataError(f"use a smaller `resolution`, other files or unusable=skip:\n{result}")
        if held:
            sides = {"train": group_of.keys() - held, "test": held}
            lists = {k: sorted(output_of[n] for n in v) for k, v in sides.items()}
            writer.metadata("splits", lists)
        copies = {output_of[n]: output_of[o] for n, o in result.copies.items() if n in group_of}
        writer.metadata("copies", copies)
        options = {**asdict(cfg), "cameras": Path(cfg.cameras).name}
        writer.metadata("from_images", {**options, "left_out": [*result.small, *broken]})
    return result


def _views(source: Source, cfg: FromImagesConfig) -> dict[str, View | None]:
    """Return the images with their cameras, if they have any; these are checked."""
    names = image_names(source)
    if not cfg.cameras:
        return dict.fromkeys(names)
    read = read_listed(source, PrepareConfig(cameras=cfg.cameras, missing=cfg.missing), names)
    labels = torch.from_numpy(np.stack([v.label for v in read.views]))
    check_cameras(labels, [v.source for v in read.views])
    return {v.source: v for v in read.views}


def _read(source: Source, name: str, cfg: FromImagesConfig) -> list[UInt8[np.ndarray, "h w c"]]:
    """Return an upright image on its background; also on white if that is random or kept."""
    data = io.BytesIO(source.read(name))
    stored = image_files.open_header(data, name, image_files.MAX_PHOTO_SIDE)
    image = image_files.upright(stored, name)
    if cfg.cameras:
        image_files.reject_rotated(stored, name)
    if cfg.background == "keep":
        alpha = np.array(image.convert("RGBA").getchannel("A"))[:, :, None]
        opaque = image.convert("RGBA").convert("RGB")
        opaque.info = {k: v for k, v in image.info.items() if k != "transparency"}
        pixels = image_files.pixels_of(opaque, name)
        white = image_files.pixels_of(image, name, "white")
        return [np.concatenate([pixels, alpha], axis=2), white]
    if cfg.background != "random":
        return [image_files.pixels_of(image, name, cfg.background)] * 2
    rgb = Draws(0).integers(f"background/{name}", 256, (3,)).tolist()
    return [image_files.pixels_of(image, name, c) for c in (f"rgb{tuple(rgb)}", "white")]

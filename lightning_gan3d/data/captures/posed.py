"""People's own images with their cameras, as they were found: what the readers return."""

import itertools
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from lightning_gan3d.data.archive import DataError, FolderSource, UnsafeDataError
from lightning_gan3d.data.decode import Convert, is_image, kind_of, open_header, pixels_of
from lightning_gan3d.data.labels import ROTATION_TOLERANCE

MAX_PHOTO_SIDE = 12000
"""Pixels on a side of a photograph; checked in its header, before memory is taken."""


@dataclass(frozen=True)
class Frame:
    """One image and its camera, in the world of whoever made them."""

    name: str
    """Path of the image below its folder, with forward slashes."""
    cam2world: Float[np.ndarray, "4 4"]
    """OpenCV axes: x right, y down, z forward."""
    intrinsics: Float[np.ndarray, "3 3"]
    """In pixels of the image; the corner of the first pixel is (0, 0), its centre (0.5, 0.5)."""
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    split: str | None = None
    """The part of the data set that its maker put it in."""


@dataclass(frozen=True)
class PosedImages:
    """The images of one world."""

    frames: tuple[Frame, ...]
    """In the order of their names."""
    points: Float[np.ndarray, "n 3"]
    """Points of the scene's surfaces that the reconstruction found; none where it says none."""
    notes: tuple[str, ...] = ()
    """What a user should know of how they were read."""
    applied: tuple[tuple[float, ...], ...] | None = None
    """The transform (3x4) that its maker had applied to the world before, where it is known."""


class ImageFolder:
    """The image files below a folder, found by the names that cameras give them."""

    def __init__(self, root: Path) -> None:
        """List the files; links that leave the folder are refused."""
        self.root = root
        self.names = [n for n in FolderSource(root).names if is_image(n)]
        self._known = set(self.names)
        self._by_stem: dict[str, list[str]] = {}
        for name in self.names:
            self._by_stem.setdefault(posixpath.splitext(name)[0], []).append(name)

    def find(self, written: str, places: Sequence[str]) -> str | None:
        """Return the file that is meant, or None.

        `written`: a path with or without extension; `places`: folders below the root that it may be
        relative to, the first one that has it counts.
        """
        written = written.replace("\\", "/")
        if posixpath.isabs(written):
            try:
                written = Path(written).relative_to(self.root.resolve()).as_posix()
            except ValueError:
                raise _outside(written, self.root) from None
            places = [""]
        left = 0
        for place in places:
            path = posixpath.normpath(posixpath.join(place, written))
            left += path.startswith("..")
            if path in self._known:
                return path
            found = self._by_stem.get(path, [])
            if len(found) > 1:
                raise DataError(
                    f"{written} has no extension, and may be {' or '.join(found)} in {self.root}: "
                    "keep one of them"
                )
            if found:
                return found[0]
        if left == len(places):
            raise _outside(written, self.root)
        return None

    def size(self, name: str) -> tuple[int, int]:
        """Return width and height in pixels, by the header."""
        with self._open(name) as file, open_header(file, name, MAX_PHOTO_SIDE) as image:
            return image.size

    def kind(self, name: str) -> str:
        """Return what the image holds, by the header: "RGB" where it needs no conversion."""
        with self._open(name) as file, open_header(file, name, MAX_PHOTO_SIDE) as image:
            return kind_of(image)

    def pixels(self, name: str, convert: Convert) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels."""
        with self._open(name) as file, open_header(file, name, MAX_PHOTO_SIDE) as image:
            return pixels_of(image, name, convert)

    def _open(self, name: str) -> BufferedReader:
        try:
            return (self.root / name).open("rb")
        except OSError as error:
            raise DataError(f"{name} in {self.root} cannot be read: {error.strerror}") from None


def fit_intrinsics(
    name: str,
    intrinsics: Float[np.ndarray, "3 3"],
    declared: tuple[int, int],
    actual: tuple[int, int],
) -> Float[np.ndarray, "3 3"]:
    """Return the intrinsics in pixels of the image where that is a scaled copy of the camera's.

    Refuses an image of another shape: it was cropped or turned, and the camera does not know.
    """
    (width, height), (w, h) = declared, actual
    if abs(w * height - h * width) > max(width, height):  # beyond the rounding of one side
        raise DataError(
            f"{name} is {w}x{h}, but its camera is for {width}x{height}: give the images that the "
            "poses were made from, or scaled copies of them"
        )
    scaled = intrinsics.copy()
    scaled[0] *= w / width
    scaled[1] *= h / height
    return scaled


def rigid_pose(name: str, matrix: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Return the pose with the nearest rotation, which takes up what text rounded away.

    Refuses what is no pose: numbers that are not finite, a scale, a mirror, another last row.
    """
    if not np.isfinite(matrix).all():
        raise DataError(f"{name}: its pose holds numbers that are not finite")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
        row = " ".join(f"{x:g}" for x in matrix[3])
        raise DataError(
            f"{name}: last row of its pose is {row}, must be 0 0 0 1; is it transposed?"
        )
    rotation = matrix[:3, :3]
    off = float(np.linalg.norm(rotation.T @ rotation - np.eye(3)))
    if off > ROTATION_TOLERANCE or np.linalg.det(rotation) <= 0:
        volume = float(np.linalg.det(rotation))
        what = "mirrors" if volume <= 0 else f"scales by {abs(volume) ** (1 / 3):.3g} or shears"
        raise DataError(
            f"{name}: the 3x3 part of its pose is no rotation, it {what} (|R'R - I| = {off:.3g}, "
            f"limit {ROTATION_TOLERANCE}): apply scales to the scene before the poses are written"
        )
    u, _, vh = np.linalg.svd(rotation)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = u @ vh, matrix[:3, 3]
    return pose


def without_image(missing: Sequence[str], total: int, root: Path, skip: bool) -> tuple[str, ...]:
    """Return a note on cameras whose image is not there, where these are to be skipped.

    Else refuses them; and in any case if none is left.
    """
    if not missing:
        return ()
    some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    found = f"{len(missing):,} of {total:,} images with a camera are not below {root}: {some}"
    if skip and len(missing) < total:
        return (found,)
    remedy = "images=FOLDER tells where they are, skip_missing=true leaves them out"
    raise DataError(f"{found}; {remedy}")


def in_order(frames: Sequence[Frame], where: Path) -> tuple[Frame, ...]:
    """Return frames by name; refuses none at all, and two cameras for one image."""
    if not frames:
        raise DataError(f"{where} holds no images with cameras")
    ordered = sorted(frames, key=lambda f: f.name)
    for one, two in itertools.pairwise(ordered):
        if one.name == two.name:
            raise DataError(f"{where}: two cameras for the image {one.name}")
    return tuple(ordered)


def _outside(written: str, root: Path) -> UnsafeDataError:
    return UnsafeDataError(
        f"image `{written}` lies outside {root}: images=FOLDER names the folder that holds them"
    )

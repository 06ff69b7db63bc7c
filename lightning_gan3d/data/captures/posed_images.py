"""Options of `gan3d data from-poses`, and the images with cameras that its readers return."""

import itertools
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Float, UInt8

from lightning_gan3d.config import ConfigError, Positive
from lightning_gan3d.data.archive import SUFFIXES, DataError, FolderListing, UnsafeDataError
from lightning_gan3d.data.camera_checks import ROTATION_TOLERANCE
from lightning_gan3d.data.captures.lens import Lens, largest_square, undistort
from lightning_gan3d.data.image_files import (
    MAX_PHOTO_SIDE,
    Convert,
    ImageIndex,
    mode_of,
    open_header,
    pixels_of,
    reject_rotated,
)

MAX_NUMBER = 1e9
"""Limit of the numbers of cameras and points."""
_MAX_PATH = 4096


Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
Front = Literal["auto", "none", "x", "y", "z", "-x", "-y", "-z"]
Centre = Literal["axes", "points", "cameras", "origin"]


@dataclass(frozen=True)
class FromPosesConfig:
    """How images with poses are read, normalised and cropped."""

    resolution: Annotated[int, Interval(ge=8, le=2048)] = 256
    """Side of the images in pixels."""
    format: Literal["auto", "colmap", "transforms"] = "auto"
    """Format of the cameras: COLMAP's model (.bin or .txt), or transforms.json."""
    images: str = ""
    """Folder of the images, if it is not that of the cameras."""
    objects: Literal["none", "folder"] = "none"
    """`folder`: each sub-folder is an object, with its own cameras or within a shared model."""
    per_object: bool = True
    """Normalise each object by itself; otherwise all share one coordinate system."""
    up: Up = "auto"
    """Direction in the user's coordinate system that becomes +y; auto: from the cameras."""
    centre: Centre = "axes"
    """What becomes the origin: the point nearest to all optical axes, the median of COLMAP's
    points, the mean camera, or the user's origin."""
    front: Front = "auto"
    """Direction from the object to the frontal camera, which becomes +z. auto: the mean camera if
    all are on one side; none: x stays right."""
    radius: Positive | None = 2.7
    """Median distance of the cameras in world units; null keeps the scale."""
    crop: Literal["centre", "none"] = "centre"
    """How rectangles become squares; `none` rejects them."""
    background: Convert = "none"
    """Colour behind transparent pixels; also converts gray images. `none` rejects both."""
    skip_missing: bool = False
    """Leave out cameras whose image is missing."""
    masks: Literal["apply", "ignore"] = "apply"
    """Pixels whose mask is black become `background`; `ignore` reads no masks."""
    convention: Literal["opengl", "opencv"] = "opengl"
    """Axes of the cameras in transforms.json. opengl: x right, y up, z backward; opencv: x right,
    y down, z forward."""
    poses: Literal["cam2world", "world2cam"] = "cam2world"
    """What a `transform_matrix` maps."""
    ignore_distortion: bool = False
    """The images are undistorted already: do not undistort them."""

    def __post_init__(self) -> None:
        """Check `images` against `objects`."""
        if self.images and self.objects == "folder":
            raise ConfigError(
                f"images={self.images}: with objects=folder, images are below the source; leave "
                "it out",
                field="images",
            )


class ImageFolder:
    """The image files below a folder, resolved from the names in camera files."""

    def __init__(self, root: Path) -> None:
        """List the files; rejects links that leave the folder."""
        self.root = root
        self._index = ImageIndex(sorted(FolderListing.of(root).files))
        self.names = self._index.names

    def resolve(self, path: str, folders: Sequence[str] | None) -> str | None:
        """Return the image that `path` refers to; None if missing.

        Rejects ambiguous names and types that are not read. `folders`: folders below the root that
        the path may be relative to, in order of preference. None: any end of the path.
        """
        path = path.replace("\\", "/")
        if len(path) > _MAX_PATH or any(ord(c) < 32 for c in path):
            raise DataError(f"{path[:80]!r}...: a path is too long or has control characters")
        parts = [p for p in path.split("/") if p not in ("", ".", "..")]
        candidates = ["/".join(parts[i:]) for i in range(len(parts))]
        if folders is not None:
            if Path(path).is_relative_to(self.root.resolve()):
                path = Path(path).relative_to(self.root.resolve()).as_posix()
            candidates = [posixpath.normpath(posixpath.join(f, path)) for f in folders]
            if all(c.startswith(("..", "/")) for c in candidates):
                raise UnsafeDataError(
                    f"image `{path}` is outside {self.root}: set images=FOLDER to the folder of "
                    "the images"
                )
        images = self._index.find(candidates)
        if len(images) > 1:
            raise DataError(
                f"{path} matches {' and '.join(images)} in {self.root}: remove one of them"
            )
        if not images and self._index.has_other(candidates):
            raise DataError(
                f"{path} in {self.root} is of a type that is not read; convert it to one of "
                f"{', '.join(SUFFIXES)}"
            )
        return images[0] if images else None

    def mask(self, path: str, image: str) -> "tuple[ImageFolder, str]":
        """Return the mask of an image, as in `Frame`; it must be there."""
        name = self.resolve(path, [""])
        if name is None:
            raise DataError(f"{image}: its mask {path[:80]} is not in {self.root}; or masks=ignore")
        return self, name

    def header(self, name: str, stored: bool = False) -> tuple[tuple[int, int], str]:
        """Return width and height in pixels and the pixel format of an image; see `mode_of`.

        `stored`: whether the camera is of the stored pixels. If not, EXIF orientation is rejected.
        """
        with self._open(name) as file, open_header(file, name, MAX_PHOTO_SIDE) as image:
            if not stored:
                reject_rotated(image, name)
            return image.size, mode_of(image)

    def pixels(self, name: str, convert: Convert) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels of an image."""
        with self._open(name) as file, open_header(file, name, MAX_PHOTO_SIDE) as image:
            return pixels_of(image, name, convert)

    def _open(self, name: str) -> BufferedReader:
        try:
            return (self.root / name).open("rb")
        except OSError as error:
            raise DataError(f"cannot read {name} in {self.root}: {error.strerror}") from None


@dataclass(frozen=True)
class Frame:
    """One image and its camera."""

    folder: ImageFolder
    name: str
    """Path of the image below its folder, with forward slashes."""
    cam2world: Float[np.ndarray, "4 4"]
    """OpenCV axes: x right, y down, z forward."""
    intrinsics: Float[np.ndarray, "3 3"]
    """In pixels of the image; the corner of the first pixel is (0, 0), its centre (0.5, 0.5)."""
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    mode: str
    """Pixel format; "RGB" needs no conversion."""
    lens: Lens = Lens()
    """Distortion of the image; `pixels` removes it."""
    mask: "tuple[ImageFolder, str] | None" = None
    """Folder and name of the mask."""
    split: str | None = None
    """Split of the data set that the camera file names."""
    object: str = ""
    prefix: str = ""
    """Folder of the output image; empty for a single capture."""

    @property
    def output(self) -> str:
        """Path of the image in the data set."""
        return (self.prefix / PurePosixPath(self.name).with_suffix(".png")).as_posix()

    @property
    def side(self) -> int:
        """Side in pixels of the central square that is used; all its pixels are in the image."""
        return largest_square(self.lens, tuple(self.intrinsics.flat), self.size)

    def pixels(self, background: Convert, most: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels; if distorted, the undistorted square, reduced to at most `most`."""
        pixels = self.folder.pixels(self.name, background)
        if self.mask is not None:
            folder, name = self.mask
            pixels[~folder.pixels(name, "black").any(axis=2)] = 255 * (background == "white")
        if self.lens.pinhole:
            return pixels
        return undistort(pixels, self.lens, self.intrinsics, self.side, most)


@dataclass(frozen=True)
class Capture:
    """Images whose cameras share one coordinate system."""

    frames: tuple[Frame, ...]
    """Ordered by name."""
    points: Float[np.ndarray, "n 3"]
    """Reconstructed surface points; may be empty."""
    notes: tuple[str, ...] = ()
    """Warnings about how the images were read."""
    applied: dict[str, Any] = field(default_factory=dict)
    """nerfstudio's `applied_transform` (3x4) and `applied_scale`, if stated."""


def fit_intrinsics(
    name: str,
    intrinsics: Float[np.ndarray, "3 3"],
    declared: tuple[int, int],
    actual: tuple[int, int],
) -> Float[np.ndarray, "3 3"]:
    """Rescale intrinsics in pixels to the image's actual size.

    Rejects focal lengths below a pixel, and another aspect ratio: the image was cropped or rotated
    after its camera was estimated.
    """
    (width, height), (w, h) = declared, actual
    if not min(intrinsics[0, 0], intrinsics[1, 1]) >= 1:
        raise DataError(
            f"{name}: focal lengths {intrinsics[0, 0]:g} and {intrinsics[1, 1]:g} must be at least "
            "1, in pixels; are they divided by the image size?"
        )
    if abs(w * height - h * width) > max(width, height):  # beyond the rounding of one side
        raise DataError(
            f"{name} is {w}x{h}, but its camera is for {width}x{height}: use the images that the "
            "poses were estimated from, or scaled copies of them"
        )
    scaled = intrinsics.copy()
    scaled[0] *= w / width
    scaled[1] *= h / height
    return scaled


def check_numbers(numbers: Sequence[float] | Float[np.ndarray, "*n"], name: str) -> None:
    """Reject numbers that are not finite, or above `MAX_NUMBER`."""
    if not np.abs(numbers).max(initial=0.0) < MAX_NUMBER:
        raise DataError(f"{name} is not finite, or above {MAX_NUMBER:g}")


def rigid_pose(name: str, matrix: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Return the pose with the nearest rotation, which removes rounding errors of text files.

    Rejects matrices that are not finite, scale, mirror, or have another last row.
    """
    check_numbers(matrix, f"{name}: a number of the pose")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
        row = " ".join(f"{x:g}" for x in matrix[3])
        raise DataError(
            f"{name}: the last row of the pose is {row}, expected 0 0 0 1; is it transposed?"
        )
    rotation = matrix[:3, :3]
    off = float(np.linalg.norm(rotation.T @ rotation - np.eye(3)))
    volume = float(np.linalg.det(rotation))
    if off > ROTATION_TOLERANCE or volume <= 0:
        fault = "mirrors" if volume <= 0 else f"scales by {abs(volume) ** (1 / 3):.3g} or shears"
        raise DataError(
            f"{name}: the 3x3 part of the pose is not a rotation: it {fault} (|R'R - I| = "
            f"{off:.3g}, limit {ROTATION_TOLERANCE}); scale the scene before exporting the poses"
        )
    u, _, vh = np.linalg.svd(rotation)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = u @ vh, matrix[:3, 3]
    return pose


def reading_notes(
    missing: Sequence[str], total: int, root: Path, cfg: FromPosesConfig
) -> tuple[str, ...]:
    """Return warnings about cameras without an image and about ignored distortion.

    Raises `DataError` if images are missing, unless `skip_missing` is set and others are present.
    """
    notes = ("distortion is ignored",) if cfg.ignore_distortion else ()
    if not missing:
        return notes
    names = ", ".join(n[:80] for n in missing[:3]) + (", ..." if len(missing) > 3 else "")
    message = f"{len(missing):,} of {total:,} images with a camera are not below {root}: {names}"
    if cfg.skip_missing and len(missing) < total:
        return (message, *notes)
    raise DataError(
        f"{message}; set images=FOLDER if they are elsewhere, or skip_missing=true to skip them"
    )


def ordered(frames: Sequence[Frame], path: Path) -> tuple[Frame, ...]:
    """Order frames by name; rejects an empty list and images with two cameras."""
    if not frames:
        raise DataError(f"{path} has no images with cameras")
    result = sorted(frames, key=lambda f: f.name)
    for one, two in itertools.pairwise(result):
        if one.name == two.name:
            raise DataError(f"{path}: two cameras for the image {one.name}")
    return tuple(result)

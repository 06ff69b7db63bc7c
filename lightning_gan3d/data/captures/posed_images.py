"""Options of `gan3d data from-poses`, and the images with cameras that its readers return."""

import itertools
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Float, UInt8

from lightning_gan3d.config import ConfigError, Positive
from lightning_gan3d.data.archive import DataError, FolderSource, UnsafeDataError
from lightning_gan3d.data.image_files import Convert, is_image, mode_of, open_header, pixels_of
from lightning_gan3d.data.labels import ROTATION_TOLERANCE

MAX_PHOTO_SIDE = 12000
"""Largest side of a photograph in pixels, checked in its header before memory is allocated."""


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
    ignore_distortion: bool = False
    """Treat distorted images as undistorted ones."""

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
        self.names = [n for n in FolderSource(root).names if is_image(n)]
        self._names = set(self.names)
        self._by_stem: dict[str, list[str]] = {}
        for name in self.names:
            self._by_stem.setdefault(posixpath.splitext(name)[0], []).append(name)

    def resolve(self, path: str, folders: Sequence[str]) -> str | None:
        """Return the image that `path`, with or without extension, refers to; None if missing.

        `folders`: folders below the root that the path may be relative to, in order of preference.
        """
        path = path.replace("\\", "/")
        if posixpath.isabs(path):
            try:
                path = Path(path).relative_to(self.root.resolve()).as_posix()
            except ValueError:
                raise _outside(path, self.root) from None
            folders = [""]
        outside = 0
        for folder in folders:
            candidate = posixpath.normpath(posixpath.join(folder, path))
            outside += candidate.startswith("..")
            if candidate in self._names:
                return candidate
            images = self._by_stem.get(candidate, [])
            if len(images) > 1:
                raise DataError(
                    f"{path} has no extension and matches {' and '.join(images)} in {self.root}: "
                    "remove one of them"
                )
            if images:
                return images[0]
        if outside == len(folders):
            raise _outside(path, self.root)
        return None

    def header(self, name: str) -> tuple[tuple[int, int], str]:
        """Return width and height in pixels and the pixel format of an image; see `mode_of`."""
        with self._open(name) as file, open_header(file, name, MAX_PHOTO_SIDE) as image:
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
    split: str | None = None
    """Split of the data set that the camera file names."""
    object: str = ""
    prefix: str = ""
    """Folder of the output image; empty for a single capture."""

    @property
    def output(self) -> str:
        """Path of the image in the data set."""
        return (self.prefix / PurePosixPath(self.name).with_suffix(".png")).as_posix()


@dataclass(frozen=True)
class Capture:
    """Images whose cameras share one coordinate system."""

    frames: tuple[Frame, ...]
    """Ordered by name."""
    points: Float[np.ndarray, "n 3"]
    """Reconstructed surface points; may be empty."""
    notes: tuple[str, ...] = ()
    """Warnings about how the images were read."""
    applied: tuple[tuple[float, ...], ...] | None = None
    """nerfstudio's `applied_transform` (3x4), if stated."""


def fit_intrinsics(
    name: str,
    intrinsics: Float[np.ndarray, "3 3"],
    declared: tuple[int, int],
    actual: tuple[int, int],
) -> Float[np.ndarray, "3 3"]:
    """Rescale intrinsics in pixels to the image's actual size.

    Rejects another aspect ratio: the image was cropped or rotated after its camera was estimated.
    """
    (width, height), (w, h) = declared, actual
    if abs(w * height - h * width) > max(width, height):  # beyond the rounding of one side
        raise DataError(
            f"{name} is {w}x{h}, but its camera is for {width}x{height}: use the images that the "
            "poses were estimated from, or scaled copies of them"
        )
    scaled = intrinsics.copy()
    scaled[0] *= w / width
    scaled[1] *= h / height
    return scaled


def rigid_pose(name: str, matrix: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Return the pose with the nearest rotation, which removes rounding errors of text files.

    Rejects matrices that are not finite, scale, mirror, or have another last row.
    """
    if not np.isfinite(matrix).all():
        raise DataError(f"{name}: the pose has numbers that are not finite")
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
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
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


def _outside(path: str, root: Path) -> UnsafeDataError:
    return UnsafeDataError(
        f"image `{path}` is outside {root}: set images=FOLDER to the folder of the images"
    )

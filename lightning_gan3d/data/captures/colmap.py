"""Read a sparse model of COLMAP (Schönberger and Frahm 2016), text or binary, strictly.

Formats: COLMAP's documentation, "Output Format". The 2D points of `images` are skipped; of
`points3D` only the positions are read.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError

T = TypeVar("T")

MODELS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
)  # fmt: skip
"""Camera models in the order of their ids, with their number of parameters."""
_FOCALS = {
    "SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2,
    "FULL_OPENCV": 2,
}  # fmt: skip
"""Pinhole models with their number of focal lengths. Parameters: focal lengths, principal point,
distortion."""
UNDISTORT = (
    "undistort first: `colmap image_undistorter --image_path images --input_path sparse/0 "
    "--output_path undistorted`"
)
_MAX_SIDE = 10**6


class ColmapCamera(NamedTuple):
    """Intrinsics in pixels; `size` is width and height of the images."""

    model: str
    size: tuple[int, int]
    params: tuple[float, ...]


class ColmapImage(NamedTuple):
    """An image; the pose is world2cam in OpenCV axes, the quaternion's real part first."""

    name: str
    camera: int
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]


class ColmapModel(NamedTuple):
    """Cameras by id, images, and 3D points."""

    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    points: Float[np.ndarray, "n 3"]


def has_model(folder: Path) -> bool:
    """Whether a folder has a model."""
    return _suffix(folder) is not None


def read_model(folder: Path) -> ColmapModel:
    """Read a model; the binary one is preferred, as in COLMAP."""
    suffix = _suffix(folder)
    if suffix is None:
        raise DataError(f"{folder} has no cameras and images of COLMAP (.bin or .txt)")
    points_file = folder / f"points3D{suffix}"
    points: Iterable[tuple[float, ...]] = ()
    if suffix == ".bin":
        cameras = _by_id(folder, _records(folder / "cameras.bin", "cameras", 48, _camera_bin))
        images = _by_id(folder, _records(folder / "images.bin", "images", 73, _image_bin))
        if points_file.exists():
            points = _records(points_file, "points", 51, _point_bin)
    else:
        cameras = _by_id(folder, _cameras_txt(folder / "cameras.txt"))
        images = _by_id(folder, _images_txt(folder / "images.txt"))
        if points_file.exists():
            points = _points_txt(points_file)
    for image in images.values():
        if image.camera not in cameras:
            raise DataError(
                f"{folder / f'images{suffix}'}: {image.name} has camera {image.camera}, which is "
                f"not in cameras{suffix}"
            )
    positions = np.array(list(points), dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(positions).all():
        raise DataError(f"{points_file}: a point is not finite")
    return ColmapModel(cameras, list(images.values()), positions)


def intrinsics_of(
    camera: ColmapCamera, name: str, ignore_distortion: bool
) -> Float[np.ndarray, "3 3"]:
    """Return the pinhole matrix in pixels; rejects distortion unless it is to be ignored."""
    if camera.model not in _FOCALS:
        raise DataError(f"{name}: camera model {camera.model} is not a pinhole; {UNDISTORT}")
    num = _FOCALS[camera.model]
    fx, fy = camera.params[0], camera.params[num - 1]
    cx, cy = camera.params[num : num + 2]
    distortion = camera.params[num + 2 :]
    if any(distortion) and not ignore_distortion:
        raise DataError(
            f"{name}: the {camera.model} camera has distortion "
            f"{', '.join(f'{k:g}' for k in distortion)}; {UNDISTORT}, or set ignore_distortion=true"
        )
    if min(fx, fy) <= 0:
        raise DataError(f"{name}: focal length {min(fx, fy):g} must be positive")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def cam2world_of(image: ColmapImage) -> Float[np.ndarray, "4 4"]:
    """Invert the pose of an image; rejects invalid poses."""
    if not np.isfinite([*image.quaternion, *image.translation]).all():
        raise DataError(f"{image.name}: the pose has numbers that are not finite")
    norm = float(np.linalg.norm(image.quaternion))
    if not abs(norm - 1) < 1e-2:
        raise DataError(f"{image.name}: the quaternion has length {norm:g}, expected 1")
    w, x, y, z = np.array(image.quaternion) / norm
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -rotation.T @ np.array(image.translation)
    return pose


def _by_id(folder: Path, records: Iterable[tuple[int, T]]) -> dict[int, T]:
    by_id: dict[int, T] = {}
    for key, record in records:
        if key in by_id:
            raise DataError(f"{folder}: two cameras or images have the id {key}")
        by_id[key] = record
    return by_id


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{part}{suffix}").is_file() for part in ("cameras", "images")):
            return suffix
    return None


class _Bytes:
    """Sequential reader of a binary file; counts beyond the end of the file are rejected."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None

    def floats(self, num: int) -> tuple[float, ...]:
        """Read little-endian doubles."""
        return struct.unpack_from(f"<{num}d", self._data, self.skip(8 * num))

    def integers(self, layout: str) -> tuple[int, ...]:
        """Read little-endian whole numbers without padding."""
        return struct.unpack_from(
            f"<{layout}", self._data, self.skip(struct.calcsize(f"<{layout}"))
        )

    def skip(self, num: int) -> int:
        """Skip bytes and return the position of the first one."""
        start = self._at
        if num > len(self._data) - start:
            raise DataError(
                f"{self.path} is truncated: it has {len(self._data):,} bytes, expected "
                f"{start + num:,} or more; copy it again"
            )
        self._at = start + num
        return start

    def count(self, records: str, least: int) -> int:
        """Read the number of the records that follow, of at least `least` bytes each."""
        (num,) = self.integers("Q")
        if num * least > len(self._data) - self._at:
            raise DataError(
                f"{self.path} claims {num:,} {records}, too many for its {len(self._data):,} "
                "bytes; copy it again"
            )
        return num

    def text(self) -> str:
        """Read zero-terminated text."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise DataError(f"{self.path} is truncated within a name; copy it again")
        start = self.skip(end + 1 - self._at)
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: the name at byte {start:,} is not UTF-8") from None

    def end(self) -> None:
        """Reject trailing bytes."""
        if self._at != len(self._data):
            raise DataError(
                f"{self.path} has {len(self._data) - self._at:,} bytes after its last record: it "
                "is not a file of COLMAP, or its format is newer than this reader"
            )


def _records(path: Path, records: str, least: int, read: Callable[[_Bytes], T]) -> Iterator[T]:
    file = _Bytes(path)
    for _ in range(file.count(records, least)):
        yield read(file)
    file.end()


def _camera_bin(file: _Bytes) -> tuple[int, ColmapCamera]:
    key, model, width, height = file.integers("IiQQ")
    if not 0 <= model < len(MODELS):
        raise _unknown_model(file.path, str(model))
    name, num = MODELS[model]
    return key, _camera(file.path, name, width, height, file.floats(num))


def _image_bin(file: _Bytes) -> tuple[int, ColmapImage]:
    (key,) = file.integers("I")
    pose = file.floats(7)
    (camera,) = file.integers("I")
    image = ColmapImage(file.text(), camera, pose[:4], pose[4:])
    file.skip(24 * file.count("2D points of an image", 24))
    return key, image


def _point_bin(file: _Bytes) -> tuple[float, ...]:
    file.skip(8)
    position = file.floats(3)
    file.skip(3 + 8)
    file.skip(8 * file.count("images of a point", 8))
    return position


def _camera(
    path: Path, model: str, width: int, height: int, params: tuple[float, ...]
) -> ColmapCamera:
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise DataError(f"{path}: a camera is for images of {width}x{height}")
    if not np.isfinite(params).all():
        raise DataError(f"{path}: a parameter of a camera is not finite")
    return ColmapCamera(model, (width, height), tuple(params))


def _unknown_model(path: Path, model: str) -> DataError:
    known = ", ".join(name for name, _ in MODELS)
    return DataError(f"{path}: unknown camera model {model}; known ones: {known}; {UNDISTORT}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number the lines of a file that are not comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    return ((i, line) for i, line in enumerate(lines, 1) if not line.strip().startswith("#"))


def _cameras_txt(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    lengths = dict(MODELS)
    for number, line in _lines(path):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 1 and fields[1] not in lengths:
            raise _unknown_model(path, fields[1])
        if len(fields) < 4 or len(fields) != 4 + lengths[fields[1]]:
            raise DataError(f"{path}:{number}: expected ID MODEL WIDTH HEIGHT and the parameters")
        key, width, height = (_whole(path, number, f) for f in (fields[0], *fields[2:4]))
        params = _numbers(path, number, fields[4:])
        yield key, _camera(path, fields[1], width, height, params)


def _images_txt(path: Path) -> Iterator[tuple[int, ColmapImage]]:
    """Read images: a line with the pose, then a line with 2D points, which may be empty."""
    lines = _lines(path)
    for number, line in lines:
        fields = line.split(maxsplit=9)
        if not fields:
            continue
        if len(fields) != 10:
            raise DataError(
                f"{path}:{number}: expected ID QW QX QY QZ TX TY TZ CAMERA_ID NAME of an image"
            )
        pose = _numbers(path, number, fields[1:8])
        key, camera = (_whole(path, number, f) for f in (fields[0], fields[8]))
        image = ColmapImage(fields[9].strip(), camera, pose[:4], pose[4:])
        below, points = next(lines, (number, ""))
        if len(points.split()) % 3:
            raise DataError(
                f"{path}:{below}: expected the image's 2D points (X Y POINT3D_ID ...) or an empty "
                "line"
            )
        yield key, image


def _points_txt(path: Path) -> Iterator[tuple[float, ...]]:
    for number, line in _lines(path):
        fields = line.split(maxsplit=4)
        if not fields:
            continue
        if len(fields) < 4:
            raise DataError(f"{path}:{number}: expected ID X Y Z ... of a point")
        yield _numbers(path, number, fields[1:4])


def _numbers(path: Path, line: int, fields: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(f) for f in fields)
    except ValueError:
        raise DataError(f"{path}:{line}: {' '.join(fields)[:60]} must be numbers") from None


def _whole(path: Path, line: int, field: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise DataError(f"{path}:{line}: {field[:20]} must be a whole number") from None

"""Read a sparse model of COLMAP (Schönberger and Frahm 2016), as text or binary, strictly.

The formats are those of COLMAP's documentation, "Output Format". Of `images` the 2D points are
skipped, of `points3D` only the places are kept.
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
"""Camera models by number, with how many parameters they have."""
_FOCALS = {
    "SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2,
    "FULL_OPENCV": 2,
}  # fmt: skip
"""Models of a pinhole with distortion on top, and how many focal lengths they begin with; then come
the principal point and the distortion."""
UNDISTORT = (
    "undistort first: `colmap image_undistorter --image_path images --input_path sparse/0 "
    "--output_path undistorted`"
)
_MAX_SIDE = 10**6


class ColmapCamera(NamedTuple):
    """Intrinsics in pixels of an image of this width and height."""

    model: str
    size: tuple[int, int]
    params: tuple[float, ...]


class ColmapImage(NamedTuple):
    """An image: its pose is world2cam, OpenCV axes, the quaternion's real part first."""

    name: str
    camera: int
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]


class ColmapModel(NamedTuple):
    """Cameras by their number, images, and the points of the scene."""

    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    points: Float[np.ndarray, "n 3"]


def has_model(folder: Path) -> bool:
    """Tell whether a folder holds a model."""
    return _suffix(folder) is not None


def read_model(folder: Path) -> ColmapModel:
    """Read a model; where both formats are there, the binary one, as COLMAP does."""
    suffix = _suffix(folder)
    if suffix is None:
        raise DataError(f"{folder} holds no cameras and images of COLMAP (.bin or .txt)")
    points = folder / f"points3D{suffix}"
    if suffix == ".bin":
        cameras = _by_number(folder, _records(folder / "cameras.bin", "cameras", 48, _camera_bin))
        images = _by_number(folder, _records(folder / "images.bin", "images", 73, _image_bin))
        found = list(_records(points, "points", 51, _point_bin)) if points.exists() else []
    else:
        cameras = _by_number(folder, _cameras_txt(folder / "cameras.txt"))
        images = _by_number(folder, _images_txt(folder / "images.txt"))
        found = list(_points_txt(points)) if points.exists() else []
    for image in images.values():
        if image.camera not in cameras:
            raise DataError(
                f"{folder / f'images{suffix}'}: {image.name} has camera {image.camera}, which "
                f"cameras{suffix} lacks"
            )
    places = np.array(found, dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(places).all():
        raise DataError(f"{points}: a point is not finite")
    return ColmapModel(cameras, list(images.values()), places)


def intrinsics_of(
    camera: ColmapCamera, name: str, ignore_distortion: bool
) -> Float[np.ndarray, "3 3"]:
    """Return the pinhole's matrix in pixels; refuses distortion unless it is to be ignored."""
    if camera.model not in _FOCALS:
        raise DataError(f"{name}: its camera model {camera.model} is no pinhole; {UNDISTORT}")
    num = _FOCALS[camera.model]
    fx, fy = camera.params[0], camera.params[num - 1]
    cx, cy = camera.params[num : num + 2]
    distortion = camera.params[num + 2 :]
    if any(distortion) and not ignore_distortion:
        raise DataError(
            f"{name}: its camera is {camera.model} with distortion "
            f"{', '.join(f'{k:g}' for k in distortion)}; {UNDISTORT}, or ignore_distortion=true"
        )
    if min(fx, fy) <= 0:
        raise DataError(f"{name}: focal length {min(fx, fy):g} of its camera must be positive")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def cam2world_of(image: ColmapImage) -> Float[np.ndarray, "4 4"]:
    """Return the inverse of the image's pose; refuses one that is none."""
    if not np.isfinite([*image.quaternion, *image.translation]).all():
        raise DataError(f"{image.name}: its pose holds numbers that are not finite")
    norm = float(np.linalg.norm(image.quaternion))
    if not abs(norm - 1) < 1e-2:
        raise DataError(f"{image.name}: its quaternion has length {norm:g}, must be 1")
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


def _by_number(folder: Path, records: Iterable[tuple[int, T]]) -> dict[int, T]:
    found: dict[int, T] = {}
    for number, record in records:
        if number in found:
            raise DataError(f"{folder}: two cameras or images have the number {number}")
        found[number] = record
    return found


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{part}{suffix}").is_file() for part in ("cameras", "images")):
            return suffix
    return None


class _Bytes:
    """A binary file, read from its start; no count in it is believed beyond the file's end."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None

    def floats(self, num: int) -> tuple[float, ...]:
        """Read doubles, little-endian."""
        return struct.unpack_from(f"<{num}d", self._data, self.skip(8 * num))

    def integers(self, layout: str) -> tuple[int, ...]:
        """Read whole numbers, little-endian and unpadded."""
        return struct.unpack_from(
            f"<{layout}", self._data, self.skip(struct.calcsize(f"<{layout}"))
        )

    def skip(self, num: int) -> int:
        """Pass over bytes and return where they start."""
        start = self._at
        if num > len(self._data) - start:
            raise DataError(
                f"{self.path} ends too early: it has {len(self._data):,} bytes, and byte "
                f"{start + num:,} is asked for; copy it again"
            )
        self._at = start + num
        return start

    def count(self, what: str, least: int) -> int:
        """Read how many records follow, of `least` bytes or more each."""
        (num,) = self.integers("Q")
        left = len(self._data) - self._at
        if num * least > left:
            raise DataError(
                f"{self.path} claims {num:,} {what}, more than its {len(self._data):,} bytes can "
                "hold; copy it again"
            )
        return num

    def text(self) -> str:
        """Read text that ends with a zero byte."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise DataError(f"{self.path} ends too early, within a name; copy it again")
        start = self.skip(end + 1 - self._at)
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: the name at byte {start:,} is not UTF-8") from None

    def end(self) -> None:
        """Refuse bytes that nobody asked for."""
        if self._at != len(self._data):
            raise DataError(
                f"{self.path} has {len(self._data) - self._at:,} bytes after its last record: it "
                "is no such file of COLMAP, or of a format newer than this reader"
            )


def _records(path: Path, what: str, least: int, read: Callable[[_Bytes], T]) -> Iterator[T]:
    file = _Bytes(path)
    for _ in range(file.count(what, least)):
        yield read(file)
    file.end()


def _camera_bin(file: _Bytes) -> tuple[int, ColmapCamera]:
    number, model, width, height = file.integers("IiQQ")
    if not 0 <= model < len(MODELS):
        raise _unknown_model(file.path, str(model))
    name, num = MODELS[model]
    return number, _camera(file.path, name, width, height, file.floats(num))


def _image_bin(file: _Bytes) -> tuple[int, ColmapImage]:
    (number,) = file.integers("I")
    pose = file.floats(7)
    (camera,) = file.integers("I")
    image = ColmapImage(file.text(), camera, pose[:4], pose[4:])
    file.skip(24 * file.count("2D points of an image", 24))
    return number, image


def _point_bin(file: _Bytes) -> tuple[float, ...]:
    file.skip(8)
    place = file.floats(3)
    file.skip(3 + 8)
    file.skip(8 * file.count("images of a point", 8))
    return place


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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _cameras_txt(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    lengths = dict(MODELS)
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 1 and words[1] not in lengths:
            raise _unknown_model(path, words[1])
        if len(words) < 4 or len(words) != 4 + lengths[words[1]]:
            raise DataError(f"{path}:{number}: write ID MODEL WIDTH HEIGHT and the parameters")
        key, width, height = (_whole(path, number, w) for w in (words[0], *words[2:4]))
        params = _numbers(path, number, words[4:])
        yield key, _camera(path, words[1], width, height, params)


def _images_txt(path: Path) -> Iterator[tuple[int, ColmapImage]]:
    """Read images: a line with the pose, then a line of 2D points, which may be empty."""
    lines = enumerate(_lines(path), 1)
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise DataError(f"{path}:{number}: an image is ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        pose = _numbers(path, number, words[1:8])
        key, camera = (_whole(path, number, w) for w in (words[0], words[8]))
        image = ColmapImage(words[9].strip(), camera, pose[:4], pose[4:])
        below, points = next(lines, (number, ""))
        if len(points.split()) % 3:
            raise DataError(
                f"{path}:{below}: the line below an image holds its 2D points (X Y POINT3D_ID ...) "
                "or nothing; leave an empty line there"
            )
        yield key, image


def _points_txt(path: Path) -> Iterator[tuple[float, ...]]:
    for number, line in enumerate(_lines(path), 1):
        words = line.split(maxsplit=4)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 4:
            raise DataError(f"{path}:{number}: a point begins with ID X Y Z")
        yield _numbers(path, number, words[1:4])


def _numbers(path: Path, line: int, words: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(w) for w in words)
    except ValueError:
        raise DataError(f"{path}:{line}: {' '.join(words)[:60]} must be numbers") from None


def _whole(path: Path, line: int, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise DataError(f"{path}:{line}: {word[:20]} must be a whole number") from None

"""Read a sparse model of COLMAP (Schönberger and Frahm 2016), text or binary, strictly.

Formats: COLMAP's documentation, "Output Format". The 2D points of `images` are skipped; of
`points3D` only the positions are read.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from lightning_gan3d.data.archive import DataError, read_file
from lightning_gan3d.data.captures.lens import Lens
from lightning_gan3d.data.captures.posed_images import check_numbers

T = TypeVar("T")

MODELS = {
    "SIMPLE_PINHOLE": (3, 1), "PINHOLE": (4, 2), "SIMPLE_RADIAL": (4, 1), "RADIAL": (5, 1),
    "OPENCV": (8, 2), "OPENCV_FISHEYE": (8, 2), "FULL_OPENCV": (12, 2), "FOV": (5, 0),
    "SIMPLE_RADIAL_FISHEYE": (4, 1), "RADIAL_FISHEYE": (5, 1), "THIN_PRISM_FISHEYE": (12, 0),
    "RAD_TAN_THIN_PRISM_FISHEYE": (16, 0),
}  # fmt: skip
"""Camera models in the order of their ids: number of parameters, and of focal lengths (0: it is not
undistorted here). Other parameters: principal point, distortion."""
UNDISTORT = (
    "undistort first: `colmap image_undistorter --image_path images --input_path sparse/0 "
    "--output_path undistorted`"
)
_MAX_SIDE = 10**6
_TYPES = {"ID": int, "CAMERA_ID": int, "WIDTH": int, "HEIGHT": int, "MODEL": str, "NAME": str}
"""Types of the fields in text files; all others are floats."""


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
    readers = _BINARY_READERS if suffix == ".bin" else _TEXT_READERS
    paths = [folder / f"{part}{suffix}" for part in ("cameras", "images", "points3D")]
    cameras, images = (_by_id(folder, readers[i](paths[i])) for i in range(2))
    for image in images.values():
        if image.camera not in cameras:
            raise DataError(
                f"{paths[1]}: {image.name} has camera {image.camera}, which is not in "
                f"{paths[0].name}"
            )
    points = list(readers[2](paths[2])) if paths[2].exists() else []
    positions = np.array(points, dtype=np.float64).reshape(-1, 3)
    check_numbers(positions, f"{paths[2]}: a point")
    return ColmapModel(cameras, list(images.values()), positions)


def camera_of(camera: ColmapCamera, name: str) -> tuple[Float[np.ndarray, "3 3"], Lens]:
    """Return the pinhole matrix in pixels and the distortion; rejects other models."""
    _, num_focals = MODELS[camera.model]
    if not num_focals:
        raise DataError(f"{name}: camera model {camera.model} is not read; {UNDISTORT}")
    fx, fy = camera.params[0], camera.params[num_focals - 1]
    cx, cy, *k = camera.params[num_focals:]
    lens = Lens(tuple(k), fisheye="FISHEYE" in camera.model)
    if camera.model in ("OPENCV", "FULL_OPENCV"):
        lens = Lens((*k[:2], *k[4:5]), (k[2], k[3]), tuple(k[5:]))
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
    return matrix, lens


def cam2world_of(image: ColmapImage) -> Float[np.ndarray, "4 4"]:
    """Invert the pose of an image; rejects invalid poses."""
    check_numbers([*image.quaternion, *image.translation], f"{image.name}: a number of the pose")
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


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{part}{suffix}").is_file() for part in ("cameras", "images")):
            return suffix
    return None


def _by_id(folder: Path, records: Iterable[tuple[int, Any]]) -> dict[int, Any]:
    by_id: dict[int, Any] = {}
    for key, record in records:
        if key in by_id:
            raise DataError(f"{folder}: two cameras or images have the id {key}")
        by_id[key] = record
    return by_id


def _camera(path: Path, model: str, size: tuple[int, int], params: Sequence[float]) -> ColmapCamera:
    if not (0 < size[0] <= _MAX_SIDE and 0 < size[1] <= _MAX_SIDE):
        raise DataError(f"{path}: a camera is for images of {size[0]}x{size[1]}")
    check_numbers(params, f"{path}: a parameter of a camera")
    return ColmapCamera(model, size, tuple(params))


def _unknown_model(path: Path, model: str) -> DataError:
    return DataError(
        f"{path}: unknown camera model {model}; known ones: {', '.join(MODELS)}; {UNDISTORT}"
    )


class _Bytes:
    """Sequential reader of a binary file; counts beyond the end of the file are rejected."""

    def __init__(self, path: Path) -> None:
        self.path, self._position, self._data = path, 0, read_file(path)

    def read(self, layout: str) -> tuple[Any, ...]:
        """Unpack little-endian values without padding; `layout` is that of `struct`."""
        start, end = self._position, self._position + struct.calcsize(f"<{layout}")
        if end > len(self._data):
            raise DataError(
                f"{self.path} is truncated: it has {len(self._data):,} bytes, expected "
                f"{end:,} or more; copy it again"
            )
        self._position = end
        return struct.unpack_from(f"<{layout}", self._data, start)

    def count(self, records: str, least: int) -> int:
        """Read the number of the records that follow, of at least `least` bytes each."""
        num: int = self.read("Q")[0]
        if num * least > len(self._data) - self._position:
            raise DataError(
                f"{self.path} claims {num:,} {records}, too many for its {len(self._data):,} "
                "bytes; copy it again"
            )
        return num

    def text(self) -> str:
        """Read zero-terminated text."""
        start, end = self._position, self._data.find(b"\0", self._position)
        if end < 0:
            raise DataError(f"{self.path} is truncated within a name; copy it again")
        self._position = end + 1
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: the name at byte {start:,} is not UTF-8") from None

    def end(self) -> None:
        """Reject trailing bytes."""
        if self._position != len(self._data):
            raise DataError(
                f"{self.path} has {len(self._data) - self._position:,} bytes after its last "
                "record: it is not a file of COLMAP, or its format is newer than this reader"
            )


def _binary(records: str, least: int, read: Callable[[_Bytes], T]) -> Callable[[Path], Iterator[T]]:
    def read_all(path: Path) -> Iterator[T]:
        file = _Bytes(path)
        for _ in range(file.count(records, least)):
            yield read(file)
        file.end()

    return read_all


def _camera_bin(file: _Bytes) -> tuple[int, ColmapCamera]:
    key, index, width, height = file.read("IiQQ")
    if not 0 <= index < len(MODELS):
        raise _unknown_model(file.path, str(index))
    model = list(MODELS)[index]
    return key, _camera(file.path, model, (width, height), file.read(f"{MODELS[model][0]}d"))


def _image_bin(file: _Bytes) -> tuple[int, ColmapImage]:
    key, *pose, camera = file.read("I7dI")
    image = ColmapImage(file.text(), camera, tuple(pose[:4]), tuple(pose[4:]))
    file.read(f"{24 * file.count('2D points of an image', 24)}x")
    return key, image


def _point_bin(file: _Bytes) -> tuple[float, ...]:
    position = file.read("8x3d11x")
    file.read(f"{8 * file.count('images of a point', 8)}x")
    return position


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number the lines of a file that are not comments."""
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: {error}") from None
    return ((i, line) for i, line in enumerate(lines, 1) if not line.strip().startswith("#"))


def _parse(path: Path, number: int, fields: Sequence[str], layout: str) -> list[Any]:
    """Convert the fields of a line to the types of `layout`, the names of the fields."""
    names = layout.split()
    try:
        return [_TYPES.get(n, float)(f) for n, f in zip(names, fields, strict=True)]
    except ValueError:
        line = " ".join(fields)[:60]
        raise DataError(f"{path}:{number}: expected {layout}, not `{line}`") from None


def _cameras_txt(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    for number, line in _lines(path):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 1 and fields[1] not in MODELS:
            raise _unknown_model(path, fields[1])
        num = MODELS[fields[1]][0] if len(fields) > 1 else 0
        layout = " ".join(["ID MODEL WIDTH HEIGHT", *(f"PARAM{i}" for i in range(1, num + 1))])
        key, model, width, height, *params = _parse(path, number, fields, layout)
        yield key, _camera(path, model, (width, height), params)


def _images_txt(path: Path) -> Iterator[tuple[int, ColmapImage]]:
    """Read images: a line with the pose, then a line with 2D points, which may be empty."""
    layout = "ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
    lines = _lines(path)
    for number, line in lines:
        fields = line.split(maxsplit=9)
        if not fields:
            continue
        key, *pose, camera, name = _parse(path, number, fields, layout)
        below, points = next(lines, (number, ""))
        if len(points.split()) % 3:
            raise DataError(
                f"{path}:{below}: expected the image's 2D points (X Y POINT3D_ID ...) or an empty "
                "line"
            )
        yield key, ColmapImage(name.strip(), camera, tuple(pose[:4]), tuple(pose[4:]))


def _points_txt(path: Path) -> Iterator[tuple[float, ...]]:
    for number, line in _lines(path):
        fields = line.split(maxsplit=4)[:4]
        if fields:
            yield tuple(_parse(path, number, fields, "ID X Y Z")[1:])


_TEXT_READERS: tuple[Callable[[Path], Iterator[Any]], ...] = (
    _cameras_txt, _images_txt, _points_txt,
)  # fmt: skip
_BINARY_READERS: tuple[Callable[[Path], Iterator[Any]], ...] = (
    _binary("cameras", 48, _camera_bin),
    _binary("images", 73, _image_bin),
    _binary("points", 51, _point_bin),
)

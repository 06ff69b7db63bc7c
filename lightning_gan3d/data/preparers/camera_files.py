"""Camera files: find, parse, and match to images.

Three kinds of JSON: EG3D's labels (`dataset.json`), a pose and intrinsics per image (`cameras.json`
of EG3D's pipeline for faces), a rotation per image (EG3D's AFHQ).
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lightning_gan3d.data.archive import MAX_FILE_BYTES, DataError, Source, UnsafeDataError
from lightning_gan3d.data.image_files import ImageIndex, spelling
from lightning_gan3d.data.labels import label_rows, parse_json

Kind = Literal["labels", "poses", "rotations"]
Missing = Literal["reject", "skip"]


class CameraFile(NamedTuple):
    """Cameras by image name, in the file's order."""

    kind: Kind
    name: str
    """Path of the file, for errors."""
    numbers: dict[str, Float[np.ndarray, " k"]]
    """25 numbers of a label; 16 of cam2world and 9 of the intrinsics; or 9 of a rotation, whose
    columns are the camera's axes in the world."""
    tree: dict[str, Any]
    """The parsed JSON."""
    folder: str = ""
    """Folder of the file in the source, ending in a slash; image names may be relative to it."""


class Match(NamedTuple):
    """Pairs of image and camera, in the file's order, and the number of unmatched ones."""

    pairs: list[tuple[str, str]]
    num_without_camera: int
    num_without_image: int


def find_camera_file(source: Source, path: str) -> CameraFile:
    """Read the camera file at `path`, or if that is empty, the one in the source."""
    if path:
        file = Path(path).expanduser()
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise UnsafeDataError(f"cameras={path} has more than {MAX_FILE_BYTES} bytes")
            return parse_cameras(file.read_bytes(), path)
        except OSError as error:
            raise DataError(f"cannot read cameras={path}: {error.strerror}") from None
    for name in ("dataset.json", "cameras.json"):
        files = [n for n in source.names if n == name or n.endswith(f"/{name}")]
        if name in files or len(files) == 1:
            chosen = name if name in files else files[0]
            cameras = parse_cameras(source.read(chosen), f"{chosen} of {source.path}")
            return cameras._replace(folder=chosen.removesuffix(name))
        if files:
            raise DataError(
                f"{source.path} has {files[0]} and {files[1]}: set `cameras=FILE`, or use the "
                "folder of one of them"
            )
    raise DataError(
        f"{source.path} has neither dataset.json nor cameras.json: set `cameras=FILE` to the file "
        "with the cameras of the images"
    )


def parse_cameras(data: bytes, name: str) -> CameraFile:
    """Parse a camera file; `name` is its path in errors."""
    tree = parse_json(data, name)
    if not tree.get("labels", tree):
        raise DataError(f"{name} has no cameras: it must map image names to cameras")
    if "labels" in tree:
        rows = {k: np.array(v, dtype=np.float64) for k, v in label_rows(tree, name).items()}
        return CameraFile("labels", name, rows, tree)
    numbers: dict[str, Float[np.ndarray, " k"]] = {}
    kind: Kind = "poses" if isinstance(next(iter(tree.values())), dict) else "rotations"
    for key, value in tree.items():
        if kind == "rotations":
            numbers[key] = _matrix(value, 3, f"{key} in {name}: the rotation")
            continue
        if not isinstance(value, dict) or not {"pose", "intrinsics"} <= set(value):
            raise DataError(f"{key} in {name}: a camera must have `pose` and `intrinsics`")
        pose = _matrix(value["pose"], 4, f"{key} in {name}: the pose")
        k = _matrix(value["intrinsics"], 3, f"{key} in {name}: the intrinsics")
        numbers[key] = np.concatenate([pose, k])
    return CameraFile(kind, name, numbers, tree)


def match_cameras(
    names: Sequence[str], cameras: CameraFile, missing: Missing, others: Sequence[str] = ()
) -> Match:
    """Match each camera to its image: by path, by path without suffix, or by file name.

    A file name matches only if one of the two paths is the end of the other, as `img.png` is of
    `00000/img.png`. Exact paths take precedence. `missing="reject"` raises `DataError` for images
    and cameras without a partner; "skip" leaves them out. Cameras of `others`, images that were not
    selected, are ignored.
    """
    images, unselected, file = _Images(names), _Images(others), cameras.name
    path_of = {key: str(PurePosixPath(key.replace("\\", "/"))) for key in cameras.numbers}
    paths_of = {key: (cameras.folder + path, path) for key, path in path_of.items()}
    known = set(names)
    exact = {next((p for p in paths if p in known), None) for paths in paths_of.values()}
    key_of, unmatched = dict[str, str](), []
    for key, paths in paths_of.items():
        image = _only(images.find(paths), key, file)
        if image is None and unselected.find(paths):
            continue
        if image is None:
            image = _only(images.named(key), key, file)
            image = None if image in exact else image  # it has its own camera
        if image is None:
            if not unselected.named(key):
                unmatched.append(key)
        elif image in key_of:
            raise DataError(f"{image}: two cameras, `{key_of[image]}` and `{key}`")
        else:
            key_of[image] = key
    without = [n for n in names if n not in key_of]
    if missing == "reject" and without:
        raise DataError(
            f"{len(without):,} of {len(names):,} images have no camera in {file}, e.g. "
            f"{without[0]}; `missing=skip` leaves them out"
        )
    if missing == "reject" and unmatched:
        raise DataError(
            f"{len(unmatched):,} of {len(cameras.numbers):,} cameras of {file} have no "
            f"image, e.g. {unmatched[0]}; `missing=skip` leaves them out"
        )
    if not key_of:
        example = next(iter(cameras.numbers))
        raise DataError(f"no camera of {file} is of a selected image, e.g. {example}")
    return Match(list(key_of.items()), len(without), len(unmatched))


class _Images(ImageIndex):
    """Images by path, and by file name without suffix."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._by_stem: dict[str, list[str]] = {}
        for name in names:
            self._by_stem.setdefault(PurePosixPath(spelling(name)).stem, []).append(name)

    def named(self, key: str) -> list[str]:
        """Return images with the key's file name, if one of both paths is the end of the other."""
        *folders, name = PurePosixPath(spelling(key)).parts or ("",)
        for stem in (name, PurePosixPath(name).stem):
            images = []
            for image in self._by_stem.get(stem, []):
                parents = PurePosixPath(spelling(image)).parts[:-1]
                depth = min(len(folders), len(parents))
                if tuple(folders[len(folders) - depth :]) == parents[len(parents) - depth :]:
                    images.append(image)
            if images:
                return images
        return []


def _only(images: list[str], key: str, file: str) -> str | None:
    if len(images) > 1:
        raise DataError(
            f"camera `{key}` of {file} matches {images[0]} and {images[1]}: name images by their "
            "path"
        )
    return images[0] if images else None


def _matrix(value: Any, side: int, name: str) -> Float[np.ndarray, " k"]:
    try:
        array = np.array(value)
    except ValueError:  # ragged lists
        array = np.array(None)
    if array.shape != (side, side) or array.dtype.kind not in "if":
        raise DataError(f"{name} must be {side} by {side} numbers, not {str(value)[:40]}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has a number that is not finite")
    return array.astype(np.float64).ravel()

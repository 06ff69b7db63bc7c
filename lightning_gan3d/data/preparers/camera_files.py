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
from lightning_gan3d.data.labels import label_rows, parse_json

Kind = Literal["labels", "poses", "rotations"]
Missing = Literal["refuse", "skip"]


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
    images_without: int
    cameras_without: int


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
    `00000/img.png`. Exact paths take precedence. `missing="refuse"` raises `DataError` for images
    and cameras without a partner; "skip" leaves them out. Cameras of `others`, images that were not
    selected, are ignored.
    """
    exact, images, file = dict[str, str](), set(names), cameras.name
    for key in cameras.numbers:
        path = next((p for p in _paths(key, cameras.folder)[:2] if p in images), None)
        if path is not None:
            exact[key] = path
    exact_images = set(exact.values())
    bare, stems = _by_bare_path(names), _by_stem(names)
    other_paths, other_stems = {*others, *_by_bare_path(others)}, _by_stem(others)
    pairs: list[tuple[str, str]] = []
    unmatched, key_of = [], dict[str, str]()
    for key in cameras.numbers:
        paths = _paths(key, cameras.folder)
        if key not in exact and bare.keys().isdisjoint(paths) and other_paths.intersection(paths):
            continue
        image = exact.get(key) or _only(next((bare[p] for p in paths if p in bare), []), key, file)
        if image is None:
            image = _only(_same_name(key, stems), key, file)
            image = None if image in exact_images else image  # it has its own camera
        if image is None:
            if not _same_name(key, other_stems):
                unmatched.append(key)
            continue
        if image in key_of:
            raise DataError(f"{image}: two cameras, `{key_of[image]}` and `{key}`")
        key_of[image] = key
        pairs.append((image, key))
    without = [n for n in names if n not in key_of]
    if missing == "refuse" and without:
        raise DataError(
            f"{len(without):,} of {len(names):,} images have no camera in {file}, e.g. "
            f"{without[0]}; `missing=skip` leaves them out"
        )
    if missing == "refuse" and unmatched:
        raise DataError(
            f"{len(unmatched):,} of {len(cameras.numbers):,} cameras of {file} have no "
            f"image, e.g. {unmatched[0]}; `missing=skip` leaves them out"
        )
    if not pairs:
        example = next(iter(cameras.numbers))
        raise DataError(f"no camera of {file} is of a selected image, e.g. {example}")
    return Match(pairs, len(without), len(unmatched))


def _by_bare_path(names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    return groups


def _by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PurePosixPath(name).stem, []).append(name)
    return groups


def _paths(key: str, folder: str) -> tuple[str, ...]:
    """Return the paths that a key may mean: below the file's folder or not, and without suffix.

    A key without suffix may contain a dot, so it is also tried whole.
    """
    path = PurePosixPath(key.replace("\\", "/"))
    bare = path.with_suffix("") if path.name else path
    return f"{folder}{path}", str(path), f"{folder}{bare}", str(bare)


def _same_name(key: str, stems: dict[str, list[str]]) -> list[str]:
    """Return the images of the key's file name for which one of both paths ends in the other."""
    parts = PurePosixPath(key.replace("\\", "/")).parts
    for stem in (parts[-1], PurePosixPath(parts[-1]).stem) if parts else ():
        key_path = (*parts[:-1], stem)
        images = []
        for name in stems.get(stem, []):
            image_path = (*PurePosixPath(name).parts[:-1], stem)
            depth = min(len(key_path), len(image_path))
            if key_path[-depth:] == image_path[-depth:]:
                images.append(name)
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

"""Camera files as they occur, read and matched to images.

Three kinds of JSON: EG3D's labels (`dataset.json`), a pose and intrinsics for each image
(`cameras.json` of EG3D's pipeline for faces), a rotation for each image (that of its AFHQ).
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lightning_gan3d.data.archive import MAX_FILE_BYTES, DataError, Source, UnsafeDataError

Kind = Literal["labels", "poses", "rotations"]


class CameraFile(NamedTuple):
    """Cameras by the name that the file gives to their image, in the file's order.

    `numbers`: 25 of a label; 16 of cam2world and 9 of the intrinsics; or 9 of a rotation, whose
    columns are the camera's axes in the world. `tree`: the file as it is. `folder`: where it is in
    the source, with a slash at its end; paths may start there.
    """

    kind: Kind
    where: str
    numbers: dict[str, Float[np.ndarray, " k"]]
    tree: dict[str, Any]
    folder: str = ""


class Match(NamedTuple):
    """Pairs of image and key of the camera, in the file's order; and how many had no partner."""

    pairs: list[tuple[str, str]]
    images_without: int
    cameras_without: int


def find_camera_file(source: Source, given: str) -> CameraFile:
    """Read the file that is `given`, or the one in the source.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if given:
        path = Path(given).expanduser()
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UnsafeDataError(f"cameras={given} has more than {MAX_FILE_BYTES} bytes")
            return parse_cameras(path.read_bytes(), given)
        except OSError as error:
            raise DataError(f"cameras={given} cannot be read: {error.strerror}") from None
    for name in ("dataset.json", "cameras.json"):
        found = [n for n in source.names if n == name or n.endswith(f"/{name}")]
        if name in found or len(found) == 1:
            chosen = name if name in found else found[0]
            cameras = parse_cameras(source.read(chosen), f"{chosen} of {source.path}")
            return cameras._replace(folder=chosen.removesuffix(name))
        if found:
            raise DataError(
                f"{source.path} holds {found[0]} and {found[1]}: name one by `cameras=FILE`, or "
                "give the folder that one is in"
            )
    raise DataError(
        f"{source.path} holds neither dataset.json nor cameras.json: give the file with the "
        "cameras of the images by `cameras=FILE`"
    )


def parse_cameras(data: bytes, where: str) -> CameraFile:
    """Read a camera file; `where` names it in errors."""
    try:
        tree = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(tree, dict) or not tree.get("labels", tree):
        raise DataError(f"{where} holds no cameras: it must map names of images to cameras")
    numbers: dict[str, Float[np.ndarray, " k"]] = {}
    if "labels" in tree:
        if not isinstance(tree["labels"], list):
            raise DataError(f'{where}: `labels` must be [["name.png", [25 numbers]], ...]')
        for item in tree["labels"]:
            if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
                raise DataError(f'{where}: {str(item)[:60]} is not ["name.png", [25 numbers]]')
            name = item[0].replace("\\", "/")
            if name in numbers:
                raise DataError(f"{name}: two labels in {where}")
            numbers[name] = _numbers(item[1], (25,), f"{name} in {where}: the label")
        return CameraFile("labels", where, numbers, tree)
    kind: Kind = "poses" if isinstance(next(iter(tree.values())), dict) else "rotations"
    for key, value in tree.items():
        if kind == "rotations":
            numbers[key] = _numbers(value, (3, 3), f"{key} in {where}: the rotation")
            continue
        if not isinstance(value, dict) or not {"pose", "intrinsics"} <= set(value):
            raise DataError(f"{key} in {where}: a camera is a mapping of `pose` and `intrinsics`")
        pose = _numbers(value["pose"], (4, 4), f"{key} in {where}: the pose")
        k = _numbers(value["intrinsics"], (3, 3), f"{key} in {where}: the intrinsics")
        numbers[key] = np.concatenate([pose, k])
    return CameraFile(kind, where, numbers, tree)


def match_cameras(
    names: Sequence[str], cameras: CameraFile, missing: str, others: Sequence[str] = ()
) -> Match:
    """Find the image of each camera: by path, else without the suffix, else by the file's name.

    A file's name is enough only where nothing speaks against it: one of the two paths must be the
    end of the other, as `img.png` is of `00000/img.png`. Exact paths go first.

    `missing="refuse"` raises `DataError` where an image or a camera has no partner; "skip" drops
    it. `others` are images that are there and not wanted: their cameras are passed over.
    """
    exact, there, where = dict[str, str](), set(names), cameras.where
    for key in cameras.numbers:
        path = next((p for p in _paths(key, cameras.folder)[:2] if p in there), None)
        if path is not None:
            exact[key] = path
    certain = set(exact.values())
    bare, stems = _by_bare_path(names), _by_stem(names)
    unwanted, unwanted_stems = {*others, *_by_bare_path(others)}, _by_stem(others)
    pairs: list[tuple[str, str]] = []
    lonely, taken = [], dict[str, str]()
    for key in cameras.numbers:
        paths = _paths(key, cameras.folder)
        if key not in exact and bare.keys().isdisjoint(paths) and unwanted.intersection(paths):
            continue
        image = exact.get(key) or _only(next((bare[p] for p in paths if p in bare), []), key, where)
        if image is None:
            image = _only(_alike(key, stems), key, where)
            image = None if image in certain else image  # it has a camera of its own
        if image is None:
            if not _alike(key, unwanted_stems):
                lonely.append(key)
            continue
        if image in taken:
            raise DataError(f"{image}: two cameras, `{taken[image]}` and `{key}`")
        taken[image] = key
        pairs.append((image, key))
    without = [n for n in names if n not in taken]
    if missing == "refuse" and without:
        raise DataError(
            f"{len(without):,} of {len(names):,} images have no camera in {where}, e.g. "
            f"{without[0]}; `missing=skip` leaves them out"
        )
    if missing == "refuse" and lonely:
        raise DataError(
            f"{len(lonely):,} of {len(cameras.numbers):,} cameras of {where} have no "
            f"image, e.g. {lonely[0]}; `missing=skip` leaves them out"
        )
    if not pairs:
        some = next(iter(cameras.numbers))
        raise DataError(f"no camera of {where} is of an image that is wanted, e.g. {some}")
    return Match(pairs, len(without), len(lonely))


def _by_bare_path(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    return found


def _by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(PurePosixPath(name).stem, []).append(name)
    return found


def _paths(key: str, folder: str) -> tuple[str, ...]:
    """Return what a key may mean as a path: below the file's folder or not; both without suffix.

    A key without a suffix may hold a dot, so that it is tried whole too.
    """
    path = PurePosixPath(key.replace("\\", "/"))
    bare = path.with_suffix("") if path.name else path
    return f"{folder}{path}", str(path), f"{folder}{bare}", str(bare)


def _alike(key: str, stems: dict[str, list[str]]) -> list[str]:
    """Return the images of this name whose path is the end of the key's path, or begins before."""
    parts = PurePosixPath(key.replace("\\", "/")).parts
    for stem in (parts[-1], PurePosixPath(parts[-1]).stem) if parts else ():
        mine = (*parts[:-1], stem)
        alike = []
        for name in stems.get(stem, []):
            theirs = (*PurePosixPath(name).parts[:-1], stem)
            depth = min(len(mine), len(theirs))
            if mine[-depth:] == theirs[-depth:]:
                alike.append(name)
        if alike:
            return alike
    return []


def _only(found: list[str], key: str, where: str) -> str | None:
    if len(found) > 1:
        raise DataError(
            f"camera `{key}` of {where} could be that of {found[0]} and of {found[1]}: name images "
            "by their path"
        )
    return found[0] if found else None


def _numbers(value: Any, shape: tuple[int, ...], what: str) -> Float[np.ndarray, " k"]:
    wanted = " by ".join(map(str, shape))
    try:
        array = np.array(value)
    except ValueError:  # ragged lists
        array = np.array(None)
    if array.shape != shape or array.dtype.kind not in "if":
        found = f"{len(value)} values" if isinstance(value, list) else str(value)[:40]
        raise DataError(f"{what} must be {wanted} numbers, found {found}")
    if not np.isfinite(array).all():
        raise DataError(f"{what} holds a number that is not finite")
    return array.astype(np.float64).ravel()

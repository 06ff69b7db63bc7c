"""ShapeNet as rendered by Scene Representation Networks (Sitzmann et al. 2019), or from EG3D.

Each object is a folder with `rgb/*.png`, `pose/*.txt` (cam2world, 16 numbers) and `intrinsics.txt`;
its first line is `focal cx cy 0` and its last `height width`, in pixels.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Float

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, Source, image_names, open_source
from lightning_gan3d.data.image_files import Convert
from lightning_gan3d.data.preparers.prepare import PreparedDataset, write_views
from lightning_gan3d.data.preparers.source_views import (
    OFF_CENTRE,
    PrepareConfig,
    SourceViews,
    View,
    read_listed,
    to_opencv,
)

_RENDER = re.compile(r"^(?P<object>.+)/rgb/(?P<view>[^/]+)\.[^./]+$")
_POSE = re.compile(r"/pose/[^/]+\.txt$")
_GENERIC = frozenset({"rgb", "image", "images", "train", "val", "test"})
"""Names of folders that do not identify an object."""
_NUMBERED = re.compile(r"(^|/)\d{5}/img\d{8}[^/]*$")
"""Images as named by EG3D's dataset tool: numbered, a thousand per folder."""


@dataclass(frozen=True)
class ShapenetConfig(PrepareConfig):
    """Options for renders of ShapeNet."""

    resolution: Annotated[int, Interval(ge=4, le=4096)] = 128
    """Side of the written images in pixels; images are reduced (Lanczos), never enlarged."""
    background: Convert = "white"
    """Colour behind transparent pixels; `none` rejects images that are not 8-bit RGB."""
    intrinsics_size: Annotated[int, Ge(0)] = 0
    """Image size in pixels that `intrinsics.txt` refers to. 0: its last line."""


def prepare_shapenet(
    source_path: Path,
    out: Path,
    cfg: ShapenetConfig,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write the data set from a folder or zip of renders, or of images with `dataset.json`."""
    source = open_source(source_path)
    names = image_names(source)
    if not cfg.cameras and _has_renders(source, names):
        views = _read_renders(source, names, cfg)
    else:
        views = _read_labelled(source, names, cfg)
    return write_views(views, out, cfg, "shapenet", overwrite)


def _has_renders(source: Source, names: list[str]) -> bool:
    """Whether cameras are beside the images; otherwise they must be in `dataset.json`."""
    return (
        any(_RENDER.match(n) for n in names)
        and any(_POSE.search(n) for n in source.names)
        and any(n.endswith("/intrinsics.txt") for n in source.names)
    )


def _read_labelled(source: Source, names: list[str], cfg: ShapenetConfig) -> SourceViews:
    if not cfg.cameras and not any(
        n.endswith(("dataset.json", "cameras.json")) for n in source.names
    ):
        raise DataError(
            f"{source.path} has neither OBJECT/rgb/*.png with OBJECT/pose/*.txt and "
            "OBJECT/intrinsics.txt, nor dataset.json: use the renders as downloaded, or a "
            "prepared data set"
        )
    if cfg.intrinsics_size:
        raise ConfigError(
            f"intrinsics_size={cfg.intrinsics_size}: {source.path} has no OBJECT/rgb/*.png with "
            "OBJECT/intrinsics.txt; leave it out",
            field="intrinsics_size",
        )
    read = read_listed(source, cfg, names)
    if read.kind == "rotations":
        raise DataError(f"{read.camera_file} has rotations only: poses are required")
    views = list(read.views)
    if cfg.holdout:
        views = _with_objects(views, cfg.holdout, read.camera_file)
    # objects share their poses, so equal poses do not indicate copies
    views = [
        v._replace(group=v.name if v.object_id is None else f"object {v.object_id}") for v in views
    ]
    return replace(read, views=views)


def _read_renders(source: Source, names: list[str], cfg: ShapenetConfig) -> SourceViews:
    """Pair images and poses, and read the intrinsics of each object."""
    matches = {n: m for n in names if (m := _RENDER.match(n))}
    files = set(source.names)
    objects = sorted({m["object"] for m in matches.values()})
    number_of = {name: i for i, name in enumerate(objects)}
    intrinsics = {name: _intrinsics(source, files, name, cfg.intrinsics_size) for name in objects}
    top = _common_folder(objects)
    unused = {n for n in files if _POSE.search(n) and "__MACOSX" not in n}
    views: list[View] = []
    for name, m in matches.items():
        pose_name = f"{m['object']}/pose/{m['view']}.txt"
        if pose_name not in files:
            if cfg.missing == "reject":
                raise DataError(
                    f"{name} of {source.path} has no pose {pose_name}; `missing=skip` leaves it out"
                )
            continue
        unused.discard(pose_name)
        pose = to_opencv(_pose(source, pose_name), cfg)
        label = np.concatenate([pose.ravel(), intrinsics[m["object"]].ravel()])
        output = f"{m['object'][len(top) :]}/{m['view']}"
        number = number_of[m["object"]]
        views.append(View(name, output, label, len(views), pose_name, m["object"], number))
    if unused and cfg.missing == "reject":
        raise DataError(
            f"{len(unused):,} poses of {source.path} have no image, e.g. {min(unused)}; "
            "`missing=skip` leaves them out"
        )
    if not views:
        raise DataError(f"{source.path}: none of {len(matches):,} images has a pose")
    num_listed = len(views) + len(unused)
    without = len(matches) - len(views), len(unused)
    return SourceViews(source, views, str(source.path), num_listed, *without)


def _pose(source: Source, name: str) -> Float[np.ndarray, "1 4 4"]:
    try:
        numbers = np.array([float(x) for x in _text(source, name).split()])
    except ValueError as error:
        raise DataError(f"{name} of {source.path} must hold numbers: {error}") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{name} of {source.path} has a number that is not finite")
    if len(numbers) != 16:
        raise DataError(f"{name}: {len(numbers)} numbers, expected 16 (cam2world, row by row)")
    return numbers.reshape(1, 4, 4)


def _intrinsics(source: Source, files: set[str], name: str, given: int) -> Float[np.ndarray, "3 3"]:
    """Return an object's intrinsics, divided by the image size that they refer to."""
    file = f"{name}/intrinsics.txt"
    if file not in files:
        raise DataError(f"{source.path} has no {file}: its first line must be `focal cx cy 0`")
    lines = [line.split() for line in _text(source, file).splitlines() if line.strip()]
    try:
        focal, cx, cy = (float(x) for x in lines[0][:3])
        stated = [float(x) for x in lines[-1]] if len(lines) > 1 else []
    except (ValueError, IndexError):
        raise DataError(
            f"{file} of {source.path}: the first line must be `focal cx cy 0`, the last `height "
            "width`"
        ) from None
    if given:
        size = float(given)
    elif len(stated) == 2 and stated[0] == stated[1] and stated[0] > 0:
        size = stated[0]
    elif len(stated) == 2:
        raise DataError(f"{file} states {stated[0]:g}x{stated[1]:g} pixels, expected square images")
    else:
        raise DataError(
            f"{file} does not state its image size (last line `height width`): set it, e.g. "
            f"intrinsics_size={round(2 * cx)}, whose centre is cx={cx:g}"
        )
    if not max(abs(cx / size - 0.5), abs(cy / size - 0.5)) <= OFF_CENTRE:
        raise DataError(
            f"{file}: principal point {cx:g} {cy:g} is not the centre of {size:g} pixels, the size "
            f"stated by {'`intrinsics_size`' if given else 'its last line'}: set the size that it "
            f"refers to, e.g. intrinsics_size={round(2 * cx)}"
        )
    return np.array([[focal / size, 0, cx / size], [0, focal / size, cy / size], [0, 0, 1.0]])


def _text(source: Source, name: str) -> str:
    try:
        return source.read(name).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} of {source.path} is not text: {error}") from None


def _common_folder(objects: list[str]) -> str:
    """Return the folder of all objects, such as `cars_train/`; empty if there is none."""
    tops = {name.rpartition("/")[0] for name in objects}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _with_objects(views: list[View], holdout: float, camera_file: str) -> list[View]:
    """Number the objects of views by their folders, unless the camera file has numbers."""
    without = [v.source for v in views if v.object_id is None]
    if not without:
        return views
    if len(without) < len(views):
        raise DataError(
            f"holdout={holdout}: `objects` of {camera_file} lacks {len(without):,} of "
            f"{len(views):,} images, e.g. {without[0]}: number all of them or none"
        )
    folders = [_object_folder(v.source) for v in views]
    objects = sorted(set(folders))
    if "" in objects or (len(objects) == 1 and not all(_RENDER.match(v.source) for v in views)):
        name = views[folders.index(objects[0])].source
        raise DataError(
            f"holdout={holdout}: neither {camera_file} nor names such as {name} identify the "
            "object in an image: use the renders, or add `objects` to dataset.json"
        )
    number_of = {folder: i for i, folder in enumerate(objects)}
    return [v._replace(object_id=number_of[f]) for v, f in zip(views, folders, strict=True)]


def _object_folder(name: str) -> str:
    """Return the folder named after the object in an image; empty if there is none."""
    if _NUMBERED.search(name):
        return ""
    parts = name.split("/")[:-1]
    while parts and parts[-1] in _GENERIC:
        parts.pop()
    return "/".join(parts)

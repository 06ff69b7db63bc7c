"""ShapeNet as Scene Representation Networks (Sitzmann et al. 2019) render it, or prepared by EG3D.

For each object a folder with `rgb/*.png`, `pose/*.txt` (cam2world, 16 numbers) and
`intrinsics.txt`, whose first line is `focal cx cy 0` and whose last is `height width`, in pixels.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, Source, open_source
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.conventions import to_opencv
from lightning_gan3d.data.preparers.listed import images_of, read_listed
from lightning_gan3d.data.preparers.plan import View
from lightning_gan3d.data.preparers.write import Prepared, Progress, write_views

_RENDER = re.compile(r"^(?P<object>.+)/rgb/(?P<view>[^/]+)\.[^./]+$")
_POSE = re.compile(r"/pose/[^/]+\.txt$")
_UNNAMED = frozenset({"rgb", "image", "images", "train", "val", "test"})
"""Folders that say what is in them, but not which object."""
_NUMBERED = re.compile(r"(^|/)\d{5}/img\d{8}[^/]*$")
"""Images as EG3D's dataset tool names them: by their number, a thousand to a folder."""
_OFF_CENTRE = 0.05
"""Share of the image size by which a principal point may miss the middle."""


@dataclass(frozen=True)
class ShapenetConfig(PrepareConfig):
    """How renders of ShapeNet are prepared."""

    resolution: int = 128
    """Side of the written images in pixels; images are reduced (Lanczos), never enlarged."""
    background: Literal["none", "black", "white"] = "white"
    """Colour under transparent pixels; `none` refuses what is not 8-bit RGB."""
    intrinsics_size: int = 0
    """Side in pixels that `intrinsics.txt` belongs to. 0: as its last line says."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.intrinsics_size < 0:
            raise ConfigError(
                f"intrinsics_size={self.intrinsics_size}: use 0 (as the file says) or more, e.g. "
                "512",
                field="intrinsics_size",
            )


class Renders(NamedTuple):
    """The images of all objects, and how many images had no pose and poses no image."""

    views: list[View]
    without: tuple[int, int]


def prepare_shapenet(
    source_path: Path,
    out: Path,
    cfg: ShapenetConfig,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write the data set from a folder or zip of renders, or of images with `dataset.json`.

    Raises:
        DataError: images or cameras are not as they must be.
    """
    source = open_source(source_path)
    names = images_of(source)
    if not cfg.cameras and _holds_renders(source, names):
        renders = find_renders(source, names, cfg)
        views, without, where = *renders, str(source.path)
    else:
        if not cfg.cameras and not any(
            n.endswith(("dataset.json", "cameras.json")) for n in source.names
        ):
            raise DataError(
                f"{source_path} holds neither OBJECT/rgb/*.png with OBJECT/pose/*.txt and "
                "OBJECT/intrinsics.txt, nor dataset.json: give renders as they are downloaded, or "
                "a prepared data set"
            )
        if cfg.intrinsics_size:
            raise ConfigError(
                f"intrinsics_size={cfg.intrinsics_size}: {source_path} holds no "
                "OBJECT/rgb/*.png with OBJECT/intrinsics.txt; leave it out",
                field="intrinsics_size",
            )
        listed = read_listed(source, cfg, names)
        if listed.intrinsics is None:
            raise DataError(f"{listed.where} holds rotations alone: poses are needed")
        views = listed.views(listed.pose, listed.intrinsics)
        if cfg.holdout:
            views = _with_objects(views, cfg.holdout, listed.where)
        # views of objects share their poses, so that equal poses tell of no copies
        views = [v._replace(group=_group(v)) for v in views]
        without, where = listed.without, listed.where
    return write_views(
        source,
        out,
        views,
        cfg,
        "shapenet",
        where,
        without=without,
        overwrite=overwrite,
        progress=progress,
    )


def _holds_renders(source: Source, names: list[str]) -> bool:
    """Tell whether cameras are beside the images; else `dataset.json` must have them."""
    return (
        any(_RENDER.match(n) for n in names)
        and any(_POSE.search(n) for n in source.names)
        and any(n.endswith("/intrinsics.txt") for n in source.names)
    )


def find_renders(source: Source, names: list[str], cfg: ShapenetConfig) -> Renders:
    """Pair images and poses, and read the intrinsics of each object.

    Raises:
        DataError: a pose or the intrinsics are missing or not as they must be.
    """
    found = {n: m for n in names if (m := _RENDER.match(n))}
    there = set(source.names)
    objects = sorted({m["object"] for m in found.values()})
    number = {name: i for i, name in enumerate(objects)}
    intrinsics = {name: _intrinsics(source, there, name, cfg.intrinsics_size) for name in objects}
    top = _common_folder(objects)
    poses = {n for n in there if _POSE.search(n) and "__MACOSX" not in n}
    views: list[View] = []
    without = 0
    for name, m in found.items():
        pose_name = f"{m['object']}/pose/{m['view']}.txt"
        if pose_name not in there:
            if cfg.missing == "refuse":
                raise DataError(
                    f"{name} of {source.path} has no pose {pose_name}; `missing=skip` leaves it out"
                )
            without += 1
            continue
        poses.discard(pose_name)
        pose = _floats(source, pose_name)
        if len(pose) != 16:
            raise DataError(f"{pose_name}: {len(pose)} numbers, need 16 (cam2world, row by row)")
        ours = to_opencv(np.array(pose).reshape(1, 4, 4), cfg.convention, cfg.world_up)
        views.append(
            View(
                name,
                f"{m['object'][len(top) :]}/{m['view']}",
                np.concatenate([ours.ravel(), intrinsics[m["object"]].ravel()]),
                len(views),
                m["object"],
                number[m["object"]],
            )
        )
    if poses and cfg.missing == "refuse":
        raise DataError(
            f"{len(poses):,} poses of {source.path} have no image, e.g. {min(poses)}; "
            "`missing=skip` leaves them out"
        )
    if not views:
        raise DataError(f"{source.path}: none of {len(found):,} images has a pose")
    return Renders(views, (without, len(poses)))


def _intrinsics(source: Source, there: set[str], name: str, given: int) -> Float[np.ndarray, "3 3"]:
    """Return an object's intrinsics, divided by the size that they were measured in."""
    file = f"{name}/intrinsics.txt"
    if file not in there:
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
        raise DataError(f"{file} states {stated[0]:g}x{stated[1]:g} pixels, need square images")
    else:
        raise DataError(
            f"{file} does not state the size that it was measured in (last line `height width`): "
            f"give it, e.g. intrinsics_size={round(2 * cx)}, which has its middle at cx={cx:g}"
        )
    if not max(abs(cx / size - 0.5), abs(cy / size - 0.5)) <= _OFF_CENTRE:
        raise DataError(
            f"{file}: principal point {cx:g} {cy:g} is not the middle of {size:g} pixels, the size "
            f"that {'`intrinsics_size`' if given else 'its last line'} states: give that of which "
            f"it is, e.g. intrinsics_size={round(2 * cx)}"
        )
    return np.array([[focal / size, 0, cx / size], [0, focal / size, cy / size], [0, 0, 1.0]])


def _floats(source: Source, name: str) -> list[float]:
    try:
        numbers = [float(x) for x in _text(source, name).split()]
    except ValueError as error:
        raise DataError(f"{name} of {source.path} must hold numbers: {error}") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{name} of {source.path} holds a number that is not finite")
    return numbers


def _text(source: Source, name: str) -> str:
    try:
        return source.read(name).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} of {source.path} is not text: {error}") from None


def _common_folder(objects: list[str]) -> str:
    """Return the folder that all objects are in, such as `cars_train/`, or nothing."""
    tops = {name.rpartition("/")[0] for name in objects}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _with_objects(views: list[View], holdout: float, where: str) -> list[View]:
    """Return the views with the object that each shows, by the folders where no number is known."""
    lacking = [v.source for v in views if v.object_id is None]
    if not lacking:
        return views
    if len(lacking) < len(views):
        raise DataError(
            f"holdout={holdout}: `objects` of {where} lacks {len(lacking):,} of {len(views):,} "
            f"images, e.g. {lacking[0]}: give all of them a number, or leave `objects` out"
        )
    folders = [_object_folder(v.source) for v in views]
    known = sorted(set(folders))
    if "" in known or (len(known) == 1 and not all(_RENDER.match(v.source) for v in views)):
        name = views[folders.index(known[0])].source
        raise DataError(
            f"holdout={holdout}: {where} does not say which object an image shows, nor do names "
            f"such as {name}: give the renders, or `objects` in dataset.json"
        )
    number = {folder: i for i, folder in enumerate(known)}
    return [v._replace(object_id=number[f]) for v, f in zip(views, folders, strict=True)]


def _object_folder(name: str) -> str:
    """Return the folder that is named after the object in an image, or nothing."""
    if _NUMBERED.search(name):
        return ""
    parts = name.split("/")[:-1]
    while parts and parts[-1] in _UNNAMED:
        parts.pop()
    return "/".join(parts)


def _group(view: View) -> str:
    return view.name if view.object_id is None else f"object {view.object_id}"

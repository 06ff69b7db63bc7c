"""Find cameras and images below a folder: one world, or one for each object."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.colmap import cam2world_of, has_model, intrinsics_of, read_model
from lightning_gan3d.data.captures.config import FromPosesConfig
from lightning_gan3d.data.captures.posed import (
    Frame,
    ImageFolder,
    PosedImages,
    fit_intrinsics,
    in_order,
    without_image,
)
from lightning_gan3d.data.captures.transforms import read_transforms, transforms_files

_MODEL_PLACES = ("", "sparse/0", "sparse")
"""Where COLMAP's model is, below the folder of a capture."""
_IMAGE_PLACES = ("images", "")


class World(NamedTuple):
    """Images of one world, with the folder that holds them and the object of each."""

    posed: PosedImages
    images: ImageFolder
    objects: tuple[str, ...]
    """Names; empty strings where objects are not told apart."""
    prefix: str = ""
    """Folder of its images within the data set; empty where there is one world."""


def read_worlds(source: Path, cfg: FromPosesConfig) -> list[World]:
    """Find and read the cameras: one world, or with objects=folder one for each sub-folder."""
    if not source.exists():
        raise DataError(f"{source} does not exist: give a folder with cameras and images")
    if source.is_file() and source.suffix != ".json":
        raise DataError(
            f"{source} is a file: give the folder with cameras and images (unpack archives first), "
            "or a transforms.json"
        )
    if _kinds(source):
        posed, images = _read(source, cfg)
        objects = tuple(_folder_of(f.name) if cfg.objects == "folder" else "" for f in posed.frames)
        return [World(posed, images, objects)]
    folders = sorted(f for f in source.iterdir() if f.is_dir() and _kinds(f))
    if not folders:
        raise DataError(
            f"{source} has no cameras: neither COLMAP's cameras and images (.bin or .txt, also "
            "in sparse/0) nor transforms.json"
        )
    if cfg.objects == "none":
        raise DataError(
            f"{source} has no cameras, but {len(folders)} of its folders have, such as "
            f"{folders[0].name}: objects=folder takes each for an object"
        )
    worlds = []
    for folder in folders:
        posed, images = _read(folder, cfg)
        worlds.append(World(posed, images, (folder.name,) * len(posed.frames), folder.name))
    return worlds


def _kinds(folder: Path) -> list[str]:
    if folder.is_file():
        return ["transforms"]
    kinds = ["colmap"] if any(has_model(folder / p) for p in _MODEL_PLACES) else []
    return kinds + (["transforms"] if transforms_files(folder) else [])


def _read(folder: Path, cfg: FromPosesConfig) -> tuple[PosedImages, ImageFolder]:
    kinds = _kinds(folder)
    kind = cfg.format if cfg.format != "auto" else kinds[0]
    if cfg.format == "auto" and len(kinds) > 1:
        raise DataError(f"{folder} holds cameras twice: choose format=colmap or format=transforms")
    if kind not in kinds:
        raise DataError(f"format={kind}: {folder} holds {kinds[0]}")
    images = ImageFolder(_image_root(folder, cfg))
    if kind == "transforms":
        files = [folder] if folder.is_file() else transforms_files(folder)
        place = None if cfg.images else ""
        return read_transforms(files, images, place, cfg), images
    place = next(p for p in _MODEL_PLACES if has_model(folder / p))
    posed = _read_colmap(folder / place, images, cfg)
    others = [d for d in (folder / "sparse").glob("*") if has_model(d) and d != folder / place]
    if place == "sparse/0" and others:
        note = f"{folder} has {len(others)} more models beside {place}, which are not used"
        posed = PosedImages(posed.frames, posed.points, (*posed.notes, note))
    return posed, images


def _image_root(folder: Path, cfg: FromPosesConfig) -> Path:
    root = Path(cfg.images).expanduser() if cfg.images else folder
    root = root.parent if root.is_file() else root
    if not root.is_dir():
        raise DataError(f"images={cfg.images}: there is no such folder")
    return root


def _read_colmap(folder: Path, images: ImageFolder, cfg: FromPosesConfig) -> PosedImages:
    model = read_model(folder)
    frames, missing = [], []
    for image in model.images:
        name = images.find(image.name, _IMAGE_PLACES)
        if name is None:
            missing.append(image.name)
            continue
        camera, size = model.cameras[image.camera], images.size(name)
        matrix = intrinsics_of(camera, name, cfg.ignore_distortion)
        matrix = fit_intrinsics(name, matrix, camera.size, size)
        frames.append(Frame(name, cam2world_of(image), matrix, size))
    notes = without_image(missing, len(model.images), images.root, cfg.skip_missing)
    notes += ("distortion is ignored",) if cfg.ignore_distortion else ()
    return PosedImages(in_order(frames, folder), model.points, notes)


def _folder_of(name: str) -> str:
    parts = PurePosixPath(name).parts[:-1]
    if not parts:
        raise DataError(f"objects=folder: {name} is in no sub-folder that would name its object")
    return parts[-1]


def group_worlds(worlds: Sequence[World], cfg: FromPosesConfig) -> dict[str, list[World]]:
    """Return worlds that are normalised together, by the name of the object or `all`."""
    if not (cfg.per_object and cfg.objects == "folder"):
        return {"all": list(worlds)}
    groups: dict[str, list[World]] = {}
    for world in worlds:
        for name in sorted(set(world.objects)):
            frames = tuple(
                f for f, o in zip(world.posed.frames, world.objects, strict=True) if o == name
            )
            part = PosedImages(frames, world.posed.points, (), world.posed.applied)
            groups.setdefault(name, []).append(
                World(part, world.images, (name,) * len(frames), world.prefix)
            )
    return groups


def without_pose(worlds: Sequence[World]) -> list[str]:
    """Return how many images next to those with a camera have none."""
    found = []
    for world in worlds:
        used = {f.name for f in world.posed.frames}
        folders = {str(PurePosixPath(n).parent) for n in used}
        beside = [n for n in world.images.names if str(PurePosixPath(n).parent) in folders]
        left = [n for n in beside if n not in used]
        if left:
            found.append(
                f"{len(left):,} of {len(beside):,} images have no camera and are left out, such "
                f"as {left[0]} in {world.images.root}"
            )
    return found

"""Find cameras and images below a folder: one coordinate system, or one per object."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.colmap import cam2world_of, has_model, intrinsics_of, read_model
from lightning_gan3d.data.captures.posed_images import (
    Frame,
    FromPosesConfig,
    ImageFolder,
    PosedImages,
    fit_intrinsics,
    ordered,
    reading_notes,
)
from lightning_gan3d.data.captures.transforms import read_transforms, transforms_files

_MODEL_FOLDERS = ("", "sparse/0", "sparse")
"""Folders of COLMAP's model, below that of a capture."""
_IMAGE_FOLDERS = ("images", "")


class Capture(NamedTuple):
    """Images that share a coordinate system, with their folder and the object of each."""

    posed: PosedImages
    images: ImageFolder
    objects: tuple[str, ...]
    """Names; empty strings without objects."""
    prefix: str = ""
    """Folder of the images within the data set; empty for a single capture."""


def read_captures(source: Path, cfg: FromPosesConfig) -> list[Capture]:
    """Find and read the cameras: one capture, or with objects=folder one per sub-folder."""
    if not source.exists():
        raise DataError(f"{source} does not exist: use a folder with cameras and images")
    if source.is_file() and source.suffix != ".json":
        raise DataError(
            f"{source} is a file: use the folder with cameras and images (unpack archives first), "
            "or a transforms.json"
        )
    if _formats(source):
        posed, images = _read(source, cfg)
        objects = tuple(_folder_of(f.name) if cfg.objects == "folder" else "" for f in posed.frames)
        return [Capture(posed, images, objects)]
    folders = sorted(f for f in source.iterdir() if f.is_dir() and _formats(f))
    if not folders:
        raise DataError(
            f"{source} has no cameras: neither COLMAP's cameras and images (.bin or .txt, also "
            "in sparse/0) nor transforms.json"
        )
    if cfg.objects == "none":
        raise DataError(
            f"{source} has no cameras, but {len(folders)} of its folders have, such as "
            f"{folders[0].name}: objects=folder reads each as an object"
        )
    captures = []
    for folder in folders:
        posed, images = _read(folder, cfg)
        captures.append(Capture(posed, images, (folder.name,) * len(posed.frames), folder.name))
    return captures


def _formats(folder: Path) -> list[str]:
    if folder.is_file():
        return ["transforms"]
    formats = ["colmap"] if any(has_model(folder / f) for f in _MODEL_FOLDERS) else []
    return formats + (["transforms"] if transforms_files(folder) else [])


def _read(folder: Path, cfg: FromPosesConfig) -> tuple[PosedImages, ImageFolder]:
    formats = _formats(folder)
    if cfg.format == "auto" and len(formats) > 1:
        raise DataError(f"{folder} has two sets of cameras: set format=colmap or format=transforms")
    chosen = cfg.format if cfg.format != "auto" else formats[0]
    if chosen not in formats:
        raise DataError(f"format={chosen}: {folder} has {formats[0]}")
    root = Path(cfg.images).expanduser() if cfg.images else folder
    root = root.parent if root.is_file() else root
    if not root.is_dir():
        raise DataError(f"images={cfg.images}: no such folder")
    images = ImageFolder(root)
    if chosen == "transforms":
        files = [folder] if folder.is_file() else transforms_files(folder)
        return read_transforms(files, images, None if cfg.images else "", cfg), images
    model = next(f for f in _MODEL_FOLDERS if has_model(folder / f))
    posed = _read_colmap(folder / model, images, cfg)
    others = [d for d in (folder / "sparse").glob("*") if has_model(d) and d != folder / model]
    if model == "sparse/0" and others:
        note = f"{folder} has {len(others)} more models beside {model}, which are not used"
        posed = PosedImages(posed.frames, posed.points, (*posed.notes, note))
    return posed, images


def _read_colmap(folder: Path, images: ImageFolder, cfg: FromPosesConfig) -> PosedImages:
    model = read_model(folder)
    frames, missing = [], []
    for image in model.images:
        name = images.resolve(image.name, _IMAGE_FOLDERS)
        if name is None:
            missing.append(image.name)
            continue
        camera = model.cameras[image.camera]
        size, mode = images.header(name)
        matrix = intrinsics_of(camera, name, cfg.ignore_distortion)
        matrix = fit_intrinsics(name, matrix, camera.size, size)
        frames.append(Frame(name, cam2world_of(image), matrix, size, mode))
    notes = reading_notes(missing, len(model.images), images.root, cfg)
    return PosedImages(ordered(frames, folder), model.points, notes)


def _folder_of(name: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise DataError(f"objects=folder: {name} is not in a sub-folder that names its object")
    return folder


def group_captures(captures: Sequence[Capture], cfg: FromPosesConfig) -> dict[str, list[Capture]]:
    """Return the captures that are normalised together, by the name of the object or `all`."""
    if not (cfg.per_object and cfg.objects == "folder"):
        return {"all": list(captures)}
    groups: dict[str, list[Capture]] = {}
    for capture in captures:
        posed = capture.posed
        for name in sorted(set(capture.objects)):
            frames = tuple(
                f for f, o in zip(posed.frames, capture.objects, strict=True) if o == name
            )
            part = PosedImages(frames, posed.points, (), posed.applied)
            groups.setdefault(name, []).append(
                capture._replace(posed=part, objects=(name,) * len(frames))
            )
    return groups


def images_without_camera(captures: Sequence[Capture]) -> list[str]:
    """Return a warning for each capture that has images without a camera beside the others."""
    warnings = []
    for capture in captures:
        used = {f.name for f in capture.posed.frames}
        folders = {PurePosixPath(n).parent for n in used}
        beside = [n for n in capture.images.names if PurePosixPath(n).parent in folders]
        unused = [n for n in beside if n not in used]
        if unused:
            warnings.append(
                f"{len(unused):,} of {len(beside):,} images have no camera and are left out, such "
                f"as {unused[0]} in {capture.images.root}"
            )
    return warnings

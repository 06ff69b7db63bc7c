"""Convert images with cameras (COLMAP's sparse model or a `transforms.json`) to a data set.

`docs/data_reference.md` states the assumptions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.camera_checks import check_cameras
from lightning_gan3d.data.captures.colmap import cam2world_of, camera_of, has_model, read_model
from lightning_gan3d.data.captures.framing import (
    Framing,
    Similarity,
    camera_warnings,
    find_framing,
    find_similarity,
    snippet,
)
from lightning_gan3d.data.captures.lens import Lens
from lightning_gan3d.data.captures.posed_images import (
    Capture,
    Frame,
    FromPosesConfig,
    ImageFolder,
    fit_intrinsics,
    ordered,
    reading_notes,
)
from lightning_gan3d.data.captures.transforms import read_transforms, transforms_files
from lightning_gan3d.data.dataset_writer import reject_collisions, write_dataset
from lightning_gan3d.data.image_files import centre_square
from lightning_gan3d.progress import track

_MODEL_FOLDERS = ("", "sparse/0", "sparse")
"""Folders of COLMAP's model, relative to the capture."""
_IMAGE_FOLDERS = ("images", "")


@dataclass(frozen=True)
class PreparedCaptures:
    """Summary of the data set that was written."""

    out: Path
    num_images: int
    framing: Framing
    tree: dict[str, Any]
    """Part of an experiment that uses the data set."""
    warnings: tuple[str, ...]
    points: Float[np.ndarray, "p 3"]
    """Points of the scenes, in coordinates of the data set."""

    def __str__(self) -> str:
        """Lines for the user."""
        f = self.framing
        lines = [
            f"cameras: median distance {f.radius:.3g}, focal length {f.focal:.3g} image widths "
            f"({f.fov:.1f} degrees); the median camera sees a ball of radius {f.visible:.3g}"
        ]
        if f.points_inside is not None:
            lines.append(f"points: {len(self.points):,}, {f.points_inside:.0%} of them in the box")
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join([*lines, "paste into an experiment:", snippet(self.tree).rstrip()])


def prepare_from_poses(
    source: Path,
    out: Path,
    cfg: FromPosesConfig,
    overwrite: bool = False,
) -> PreparedCaptures:
    """Write the data set; everything but the pixels is checked before the first image."""
    source = source.expanduser()
    captures = read_captures(source, cfg)
    warnings = list(dict.fromkeys(n for c in captures for n in c.notes))
    warnings += images_without_camera(captures)
    groups = group_captures(captures, cfg)
    frames = [frame for group in groups.values() for c in group for frame in c.frames]
    _check_frames(frames, cfg)
    rows, clouds, similarities = [], [], {}
    for name, group in groups.items():
        similarity = _similarity(group, cfg, name)
        similarities[name] = _metadata(similarity, group)
        for capture in group:
            rows.append(_labels(capture, similarity))
            clouds.append(similarity.points(capture.points))
    labels = check_cameras(torch.cat(rows), [frame.output for frame in frames])
    cameras, points = Cameras.from_label(labels), np.concatenate(clouds)
    framing = find_framing(cameras, points)
    warnings += camera_warnings(cameras, framing)
    warnings += _size_notes(frames, cfg.resolution)
    tree = _experiment(framing, out, cfg)
    numbers: dict[str, int] = {}
    if cfg.objects == "folder":
        numbers = {o: i for i, o in enumerate(sorted({frame.object for frame in frames}))}
    with write_dataset(out, overwrite) as writer:
        for frame, label in zip(track(frames, "images"), labels.numpy(), strict=True):
            pixels = square(frame.pixels(cfg.background, 2 * cfg.resolution), cfg.resolution)
            writer.image(frame.output, pixels, label, frame.split, numbers.get(frame.object))
        writer.metadata(
            "from_poses",
            {
                "source": source.resolve().name,
                "options": {**asdict(cfg), "images": Path(cfg.images).name},
                "worlds": similarities,
                "objects": numbers,
                "framing": asdict(framing),
                "experiment": {**tree, "data": {**tree["data"], "path": out.name}},
                "warnings": [_without_folders(w, source, cfg) for w in warnings],
            },
        )
    return PreparedCaptures(out, len(frames), framing, tree, tuple(warnings), points)


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
        capture = _read(source, cfg)
        if cfg.objects == "none":
            return [capture]
        frames = (replace(f, object=_folder_of(f.name)) for f in capture.frames)
        return [replace(capture, frames=tuple(frames))]
    folders = sorted(f for f in source.iterdir() if f.is_dir() and _formats(f))
    if not folders:
        raise DataError(
            f"{source} has no cameras: neither COLMAP's cameras and images (.bin or .txt, also "
            "in sparse/0) nor transforms.json; `gan3d data from-photos` estimates them"
        )
    if cfg.objects == "none":
        raise DataError(
            f"{source} has no cameras, but {len(folders)} of its folders have, such as "
            f"{folders[0].name}: objects=folder reads each as an object"
        )
    captures = []
    for folder in folders:
        capture = _read(folder, cfg)
        frames = (replace(f, object=folder.name, prefix=folder.name) for f in capture.frames)
        captures.append(replace(capture, frames=tuple(frames)))
    return captures


def _formats(folder: Path) -> list[str]:
    if folder.is_file():
        return ["transforms"]
    formats = ["colmap"] if any(has_model(folder / f) for f in _MODEL_FOLDERS) else []
    return formats + (["transforms"] if transforms_files(folder) else [])


def _read(folder: Path, cfg: FromPosesConfig) -> Capture:
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
        return read_transforms(files, images, None if cfg.images else "", cfg)
    model = next(f for f in _MODEL_FOLDERS if has_model(folder / f))
    if (cfg.convention, cfg.poses) != ("opengl", "cam2world"):
        raise DataError(
            f"{folder}: convention and poses are options of transforms.json, not COLMAP"
        )
    capture = _read_colmap(folder, model, images, cfg)
    others = [d for d in (folder / "sparse").glob("*") if has_model(d) and d != folder / model]
    if model == "sparse/0" and others:
        note = f"{folder} has {len(others)} more models beside {model}, which are not used"
        capture = replace(capture, notes=(*capture.notes, note))
    return capture


def _read_colmap(source: Path, folder: str, images: ImageFolder, cfg: FromPosesConfig) -> Capture:
    model, masks = read_model(source / folder), None
    if cfg.masks == "apply" and (source / "masks").is_dir():
        masks = ImageFolder(source / "masks")
    frames, missing = [], []
    for image in model.images:
        name = images.resolve(image.name, _IMAGE_FOLDERS)
        if name is None:
            missing.append(image.name)
            continue
        camera = model.cameras[image.camera]
        size, mode = images.header(name, stored=True)
        matrix, lens = camera_of(camera, name)
        matrix = fit_intrinsics(name, matrix, camera.size, size)
        lens = Lens() if cfg.ignore_distortion else lens
        mask = masks.mask(f"{image.name}.png", name) if masks else None
        frames.append(Frame(images, name, cam2world_of(image), matrix, size, mode, lens, mask))
    notes = reading_notes(missing, len(model.images), images.root, cfg)
    return Capture(ordered(frames, source / folder), model.points, notes)


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
        for name in sorted({f.object for f in capture.frames}):
            frames = tuple(f for f in capture.frames if f.object == name)
            groups.setdefault(name, []).append(replace(capture, frames=frames))
    return groups


def images_without_camera(captures: Sequence[Capture]) -> list[str]:
    """Return a warning for each capture that has images without a camera beside the others."""
    warnings = []
    for capture in captures:
        images = capture.frames[0].folder
        used = {f.name for f in capture.frames}
        folders = {PurePosixPath(n).parent for n in used}
        beside = [n for n in images.names if PurePosixPath(n).parent in folders]
        unused = [n for n in beside if n not in used]
        if unused:
            warnings.append(
                f"{len(unused):,} of {len(beside):,} images have no camera and are left out, such "
                f"as {unused[0]} in {images.root}"
            )
    return warnings


def square(pixels: UInt8[np.ndarray, "h w 3"], resolution: int) -> UInt8[np.ndarray, "r r 3"]:
    """Crop to the central square, to half a pixel, and resize with antialiasing."""
    h, w = pixels.shape[:2]
    left, top, side = centre_square(w, h)
    box = (left, top, left + side, top + side)
    image = Image.fromarray(pixels)
    return np.array(image.resize((resolution,) * 2, Image.Resampling.BICUBIC, box=box))


def _similarity(group: Sequence[Capture], cfg: FromPosesConfig, name: str) -> Similarity:
    poses = np.stack([f.cam2world for c in group for f in c.frames])
    points = np.concatenate([c.points for c in group])
    try:
        return find_similarity(poses, points, cfg)
    except DataError as error:
        raise DataError(f"{name}: {error}" if name != "all" else str(error)) from None


def _metadata(similarity: Similarity, group: Sequence[Capture]) -> dict[str, Any]:
    """Return the transform from the user's coordinates: x of the data set = matrix @ x."""
    applied = next((c.applied for c in group if c.applied), {})
    return {"matrix": similarity.matrix.tolist(), "scale": similarity.scale, **applied}


def _labels(capture: Capture, similarity: Similarity) -> Float[Tensor, "n 25"]:
    """Return the normalised cameras of the central squares of the images."""
    poses = similarity.poses(np.stack([f.cam2world for f in capture.frames]))
    labels = []
    for frame, pose in zip(capture.frames, poses, strict=True):
        left, top, side = centre_square(*frame.size, frame.side)
        camera = Cameras(torch.from_numpy(pose)[None], torch.from_numpy(frame.intrinsics)[None])
        labels.append(camera.crop(left, top, float(side), float(side)).to_label())
    return torch.cat(labels)


def _check_frames(frames: Sequence[Frame], cfg: FromPosesConfig) -> None:
    """Check output paths, shapes and pixel formats."""
    reject_collisions((frame.output, frame.name) for frame in frames)
    for frame in frames:
        w, h = frame.size
        if 2 * frame.side < min(w, h):
            raise DataError(
                f"{frame.name}: without distortion, {frame.side} of {min(w, h)} pixels would be "
                "left: the coefficients are wrong, or the lens is too wide"
            )
        if cfg.crop == "none" and (w, h) != (frame.side, frame.side):
            raise DataError(
                f"{frame.name} is {w}x{h}, expected a square of {frame.side}x{frame.side}; "
                "crop=centre crops it"
            )
        if (frame.mask is None) != (frames[0].mask is None):
            raise DataError(f"{frame.name} and {frames[0].name}: one has a mask; or masks=ignore")
        if frame.mask is not None and frame.mask[0].header(frame.mask[1])[0] != frame.size:
            raise DataError(f"{frame.name} is {w}x{h}, but its mask {frame.mask[1]} is not")
        if cfg.background == "none" and (frame.mask is not None or frame.mode != "RGB"):
            fault = "has a mask (masks=ignore reads none)"
            fault = fault if frame.mask else f"is {frame.mode}, expected 8-bit RGB"
            raise DataError(
                f"{frame.name} {fault}: set background=black or background=white as the colour of "
                "transparent or masked pixels"
            )


def _size_notes(frames: Sequence[Frame], resolution: int) -> list[str]:
    sides, notes = [frame.side for frame in frames], []
    small = sum(side < resolution for side in sides)
    bent = [frame.side / min(frame.size) for frame in frames if not frame.lens.pinhole]
    if bent:
        notes.append(f"{len(bent):,} images were undistorted; {min(bent):.1%} of the side remains")
    if small:
        notes.append(
            f"{small:,} images are smaller than {resolution} pixels (the smallest {min(sides)}) "
            "and were enlarged"
        )
    return notes


def _without_folders(text: str, source: Path, cfg: FromPosesConfig) -> str:
    """Replace paths by names: a data set does not disclose the user's folders."""
    folder = source.parent if source.is_file() else source
    for path in sorted({source, folder, Path(cfg.images).expanduser()}, key=lambda p: -len(str(p))):
        if len(path.parts) > 1:
            text = text.replace(str(path), path.name)
    return text


def _experiment(framing: Framing, out: Path, cfg: FromPosesConfig) -> dict[str, Any]:
    colour = {"none": None, "black": 0.0, "white": 1.0}[cfg.background]
    data = {"path": str(out), "resolution": cfg.resolution}
    return {"data": data, **framing.tree(colour)}

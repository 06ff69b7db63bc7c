"""Images with known cameras to a data set: from a sparse model of COLMAP or a `transforms.json`.

`docs/data_reference.md` states the assumptions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.archive import DataError, Progress, report_progress, write_dataset
from lightning_gan3d.data.captures.coordinate_systems import (
    Capture,
    group_captures,
    images_without_camera,
    read_captures,
)
from lightning_gan3d.data.captures.framing import Framing, camera_warnings, find_framing, snippet
from lightning_gan3d.data.captures.normalise import Similarity, find_similarity
from lightning_gan3d.data.captures.posed_images import Frame, FromPosesConfig, ImageFolder
from lightning_gan3d.data.image_files import centre_square
from lightning_gan3d.data.labels import check_cameras


class _OutputImage(NamedTuple):
    name: str
    frame: Frame
    images: ImageFolder
    object: str
    label: Float[np.ndarray, "25"]


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
    progress: Progress | None = None,
) -> PreparedCaptures:
    """Write the data set; all but the pixels is checked before the first image is written."""
    source = source.expanduser()
    captures = read_captures(source, cfg)
    warnings = list(dict.fromkeys(n for c in captures for n in c.posed.notes))
    warnings += images_without_camera(captures)
    images: list[_OutputImage] = []
    clouds, similarities = [], {}
    for name, group in group_captures(captures, cfg).items():
        similarity = _similarity(group, cfg, name)
        similarities[name] = _metadata(similarity, group)
        for capture in group:
            images += _output_images(capture, similarity, cfg)
            clouds.append(similarity.points(capture.posed.points))
    _check_names_and_modes(images, cfg)
    labels = torch.from_numpy(np.stack([image.label for image in images]))
    check_cameras(labels, [image.name for image in images])
    poses, intrinsics = (x.numpy() for x in Cameras.from_label(labels))
    points = np.concatenate(clouds)
    framing = find_framing(poses, intrinsics, points)
    warnings += camera_warnings(poses, intrinsics, framing)
    warnings += _size_warnings(images, cfg.resolution)
    tree = _experiment(framing, out, cfg)
    numbers: dict[str, int] = {}
    if cfg.objects == "folder":
        numbers = {o: i for i, o in enumerate(sorted({image.object for image in images}))}
    with write_dataset(out, overwrite) as writer:
        for image in report_progress(images, progress):
            pixels = image.images.pixels(image.frame.name, cfg.background)
            writer.image(
                image.name,
                square(pixels, cfg.resolution),
                image.label,
                image.frame.split,
                numbers.get(image.object),
            )
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
    return PreparedCaptures(out, len(images), framing, tree, tuple(warnings), points)


def square(pixels: UInt8[np.ndarray, "h w 3"], resolution: int) -> UInt8[np.ndarray, "r r 3"]:
    """Crop to the central square, to half a pixel, and resize with antialiasing."""
    h, w = pixels.shape[:2]
    left, top, side = centre_square(w, h)
    box = (left, top, left + side, top + side)
    image = Image.fromarray(pixels)
    return np.array(image.resize((resolution,) * 2, Image.Resampling.BICUBIC, box=box))


def _similarity(group: Sequence[Capture], cfg: FromPosesConfig, name: str) -> Similarity:
    poses = np.stack([f.cam2world for c in group for f in c.posed.frames])
    points = np.concatenate([c.posed.points for c in group])
    try:
        return find_similarity(poses, points, cfg)
    except DataError as error:
        raise DataError(f"{name}: {error}" if name != "all" else str(error)) from None


def _metadata(similarity: Similarity, group: Sequence[Capture]) -> dict[str, Any]:
    """Return the transform from the user's coordinates: x of the data set = matrix @ x."""
    applied = [c.posed.applied for c in group if c.posed.applied]
    extra = {"applied_transform": applied[0]} if applied else {}
    return {"matrix": similarity.matrix.tolist(), "scale": similarity.scale, **extra}


def _output_images(
    capture: Capture, similarity: Similarity, cfg: FromPosesConfig
) -> Iterator[_OutputImage]:
    """Yield images with their cameras: normalised, and of the squares cut from the images."""
    frames = capture.posed.frames
    poses = similarity.poses(np.stack([f.cam2world for f in frames]))
    for frame, name, pose in zip(frames, capture.objects, poses, strict=True):
        if cfg.crop == "none" and frame.size[0] != frame.size[1]:
            raise DataError(
                f"{frame.name} is {frame.size[0]}x{frame.size[1]}, expected a square; crop=centre "
                "crops it"
            )
        left, top, side = centre_square(*frame.size)
        camera = Cameras(torch.from_numpy(pose)[None], torch.from_numpy(frame.intrinsics)[None])
        label = camera.crop(left, top, float(side), float(side)).to_label()[0].numpy()
        path = capture.prefix / PurePosixPath(frame.name).with_suffix(".png")
        yield _OutputImage(path.as_posix(), frame, capture.images, name, label)


def _check_names_and_modes(images: Sequence[_OutputImage], cfg: FromPosesConfig) -> None:
    sources: dict[str, str] = {}
    for name, frame, *_ in images:
        if name in sources:
            raise DataError(
                f"{frame.name} and {sources[name]} would both be written as {name}: rename one"
            )
        sources[name] = frame.name
        if frame.mode != "RGB" and cfg.background == "none":
            raise DataError(
                f"{frame.name} is {frame.mode}, expected 8-bit RGB: set background=black or "
                "background=white as the colour behind transparent pixels"
            )


def _size_warnings(images: Sequence[_OutputImage], resolution: int) -> list[str]:
    sides = [min(image.frame.size) for image in images]
    small = sum(side < resolution for side in sides)
    if not small:
        return []
    return [
        f"{small:,} images are smaller than {resolution} pixels (the smallest {min(sides)}) and "
        "were enlarged"
    ]


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

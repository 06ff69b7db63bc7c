"""People's own images with poses to a data set in EG3D's format.

Cameras come from a sparse model of COLMAP or a `transforms.json`; `docs/data.md` says what is
assumed and how to judge the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.data.archive import DataError
from lightning_gan3d.data.captures.config import FromPosesConfig
from lightning_gan3d.data.captures.framing import Framing, find_framing, snippet, unusual
from lightning_gan3d.data.captures.normalise import Similarity, find_similarity
from lightning_gan3d.data.captures.posed import Frame, ImageFolder, PosedImages
from lightning_gan3d.data.captures.worlds import World, group_worlds, read_worlds, without_pose
from lightning_gan3d.data.labels import check_cameras
from lightning_gan3d.data.squares import centre_square
from lightning_gan3d.data.writer import DatasetWriter


class Shot(NamedTuple):
    """An image that is to be written."""

    name: str
    frame: Frame
    images: ImageFolder
    object: str


@dataclass(frozen=True)
class Prepared:
    """What was made of a user's images."""

    out: Path
    num_images: int
    framing: Framing
    tree: dict[str, Any]
    """The part of an experiment that uses them."""
    warnings: tuple[str, ...]
    points: Float[np.ndarray, "p 3"]
    """Points of the scenes, in the data set's world."""

    def __str__(self) -> str:
        """Return the lines that a user reads."""
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
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write the data set; everything but the pixels is checked before the first image is written.

    `progress(done, total)` is called after each image.
    """
    source = Path(source).expanduser()
    worlds = read_worlds(source, cfg)
    warnings = list(dict.fromkeys(n for w in worlds for n in w.posed.notes))
    warnings += without_pose(worlds)
    groups = group_worlds(worlds, cfg)
    shots, labels, clouds, moves = [], [], [], {}
    for name, members in groups.items():
        move = _similarity(members, cfg, name)
        moves[name] = _note(move, members)
        clouds += [move.points(w.posed.points) for w in members]
        for world in members:
            shots += _shots(world)
            labels.append(_labels(world.posed, move, cfg))
    rows = np.concatenate(labels)
    names = [s.name for s in shots]
    _check_shots(shots, cfg)
    check_cameras(torch.from_numpy(rows), names)
    poses, matrices = rows[:, :16].reshape(-1, 4, 4), rows[:, 16:].reshape(-1, 3, 3)
    points = np.concatenate(clouds)
    framing = find_framing(poses, matrices, points)
    warnings += unusual(poses, matrices, framing) + _small(shots, cfg)
    tree = _tree(framing, out, cfg)
    numbers = {o: i for i, o in enumerate(sorted({s.object for s in shots}))}
    with DatasetWriter(out, overwrite) as writer:
        for i, shot in enumerate(shots):
            pixels = square(shot.images.pixels(shot.frame.name, cfg.background), cfg.resolution)
            number = numbers[shot.object] if cfg.objects == "folder" else None
            writer.image(shot.name, pixels, rows[i], shot.frame.split, number)
            if progress is not None:
                progress(i + 1, len(shots))
        writer.note(
            "from_poses",
            {
                "source": source.resolve().name,
                "options": {**asdict(cfg), "images": Path(cfg.images).name},
                "worlds": moves,
                "objects": numbers if cfg.objects == "folder" else {},
                "framing": asdict(framing),
                "experiment": {**tree, "data": {**tree["data"], "path": out.name}},
                "warnings": [_without_folders(w, source, cfg) for w in warnings],
            },
        )
    return Prepared(out, len(shots), framing, tree, tuple(warnings), points)


def square(pixels: UInt8[np.ndarray, "h w 3"], resolution: int) -> UInt8[np.ndarray, "r r 3"]:
    """Crop to the middle square, to a half of a pixel, and resize with antialiasing."""
    h, w = pixels.shape[:2]
    left, top, side = centre_square(w, h)
    box = (left, top, left + side, top + side)
    image = Image.fromarray(pixels)
    return np.array(image.resize((resolution,) * 2, Image.Resampling.BICUBIC, box=box))


def _similarity(members: Sequence[World], cfg: FromPosesConfig, name: str) -> Similarity:
    poses = np.stack([f.cam2world for w in members for f in w.posed.frames])
    points = np.concatenate([w.posed.points for w in members])
    try:
        return find_similarity(poses, points, cfg.up, cfg.centre, cfg.front, cfg.radius)
    except DataError as error:
        raise DataError(f"{name}: {error}" if name != "all" else str(error)) from None


def _note(move: Similarity, members: Sequence[World]) -> dict[str, Any]:
    """Return what leads back to the user's world: x of the data set = matrix @ x of the user."""
    applied = [w.posed.applied for w in members if w.posed.applied]
    extra = {"applied_transform": applied[0]} if applied else {}
    return {"matrix": move.matrix.tolist(), "scale": move.scale, **extra}


def _shots(world: World) -> list[Shot]:
    shots = []
    for frame, name in zip(world.posed.frames, world.objects, strict=True):
        path = world.prefix / PurePosixPath(frame.name).with_suffix(".png")
        shots.append(Shot(path.as_posix(), frame, world.images, name))
    return shots


def _labels(
    posed: PosedImages, move: Similarity, cfg: FromPosesConfig
) -> Float[np.ndarray, "n 25"]:
    """Return cameras in the data set's world, of the squares that are cut from the images."""
    poses = move.poses(np.stack([f.cam2world for f in posed.frames]))
    rows = []
    for frame, pose in zip(posed.frames, poses, strict=True):
        if cfg.crop == "none" and frame.size[0] != frame.size[1]:
            raise DataError(
                f"{frame.name} is {frame.size[0]}x{frame.size[1]}, need squares; crop=centre cuts "
                "them"
            )
        left, top, side = centre_square(*frame.size)
        cut = np.array([[1 / side, 0, -left / side], [0, 1 / side, -top / side], [0, 0, 1]])
        rows.append(np.concatenate([pose.ravel(), (cut @ frame.intrinsics).ravel()]))
    return np.stack(rows)


def _check_shots(shots: Sequence[Shot], cfg: FromPosesConfig) -> None:
    seen: dict[str, str] = {}
    for shot in shots:
        if shot.name in seen:
            raise DataError(
                f"{shot.frame.name} and {seen[shot.name]} would both be {shot.name}: rename one"
            )
        seen[shot.name] = shot.frame.name
        kind = shot.images.kind(shot.frame.name)
        if kind != "RGB" and cfg.background == "none":
            raise DataError(
                f"{shot.frame.name} is {kind}, need 8-bit RGB: background=black or "
                "background=white is laid under what is transparent"
            )


def _small(shots: Sequence[Shot], cfg: FromPosesConfig) -> list[str]:
    sides = [min(s.frame.size) for s in shots]
    small = sum(side < cfg.resolution for side in sides)
    if not small:
        return []
    return [
        f"{small:,} images are smaller than {cfg.resolution} pixels (the smallest {min(sides)}), "
        "and were enlarged"
    ]


def _without_folders(text: str, source: Path, cfg: FromPosesConfig) -> str:
    """Return the text with names for paths: where files were is nobody's business."""
    folder = source.parent if source.is_file() else source
    for path in sorted({source, folder, Path(cfg.images).expanduser()}, key=lambda p: -len(str(p))):
        if len(path.parts) > 1:  # a name alone tells nothing
            text = text.replace(str(path), path.name)
    return text


def _tree(framing: Framing, out: Path, cfg: FromPosesConfig) -> dict[str, Any]:
    colour = {"none": None, "black": 0.0, "white": 1.0}[cfg.background]
    data = {"path": str(out), "resolution": cfg.resolution}
    return {"data": data, **framing.tree(colour)}

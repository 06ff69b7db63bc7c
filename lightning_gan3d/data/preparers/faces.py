"""FFHQ, CelebA-HQ and AFHQ: photographs with cameras at a common distance.

EG3D's numbers (Chan et al. 2022): aligned images of faces have 1024 pixels and a focal length of
2985.29 pixels; their central 700 pixels are used, a focal length of 2985.29 / 700 = 4.2647 image
widths; cameras are 2.7 from the origin. AFHQ has the rotations of its cameras only. Sources are in
`docs/data_reference.md`.
"""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float

from lightning_gan3d.cameras import FACE_FOCAL, Cameras
from lightning_gan3d.config import ConfigError, Positive
from lightning_gan3d.data.archive import DataError, image_names, open_source
from lightning_gan3d.data.camera_checks import MAX_FOCAL
from lightning_gan3d.data.preparers.prepare import PreparedDataset, write_views
from lightning_gan3d.data.preparers.source_views import (
    OFF_CENTRE,
    Crop,
    PrepareConfig,
    SourceViews,
    read_listed,
)

PIVOT = (0.0, 0.0, 0.175)
"""Centre of rotation of a head, for `normalise=cor`."""
_ANIMALS = ("cat", "dog", "wild")
_PARTS = ("train", "test", "val")


@dataclass(frozen=True)
class FacesConfig(PrepareConfig):
    """How FFHQ and CelebA-HQ are prepared."""

    crop: Annotated[int, Ge(0)] = 0
    """Side of the central square to show, in pixels of the aligned image, e.g. 700. 0: all."""
    cropped: bool = False
    """Whether the images in SRC are already cropped; then only the intrinsics are adjusted."""
    aligned_size: Annotated[int, Ge(4)] = 1024
    """Side of the aligned image, whose pixels are the unit of `crop` and of the intrinsics."""
    labels_of: Literal["unstated", "image", "crop"] = "unstated"
    """What labels with normalised intrinsics describe, if `crop` is set."""
    normalise: Literal["auto", "none", "orig", "cor"] = "auto"
    """Move each camera to `radius` from the origin (`orig`) or from (0, 0, 0.175) (`cor`). auto:
    `orig` for a file with a pose per image, `none` for labels."""
    radius: Positive = 2.7
    """Distance of the cameras in world units."""

    def __post_init__(self) -> None:
        """Check `crop` against the fields that need it."""
        if self.crop > self.aligned_size or (self.aligned_size - self.crop) % 2:
            raise ConfigError(
                f"crop={self.crop}: use 0 (no crop), or less than aligned_size="
                f"{self.aligned_size} by an even number, e.g. 700 of 1024",
                field="crop",
            )
        if not self.crop and (self.cropped or self.labels_of != "unstated"):
            field = "cropped" if self.cropped else "labels_of"
            raise ConfigError(f"{field} needs `crop`: set it too, e.g. crop=700", field=field)


@dataclass(frozen=True)
class AfhqConfig(PrepareConfig):
    """How AFHQ is prepared."""

    animal: Literal["cat", "dog", "wild", "all"] = "cat"
    """Folder of images to use, if there are folders of these names."""
    part: Literal["train", "test", "val", "all"] = "train"
    """Folder of that split, if there are such folders."""
    radius: Positive = 2.7
    """Distance of the cameras in world units, if the file has rotations only."""
    focal: Positive = FACE_FOCAL
    """Focal length in image widths, if the file has rotations only."""


def prepare_faces(
    kind: Literal["ffhq", "celebahq"],
    source_path: Path,
    out: Path,
    cfg: FacesConfig,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write the data set from a folder or zip of images and a file of their cameras."""
    source = open_source(source_path)
    read = read_listed(source, cfg, image_names(source))
    if read.kind == "rotations":
        raise DataError(
            f"{read.camera_file} has rotations only, as EG3D's AFHQ: faces need poses and "
            "intrinsics"
        )
    in_pixels = read.kind == "poses" and bool((read.intrinsics[:, 0, 0] > MAX_FOCAL).all())
    intrinsics, poses = _normalised(read, cfg, in_pixels), read.poses
    if cfg.normalise in ("orig", "cor") or (cfg.normalise == "auto" and read.kind == "poses"):
        centre = np.array(PIVOT if cfg.normalise == "cor" else (0.0, 0.0, 0.0))
        poses = _at_radius(read, centre, cfg.radius)
    read = replace(read.with_cameras(poses, intrinsics), crop=_crop(cfg, in_pixels))
    return write_views(read, out, cfg, kind, overwrite)


def prepare_afhq(
    source_path: Path,
    out: Path,
    cfg: AfhqConfig,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write the data set from a folder or zip of images and a file of cameras or rotations."""
    source = open_source(source_path)
    images = image_names(source)
    names = _in_folder(images, cfg.animal, _ANIMALS, "animal")
    names = _in_folder(names, cfg.part, _PARTS, "part")
    read = read_listed(source, cfg, names, sorted(set(images) - set(names)))
    if read.kind == "rotations":
        poses = read.poses
        poses[:, :3, 3] = -cfg.radius * poses[:, :3, 2]  # look at the origin
        k = np.array([[cfg.focal, 0, 0.5], [0, cfg.focal, 0.5], [0, 0, 1]])
        read = read.with_cameras(poses, np.tile(k, (len(poses), 1, 1)))
    return write_views(read, out, cfg, "afhq", overwrite)


def _normalised(read: SourceViews, cfg: FacesConfig, in_pixels: bool) -> Float[np.ndarray, "n 3 3"]:
    """Return normalised intrinsics of the square shown."""
    k, share = read.intrinsics, cfg.crop / cfg.aligned_size if cfg.crop else 1.0
    if in_pixels and cfg.labels_of != "unstated":
        raise ConfigError(
            f"labels_of={cfg.labels_of}: the intrinsics of {read.camera_file} are in pixels of the "
            "aligned image; leave it out",
            field="labels_of",
        )
    if in_pixels:
        k = k / np.array([cfg.aligned_size, cfg.aligned_size, 1.0])[:, None]
        off = np.abs(k[:, :2, 2] - 0.5).max(axis=1)
        if off.max() > OFF_CENTRE:
            i = int(off.argmax())
            cx, cy = k[i, :2, 2] * cfg.aligned_size
            raise DataError(
                f"{read.camera_name(i)}: principal point {cx:g} {cy:g} is not the centre of "
                f"{cfg.aligned_size} pixels: set aligned_size to the size of the image that the "
                "camera was estimated from"
            )
    elif cfg.crop and cfg.labels_of == "unstated":
        raise ConfigError(
            f"crop={cfg.crop}: the labels of {read.camera_file} may describe the image before or "
            "after the crop; set labels_of=image or labels_of=crop (as in EG3D's FFHQ)",
            field="labels_of",
        )
    if share == 1 or (not in_pixels and cfg.labels_of == "crop"):
        return k
    edge = (1 - share) / 2
    cameras = Cameras(torch.from_numpy(read.poses), torch.from_numpy(k))
    return cameras.crop(edge, edge, share, share).intrinsics.numpy()


def _at_radius(
    read: SourceViews, centre: Float[np.ndarray, "3"], radius: float
) -> Float[np.ndarray, "n 4 4"]:
    poses = read.poses
    offset = poses[:, :3, 3] - centre
    distance = np.linalg.norm(offset, axis=1, keepdims=True)
    if (distance < 1e-6).any():
        raise DataError(
            f"{read.camera_name(int(distance.argmin()))}: the camera is at the centre and has no "
            "direction from it; `normalise=none` keeps it there"
        )
    poses[:, :3, 3] = centre + radius * offset / distance
    return poses


def _crop(cfg: FacesConfig, in_pixels: bool) -> Crop:
    def crop(side: int, name: str) -> int:
        if cfg.cropped or (not cfg.crop and not in_pixels):
            return side
        if side != cfg.aligned_size:
            raise DataError(
                f"{name} is {side}x{side}, but crop={cfg.crop} and intrinsics are in pixels of an "
                f"image of {cfg.aligned_size}: if it is already cropped, set cropped=true and the "
                "crop, e.g. crop=700; otherwise set aligned_size"
            )
        return cfg.crop or side

    return crop


def _in_folder(names: list[str], folder: str, folders: tuple[str, ...], field: str) -> list[str]:
    """Return the images in the folder; all images if there are no such folders."""
    parts = {n: set(PurePosixPath(n).parts[:-1]) for n in names}
    existing = sorted({f for f in folders if any(f in p for p in parts.values())})
    if folder == "all" or not existing:
        return names
    if folder not in existing:
        raise DataError(
            f"{field}={folder}: there are images of {', '.join(existing)} only; use {field}="
            f"{existing[0]} or {field}=all"
        )
    return [n for n in names if folder in parts[n]]

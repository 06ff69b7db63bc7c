"""Input of a preparer: options, and the images of a source with their cameras."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Float

from lightning_gan3d.config import Count
from lightning_gan3d.data.archive import Source
from lightning_gan3d.data.dataset import HoldoutShare
from lightning_gan3d.data.image_files import Convert
from lightning_gan3d.data.labels import name_map, split_lists
from lightning_gan3d.data.preparers.camera_files import (
    Kind,
    Missing,
    find_camera_file,
    match_cameras,
)

Crop = Callable[[int, str], int]
"""Maps an image's shorter side and name to the side of the central square, in pixels."""
OFF_CENTRE = 0.05
"""Tolerance of principal points, in image widths."""
_CAMERA_SIGNS = {"opencv": (1.0, 1.0, 1.0), "opengl": (1.0, -1.0, -1.0)}
_WORLD_ROTATIONS = {
    "y": np.eye(3),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}
"""Rotations from the up axis to y."""


@dataclass(frozen=True)
class PrepareConfig:
    """Options that all preparers share."""

    cameras: str = ""
    """JSON file of the cameras. Empty: `dataset.json` of SRC, else its `cameras.json`."""
    convention: Literal["opencv", "opengl"] = "opencv"
    """Axes of the cameras in SRC. opencv: x right, y down, z forward; opengl: y up, z backward."""
    world_up: Literal["y", "z"] = "y"
    """Up axis of the world in SRC; z (as in Blender) becomes y, and -y becomes z."""
    missing: Missing = "reject"
    """Images without a camera and cameras without an image: raise an error, or skip them."""
    resolution: Annotated[int, Interval(ge=4, le=4096)] = 512
    """Side of the written images in pixels; images are reduced (Lanczos), never enlarged."""
    centre_square: bool = False
    """Crop images that are not square to the central square, which their cameras describe."""
    background: Convert = "none"
    """Colour behind transparent pixels; `none` rejects images that are not 8-bit RGB."""
    mirror: bool = False
    """Add a mirrored copy, with a mirrored pose, of each training image."""
    rebalance: str = ""
    """Repeat training images: `yaw` (rare views more often), or a JSON file of counts."""
    max_replicas: Count = 16
    """Maximum number of repetitions of an image, mirrored copies not counted."""
    max_images: Annotated[int, Ge(0)] = 0
    """Use only the first images. 0: all."""
    holdout: HoldoutShare = 0.0
    """Share of images in the split `test`, by the hash of their names; these are not repeated."""


class View(NamedTuple):
    """An image of the source with its camera in our axes."""

    source: str
    """Image file in the source."""
    name: str
    """Output path without suffix."""
    label: Float[np.ndarray, "25"]
    number: int
    """Index in the camera file."""
    key: str = ""
    """Name of the camera in the camera file."""
    group: str | None = None
    """Views with the same group are held out together; None: group copies by their cameras."""
    object_id: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class SourceViews:
    """The images of a source with their cameras, in the order of the camera file."""

    source: Source
    views: Sequence[View]
    camera_file: str
    """Path, for errors."""
    num_listed: int
    """Number of cameras in that file."""
    num_without_camera: int = 0
    """Images without a camera, left out."""
    num_without_image: int = 0
    """Cameras without an image, left out."""
    kind: Kind = "labels"
    crop: Crop | None = None
    """The square to crop; None: the largest one."""

    @property
    def poses(self) -> Float[np.ndarray, "n 4 4"]:
        """cam2world in our axes; at the origin if the camera file has rotations only."""
        return np.stack([v.label[:16] for v in self.views]).reshape(-1, 4, 4)

    @property
    def intrinsics(self) -> Float[np.ndarray, "n 3 3"]:
        """Intrinsics as in the camera file; zeros if it has rotations only."""
        return np.stack([v.label[16:] for v in self.views]).reshape(-1, 3, 3)

    def camera_name(self, index: int) -> str:
        """Name a camera, for errors."""
        return f"{self.views[index].key} in {self.camera_file}"

    def with_cameras(
        self, poses: Float[np.ndarray, "n 4 4"], intrinsics: Float[np.ndarray, "n 3 3"]
    ) -> "SourceViews":
        """Replace the cameras."""
        labels = np.concatenate([poses.reshape(-1, 16), intrinsics.reshape(-1, 9)], axis=1)
        views = [v._replace(label=label) for v, label in zip(self.views, labels, strict=True)]
        return replace(self, views=views)


def to_opencv(pose: Float[np.ndarray, "n 4 4"], cfg: PrepareConfig) -> Float[np.ndarray, "n 4 4"]:
    """Convert cam2world to OpenCV axes in a world with y up."""
    rotation = _WORLD_ROTATIONS[cfg.world_up]
    out = pose.copy()
    out[:, :3, :3] = rotation @ pose[:, :3, :3] * np.array(_CAMERA_SIGNS[cfg.convention])
    out[:, :3, 3] = pose[:, :3, 3] @ rotation.T
    return out


def read_listed(
    source: Source, cfg: PrepareConfig, names: Sequence[str], others: Sequence[str] = ()
) -> SourceViews:
    """Read the camera file, and match it to the images `names`; `others` are not selected."""
    file = find_camera_file(source, cfg.cameras)
    match = match_cameras(names, file, cfg.missing, others)
    rows = np.stack([file.numbers[key] for _, key in match.pairs])
    if file.kind == "rotations":
        pose, intrinsics = np.tile(np.eye(4), (len(rows), 1, 1)), np.zeros((len(rows), 9))
        pose[:, :3, :3] = rows.reshape(-1, 3, 3)
    else:
        pose, intrinsics = rows[:, :16].reshape(-1, 4, 4), rows[:, 16:]
    labels = np.concatenate([to_opencv(pose, cfg).reshape(-1, 16), intrinsics], axis=1)
    number_of = {key: i for i, key in enumerate(file.numbers)}
    index = file.tree if file.kind == "labels" else {}
    object_of = name_map(index, "objects", int, file.name)
    lists = split_lists(index, file.name)
    split_of = {name: split for split, images in lists.items() for name in images}
    views = [
        View(
            image,
            str(PurePosixPath(image).with_suffix("")),
            label,
            number_of[key],
            key,
            object_id=object_of.get(key),
            split=split_of.get(key),
        )
        for (image, key), label in zip(match.pairs, labels, strict=True)
    ]
    without = match.num_without_camera, match.num_without_image
    return SourceViews(source, views, file.name, len(number_of), *without, file.kind)

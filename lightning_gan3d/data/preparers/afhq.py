"""AFHQ: photographs of cats, dogs and wild animals, each with the rotation of its camera.

EG3D (Chan et al. 2022) places each camera at the same distance, so that its axis meets the origin.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from lightning_gan3d.cameras import pinhole
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.listed import images_of, read_listed
from lightning_gan3d.data.preparers.write import Prepared, Progress, write_views

_ANIMALS = ("cat", "dog", "wild")
_PARTS = ("train", "test", "val")


@dataclass(frozen=True)
class AfhqConfig(PrepareConfig):
    """How AFHQ is prepared."""

    animal: Literal["cat", "dog", "wild", "all"] = "cat"
    """Folder of images to use, where they are in folders of these names."""
    part: Literal["train", "test", "val", "all"] = "train"
    """Likewise, where they are in folders of these names."""
    radius: float = 2.7
    """Distance of the cameras from the origin in world units, where the file has only rotations."""
    focal: float = 4.2647
    """Focal length in image widths, where the file has only rotations."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for field in ("radius", "focal"):
            if not getattr(self, field) > 0:
                raise ConfigError(
                    f"{field}={getattr(self, field)}: use a number above 0", field=field
                )


def prepare_afhq(
    source_path: Path,
    out: Path,
    cfg: AfhqConfig,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write the data set from a folder or zip of images and a file of cameras or rotations.

    Raises:
        DataError: images or cameras are not as they must be.
    """
    source = open_source(source_path)
    everything = images_of(source)
    names = _within(everything, cfg.animal, _ANIMALS, "animal")
    names = _within(names, cfg.part, _PARTS, "part")
    listed = read_listed(source, cfg, names, sorted(set(everything) - set(names)))
    pose, intrinsics = listed.pose, listed.intrinsics
    if intrinsics is None:
        pose = pose.copy()
        pose[:, :3, 3] = -cfg.radius * pose[:, :3, 2]
        intrinsics = np.tile(pinhole(cfg.focal).double().numpy(), (len(pose), 1, 1))
        # a float32 on the way would show in the label
        intrinsics[:, [0, 1], [0, 1]] = cfg.focal
    views = listed.views(pose, intrinsics)
    return write_views(
        source,
        out,
        views,
        cfg,
        "afhq",
        listed.where,
        without=listed.without,
        listed=listed.total,
        overwrite=overwrite,
        progress=progress,
    )


def _within(names: list[str], wanted: str, folders: tuple[str, ...], field: str) -> list[str]:
    """Return the images in the folder `wanted`, or all where there are no such folders."""
    parts = {n: set(PurePosixPath(n).parts[:-1]) for n in names}
    there = sorted({f for f in folders if any(f in p for p in parts.values())})
    if wanted == "all" or not there:
        return names
    if wanted not in there:
        raise DataError(
            f"{field}={wanted}: there are images of {', '.join(there)} only; give {field}="
            f"{there[0]} or {field}=all"
        )
    return [n for n in names if wanted in parts[n]]

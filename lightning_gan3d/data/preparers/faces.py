"""FFHQ and CelebA-HQ: photographs of faces, cropped around the middle of an aligned image.

EG3D's numbers (Chan et al. 2022): aligned images of 1024 pixels, in which the focal length is
2985.29; of these the central 700 pixels, so that the focal length is 2985.29 / 700 = 4.2647 image
widths; cameras 2.7 from the origin. `docs/data.md` has the sources.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, open_source
from lightning_gan3d.data.labels import MAX_FOCAL
from lightning_gan3d.data.preparers.config import PrepareConfig
from lightning_gan3d.data.preparers.listed import Listed, crop_intrinsics, images_of, read_listed
from lightning_gan3d.data.preparers.write import Cut, Prepared, Progress, write_views

PIVOT = (0.0, 0.0, 0.175)
"""Centre of rotation of a head, about which `normalise=cor` sets the distance."""
_OFF_CENTRE = 0.05
"""Share of the image size by which a principal point may miss the middle."""


@dataclass(frozen=True)
class FacesConfig(PrepareConfig):
    """How FFHQ and CelebA-HQ are prepared."""

    crop: int = 0
    """Side of the centred square to show, in pixels of the aligned image, as 700. 0: all."""
    cropped: bool = False
    """The images in SRC were cropped to that square before: only intrinsics follow `crop`."""
    aligned_size: int = 1024
    """Side of the aligned image in pixels, in which `crop` and intrinsics in pixels count."""
    labels_of: Literal["unstated", "image", "crop"] = "unstated"
    """What labels with normalised intrinsics describe, where `crop` is set."""
    normalise: Literal["auto", "none", "orig", "cor"] = "auto"
    """Move each camera to `radius` from the origin (`orig`) or from (0, 0, 0.175) (`cor`).

    `auto`: `orig` for a file with a pose for each image, `none` for labels of 25 numbers.
    """
    radius: float = 2.7
    """That distance, in world units."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.aligned_size < 4:
            raise ConfigError(
                f"aligned_size={self.aligned_size}: use 4 or more, e.g. 1024", field="aligned_size"
            )
        if not 0 <= self.crop <= self.aligned_size or (self.aligned_size - self.crop) % 2:
            raise ConfigError(
                f"crop={self.crop}: use 0 (no crop), or up to aligned_size={self.aligned_size} and "
                "less than it by an even number, e.g. 700 of 1024",
                field="crop",
            )
        if not self.crop and (self.cropped or self.labels_of != "unstated"):
            field = "cropped" if self.cropped else "labels_of"
            raise ConfigError(
                f"{field} is given without `crop`: say which square is meant, e.g. crop=700",
                field=field,
            )
        if not self.radius > 0:
            raise ConfigError(f"radius={self.radius}: use a distance above 0", field="radius")


def prepare_faces(
    kind: Literal["ffhq", "celebahq"],
    source_path: Path,
    out: Path,
    cfg: FacesConfig,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write the data set from a folder or zip of images and a file of their cameras.

    Raises:
        DataError: images or cameras are not as they must be.
        ConfigError: the options do not say what the intrinsics describe.
    """
    source = open_source(source_path)
    listed = read_listed(source, cfg, images_of(source))
    if listed.intrinsics is None:
        raise DataError(
            f"{listed.where} holds rotations alone, as EG3D's of AFHQ do: faces need poses and "
            "intrinsics"
        )
    intrinsics, in_pixels = _normalised(listed, listed.intrinsics, cfg)
    how = cfg.normalise
    if how == "auto":
        how = "orig" if listed.kind == "poses" else "none"
    pose = listed.pose if how == "none" else _at_radius(listed, how == "cor", cfg.radius)
    return write_views(
        source,
        out,
        listed.views(pose, intrinsics),
        cfg,
        kind,
        listed.where,
        _cutter(cfg, in_pixels),
        listed.without,
        overwrite=overwrite,
        progress=progress,
    )


def _normalised(
    listed: Listed, k: Float[np.ndarray, "n 3 3"], cfg: FacesConfig
) -> tuple[Float[np.ndarray, "n 3 3"], bool]:
    """Return intrinsics of what is shown, and whether the file has them in pixels."""
    share = cfg.crop / cfg.aligned_size if cfg.crop else 1.0
    in_pixels = listed.kind == "poses" and bool((k[:, 0, 0] > MAX_FOCAL).all())
    if in_pixels and cfg.labels_of != "unstated":
        raise ConfigError(
            f"labels_of={cfg.labels_of}: intrinsics of {listed.where} are in pixels of the aligned "
            "image; leave it out",
            field="labels_of",
        )
    if in_pixels:
        k = k / np.array([cfg.aligned_size, cfg.aligned_size, 1.0])[:, None]
        off = np.abs(k[:, :2, 2] - 0.5).max(axis=1)
        if off.max() > _OFF_CENTRE:
            i = int(off.argmax())
            cx, cy = k[i, :2, 2] * cfg.aligned_size
            raise DataError(
                f"{listed.keys[i]} in {listed.where}: principal point {cx:g} {cy:g} is not the "
                f"middle of {cfg.aligned_size} pixels: give the size of the image that it was "
                "measured in, aligned_size=..."
            )
    elif cfg.crop and cfg.labels_of == "unstated":
        raise ConfigError(
            f"crop={cfg.crop}: say whether the labels of {listed.where} describe the image before "
            "the crop or after it: labels_of=image or labels_of=crop (as EG3D's for FFHQ)",
            field="labels_of",
        )
    elif cfg.labels_of == "crop":
        share = 1.0
    return (crop_intrinsics(k, share) if share != 1 else k), in_pixels


def _at_radius(listed: Listed, about_pivot: bool, radius: float) -> Float[np.ndarray, "n 4 4"]:
    centre = np.array(PIVOT) if about_pivot else np.zeros(3)
    offset = listed.pose[:, :3, 3] - centre
    distance = np.linalg.norm(offset, axis=1, keepdims=True)
    if (distance < 1e-6).any():
        raise DataError(
            f"{listed.keys[int(distance.argmin())]} in {listed.where}: the camera stands in the "
            "centre about which its distance is to be set; `normalise=none` leaves it there"
        )
    pose = listed.pose.copy()
    pose[:, :3, 3] = centre + radius * offset / distance
    return pose


def _cutter(cfg: FacesConfig, in_pixels: bool) -> Cut:
    def cut(side: int, name: str) -> int:
        if cfg.cropped or (not cfg.crop and not in_pixels):
            return side
        if side != cfg.aligned_size:
            raise DataError(
                f"{name} is {side}x{side}, but crop={cfg.crop} and intrinsics count in pixels of "
                f"an image of {cfg.aligned_size}: where it was cropped before, give cropped=true "
                "and the crop, e.g. crop=700; where not, aligned_size=..."
            )
        return cfg.crop or side

    return cut

"""Photographs of objects on a turntable, each view cropped and scaled, as a data set with cameras.

Such as the Columbia Object Image Libraries (Nene, Nayar and Murase 1996): COIL-100 and COIL-20.
`docs/data_reference.md` shows the evidence for COIL-100, the correction and the remaining errors.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Interval
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, Rule
from lightning_gan3d.data.archive import DataError, Source, open_source
from lightning_gan3d.data.dataset_writer import write_dataset
from lightning_gan3d.data.image_files import decode
from lightning_gan3d.data.turntable.zoom import (
    Views,
    background_of,
    brightness,
    outline,
    silhouette,
    solve_views,
)
from lightning_gan3d.draws import Draws
from lightning_gan3d.progress import track
from lightning_gan3d.ranges import parse_ranges

EXTENT = 0.9
"""Extent of an object in world units, so that objects fit a box of side 2."""
FILL = 0.94
"""Extent relative to half the image."""
_THRESHOLDS = (9.0, 14.0, 22.0, 34.0, 50.0)
"""Candidate brightness thresholds of an object; the one with the least residual is used."""


def _are_numbers(text: str) -> bool:
    try:
        return bool(parse_ranges(text)) or not text
    except ValueError:
        return False


def _is_pattern(text: str) -> bool:
    try:
        return re.compile(text).groups == 2
    except re.error:
        return False


def _divides_a_turn(step: float) -> bool:
    return 0 < step <= 120 and math.isclose(360 / step, round(360 / step))


@dataclass(frozen=True)
class TurntableConfig:
    """How a collection of photographs is prepared. The defaults fit COIL-100."""

    resolution: Annotated[int, Interval(ge=8, le=512)] = 128
    """Side of the images in pixels."""
    pattern: Annotated[str, Rule(_is_pattern, "a regular expression with two groups")] = (
        r"obj(\d+)__(\d+)\.png$"
    )
    """File names; the groups are the numbers of object and view."""
    step: Annotated[float, Rule(_divides_a_turn, "degrees that divide 360, at most 120")] = 5.0
    """Degrees between two views. A view's number is its angle in degrees (COIL-100), or counts the
    views from 0 (COIL-20)."""
    elevation: Annotated[float, Interval(ge=-85, le=85)] = 21.0
    """Of the camera, in degrees. 21 and the next default minimise the residual of COIL-100."""
    distance: Annotated[float, Ge(2)] = 16.0
    """Of the camera, in extents of the object."""
    correction: Literal["images", "intrinsics", "none"] = "images"
    """How the zoom of each view is reverted. `images`: resample all views into one common camera;
    `intrinsics`: write it into each camera; `none`: not at all, for comparison."""
    objects: Annotated[str, Rule(_are_numbers, "numbers and ranges such as 1-10,15")] = ""
    """Objects to use, such as `1-10,15`; empty: all."""
    holdout_objects: Annotated[int, Ge(0)] = 10
    """Objects without views in `train`; all their views are in `test_objects`."""
    holdout_angles: Annotated[int, Ge(0)] = 6
    """Evenly spaced views of each other object that are in `test_angles` instead of `train`."""
    seed: int = 0
    """Selects the held-out objects and angles."""

    def __post_init__(self) -> None:
        """Check `holdout_angles` against `step`."""
        held = self.holdout_angles
        if held and (held >= self.num_angles or self.num_angles % held):
            raise ConfigError(
                f"holdout_angles={held}: use 0 or a divisor of {self.num_angles} below it",
                field="holdout_angles",
            )

    @property
    def num_angles(self) -> int:
        """Views of each object."""
        return round(360 / self.step)

    @property
    def angles(self) -> Float[np.ndarray, " k"]:
        """Angles of the views in radians."""
        return np.asarray(np.radians(self.step * np.arange(self.num_angles)))

    @property
    def radius(self) -> float:
        """Distance of the common camera in world units."""
        return self.distance * EXTENT

    @property
    def focal(self) -> float:
        """Focal length of the common camera, in image widths."""
        return 0.5 * self.radius * FILL / EXTENT


class Photographs(NamedTuple):
    """The views of one object, ordered by angle."""

    pixels: list[UInt8[np.ndarray, "h w 3"]]
    backgrounds: list[Float[np.ndarray, "3"]]

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return len(self.pixels[0])


def prepare_turntable(
    archive: Path,
    out: Path,
    cfg: TurntableConfig,
    overwrite: bool = False,
) -> dict[int, float]:
    """Write the data set; returns the tangency residual of each object, in pixels of 128."""
    source = open_source(archive)
    files = _files(source, cfg)
    objects = sorted(parse_ranges(cfg.objects) or {number for number, _ in files})
    if cfg.holdout_objects >= len(objects):
        raise ConfigError(
            f"holdout_objects={cfg.holdout_objects}: use less than {len(objects)}, the number of "
            "objects",
            field="holdout_objects",
        )
    split_of = _splits(cfg, objects)
    residuals: dict[int, float] = {}
    with write_dataset(out, overwrite) as writer:
        for number in track(objects, "objects"):
            photos = read_photographs(source, files, number, cfg.num_angles)
            views = (
                _uncorrected(photos)
                if cfg.correction == "none"
                else find_views(cfg, photos, number)
            )
            residuals[number] = round(views.residual, 3)
            labels = view_cameras(cfg, views, photos.side).to_label().double().numpy()
            for k in range(cfg.num_angles):
                name = f"obj{number:03d}/{cfg.step * k:03g}.png"
                pixels = _resampled(cfg, photos, views, k)
                writer.image(name, pixels, labels[k], split_of(number, k), number)
        writer.metadata("turntable", {**asdict(cfg), "residual_pixels": residuals})
    return residuals


def read_photographs(
    source: Source, files: dict[tuple[int, int], str], number: int, num: int
) -> Photographs:
    """Read the `num` views of an object; grey images become RGB."""
    missing = [k for k in range(num) if (number, k) not in files]
    if missing:
        raise DataError(
            f"{source.path}: object {number} lacks {len(missing)} of {num} views, the first is "
            f"number {missing[0]} from 0; correct step, or choose other objects"
        )
    names = [files[number, k] for k in range(num)]
    first = decode(source.read(names[0]), names[0], convert="black")
    pixels = [first, *(decode(source.read(n), n, len(first), "black") for n in names[1:])]
    return Photographs(pixels, [background_of(p) for p in pixels])


def find_views(cfg: TurntableConfig, photos: Photographs, number: int) -> Views:
    """Recover zoom and shift of all views with the threshold of least residual."""
    best: Views | None = None
    above = [brightness(p, b) for p, b in zip(photos.pixels, photos.backgrounds, strict=True)]
    for threshold in _THRESHOLDS:
        outlines = [outline(silhouette(a, threshold)) for a in above]
        visible = [o for o in outlines if o is not None]
        if len(visible) == len(outlines):
            views = solve_views(visible, cfg.angles, math.radians(cfg.elevation), cfg.distance)
            best = views if best is None or views.residual < best.residual else best
    if best is None:
        raise DataError(f"object {number}: no threshold gives every view a silhouette")
    return best


def view_cameras(cfg: TurntableConfig, views: Views, side: int) -> Cameras:
    """Return the cameras of all views, on a circle around the object.

    The object rotates clockwise seen from above, so the camera's azimuth grows with the angle.
    """
    azimuth = torch.as_tensor(cfg.angles)
    elevation = torch.full_like(azimuth, math.radians(cfg.elevation))
    cameras = Cameras.on_sphere(azimuth, elevation, cfg.radius, cfg.focal)
    if cfg.correction != "intrinsics":
        return cameras
    intrinsics = cameras.intrinsics.clone()
    scale, shift = torch.as_tensor(views.scale), torch.as_tensor(views.shift)
    focal = cfg.distance * views.extent / (side * scale)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal, focal
    intrinsics[:, 0, 2] = 0.5 - shift[:, 0] / (side * scale)
    intrinsics[:, 1, 2] = 0.5 + shift[:, 1] / (side * scale)
    return cameras._replace(intrinsics=intrinsics)


def _resampled(
    cfg: TurntableConfig, photos: Photographs, views: Views, k: int
) -> UInt8[np.ndarray, "r r 3"]:
    """Return a view on black: in the common camera, or as it was cropped."""
    side, background = photos.side, photos.backgrounds[k]
    lifted = (photos.pixels[k].astype(np.float64) - background) * (255 / (255 - background))
    black = Image.fromarray(np.rint(lifted.clip(0, 255)).astype(np.uint8))
    size = (cfg.resolution, cfg.resolution)
    if cfg.correction != "images":
        return np.array(black.resize(size, Image.Resampling.BICUBIC))
    half = views.extent / FILL
    left = (-half - views.shift[k, 0]) / views.scale[k] + side / 2
    top = side / 2 - (half - views.shift[k, 1]) / views.scale[k]
    width = 2 * half / views.scale[k]
    pad = math.ceil(max(0.0, -left, -top, left + width - side, top + width - side)) + 1
    padded = Image.new("RGB", (side + 2 * pad, side + 2 * pad))
    padded.paste(black, (pad, pad))
    box = (left + pad, top + pad, left + pad + width, top + pad + width)
    return np.array(padded.resize(size, Image.Resampling.BICUBIC, box=box))


def _uncorrected(photos: Photographs) -> Views:
    num = len(photos.pixels)
    return Views(np.ones(num), np.zeros((num, 2)), photos.side / 2 * FILL, 0.0)


def _files(source: Source, cfg: TurntableConfig) -> dict[tuple[int, int], str]:
    """Return the file of each object and view; views count from 0."""
    matches = ((re.search(cfg.pattern, name), name) for name in source.names)
    files = {(int(m[1]), int(m[2])): name for m, name in matches if m}
    if not files:
        raise DataError(f"{source.path} has no file that matches pattern={cfg.pattern}")
    unit = 1.0 if max(view for _, view in files) < cfg.num_angles else cfg.step
    wrong = next((name for (_, view), name in files.items() if view % unit), None)
    if wrong:
        raise DataError(f"{wrong}: its number is no multiple of step={cfg.step:g} degrees")
    return {(number, round(view / unit)): name for (number, view), name in files.items()}


def _splits(cfg: TurntableConfig, objects: Sequence[int]) -> Callable[[int, int], str]:
    """Return the function from object and view to split; held-out views differ by object."""
    draws = Draws(cfg.seed).scope("coil100")  # as when only COIL-100 could be prepared
    order = draws.permutation("objects", len(objects))[: cfg.holdout_objects]
    unseen = {objects[i] for i in order.tolist()}
    spacing = cfg.num_angles // cfg.holdout_angles if cfg.holdout_angles else 0
    starts: dict[int, int] = {
        n: int(draws.at(n).integers("angle", spacing, (1,))) if spacing else 0 for n in objects
    }

    def split_of(number: int, view: int) -> str:
        if number in unseen:
            return "test_objects"
        return "test_angles" if spacing and view % spacing == starts[number] else "train"

    return split_of

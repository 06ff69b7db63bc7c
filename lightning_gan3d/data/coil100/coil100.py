"""The Columbia Object Image Library (Nene, Nayar and Murase 1996) as a data set with cameras.

Each view was cropped to the object and scaled to 128 pixels on the longer side.
`docs/data_reference.md` shows the evidence, the correction and the remaining errors.
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
from lightning_gan3d.data.archive import (
    DataError,
    Progress,
    Source,
    open_source,
    report_progress,
    write_dataset,
)
from lightning_gan3d.data.coil100.turntable import (
    Views,
    background_of,
    brightness,
    outline,
    silhouette,
    solve_views,
)
from lightning_gan3d.data.dataset import parse_ranges
from lightning_gan3d.data.image_files import decode
from lightning_gan3d.draws import Draws

STEP = 5
"""Degrees between two views."""
NUM_ANGLES = 72
ANGLES = np.radians(STEP * np.arange(NUM_ANGLES))
ELEVATION = math.radians(21.0)
DISTANCE = 16.0
"""Distance of the camera in extents of the object. Both minimise the residual."""
EXTENT = 0.9
"""Extent of an object in world units, so that objects fit a box of side 2."""
FILL = 0.94
"""Extent relative to half the image."""
RADIUS = DISTANCE * EXTENT
FOCAL = 0.5 * RADIUS * FILL / EXTENT
"""Focal length of the common camera, in image widths."""
_THRESHOLDS = (9.0, 14.0, 22.0, 34.0, 50.0)
"""Candidate brightness thresholds of an object; the one with the least residual is used."""
_NAME = re.compile(r"obj(\d+)__(\d+)\.png$")


def _are_objects(text: str) -> bool:
    try:
        return set() < set(parse_ranges(text)) <= set(range(1, 101))
    except ValueError:
        return False


@dataclass(frozen=True)
class CoilConfig:
    """How COIL-100 is prepared."""

    resolution: Annotated[int, Interval(ge=8, le=512)] = 128
    """Side of the images in pixels."""
    correction: Literal["images", "intrinsics", "none"] = "images"
    """How the zoom of each view is reverted. `images`: resample all views into one common camera;
    `intrinsics`: write it into each camera; `none`: not at all, for comparison."""
    objects: Annotated[str, Rule(_are_objects, "numbers and ranges in 1-100")] = "1-100"
    """Objects to use, such as `1-10,15`."""
    holdout_objects: Annotated[int, Ge(0)] = 10
    """Objects without views in `train`; all their views are in `test_objects`."""
    holdout_angles: Annotated[
        int, Rule(lambda n: n == 0 or (0 < n < 72 and 72 % n == 0), "0 or a divisor of 72 below it")
    ] = 6
    """Evenly spaced views of each other object that are in `test_angles` instead of `train`."""
    seed: int = 0
    """Selects the held-out objects and angles."""

    def __post_init__(self) -> None:
        """Check `holdout_objects` against `objects`."""
        num = len(parse_ranges(self.objects))
        if self.holdout_objects >= num:
            raise ConfigError(
                f"holdout_objects={self.holdout_objects}: use less than {num}, the number of "
                "objects",
                field="holdout_objects",
            )


class Photographs(NamedTuple):
    """The views of one object, ordered by angle."""

    pixels: list[UInt8[np.ndarray, "h w 3"]]
    backgrounds: list[Float[np.ndarray, "3"]]

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return len(self.pixels[0])


def prepare_coil100(
    archive: Path,
    out: Path,
    cfg: CoilConfig,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[int, float]:
    """Write the data set; returns the tangency residual of each object, in pixels of 128."""
    source = open_source(archive)
    files = _files(source)
    objects = sorted(parse_ranges(cfg.objects))
    split_of = _splits(cfg, objects)
    residuals: dict[int, float] = {}
    with write_dataset(out, overwrite) as writer:
        for number in report_progress(objects, progress):
            photos = read_photographs(source, files, number)
            views = _uncorrected(photos) if cfg.correction == "none" else find_views(photos, number)
            residuals[number] = round(views.residual, 3)
            labels = view_cameras(cfg, views, photos.side).to_label().double().numpy()
            for k in range(NUM_ANGLES):
                name = f"obj{number:03d}/{STEP * k:03d}.png"
                pixels = _resampled(cfg, photos, views, k)
                writer.image(name, pixels, labels[k], split_of(number, k), number)
        writer.metadata("coil100", {**asdict(cfg), "residual_pixels": residuals})
    return residuals


def read_photographs(source: Source, files: dict[tuple[int, int], str], number: int) -> Photographs:
    """Read all views of an object."""
    missing = [k for k in range(NUM_ANGLES) if (number, STEP * k) not in files]
    if missing:
        raise DataError(
            f"{source.path} lacks obj{number}__{STEP * missing[0]}.png ({len(missing)} of "
            f"{NUM_ANGLES} views of object {number}): use the archive of COIL-100 as downloaded"
        )
    names = [files[number, STEP * k] for k in range(NUM_ANGLES)]
    pixels = [decode(source.read(n), n, 128) for n in names]
    return Photographs(pixels, [background_of(p) for p in pixels])


def find_views(photos: Photographs, number: int) -> Views:
    """Recover zoom and shift of all views with the threshold of least residual."""
    best: Views | None = None
    above = [brightness(p, b) for p, b in zip(photos.pixels, photos.backgrounds, strict=True)]
    for threshold in _THRESHOLDS:
        outlines = [outline(silhouette(a, threshold)) for a in above]
        visible = [o for o in outlines if o is not None]
        if len(visible) == len(outlines):
            views = solve_views(visible, ANGLES, ELEVATION, DISTANCE)
            best = views if best is None or views.residual < best.residual else best
    if best is None:
        raise DataError(f"object {number}: no threshold gives every view a silhouette")
    return best


def view_cameras(cfg: CoilConfig, views: Views, side: int) -> Cameras:
    """Return the cameras of all views, on a circle around the object.

    The object rotates clockwise seen from above, so the camera's azimuth grows with the angle.
    """
    azimuth = torch.as_tensor(ANGLES)
    cameras = Cameras.on_sphere(azimuth, torch.full_like(azimuth, ELEVATION), RADIUS, FOCAL)
    if cfg.correction != "intrinsics":
        return cameras
    intrinsics = cameras.intrinsics.clone()
    scale, shift = torch.as_tensor(views.scale), torch.as_tensor(views.shift)
    focal = DISTANCE * views.extent / (side * scale)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal, focal
    intrinsics[:, 0, 2] = 0.5 - shift[:, 0] / (side * scale)
    intrinsics[:, 1, 2] = 0.5 + shift[:, 1] / (side * scale)
    return cameras._replace(intrinsics=intrinsics)


def _resampled(
    cfg: CoilConfig, photos: Photographs, views: Views, k: int
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
    return Views(np.ones(NUM_ANGLES), np.zeros((NUM_ANGLES, 2)), photos.side / 2 * FILL, 0.0)


def _files(source: Source) -> dict[tuple[int, int], str]:
    matches = ((_NAME.search(name), name) for name in source.names)
    files = {(int(m[1]), int(m[2])): name for m, name in matches if m}
    if not files:
        raise DataError(
            f"{source.path} has no objN__ANGLE.png: use the archive of COIL-100 as downloaded"
        )
    return files


def _splits(cfg: CoilConfig, objects: Sequence[int]) -> Callable[[int, int], str]:
    """Return the function from object and view to split; held-out views differ by object."""
    draws = Draws(cfg.seed).scope("coil100")
    order = draws.permutation("objects", len(objects))[: cfg.holdout_objects]
    unseen = {objects[i] for i in order.tolist()}
    spacing = NUM_ANGLES // cfg.holdout_angles if cfg.holdout_angles else 0
    starts: dict[int, int] = {
        n: int(draws.at(n).integers("angle", spacing, (1,))) if spacing else 0 for n in objects
    }

    def split_of(number: int, view: int) -> str:
        if number in unseen:
            return "test_objects"
        return "test_angles" if spacing and view % spacing == starts[number] else "train"

    return split_of

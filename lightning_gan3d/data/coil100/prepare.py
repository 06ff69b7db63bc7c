"""The Columbia Object Image Library (Nene, Nayar and Murase 1996) as a data set with cameras.

Each of its views was cropped to the object and scaled to 128 pixels on the longer side.
`docs/data.md` tells how that was found, how it is undone here, and what stays wrong.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.archive import DataError, Source, open_source
from lightning_gan3d.data.coil100.silhouettes import background_of, brightness, outline, silhouette
from lightning_gan3d.data.coil100.turntable import Turntable, Views, solve_views
from lightning_gan3d.data.dataset import parse_ranges
from lightning_gan3d.data.decode import decode
from lightning_gan3d.data.writer import DatasetWriter
from lightning_gan3d.draws import Draws

STEP = 5
"""Degrees between two views."""
NUM_ANGLES = 72
ELEVATION = math.radians(21.0)
DISTANCE = 16.0
"""Distance of the camera, in extents of the object.

Both numbers are those of least residual, see docs/data.md.
"""
EXTENT = 0.9
"""World units of an object's extent, so that objects fit a box of side 2."""
FILL = 0.94
"""Share of half the picture that the extent takes."""
RADIUS = DISTANCE * EXTENT
FOCAL = 0.5 * RADIUS * FILL / EXTENT
"""Focal length of the common camera, in image widths."""
_THRESHOLDS = (9.0, 14.0, 22.0, 34.0, 50.0)
"""Brightness above the background that counts as object.

Which one, each object's own residuals decide.
"""
_NAME = re.compile(r"obj(\d+)__(\d+)\.png$")


@dataclass(frozen=True)
class CoilConfig:
    """How COIL-100 is prepared."""

    resolution: int = 128
    """Side of the images in pixels."""
    correction: Literal["images", "intrinsics", "none"] = "images"
    """Where the zoom of each view is undone.

    `images` resamples all views into one common camera; `intrinsics` writes it into each camera;
    `none` gives every view the common camera, which is wrong, and shows what a correction is worth.
    """
    objects: str = "1-100"
    """Objects to use, such as `1-10,15`."""
    holdout_objects: int = 10
    """Objects of which no view is in `train`; all their views are `test_objects`."""
    holdout_angles: int = 6
    """Views of each other object, evenly spaced, that are `test_angles` and not in `train`."""
    seed: int = 0
    """Picks the objects and angles that are held out."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 8 <= self.resolution <= 512:
            raise ConfigError(
                f"resolution={self.resolution}: use 8 to 512, e.g. 64", field="resolution"
            )
        try:
            chosen = parse_ranges(self.objects)
        except ValueError:
            chosen = set()
        if not chosen or not chosen <= set(range(1, 101)):
            raise ConfigError(
                f"objects={self.objects}: write numbers and ranges in 1-100, e.g. 1-10,15",
                field="objects",
            )
        if not 0 <= self.holdout_objects < len(chosen):
            raise ConfigError(
                f"holdout_objects={self.holdout_objects}: use 0 to {len(chosen) - 1}, for "
                f"{len(chosen)} are used",
                field="holdout_objects",
            )
        if not 0 <= self.holdout_angles < NUM_ANGLES or (
            self.holdout_angles and NUM_ANGLES % self.holdout_angles
        ):
            raise ConfigError(
                f"holdout_angles={self.holdout_angles}: use 0 or a divisor of 72 below it, e.g. 6",
                field="holdout_angles",
            )


class Shot(NamedTuple):
    """The views of one object, in the order of their angles."""

    pixels: list[UInt8[np.ndarray, "h w 3"]]
    backgrounds: list[Float[np.ndarray, "3"]]


def prepare_coil100(
    archive: Path,
    out: Path,
    cfg: CoilConfig,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, float]:
    """Write the data set and return each object's tangency residual: by how much views disagree.

    Residuals are in pixels of the photographs (128 a side). `progress(done, total)` is called after
    each object.
    """
    source = open_source(archive)
    files = _files(source)
    objects = sorted(parse_ranges(cfg.objects))
    split_of = _splits(cfg, objects)
    angles = np.radians(STEP * np.arange(NUM_ANGLES))
    residuals: dict[int, float] = {}
    with DatasetWriter(out, overwrite) as writer:
        for done, number in enumerate(objects, 1):
            shot = read_shot(source, files, number)
            views = (
                find_views(shot, angles, number) if cfg.correction != "none" else _as_they_are(shot)
            )
            residuals[number] = round(views.residual, 3)
            labels = (
                view_cameras(cfg, views, angles, len(shot.pixels[0])).to_label().double().numpy()
            )
            for k in range(NUM_ANGLES):
                pixels = _picture(cfg, shot.pixels[k], shot.backgrounds[k], views, k)
                name = f"obj{number:03d}/{STEP * k:03d}.png"
                writer.image(name, pixels, labels[k], split_of(number, k), number)
            if progress is not None:
                progress(done, len(objects))
        writer.note("coil100", {**asdict(cfg), "residual_pixels": residuals})
    return residuals


def read_shot(source: Source, files: dict[tuple[int, int], str], number: int) -> Shot:
    """Read all views of an object."""
    missing = [k for k in range(NUM_ANGLES) if (number, STEP * k) not in files]
    if missing:
        raise DataError(
            f"{source.path} lacks obj{number}__{STEP * missing[0]}.png ({len(missing)} of "
            f"{NUM_ANGLES} views of object "
            f"{number}): give the archive of COIL-100 as it is downloaded"
        )
    names = [files[number, STEP * k] for k in range(NUM_ANGLES)]
    pixels = [decode(source.read(n), n, 128) for n in names]
    return Shot(pixels, [background_of(p) for p in pixels])


def find_views(shot: Shot, angles: Float[np.ndarray, " k"], number: int) -> Views:
    """Recover zoom and shift of all views.

    The threshold is that whose silhouettes contradict one another least.
    """
    best: Views | None = None
    table = Turntable(ELEVATION, DISTANCE)
    above = [brightness(p, b) for p, b in zip(shot.pixels, shot.backgrounds, strict=True)]
    for threshold in _THRESHOLDS:
        masks = [silhouette(a, threshold) for a in above]
        outlines = [o for o in (outline(m) for m in masks) if o is not None]
        if len(outlines) == len(masks):
            views = solve_views(outlines, angles, table)
            best = views if best is None or views.residual < best.residual else best
    if best is None:
        raise DataError(f"object {number}: no silhouette found in some of its views")
    return best


def view_cameras(
    cfg: CoilConfig, views: Views, angles: Float[np.ndarray, " k"], side: int
) -> Cameras:
    """Return the cameras of all views, on a circle around the object.

    The object turns clockwise as seen from above, so that to the object the camera's azimuth grows
    with the angle.
    """
    azimuth = torch.as_tensor(angles)
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


def _picture(
    cfg: CoilConfig,
    pixels: UInt8[np.ndarray, "h w 3"],
    background: Float[np.ndarray, "3"],
    views: Views,
    k: int,
) -> UInt8[np.ndarray, "r r 3"]:
    """Return a view on black, in the common camera or as it was cropped."""
    side = len(pixels)
    lifted = (pixels.astype(np.float64) - background) * (255 / (255 - background))
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


def _as_they_are(shot: Shot) -> Views:
    side = len(shot.pixels[0])
    return Views(np.ones(NUM_ANGLES), np.zeros((NUM_ANGLES, 2)), side / 2 * FILL, 0.0)


def _files(source: Source) -> dict[tuple[int, int], str]:
    found = ((_NAME.search(name), name) for name in source.names)
    files = {(int(m[1]), int(m[2])): name for m, name in found if m}
    if not files:
        raise DataError(
            f"{source.path} holds no objN__ANGLE.png: give the archive of COIL-100 as it is "
            "downloaded"
        )
    return files


def _splits(cfg: CoilConfig, objects: Iterable[int]) -> Callable[[int, int], str]:
    """Return the function from object and view to split.

    Each object's held-out views start at a view of its own.
    """
    numbers = list(objects)
    draws = Draws(cfg.seed).scope("coil100")
    order = draws.permutation("objects", len(numbers))[: cfg.holdout_objects]
    unseen = {numbers[i] for i in order.tolist()}
    spacing = NUM_ANGLES // cfg.holdout_angles if cfg.holdout_angles else 0
    starts: dict[int, int] = {
        n: int(draws.at(n).integers("angle", spacing, (1,))) if spacing else 0 for n in numbers
    }

    def split_of(number: int, view: int) -> str:
        if number in unseen:
            return "test_objects"
        return "test_angles" if spacing and view % spacing == starts[number] else "train"

    return split_of

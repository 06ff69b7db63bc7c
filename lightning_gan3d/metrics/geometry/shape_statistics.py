"""Geometry of items: flat or round, in one piece or not, sharp or misty, shaped as the data."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.consistency.warp import FAINT, carry
from lightning_gan3d.metrics.geometry.depth_maps import normal_errors, normals_from_depth, thinness
from lightning_gan3d.metrics.geometry.mesh import Samples
from lightning_gan3d.metrics.geometry.shapes import (
    NO_DEPTH,
    NO_FIELD,
    SHAPES,
    SOLID,
    compare_shapes,
    num_objects,
    shape_of,
    shapes_of,
)
from lightning_gan3d.metrics.geometry.volume import Volume, grid_of, pieces, volume_of
from lightning_gan3d.metrics.sources import ViewSource
from lightning_gan3d.metrics.summary import mean_of

TURNS = 4
"""Views of an item a quarter turn apart: front, side, back, side."""
SEEN = {
    "relief": "",
    "thickness": "",
    "billboards": "share",
    "side_share": "",
    "depth_sd": "",
    "opaque": "share",
    "opacity": "share",
    "half_transparent": "share",
}
"""What is measured of views, with its unit."""
INSIDE = {"normals_deg": "deg", "floaters": "share", "filled": "share"}
"""What is measured of volumes, with its unit."""


class Seen(NamedTuple):
    """The views of one item."""

    cameras: Cameras
    depth: Float[Tensor, "k 1 h w"]
    """Distance along the rays, in world units."""
    opacity: Float[Tensor, "k 1 h w"]


def see(source: ViewSource, item: int) -> Seen | None:
    """See an item from its own camera and carried on by quarter turns; None without depth."""
    items = torch.tensor([item])
    base = source.base(items)
    azimuth = torch.arange(TURNS).to(base.cam2world) * (2 * math.pi / TURNS)
    cameras = carry(base, azimuth)
    views = source.views(items, cameras)
    if views.depth is None or views.opacity is None:
        return None
    depth, opacity = views.depth.float().cpu(), views.opacity.float().cpu()
    return Seen(cameras.to("cpu", torch.float32), depth, opacity)


def statistics(seen: Seen, cfg: GeometryConfig) -> dict[str, float]:
    """Return what is measured of one item's views, by the names of `SEEN`; NaN where undefined."""
    if not bool((seen.depth.isfinite() & seen.opacity.isfinite()).all()):
        return dict.fromkeys(SEEN, math.inf)  # which no mean hides, unlike NaN: undefined
    opaque = seen.opacity >= cfg.foreground
    clouds = _clouds(seen, opaque)
    counts = opaque.flatten(1).sum(dim=1)
    shown = seen.opacity >= FAINT
    relief = thinness(clouds[0])
    thickness = thinness(torch.cat(clouds))
    front, side = float(counts[0] + counts[2]), float(counts[1] + counts[3])
    depth = seen.cameras.depth_z(seen.depth)[0][opaque[0]]
    half = shown & (seen.opacity <= 1 - FAINT)
    known = math.isfinite(relief) and math.isfinite(thickness)
    return {
        "relief": relief,
        "thickness": thickness,
        "billboards": float(min(relief, thickness) < cfg.flat) if known else math.nan,
        "side_share": side / front if front else math.nan,
        "depth_sd": float(depth.std(correction=0)) if len(depth) > 1 else math.nan,
        "opaque": float(opaque.float().mean()),
        "opacity": float(seen.opacity.mean()),
        "half_transparent": float(half.sum() / shown.sum()) if bool(shown.any()) else math.nan,
    }


def _clouds(seen: Seen, opaque: Bool[Tensor, "k 1 h w"]) -> list[Tensor]:
    """Return the world points of each view's foreground pixels."""
    points = seen.cameras.unproject(seen.depth)
    return [p[o] for p, o in zip(points, opaque.flatten(1), strict=True)]


def normal_gap(volume: Volume, seen: Seen, cfg: GeometryConfig) -> float:
    """Return the mean angle in degrees between normals of an item's depth and of its density.

    NaN where no pixel has both.
    """
    found = normals_from_depth(seen.depth, seen.opacity >= cfg.foreground, seen.cameras)
    points = rearrange(seen.cameras.unproject(seen.depth), "v n c -> 1 (v n) c")
    inner = rearrange(
        volume.normals(points)[0].cpu(), "(v h w) c -> v c h w", v=TURNS, h=seen.depth.shape[-1]
    )
    both = found.valid & (inner.norm(dim=1, keepdim=True) > 0.5)  # no normal where all is even
    angles = normal_errors(found.normals, inner, both)
    angles = angles[angles.isfinite()]
    return math.degrees(float(angles.mean())) if len(angles) else math.nan


@dataclass
class Geometry:
    """What was found of the items of a source."""

    values: dict[str, list[float]]
    """By the names of `SEEN` and `INSIDE`, one an item; NaN where it has none."""
    shapes: list[Samples | None]
    """Points of the items' meshes, None for one without a surface; empty without volumes."""
    box: float | None
    """Edge of the volumes' box; None where the items have no volume."""


def take(source: ViewSource, cfg: GeometryConfig, items: range, seed: int = 0) -> Geometry | None:
    """Look at items; None where the source renders no depth."""
    found = Geometry({name: [] for name in (*SEEN, *INSIDE)}, [], None)
    for item in items:
        seen = see(source, item)
        if seen is None:
            return None
        for name, value in statistics(seen, cfg).items():
            found.values[name].append(value)
        volume = volume_of(source, item)
        if volume is None:
            continue
        found.box = volume.box
        grid = grid_of(volume, cfg.grid)[0]
        if not np.isfinite(grid).all():
            found.shapes.append(None)
            for name in INSIDE:
                found.values[name].append(math.inf)
            continue
        parts = pieces(grid)
        found.values["normals_deg"].append(normal_gap(volume, seen, cfg))
        # An item with nothing solid has no largest piece to compare with.
        found.values["floaters"].append(parts.floating if parts.num else math.nan)
        found.values["filled"].append(parts.filled)
        found.shapes.append(shape_of(grid, volume.box, cfg.points, seed + item))
    return found


def _objects(truth: ViewSource, cfg: GeometryConfig, seed: int) -> list[Samples | None]:
    """Return the shapes of the data's objects that all samples are compared with."""
    some = range(num_objects(truth, cfg.items))
    return shapes_of(truth, some, cfg.grid, cfg.points, seed)


def _against(
    found: Geometry | None, objects: list[Samples | None], cfg: GeometryConfig, suffix: str
) -> list[Metric]:
    """Compare the shapes that were found with the data's, or say why that cannot be."""
    if found is None or found.box is None:
        why = NO_DEPTH if found is None else f"{NO_FIELD}, so there is no mesh"
        return [missing(f"geometry.{name}{suffix}", why) for name in SHAPES]
    return compare_shapes(found.shapes, objects, cfg.grid, suffix)


def measure_geometry(
    source: ViewSource, cfg: GeometryConfig, truth: ViewSource | None = None, seed: int = 0
) -> list[Metric]:
    """Measure the geometry of a source's items, which need no truth of their own.

    `truth` shows the data's objects, to whose shapes the items' shapes are compared.
    """
    found = take(source, cfg, range(cfg.items), seed)
    result = _rows(found, cfg, "")
    if truth is not None:
        objects = _objects(truth, cfg, seed)
        result += _against(found, objects, cfg, "")
    return result


def measure_truth(truth: ViewSource, cfg: GeometryConfig, seed: int = 0) -> list[Metric]:
    """Measure the data's own objects by the same code, as `*_truth`.

    They are others than those that a generator's shapes are compared with.
    """
    half = num_objects(truth, cfg.items)
    found = take(truth, cfg, range(half, 2 * half) if half else range(cfg.items), seed)
    objects = _objects(truth, cfg, seed)
    return [*_rows(found, cfg, "_truth"), *_against(found, objects, cfg, "_truth")]


def without_depth(suffix: str = "") -> list[Metric]:
    """Return what is measured without the data's objects, as missing: there is no depth."""
    return [missing(f"geometry.{k}{suffix}", NO_DEPTH, u) for k, u in (SEEN | INSIDE).items()]


def _rows(found: Geometry | None, cfg: GeometryConfig, suffix: str) -> list[Metric]:
    if found is None:
        return without_depth(suffix)
    seen = (
        "item's own camera carried around the world's y axis by quarter turns, label fixed; "
        f"depth before super-resolution; foreground is opacity >= {cfg.foreground:g}"
    )
    box = f"box of {found.box:g} world units, {cfg.grid}^3 cells; " if found.box else ""
    solid = f"{box}{SOLID}"
    notes = {
        "relief": "smallest over largest standard deviation along principal axes of the front "
        f"view's points, 0 on a plane, 0.47 for a ball; {seen}",
        "thickness": f"the same of the points of all four views together, 0.82 for a ball; {seen}",
        "billboards": f"relief or thickness under {cfg.flat:g}; {seen}",
        "side_share": "foreground pixels from both sides over those from front and back, 1 for a "
        f"ball, 0 for a card; {seen}",
        "depth_sd": f"standard deviation of camera z over the front view's foreground; {seen}",
        "opaque": f"share of foreground among all pixels; {seen}",
        "opacity": f"mean opacity of all pixels; {seen}",
        "half_transparent": f"pixels with opacity in [{FAINT:g}, {1 - FAINT:g}] among those from "
        f"{FAINT:g}, silhouettes included; {seen}",
        "normals_deg": "mean angle between normals by finite differences of depth and by the "
        f"gradient of the volume at the same points, where no depth jumps; {seen}",
        "floaters": "share of solid matter outside the largest connected component, hidden or "
        f"not; {solid}",
        "filled": f"share of the box that is solid; {solid}",
    }
    result = []
    for name, unit in (SEEN | INSIDE).items():
        metric = f"geometry.{name}{suffix}"
        if name in INSIDE and found.box is None:
            result.append(missing(metric, NO_FIELD, unit))
            continue
        values = torch.tensor(found.values[name], dtype=torch.float64)
        result.append(_mean(metric, values, unit, notes[name]))
    return result


def _mean(metric: str, values: Float[Tensor, " n"], unit: str, note: str) -> Metric:
    """Take the mean over the items that have a value; the note counts the others."""
    kept = values[~values.isnan()]
    left = len(values) - len(kept)
    counted = f"mean over {len(values)} items"
    if left:
        counted += f" but {left} that had nothing to measure"
    empty = "no item has anything to measure"
    return mean_of(metric, kept, unit, f"{note}; {counted}", empty, values)

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
from lightning_gan3d.config import ConfigError
from lightning_gan3d.measure import Measure, missing
from lightning_gan3d.metrics.depth_maps import normal_errors, normals_from_depth, thinness
from lightning_gan3d.metrics.solid import SHARE, HasVolume, Volume, grid_of, pieces
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource
from lightning_gan3d.metrics.summary import mean_of
from lightning_gan3d.metrics.surface import Samples, distance, mesh_of, sample
from lightning_gan3d.metrics.warp import carry

TURNS = 4
"""Views of an item a quarter turn apart: front, side, back, side."""
FAINT = 0.1
"""Opacity from which a pixel shows anything."""
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
SHAPES = {"shape_to_data": "", "shape_from_data": ""}
"""Distances from shapes of samples to shapes of the data, in world units."""

_NO_DEPTH = "no depth is rendered, so there is no geometry to measure"
_NO_FIELD = "its scenes cannot be queried at points"
_SOLID = f"solid is what has an opacity of 0.5 or more over a {SHARE}nd of the box"


@dataclass(frozen=True)
class GeometryConfig:
    """The protocol of the measures of geometry."""

    items: int = 16
    """Latents whose geometry is measured."""
    foreground: float = 0.9
    """Opacity from which a pixel is foreground."""
    flat: float = 0.1
    """Relief or thickness under which an item counts as a billboard; a ball has 0.47 and 0.82."""
    grid: int = 32
    """Cells along each edge of the box, for floaters and meshes."""
    points: int = 2048
    """Points of each mesh that stand for its shape."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field, low in (("items", 2), ("grid", 4), ("points", 16)):
            if getattr(self, field) < low:
                raise ConfigError(
                    f"geometry.{field}={getattr(self, field)}: use a whole number from {low}, "
                    "e.g. 32",
                    field=field,
                )
        for field in ("foreground", "flat"):
            if not 0 < getattr(self, field) <= 1:
                raise ConfigError(
                    f"geometry.{field}={getattr(self, field)}: use a number in (0, 1]", field=field
                )


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
    shapes: list[Samples]
    """Points of the meshes of the items that have a surface."""
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
            for name in INSIDE:
                found.values[name].append(math.inf)
            continue
        parts = pieces(grid)
        found.values["normals_deg"].append(normal_gap(volume, seen, cfg))
        # An item with nothing solid has no largest piece to compare with.
        found.values["floaters"].append(parts.floating if parts.num else math.nan)
        found.values["filled"].append(parts.filled)
        found.shapes += shape_of(grid, volume.box, cfg, seed + item)
    return found


def volume_of(source: ViewSource, item: int) -> Volume | None:
    """Return the volume of one item, where the source has any."""
    return source.volume(torch.tensor([item])) if isinstance(source, HasVolume) else None


def shape_of(
    grid: Float[np.ndarray, "x y z"], box: float, cfg: GeometryConfig, seed: int
) -> list[Samples]:
    """Return points of the surface of a grid of solidity; none where it has no surface."""
    mesh = mesh_of(grid, box)
    return [] if mesh is None else [sample(mesh, cfg.points, seed)]


def shapes_of(source: ViewSource, cfg: GeometryConfig, items: range, seed: int) -> list[Samples]:
    """Return points of the surfaces of items; those without one are left out."""
    volumes = [(item, volume_of(source, item)) for item in items]
    return [
        shape
        for item, volume in volumes
        if volume is not None
        for shape in shape_of(grid_of(volume, cfg.grid)[0], volume.box, cfg, seed + item)
    ]


def measure_geometry(
    source: ViewSource, cfg: GeometryConfig, truth: ViewSource | None = None, seed: int = 0
) -> list[Measure]:
    """Measure the geometry of a source's items, which need no truth of their own.

    `truth` shows the data's objects, to whose shapes the items' shapes are compared.
    """
    found = take(source, cfg, range(cfg.items), seed)
    result = _rows(found, cfg, "")
    if truth is not None:
        objects = shapes_of(truth, cfg, range(num_objects(truth, cfg)), seed)
        result += _shape_rows(found, objects, cfg, "")
    return result


def measure_truth(truth: ViewSource, cfg: GeometryConfig, seed: int = 0) -> list[Measure]:
    """Measure the data's own objects by the same code, as `*_truth`.

    They are others than those that a generator's shapes are compared with.
    """
    half = num_objects(truth, cfg)
    found = take(truth, cfg, range(half, 2 * half) if half else range(cfg.items), seed)
    objects = shapes_of(truth, cfg, range(half), seed)
    return [*_rows(found, cfg, "_truth"), *_shape_rows(found, objects, cfg, "_truth")]


def num_objects(truth: ViewSource, cfg: GeometryConfig) -> int:
    """Return how many of the data's objects shapes are compared with.

    At most half of the objects: the others take the samples' place in the `*_truth` rows, where an
    object that stands on both sides would be its own nearest.
    """
    known = len(truth.objects) if isinstance(truth, ObjectSource) else 2 * cfg.items
    return min(cfg.items, known // 2)


def without_depth(suffix: str = "") -> list[Measure]:
    """Return what is measured without the data's objects, as missing: there is no depth."""
    return [missing(f"geometry.{k}{suffix}", _NO_DEPTH, u) for k, u in (SEEN | INSIDE).items()]


def _rows(found: Geometry | None, cfg: GeometryConfig, suffix: str) -> list[Measure]:
    if found is None:
        return without_depth(suffix)
    seen = (
        "item's own camera carried around the world's y axis by quarter turns, label fixed; "
        f"depth before super-resolution; foreground is opacity >= {cfg.foreground:g}"
    )
    box = f"box of {found.box:g} world units, {cfg.grid}^3 cells; " if found.box else ""
    solid = f"{box}{_SOLID}"
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
            result.append(missing(metric, _NO_FIELD, unit))
            continue
        values = torch.tensor(found.values[name], dtype=torch.float64)
        result.append(_mean(metric, values, unit, notes[name]))
    return result


def _mean(metric: str, values: Float[Tensor, " n"], unit: str, note: str) -> Measure:
    """Take the mean over the items that have a value; the note counts the others."""
    kept = values[~values.isnan()]
    left = len(values) - len(kept)
    counted = f"mean over {len(values)} items"
    if left:
        counted += f" but {left} that had nothing to measure"
    empty = "no item has anything to measure"
    return mean_of(metric, kept, unit, f"{note}; {counted}", empty, values)


def _shape_rows(
    found: Geometry | None, objects: list[Samples], cfg: GeometryConfig, suffix: str
) -> list[Measure]:
    """Compare shapes with the data's: each with its nearest one, both ways."""
    names = [f"geometry.{name}{suffix}" for name in SHAPES]
    if found is None:
        return [missing(name, _NO_DEPTH) for name in names]
    if found.box is None:
        return [missing(name, f"{_NO_FIELD}, so there is no mesh") for name in names]
    if not objects:
        return [
            missing(name, "the data has no two objects with a volume to compare with")
            for name in names
        ]
    if not found.shapes:
        why = f"none of {len(found.values['relief'])} items has a surface: {_SOLID} nowhere"
        return [missing(name, why) for name in names]
    table = torch.tensor([[distance(a, b).chamfer for b in objects] for a in found.shapes])
    note = (
        "Chamfer distance in world units (mean of both directions, not squared) between meshes by "
        f"marching cubes on {cfg.grid}^3 cells, {cfg.points} points each; {len(found.shapes)} of "
        f"{len(found.values['relief'])} items have a surface; {len(objects)} objects of the data"
    )
    return [
        mean_of(names[0], table.amin(dim=1), "", f"from each item to its nearest object: {note}"),
        mean_of(names[1], table.amin(dim=0), "", f"from each object to its nearest item: {note}"),
    ]

"""Geometry of items: flatness, floaters, opacity, normals, and distances to the data's objects.

Generated items have no ground truth, so there is no error of their depth.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.consistency.warp import FAINT
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.geometry.surfaces import (
    SURFACE,
    chamfer,
    grid_of,
    mesh_of,
    normal_error,
    normals_from_depth,
    pieces,
    sample,
    thinness,
)
from lightning_gan3d.metrics.sources import (
    BOX_SHARE,
    SPLAT_SURFACE,
    ObjectSource,
    ViewSource,
    Volume,
)

TURNS = 4
"""Views of an item, a quarter turn apart: front, side, back, side."""
VIEW_METRICS = {
    "relief": ("", "smallest over largest standard deviation along principal axes of the front "
               "view's points, 0 on a plane, 0.47 for a ball"),
    "thickness": ("", "the same of the points of all four views together, 0.82 for a ball"),
    "billboards": ("share", "relief or thickness below {flat:g}"),
    "side_share": ("", "foreground pixels of both sides over those of front and back, 1 for a "
                   "ball, 0 for a card"),
    "depth_sd": ("", "standard deviation of camera z over the front view's foreground"),
    "opaque": ("share", "share of foreground among all pixels"),
    "opacity": ("share", "mean opacity of all pixels"),
    "half_transparent": ("share", f"pixels of opacity in [{FAINT:g}, {1 - FAINT:g}] among those "
                         f"from {FAINT:g}, silhouettes included"),
}  # fmt: skip
"""Unit and definition of the metrics of views."""
VOLUME_METRICS = {
    "normals_deg": ("deg", "mean angle between normals by finite differences of depth and by the "
                    "gradient of the volume at the same points, except at depth jumps"),
    "floaters": ("share", "share of solid matter outside the largest connected component, visible "
                 "or not"),
    "filled": ("share", "share of the box that is solid"),
}  # fmt: skip
"""Unit and definition of the metrics of volumes."""
SHAPE_METRICS = {"shape_to_data": "", "shape_from_data": "", "shape_coverage": "share",
                 "shape_accuracy": "share", "shape_iou": ""}  # fmt: skip
"""Units of comparisons with the data's objects; Chamfer distances are in world units."""
SOLID = (
    f"solid: opacity >= 0.5 over 1/{BOX_SHARE} of the box edge, signed distance <= 0, or opacities "
    f"of Gaussians that sum up to >= {SPLAT_SURFACE:g}"
)
NO_DEPTH = "no depth is rendered, so there is no geometry to measure"
NO_NORMALS = "the rendered surface is where the density is largest, so its gradient is no normal"
NO_FIELD = "the scenes cannot be queried at points"


class Shape(NamedTuple):
    """The shape of one item."""

    points: Float[np.ndarray, "n 3"]
    """Of the surface."""
    grid: Float[np.ndarray, "x y z"]
    """Occupancy."""
    box: float
    """Edge of the cube that the grid spans, in world units."""

    def solid(self, box: float) -> Bool[Tensor, " c"]:
        """Whether each cell of another cube about the origin is solid; outside the grid none is."""
        scale = box / self.box
        shift = (len(self.grid) - 1) / 2 * (1 - scale)
        grid = ndimage.affine_transform(self.grid, np.full(3, scale), shift, order=1)
        return torch.from_numpy(grid.ravel() >= SURFACE)


class DepthViews(NamedTuple):
    """The views of one item, on the CPU."""

    cameras: Cameras
    depth: Float[Tensor, "k 1 h w"]
    """Distance along the rays, in world units."""
    opacity: Float[Tensor, "k 1 h w"]


def measure_geometry(context: EvaluationContext) -> list[Metric]:
    """Measure the geometry of items, and compare their shapes with those of the data's objects.

    The ceiling compares one half of the objects with the other half.
    """
    cfg, source, truth = context.cfg.geometry, context.source, context.truth
    if cfg is None:
        return []
    half = 0 if truth is None else num_objects(truth, cfg.items)
    first, num = (half, half) if half and source is truth else (0, cfg.items)
    azimuth = torch.arange(TURNS) * (2 * math.pi / TURNS)
    if source.fixed_cameras:
        return _without_depth(with_shapes=truth is not None)
    values: dict[str, list[float]] = {name: [] for name in (*VIEW_METRICS, *VOLUME_METRICS)}
    shapes: list[Shape | None] = []
    box = None
    for item in range(first, first + num):
        items = torch.tensor([item])
        base = source.base(items)
        cameras = base.rotate_y(azimuth.to(base.cam2world))
        views = source.views(items, cameras)
        if views.depth is None or views.opacity is None:
            return _without_depth(with_shapes=truth is not None)
        depth, opacity = views.depth.float().cpu(), views.opacity.float().cpu()
        depth_views = DepthViews(cameras.to("cpu", torch.float32), depth, opacity)
        statistics = view_statistics(depth_views, cfg)
        volume = source.volume(items)
        if volume is not None:
            box, grid = volume.box, grid_of(volume, cfg.grid)
            statistics |= volume_statistics(volume, grid, depth_views, cfg)
            shapes.append(shape_of(grid, box, cfg.points, context.seed + item))
        for name, value in statistics.items():
            values[name].append(value)
    metrics = _metrics(values, box, cfg)
    if truth is None:
        return metrics
    if box is None:
        why = f"{NO_FIELD}, so there is no mesh"
        return metrics + [missing(f"geometry.{x}", why, u) for x, u in SHAPE_METRICS.items()]
    objects = [_object_shape(truth, item, cfg, context.seed) for item in range(half)]
    return metrics + compare_shapes(shapes, objects, cfg.grid)


def view_statistics(views: DepthViews, cfg: GeometryConfig) -> dict[str, float]:
    """Return `VIEW_METRICS` of one item; NaN if undefined, infinite if views are not finite."""
    if not bool((views.depth.isfinite() & views.opacity.isfinite()).all()):
        return dict.fromkeys(VIEW_METRICS, math.inf)
    opaque = views.opacity >= cfg.foreground
    points = views.cameras.unproject(views.depth)
    clouds = [p[o] for p, o in zip(points, opaque.flatten(1), strict=True)]
    counts = opaque.flatten(1).sum(dim=1)
    visible = views.opacity >= FAINT
    relief = thinness(clouds[0])
    thickness = thinness(torch.cat(clouds))
    front, side = float(counts[0] + counts[2]), float(counts[1] + counts[3])
    depth = views.cameras.depth_z(views.depth)[0][opaque[0]]
    half = visible & (views.opacity <= 1 - FAINT)
    defined = math.isfinite(relief) and math.isfinite(thickness)
    return {
        "relief": relief,
        "thickness": thickness,
        "billboards": float(min(relief, thickness) < cfg.flat) if defined else math.nan,
        "side_share": side / front if front else math.nan,
        "depth_sd": float(depth.std(correction=0)) if len(depth) > 1 else math.nan,
        "opaque": float(opaque.float().mean()),
        "opacity": float(views.opacity.mean()),
        "half_transparent": float(half.sum() / visible.sum()) if bool(visible.any()) else math.nan,
    }


def volume_statistics(
    volume: Volume, grid: Float[np.ndarray, "x y z"], views: DepthViews, cfg: GeometryConfig
) -> dict[str, float]:
    """Return `VOLUME_METRICS` of one item; NaN if undefined, infinite if it is not finite."""
    if not np.isfinite(grid).all():
        return dict.fromkeys(VOLUME_METRICS, math.inf)
    parts = pieces(grid)
    normals = {"normals_deg": normal_gap(volume, views, cfg)} if volume.has_normals else {}
    return {
        **normals,
        "floaters": parts.floating if parts.num else math.nan,
        "filled": parts.filled,
    }


def normal_gap(volume: Volume, views: DepthViews, cfg: GeometryConfig) -> float:
    """Return the mean angle in degrees between the normals of depth and density; NaN if none."""
    of_depth = normals_from_depth(views.depth, views.opacity >= cfg.foreground, views.cameras)
    points = rearrange(views.cameras.unproject(views.depth), "v n c -> 1 (v n) c")
    of_density = rearrange(
        volume.normals(points)[0].cpu(), "(v h w) c -> v c h w", v=TURNS, h=views.depth.shape[-1]
    )
    both = of_depth.valid & (of_density.norm(dim=1, keepdim=True) > 0.5)  # 0 in constant density
    angles = normal_error(of_depth.normals, of_density, both)
    angles = angles[angles.isfinite()]
    return math.degrees(float(angles.mean())) if len(angles) else math.nan


def shape_of(grid: Float[np.ndarray, "x y z"], box: float, num: int, seed: int) -> Shape | None:
    """Return the shape of an occupancy grid, with `num` points; None if it has no surface."""
    mesh = mesh_of(grid, box) if np.isfinite(grid).all() else None
    return None if mesh is None else Shape(sample(mesh, num, seed), grid, box)


def _object_shape(truth: ViewSource, item: int, cfg: GeometryConfig, seed: int) -> Shape | None:
    volume = truth.volume(torch.tensor([item]))
    if volume is None:
        return None
    return shape_of(grid_of(volume, cfg.grid), volume.box, cfg.points, seed + item)


def num_objects(truth: ViewSource, items: int) -> int:
    """Return the number of objects to compare shapes with: at most half of all.

    The other half replaces the samples in the ceiling: an object would be nearest to itself.
    """
    num = len(truth.objects) if isinstance(truth, ObjectSource) else 2 * items
    return min(items, num // 2)


def compare_shapes(
    of_items: list[Shape | None], of_objects: list[Shape | None], grid: int
) -> list[Metric]:
    """Compare each shape with its nearest object, and each object with its nearest shape.

    The latter is the minimum matching distance (Achlioptas et al. 2018), which is large if modes
    are missing; the former is large if shapes are implausible. Coverage is the share of objects
    that are nearest to an item (the same authors); accuracy that of a leave-one-out classifier by
    the nearest neighbour, 0.5 if shapes are like the objects (Yang et al. 2019). The IoU is that of
    solid cells. Shapes are not aligned. Uses equally many items and objects: the nearest of more
    items is nearer.
    """
    num = min(len(of_items), len(of_objects))
    shapes = [s for s in of_items[:num] if s is not None]
    objects = [o for o in of_objects if o is not None]
    if not objects or not shapes:
        why = f"none of {num} items has a surface ({SOLID})"
        if not objects:
            why = "the data has fewer than two objects with a volume"
        return [missing(f"geometry.{x}", why, unit) for x, unit in SHAPE_METRICS.items()]
    everything = [*shapes, *objects]
    total, split = len(everything), len(shapes)
    all_pairs = torch.zeros(total, total)
    for i in range(total):
        for j in range(i):
            pair = chamfer(everything[i].points, everything[j].points)
            all_pairs[i, j] = all_pairs[j, i] = pair
    distance = all_pairs[:split, split:]
    n = min(split, len(objects))  # the classifier needs equally many
    both = torch.cat([torch.arange(n), split + torch.arange(n)])
    note = (
        "Chamfer distance in world units (mean of both directions, not squared) between meshes by "
        f"marching cubes on {grid}^3 cells, {len(shapes[0].points)} points each; {len(shapes)} of "
        f"{num} items have a surface; {len(objects)} of {len(of_objects)} objects of the data"
    )
    to_data, from_data = distance.amin(dim=1), distance.amin(dim=0)
    covered = len(set(distance.argmin(dim=1).tolist())) / len(objects)
    is_item = torch.arange(2 * n) < n
    neighbour = all_pairs[both][:, both].fill_diagonal_(torch.inf).argmin(dim=1)
    accuracy = float((is_item[neighbour] == is_item).float().mean())
    best = torch.zeros(num)  # for items without a surface
    best[: len(shapes)] = overlaps(shapes, objects).amax(dim=1)
    # All generators share the objects, which can be paired; items may lack a shape.
    paired = torch.ones_like(from_data, dtype=torch.bool)
    return [
        mean_of("geometry.shape_to_data", to_data, "", f"from each item to its nearest: {note}"),
        mean_of("geometry.shape_from_data", from_data, "", f"from each object: {note}", paired),
        Metric("geometry.shape_coverage", covered, "share", len(objects),
               note=f"share of objects that are nearest to an item: {note}"),
        Metric("geometry.shape_accuracy", accuracy, "share", 2 * n,
               note=f"leave-one-out accuracy of the nearest neighbour; 0.5 is best: {note}"),
        mean_of("geometry.shape_iou", best, "",
                f"largest volumetric IoU of each item with an object, on {grid}^3 cells ({SOLID}), "
                f"not aligned; 0 for {num - len(shapes)} of {num} items, which have no surface"),
    ]  # fmt: skip


def overlaps(a: list[Shape], b: list[Shape]) -> Float[Tensor, "n m"]:
    """Volumetric IoU of all pairs, on a cube that holds all shapes."""
    box = max(shape.box for shape in (*a, *b))
    x, y = (torch.stack([shape.solid(box) for shape in shapes]).double() for shapes in (a, b))
    both = x @ y.mT
    return both / (x.sum(1)[:, None] + y.sum(1) - both).clamp_min(1)


def _without_depth(with_shapes: bool) -> list[Metric]:
    units = {name: unit for name, (unit, _) in (VIEW_METRICS | VOLUME_METRICS).items()}
    if with_shapes:
        units |= SHAPE_METRICS
    return [missing(f"geometry.{name}", NO_DEPTH, unit) for name, unit in units.items()]


def _metrics(
    values: dict[str, list[float]], box: float | None, cfg: GeometryConfig
) -> list[Metric]:
    """Return the means over the items that have a value; the notes count the others."""
    views = (
        "item's own camera rotated about the world's y axis by quarter turns, label fixed; depth "
        f"before super-resolution; foreground is opacity >= {cfg.foreground:g}"
    )
    solid = f"box of {box or 0:g} world units, {cfg.grid}^3 cells; {SOLID}"
    metrics = []
    for kind, (unit, definition) in (VIEW_METRICS | VOLUME_METRICS).items():
        name = f"geometry.{kind}"
        if kind in VOLUME_METRICS and box is None:
            metrics.append(missing(name, NO_FIELD, unit))
            continue
        if kind == "normals_deg" and not values[kind]:
            metrics.append(missing(name, NO_NORMALS, unit))
            continue
        x = torch.tensor(values[kind], dtype=torch.float64)
        protocol = solid if kind in ("floaters", "filled") else views
        note = f"{definition.format(flat=cfg.flat)}; {protocol}; mean over {len(x)} items"
        if undefined := int(x.isnan().sum()):
            note += f", undefined for {undefined}"
        metrics.append(mean_of(name, x, unit, note, ~x.isnan(), "undefined for all items"))
    return metrics

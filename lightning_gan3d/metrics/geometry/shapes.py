"""Shapes of samples against the shapes of the data's own objects, as two populations."""

import numpy as np
import torch
from jaxtyping import Float

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.geometry.mesh import Samples, distance, mesh_of, sample
from lightning_gan3d.metrics.geometry.volume import SHARE, grid_of, volume_of
from lightning_gan3d.metrics.sources import ObjectSource, ViewSource
from lightning_gan3d.metrics.summary import mean_of

SHAPES = ("shape_to_data", "shape_from_data")
"""Names of the rows: Chamfer distances in world units."""
SOLID = f"solid is what has an opacity of 0.5 or more over a {SHARE}nd of the box"
NO_DEPTH = "no depth is rendered, so there is no geometry to measure"
NO_FIELD = "its scenes cannot be queried at points"


def shape_of(
    solidity: Float[np.ndarray, "x y z"], box: float, num: int, seed: int
) -> Samples | None:
    """Return `num` points of the surface of a grid of solidity; None where it has no surface."""
    mesh = mesh_of(solidity, box)
    return None if mesh is None else sample(mesh, num, seed)


def shapes_of(
    source: ViewSource, items: range, grid: int, num: int, seed: int
) -> list[Samples | None]:
    """Return points of the surfaces of items; None for those without one."""
    volumes = [(item, volume_of(source, item)) for item in items]
    return [
        None if volume is None else shape_of(grid_of(volume, grid)[0], volume.box, num, seed + item)
        for item, volume in volumes
    ]


def num_objects(truth: ViewSource, items: int) -> int:
    """Return how many of the data's objects shapes are compared with.

    At most half of the objects: the others take the samples' place in the `*_truth` rows, where an
    object that stands on both sides would be its own nearest.
    """
    known = len(truth.objects) if isinstance(truth, ObjectSource) else 2 * items
    return min(items, known // 2)


def compare_shapes(
    items: list[Samples | None], known: list[Samples | None], grid: int, suffix: str
) -> list[Metric]:
    """Compare each shape with its nearest object, and each object with its nearest shape.

    The second is the minimum matching distance (Achlioptas et al. 2018), which sees what is never
    made; the first sees what should not be. Of the items only as many are taken, the first ones, as
    there are objects: the nearest of more would be nearer. None has no surface.
    """
    names = [f"geometry.{name}{suffix}" for name in SHAPES]
    looked = min(len(items), len(known))
    shapes = [s for s in items[:looked] if s is not None]
    objects = [o for o in known if o is not None]
    if not objects:
        why = "the data has no two objects with a volume to compare with"
        return [missing(name, why) for name in names]
    if not shapes:
        why = f"none of {looked} items has a surface: {SOLID}"
        return [missing(name, why) for name in names]
    table = torch.tensor([[distance(a, b).chamfer for b in objects] for a in shapes])
    note = (
        "Chamfer distance in world units (mean of both directions, not squared) between meshes by "
        f"marching cubes on {grid}^3 cells, {len(shapes[0].points)} points each; {len(shapes)} of "
        f"{looked} items have a surface; {len(objects)} of {len(known)} objects of the data"
    )
    there, back = table.amin(dim=1), table.amin(dim=0)
    # Objects are the same for all generators, so that they can be paired; items may lack a shape.
    return [
        mean_of(names[0], there, "", f"from each item to its nearest object: {note}"),
        mean_of(names[1], back, "", f"from each object to its nearest item: {note}", items=back),
    ]

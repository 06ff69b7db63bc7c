"""Cameras for views of an object: far apart or on an arc, and the box that all see whole."""

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.config import FeaturesConfig

SAME_DIRECTION = 0.01
"""Angle at the origin, in radians, within which two cameras count as one view: 0.6 degrees."""


def farthest_first(cameras: Cameras, num: int) -> Int64[Tensor, " num"] | str:
    """Select `num` cameras, each farthest in direction (from the origin) from all before it.

    Returns a reason if there are fewer than `num` directions: a held-out view would equal a fitted
    one.
    """
    direction = normalize(cameras.origins, dim=-1)
    selected = [0]
    distance = (direction - direction[0]).norm(dim=-1)
    while len(selected) < num:
        if not float(distance.max()) > SAME_DIRECTION:
            return (
                f"needs cameras in {num} directions from the origin, {SAME_DIRECTION:g} rad apart; "
                f"there are {len(selected)}"
            )
        selected.append(int(distance.argmax()))
        distance = torch.minimum(distance, (direction - direction[selected[-1]]).norm(dim=-1))
    return torch.tensor(selected)


def arcs_of(cameras: Cameras, cfg: FeaturesConfig) -> Cameras | str:
    """Select the cameras of each item from given ones; returns a reason if they are too sparse.

    Item i starts at camera i. The next camera is the one nearest to it, rotated by the angle.
    """
    rows = [torch.arange(cfg.items) % len(cameras.cam2world)]
    for step in range(1, cfg.views):
        rotated = cameras.select(rows[0]).rotate_y(torch.tensor([step * cfg.angle]))
        distance = (rotated.origins[:, None] - cameras.origins).norm(dim=-1)
        error = distance.amin(dim=1) / rotated.origins.norm(dim=1)
        if float(error.max()) > cfg.angle / 4:
            return f"needs {cfg.views} cameras {cfg.angle:g} rad apart around the world's y axis"
        rows.append(distance.argmin(dim=1))
    return cameras.select(torch.stack(rows, dim=1).flatten())


def visible_box(cameras: Cameras) -> float:
    """Edge of the cube around the largest sphere about the origin that is inside every view."""
    k = cameras.intrinsics
    zero = torch.zeros_like(k[:, 0, 0])
    sides = [
        torch.stack([k[:, 0, 0], zero, k[:, 0, 2]], dim=-1),
        torch.stack([-k[:, 0, 0], zero, 1 - k[:, 0, 2]], dim=-1),
        torch.stack([zero, k[:, 1, 1], k[:, 1, 2]], dim=-1),
        torch.stack([zero, -k[:, 1, 1], 1 - k[:, 1, 2]], dim=-1),
    ]
    inward = normalize(torch.stack(sides, dim=1), dim=-1)  # v 4 3: the planes that bound the image
    origin = -(cameras.cam2world[:, :3, :3].mT @ cameras.origins[:, :, None])
    return 2 * float((inward @ origin).min())

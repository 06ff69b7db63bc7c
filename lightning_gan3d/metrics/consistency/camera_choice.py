"""Cameras for views of an object: directions far apart, and the box that all see whole."""

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras

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

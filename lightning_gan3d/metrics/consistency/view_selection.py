"""Cameras that refitted fields are fitted to and tested on: spread evenly over the data's."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws

CANDIDATES = 512
"""Training cameras from which those of the views are picked."""
SAME_DIRECTION = 0.01
"""Radians, seen from the origin, within which two cameras show one view: 0.6 degrees."""


def spread_cameras(
    labels: Float[Tensor, "n 25"], num: int, draws: Draws
) -> tuple[Cameras, Cameras] | str:
    """Pick `num` cameras to fit and `num` to hold out, evenly over where training cameras are.

    Returns why there are none where they stand in fewer than 2 num directions: a held-out camera
    would be a fitted one.
    """
    some = draws.permutation("cameras", len(labels))[:CANDIDATES]
    cameras = Cameras.from_label(labels[some])
    order = farthest_first(cameras, 2 * num)
    if isinstance(order, str):
        return order
    return cameras.select(order[0::2]), cameras.select(order[1::2])


def farthest_first(cameras: Cameras, num: int) -> Int64[Tensor, " num"] | str:
    """Pick `num` cameras: each next one's direction from the origin is farthest from all before.

    Returns why that cannot be where all others are within `SAME_DIRECTION` of those picked.
    """
    direction = normalize(cameras.origins, dim=-1)
    picked = [0]
    distance = (direction - direction[0]).norm(dim=-1)
    while len(picked) < num:
        if not float(distance.max()) > SAME_DIRECTION:
            return (
                f"takes cameras in {num} directions from the origin that are {SAME_DIRECTION:g} "
                f"rad apart, and there are {len(picked)}"
            )
        picked.append(int(distance.argmax()))
        distance = torch.minimum(distance, (direction - direction[picked[-1]]).norm(dim=-1))
    return torch.tensor(picked)


def visible_box(cameras: Cameras) -> float:
    """Edge of the cube around the largest sphere about the origin that no camera cuts off."""
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

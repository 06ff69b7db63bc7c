"""Bird-like figures made of ellipsoids.

A figure stands upright inside the unit sphere and faces +z, the frontal camera. Its body has any
hue; its head is skin-coloured with a red nose in front. One arm sticks out on its left (+x) at any
angle, and a pack is on its back. The figure is asymmetric and its parts hide one another, so a
wrong pose or a flat shape is obvious.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, hsv, scaled_axes
from lightning_gan3d.draws import Draws

PARTS = ("body", "head", "nose", "arm", "pack")
_GROWTH = 1.12
"""Scale at which the largest figures just fit the unit sphere."""


def draw_figures(num: int, seed: int) -> Ellipsoids:
    """Draw `num` figures; figure i does not depend on `num`."""
    draws = Draws(seed).scope("figures")
    u = torch.stack([draws.at(i).uniform("shape", (24,)) for i in range(num)])

    def between(column: int, low: float, high: float) -> Float[Tensor, " m"]:
        return low + (high - low) * u[:, column]

    def vector(*coordinates: Float[Tensor, " m"]) -> Float[Tensor, "m 3"]:
        return torch.stack(coordinates, -1)

    zero = torch.zeros(num)
    body_size = vector(between(0, 0.30, 0.42), between(1, 0.38, 0.50), between(2, 0.24, 0.36))
    body = vector(zero, torch.full_like(zero, -0.30), zero)
    head_size = between(3, 0.20, 0.27)[:, None] * torch.tensor([0.95, 1.0, 0.95])
    top = body[:, 1] + body_size[:, 1]
    head = vector(between(4, -0.04, 0.04), top + 0.75 * head_size[:, 1], between(5, 0.0, 0.10))
    nose_length, nose_width = between(6, 0.10, 0.17), between(7, 0.070, 0.095)
    nose_size = vector(nose_width, nose_width, nose_length)
    nose = head + vector(zero, -0.1 * head_size[:, 1], head_size[:, 2] + 0.55 * nose_length)
    arm_angle, arm_forward = between(8, -1.0, 1.2), between(9, -0.3, 0.6)
    x, y = arm_angle.cos() * arm_forward.cos(), arm_angle.sin() * arm_forward.cos()
    reach = vector(x, y, arm_forward.sin())
    arm_length, arm_width = between(10, 0.22, 0.30), between(11, 0.085, 0.115)
    shoulder = body + vector(0.82 * body_size[:, 0], 0.45 * body_size[:, 1], zero)
    arm = shoulder + reach * (0.75 * arm_length)[:, None]
    pack_size = vector(between(12, 0.16, 0.26), between(13, 0.20, 0.32), between(14, 0.12, 0.19))
    pack = body + vector(zero, between(15, 0.0, 0.15), -body_size[:, 2] - 0.45 * pack_size[:, 2])
    upright = torch.eye(3).expand(num, 3, 3)
    axes = [
        scaled_axes(upright, body_size),
        scaled_axes(upright, head_size),
        scaled_axes(upright, nose_size),
        scaled_axes(_frame(reach), vector(arm_length, arm_width, arm_width)),
        scaled_axes(upright, pack_size),
    ]
    hue, saturation, value = between(16, 0.0, 1.0), between(18, 0.55, 0.85), between(19, 0.70, 0.95)
    colours = [
        hsv(hue, saturation, value),
        torch.tensor([0.96, 0.76, 0.60]) * between(17, 0.75, 1.0)[:, None],
        torch.tensor([0.88, 0.14, 0.12]).expand(num, 3),
        hsv(hue + between(20, -0.06, 0.06), saturation, 0.7 * value),
        hsv(hue + between(21, 0.35, 0.65), between(22, 0.40, 0.75), between(23, 0.45, 0.75)),
    ]
    centres = [body, head, nose, arm, pack]
    return Ellipsoids(
        torch.stack(centres, 1) * _GROWTH, torch.stack(axes, 1) / _GROWTH, torch.stack(colours, 1)
    )


def _frame(first: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3 3"]:
    """Return a rotation whose first row is `first`, a unit vector not along z."""
    second = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand_as(first), first)
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], 1)

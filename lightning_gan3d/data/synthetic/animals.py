"""Toy animals made of ellipsoids: the objects of procedural scenes.

An animal is a function of its attributes alone. It faces +z and stands on y = -1 in the cylinder of
radius 1 in the cube [-1, 1]^3; it touches the cylinder or the top. Each side looks different: pale
muzzle and eyes in front, a tail at the back, a saddlebag on its left (+x) only.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, hsv

ATTRIBUTES = {
    "hue": (0.0, 1.0),
    "saturation": (0.6, 0.9),
    "value": (0.65, 0.95),
    "contrast": (0.3, 0.7),
    "body_length": (0.50, 0.70),
    "body_width": (0.32, 0.48),
    "body_height": (0.28, 0.42),
    "leg_length": (0.18, 0.45),
    "head_size": (0.26, 0.38),
    "neck": (0.15, 0.50),
    "ear_length": (0.12, 0.36),
    "tail_length": (0.12, 0.30),
}
"""Range of each attribute; values are uniform and independent.

`hue` of the body is in turns, `saturation` and `value` are those of HSV; the hue of the saddlebag
differs by `contrast`. Lengths are half-lengths in one unit, before the animal is scaled to its
cylinder; `neck` is the height of the head above the middle of the body.
"""
_Vector = tuple[Tensor | float, Tensor | float, Tensor | float]


def build_animals(attributes: dict[str, Float[Tensor, " m"]]) -> Ellipsoids:
    """Build the animals with given attributes, named as in `ATTRIBUTES`."""
    a = attributes
    one = torch.ones_like(a["hue"])
    coat = hsv(a["hue"], a["saturation"], a["value"])
    bag = hsv(a["hue"] + a["contrast"], 0.9 * one, 0.9 * one)
    pale, black = torch.full_like(coat, 0.96), torch.full_like(coat, 0.08)
    length, width, height = a["body_length"], a["body_width"], a["body_height"]
    leg, head = a["leg_length"], a["head_size"]
    body_y = 2 * leg + 0.75 * height
    head_y, head_z = body_y + a["neck"], length + 0.25 * head
    parts: list[tuple[_Vector, _Vector, Tensor]] = [
        ((0.0, body_y, 0.0), (width, height, length), coat),
        (
            (0.0, body_y + 0.5 * a["neck"], 0.8 * length),
            (0.6 * head, 0.3 + 0.3 * a["neck"], 0.6 * head),
            coat,
        ),
        ((0.0, head_y, head_z), (0.95 * head, head, head), 0.85 * coat),
        (
            (0.0, head_y - 0.25 * head, head_z + 0.8 * head),
            (0.62 * head, 0.5 * head, 0.55 * head),
            pale,
        ),
        (
            (0.0, head_y - 0.05 * head, head_z + 1.3 * head),
            (0.24 * head, 0.2 * head, 0.2 * head),
            black,
        ),
        (
            (0.0, body_y + 0.5 * height, -length - 0.4 * a["tail_length"]),
            (0.1, 0.12, a["tail_length"]),
            pale,
        ),
        ((0.9 * width, body_y + 0.1 * height, -0.1), (0.16, 0.75 * height, 0.5 * length), bag),
    ]
    for side in (1.0, -1.0):
        parts += [
            (
                (side * 0.45 * head, head_y + 0.3 * head, head_z + 0.8 * head),
                (0.2 * head,) * 3,
                black,
            ),
            (
                (
                    side * 0.6 * head,
                    head_y + 0.8 * head + 0.4 * a["ear_length"],
                    head_z - 0.2 * head,
                ),
                (0.3 * head, a["ear_length"], 0.2 * head),
                0.7 * coat,
            ),
            *(
                ((side * 0.6 * width, leg, z * length), (0.15, leg, 0.16), 0.6 * coat)
                for z in (0.62, -0.62)
            ),
        ]

    def stacked(vectors: tuple[_Vector, ...]) -> Float[Tensor, "m p 3"]:
        return torch.stack([torch.stack([x * one for x in v], -1) for v in vectors], 1)

    centres, sizes, colours = zip(*parts, strict=True)
    centre, size = stacked(centres), stacked(sizes)
    low, high = (centre - size).amin(1), (centre + size).amax(1)
    middle = (low + high) / 2
    centre = centre - torch.stack([middle[:, 0], low[:, 1], middle[:, 2]], -1)[:, None]
    # An ellipse about c is within |c| + its longer half-axis of the cylinder's axis.
    reach = (centre[..., [0, 2]].norm(dim=-1) + size[..., [0, 2]].amax(-1)).amax(1)
    scale = 1 / torch.maximum(reach, (high - low)[:, 1] / 2)[:, None, None]
    centre = centre * scale - torch.tensor([0.0, 1.0, 0.0])
    return Ellipsoids(centre, torch.eye(3) / (size * scale)[..., None], torch.stack(colours, 1))

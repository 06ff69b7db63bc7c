"""Heads made of ellipsoids, a procedural stand-in for portraits.

A head is inside the unit sphere and faces +z, the frontal camera. It is a function of the
attributes alone. Hair covers the back and is longer on the left (+x), from a parting on the right;
the left eyebrow is raised. So a mirrored head is not one of the class.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, hsv
from lightning_gan3d.draws import Draws

ATTRIBUTES = {
    "hair_hue": (0.0, 0.75),
    "hair_value": (0.4, 0.9),
    "hair_length": (0.3, 0.95),
    "hair_right": (0.15, 0.6),
    "parting": (0.05, 0.22),
    "skin_tone": (0.0, 1.0),
    "head_width": (0.38, 0.54),
    "jaw_width": (0.72, 0.95),
    "nose_length": (0.08, 0.20),
    "eye_hue": (0.1, 0.7),
    "eye_size": (0.075, 0.11),
    "eye_distance": (0.17, 0.21),
    "mouth_width": (0.09, 0.18),
}
"""Range of each attribute; values are uniform and independent.

Hues are in turns; `hair_value` is that of HSV. `skin_tone` is 0 for the lightest skin. Lengths and
half widths are in world units: hair ends at y = 0.15 - `hair_length` on the left. `hair_right` and
`jaw_width` are ratios, to `hair_length` and `head_width`.
"""
_Vector = tuple[Tensor | float, Tensor | float, Tensor | float]


def draw_attributes(num: int, seed: int) -> dict[str, Float[Tensor, " m"]]:
    """Draw the attributes of `num` heads; those of head i do not depend on `num`."""
    draws = Draws(seed).scope("heads")
    u = torch.stack([draws.at(i).uniform("attributes", (len(ATTRIBUTES),)) for i in range(num)])
    ranges = ATTRIBUTES.items()
    return {name: low + (high - low) * u[:, k] for k, (name, (low, high)) in enumerate(ranges)}


def build_heads(attributes: dict[str, Float[Tensor, " m"]]) -> Ellipsoids:
    """Build the heads with given attributes, named as in `ATTRIBUTES`."""
    width, tone = attributes["head_width"], attributes["skin_tone"]
    one = torch.ones_like(width)
    light, dark = torch.tensor([0.98, 0.82, 0.71]), torch.tensor([0.36, 0.22, 0.15])
    skin = light.lerp(dark, tone[:, None])
    hair = hsv(attributes["hair_hue"], 0.75 * one, attributes["hair_value"])
    white, iris = torch.full_like(skin, 0.97), hsv(attributes["eye_hue"], 0.9 * one, 0.5 * one)
    red = skin * torch.tensor([0.95, 0.42, 0.42])

    skull: tuple[_Vector, _Vector] = (0.0, 0.22, -0.04), (width, 0.50, 0.50)
    jaw: tuple[_Vector, _Vector] = (0.0, -0.11, 0.04), (width * attributes["jaw_width"], 0.49, 0.43)

    def on_face(x: Tensor | float, y: float) -> Tensor:
        """Return z of the face at (x, y)."""
        surfaces = []
        for (_, v, w), (a, b, c) in (skull, jaw):
            inside = 1 - (x / a) ** 2 - ((y - v) / b) ** 2
            surfaces.append(w + c * torch.as_tensor(inside).clamp(min=0).sqrt())
        return torch.maximum(*surfaces)

    side, size = attributes["eye_distance"], attributes["eye_size"]
    eye, nose = on_face(side, 0.10), attributes["nose_length"]
    left = attributes["hair_length"]
    right = left * attributes["hair_right"]
    part = -attributes["parting"]
    parts: list[tuple[_Vector, _Vector, Tensor]] = [
        (*skull, skin),
        (*jaw, skin),
        ((0.0, -0.58, -0.10), (0.22, 0.36, 0.22), 0.9 * skin),
        (
            (0.0, -0.06, on_face(0.0, -0.06) + 0.3 * nose),
            (0.075, 0.05 + 0.5 * nose, nose),
            0.8 * skin,
        ),
        ((0.0, -0.34, on_face(0.0, -0.34)), (attributes["mouth_width"], 0.045, 0.04), red),
    ]
    for sign in (1.0, -1.0):
        x, brow = sign * side, 0.26 if sign > 0 else 0.22
        parts += [
            ((x, 0.10, eye), (size, 0.7 * size, 0.05), white),
            ((x, 0.10, eye + 0.03), (0.55 * size, 0.6 * size, 0.03), iris),
            ((x, brow, on_face(side, brow)), (1.2 * size, 0.03, 0.05), 0.7 * hair),
            ((sign * (width + 0.02), 0.05, -0.05), (0.06, 0.13, 0.10), 0.95 * skin),
        ]
    parts += [
        ((0.06, 0.36, -0.16), (width + 0.05, 0.50, 0.50), hair),
        ((part - 0.05, 0.34, -0.16), (width - 0.1, 0.49, 0.49), 0.9 * hair),
        ((width, 0.30 - left / 2, -0.14), (0.13, left / 2 + 0.15, 0.26), hair),
        ((-width, 0.30 - right / 2, -0.14), (0.11, right / 2 + 0.15, 0.26), 0.9 * hair),
        ((0.04, 0.25 - left / 4, -0.34), (width, left / 4 + 0.35, 0.22), 0.95 * hair),
    ]

    def stacked(vectors: tuple[_Vector, ...]) -> Float[Tensor, "m p 3"]:
        return torch.stack([torch.stack([x * one for x in v], -1) for v in vectors], 1)

    centres, sizes, colours = zip(*parts, strict=True)
    axes = torch.eye(3) / stacked(sizes)[..., None]
    return Ellipsoids(stacked(centres), axes, torch.stack(colours, 1))

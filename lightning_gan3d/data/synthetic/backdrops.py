"""Backgrounds of procedural scenes: a floor with a pattern inside a round wall, around the cameras.

The colour is a function of the ray alone, so objects change nothing behind them. There is no depth.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lightning_gan3d.data.synthetic.ellipsoids import hsv
from lightning_gan3d.draws import Draws

NUM_PATTERNS = 3
"""Of floors: stripes, squares, rings. Of walls: gradient, stripes, hills."""
_FADE = 0.8
"""Contrast of the floor is 0 from this share of the wall's radius: finer patterns would alias."""


class Backdrops(NamedTuple):
    """Backgrounds of m scenes; `floor` is the height of the floor in world units."""

    floor: float
    wall_radius: Float[Tensor, " m"]
    """In world units; larger than the distance of the cameras from the y axis."""
    floor_colours: Float[Tensor, "m 2 3"]
    wall_colours: Float[Tensor, "m 2 3"]
    """At the floor, and at the height of the wall's radius."""
    patterns: Int64[Tensor, "m 2"]
    """Of floor and wall."""
    cell: Float[Tensor, " m"]
    """Half a period of the floor's pattern, in world units."""
    angle: Float[Tensor, " m"]
    """Of the floor's pattern, in radians; also the phase of the wall's."""

    def select(self, indices: Int64[Tensor, " k"]) -> "Backdrops":
        """Select scenes by index."""
        return Backdrops(self.floor, *(x[indices] for x in self[1:]))

    def colours(
        self, origins: Float[Tensor, "m 3"], dirs: Float[Tensor, "m r 3"]
    ) -> Float[Tensor, "m r 3"]:
        """Colours in [0, 1] along rays; the floor is seen from above only."""
        radius = self.wall_radius[:, None]
        o_x, o_y, o_z = (x[:, None] for x in origins.unbind(-1))
        x, y, z = dirs.unbind(-1)
        a, b, c = x * x + z * z, o_x * x + o_z * z, o_x**2 + o_z**2 - radius**2
        # Rays that miss the wall, from outside, get the colour of their nearest point to the axis.
        to_wall = ((b * b - a * c).clamp(min=0).sqrt() - b) / a.clamp(min=1e-9)
        to_floor = torch.where(y < 0, (self.floor - o_y) / y, math.inf)
        on_floor = (to_floor > 0) & (to_floor < to_wall)
        t = torch.where(on_floor, to_floor, to_wall)
        point = o_x + t * x, o_y + t * y, o_z + t * z
        return torch.where(on_floor[..., None], self._floor(*point), self._wall(*point))

    def _floor(
        self, x: Float[Tensor, "m r"], _: Float[Tensor, "m r"], z: Float[Tensor, "m r"]
    ) -> Float[Tensor, "m r 3"]:
        cos, sin, cell = self.angle.cos()[:, None], self.angle.sin()[:, None], self.cell[:, None]
        distance = (x * x + z * z).sqrt()
        u, v = ((math.pi / cell * w).sin() for w in (x * cos + z * sin, z * cos - x * sin))
        wave = _choose(self.patterns[:, 0], u, u * v, (math.pi / cell * distance).sin())
        fade = (1 - distance / (_FADE * self.wall_radius[:, None])).clamp(min=0)
        first, second = self.floor_colours[:, None].unbind(2)
        return first.lerp(second, (0.5 + 0.5 * wave.sign() * fade)[..., None])

    def _wall(
        self, x: Float[Tensor, "m r"], y: Float[Tensor, "m r"], z: Float[Tensor, "m r"]
    ) -> Float[Tensor, "m r 3"]:
        height = ((y - self.floor) / self.wall_radius[:, None]).clamp(0, 1)
        around = torch.atan2(x, z) + self.angle[:, None]
        hills = 0.16 + 0.08 * (5 * around).sin() + 0.04 * (13 * around).sin() - height
        wave = _choose(self.patterns[:, 1], -torch.ones_like(height), (30 * around).sin(), hills)
        first, second = self.wall_colours[:, None].unbind(2)
        dark = 1 - 0.3 * (wave > 0).float()
        return first.lerp(second, height[..., None]) * dark[..., None]


def _choose(pattern: Int64[Tensor, " m"], *waves: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
    return torch.stack(waves, 1)[torch.arange(len(pattern)), pattern]


def draw_backdrops(num: int, floor: float, radius: float, draws: Draws) -> Backdrops:
    """Draw `num` backgrounds around cameras at `radius`; background i does not depend on `num`."""
    each = [draws.at(i).scope("backdrop") for i in range(num)]
    u = torch.stack([d.uniform("numbers", (15,)) for d in each])
    patterns = torch.stack([d.integers("patterns", NUM_PATTERNS, (2,)) for d in each])

    def tone(hue: Tensor, saturation: int, value: Tensor) -> Float[Tensor, "m 3"]:
        return hsv(hue, 0.1 + 0.5 * u[:, saturation], value)

    light = 0.55 + 0.4 * u[:, 4]
    floor_colours = [
        tone(u[:, 0], 2, light),
        tone(u[:, 0] + 0.3 * (u[:, 1] - 0.5), 3, light * (0.5 + 0.3 * u[:, 5])),
    ]
    wall_colours = [
        tone(u[:, 6], 8, 0.6 + 0.4 * u[:, 9]),
        tone(u[:, 6] + 0.4 * (u[:, 7] - 0.5), 10, 0.35 + 0.6 * u[:, 11]),
    ]
    return Backdrops(
        floor,
        radius * (1.2 + 0.6 * u[:, 13]),
        torch.stack(floor_colours, 1),
        torch.stack(wall_colours, 1),
        patterns,
        0.3 + 0.4 * u[:, 12],
        2 * math.pi * u[:, 14],
    )

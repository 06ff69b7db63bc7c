"""Procedural solids: white bathtubs, sofas or chairs of voxels, rendered exactly.

They stand for the three ShapeNet classes of IG-GAN (Lunz et al. 2020). A tub is hollow, which no
silhouette shows; chairs have holes. All stand upright and face +z.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import Count, Share
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.draws import Draws
from renderers.raster import RasterConfig, RasterRenderer
from representations.solid import Solid

BOX = 2.0
"""Edge of the grid, in world units."""
ATTRIBUTES: dict[str, dict[str, tuple[float, float]]] = {
    "tub": {
        "half_length": (0.6, 0.8),
        "half_width": (0.32, 0.42),
        "half_height": (0.2, 0.3),
        "corner": (0.05, 0.25),  # radius of the vertical edges
        "wall": (0.13, 0.18),
        "floor": (0.13, 0.2),
        "exponent": (2.0, 6.0),  # of the hollow: 2 an ellipsoid, 6 nearly a box
    },
    "sofa": {
        "half_width": (0.5, 0.74),
        "half_depth": (0.28, 0.38),
        "foot": (0.13, 0.2),  # height
        "seat": (0.16, 0.28),  # thickness
        "back": (0.3, 0.44),  # height above the seat
        "back_thickness": (0.14, 0.22),
        "arm": (0.1, 0.26),  # height above the seat
        "arm_thickness": (0.14, 0.24),
        "arms": (0.0, 1.0),  # from 0.25: two
    },
    "chair": {
        "half_width": (0.3, 0.4),
        "half_depth": (0.28, 0.38),
        "leg": (0.42, 0.6),  # height
        "leg_thickness": (0.13, 0.18),
        "seat": (0.13, 0.18),  # thickness
        "back": (0.5, 0.68),  # height above the seat
        "back_thickness": (0.13, 0.18),
        "frame": (0.13, 0.18),  # around the opening of the back
        "open": (0.0, 1.0),  # from 0.5: the back has an opening
        "arms": (0.0, 1.0),  # from 0.6: two
    },
}
"""Ranges of the uniform, independent attributes of each shape. Lengths are in world units, and
thicknesses at least two voxels of 32^3."""
_VOXELS_AT_ONCE = 2**21


@dataclass(frozen=True)
class SolidsConfig:
    """Shapes and rendering of procedural solids."""

    shape: Literal["tub", "sofa", "chair"] = "tub"
    """Class of all objects."""
    n: Annotated[int, Interval(ge=32, le=128)] = 32
    """Voxels along each side of the box of side 2."""
    background: Share = 0.0
    """Grey value behind the objects: 0 black, 1 white."""
    samples: Count = 1
    """Rays per pixel along each axis, as `generator.renderer.samples` of `raster`."""


@dataclass(frozen=True)
class Solids:
    """m solids."""

    cfg: SolidsConfig
    attributes: dict[str, Float[Tensor, " m"]]
    """See `ATTRIBUTES`."""

    def select(self, indices: Int[Tensor, " k"]) -> "Solids":
        """Select solids by index."""
        return Solids(self.cfg, {name: x[indices] for name, x in self.attributes.items()})

    def voxels(self) -> Bool[Tensor, "m n n n"]:
        """Whether the centre of each voxel is inside; axes are z, y, x."""
        a = {name: x[:, None, None, None] for name, x in self.attributes.items()}
        t = ((torch.arange(self.cfg.n) + 0.5) / self.cfg.n - 0.5) * BOX
        x, y, z = t[None, None, None, :], t[None, None, :, None], t[None, :, None, None]
        return {"tub": _tubs, "sofa": _sofas, "chair": _chairs}[self.cfg.shape](a, x, y, z)

    def solid(self) -> Solid:
        """Return the scenes that renderers accept; all voxels are white."""
        occupancy = self.voxels()[:, None].float()
        colour = occupancy.new_ones(1).expand(len(occupancy), 3, *occupancy.shape[2:])
        return Solid(occupancy, colour, SceneConfig(box=BOX, feature_dim=3))

    def render(self, cameras: Cameras, resolution: int, far: float) -> ObjectView:
        """Render solid i from camera i as `raster` does; the depth of misses is `far`."""
        renderer = RasterRenderer(
            RasterConfig(background=self.cfg.background, samples=self.cfg.samples)
        )
        parts = []
        every = torch.arange(len(cameras.cam2world))
        for ids in torch.split(every, _VOXELS_AT_ONCE // self.cfg.n**3):
            view = renderer(self.select(ids).solid(), cameras.select(ids), resolution)
            depth = torch.where(view.opacity > 0, view.depth, far)
            parts.append((view.feature, depth, view.opacity))
        return ObjectView(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def level(self, points: Float[Tensor, "m n 3"]) -> Float[Tensor, "m n"]:
        """Trilinear occupancy - 0.5 at points: positive inside, -0.5 outside the box."""
        return self.solid().soft_occupancy(points) - 0.5


def draw_solids(cfg: SolidsConfig, num: int, seed: int) -> Solids:
    """Draw `num` solids; solid i does not depend on `num`."""
    draws, ranges = Draws(seed).scope(f"solids/{cfg.shape}"), ATTRIBUTES[cfg.shape]
    u = torch.stack([draws.at(i).uniform("shape", (len(ranges),)) for i in range(num)])
    columns = zip(ranges.items(), u.unbind(1), strict=True)
    return Solids(cfg, {k: low + (high - low) * x for (k, (low, high)), x in columns})


def _within(t: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (low <= t) & (t < high)


def _tubs(a: dict[str, Tensor], x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Block with round vertical edges, less |x/l|^p + |y/h|^p + |z/w|^p < 1 about its top."""
    length, width, height = a["half_length"], a["half_width"], a["half_height"]
    outside = [(t.abs() - half + a["corner"]).clamp_min(0) for t, half in ((x, length), (z, width))]
    block = (outside[0] ** 2 + outside[1] ** 2 < a["corner"] ** 2) & _within(y, -height, height)
    sizes = (x, length - a["wall"]), (y - height, 2 * height - a["floor"]), (z, width - a["wall"])
    hollow = sum(((t / half).abs() ** a["exponent"] for t, half in sizes), torch.zeros(()))
    return block & (hollow >= 1)


def _sofas(a: dict[str, Tensor], x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Seat on four feet, back, and two arms or none."""
    width, depth = a["half_width"], a["half_depth"]
    ground = -(a["foot"] + a["seat"] + a["back"]) / 2
    under, on = ground + a["foot"], ground + a["foot"] + a["seat"]
    plan = _within(x, -width, width) & _within(z, -depth, depth)
    foot = (x.abs() >= width - 0.16) & (z.abs() >= depth - 0.16) & _within(y, ground, under)
    arm = (a["arms"] >= 0.25) & (x.abs() >= width - a["arm_thickness"])
    arm = arm & _within(y, on, on + a["arm"])
    back = (z < -depth + a["back_thickness"]) & _within(y, on, on + a["back"])
    return plan & (foot | _within(y, under, on) | arm | back)


def _chairs(a: dict[str, Tensor], x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Seat on four legs, a back with an opening or none, and two arms or none."""
    width, depth, leg = a["half_width"], a["half_depth"], a["leg_thickness"]
    ground = -(a["leg"] + a["seat"] + a["back"]) / 2
    under, on = ground + a["leg"], ground + a["leg"] + a["seat"]
    top = on + a["back"]
    plan = _within(x, -width, width) & _within(z, -depth, depth)
    legs = (x.abs() >= width - leg) & (z.abs() >= depth - leg) & _within(y, ground, under)
    opening = (a["open"] >= 0.5) & (x.abs() < width - a["frame"])
    opening = opening & _within(y, on + a["frame"], top - a["frame"])
    back = (z < -depth + a["back_thickness"]) & _within(y, on, top) & ~opening
    rest = on + a["back"] / 2
    side = (a["arms"] >= 0.6) & (x.abs() >= width - leg)
    arms = side & (_within(y, rest - leg, rest) | ((z >= depth - leg) & _within(y, on, rest)))
    return plan & (legs | _within(y, under, on) | back | arms)

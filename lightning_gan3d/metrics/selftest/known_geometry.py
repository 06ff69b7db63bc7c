"""The self-test of the measures of geometry: depth and normals of known surfaces, billboards."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.contract import DensityConfig, Field, FieldSample, SceneConfig
from lightning_gan3d.metrics.config import GeometryConfig
from lightning_gan3d.metrics.geometry.depth_maps import (
    depth_errors,
    normal_errors,
    normals_from_depth,
)
from lightning_gan3d.metrics.geometry.shape_statistics import take
from lightning_gan3d.metrics.selftest import perturbations
from lightning_gan3d.metrics.selftest.perturbations import RADIUS, Balls, Disturbed
from lightning_gan3d.metrics.sources import ViewSource
from renderers import RENDERERS

STEEP = 2000.0
"""By how much the density of a ball grows inward, per world unit squared: an all but sharp
surface."""
SCENE = SceneConfig(box=2.0, feature_dim=3, density=DensityConfig(activation="relu"))
CORE = 0.85
"""Share of a ball's radius within which its depth is compared: beyond, rays graze it."""
BOUNDS = {"depth": 0.005, "depth_flat": 0.1, "normals": 6.0}
"""World units and degrees: what rendered balls are off by at most, flat depth at least."""


@dataclass(frozen=True, eq=False)
class BallField(Field):
    """Balls as densities that rise steeply at the surface."""

    centre: Float[Tensor, "b 3"]
    scene_cfg: SceneConfig = SCENE

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Return the density at points, and gray."""
        del dirs  # a ball looks the same from everywhere
        inward = RADIUS - (points - self.centre[:, None]).norm(dim=-1, keepdim=True)
        return FieldSample(STEEP * inward, torch.full_like(points, 0.5))


def check_geometry(
    balls: Balls, figures: ViewSource, cfg: GeometryConfig
) -> list[tuple[str, bool]]:
    """Return checks in words, and whether each held."""
    return [*_against_truth(balls, torch.arange(cfg.items)), *_billboards(figures, cfg)]


def _against_truth(balls: Balls, items: Int64[Tensor, " b"]) -> list[tuple[str, bool]]:
    """Render balls as densities by the volume renderer, and compare with the balls as traced."""
    kind, make = RENDERERS["volume"]
    renderer = make(kind(samples_coarse=96, samples_fine=48), scene=SCENE)
    cameras, centre = balls.base(items), balls.centres(items)
    with torch.no_grad():
        found = renderer(BallField(centre), cameras, balls.resolution)
    truth = balls.views(items, cameras)
    flat = perturbations.flatten_depth(balls, items, cameras, 1.0)
    # Balls have depth and opacity, and so has whatever the volume renderer makes.
    assert truth.depth is not None
    assert truth.opacity is not None
    assert flat.depth is not None
    assert found.depth is not None
    assert found.opacity is not None
    # The normal of a ball is the direction from its centre.
    normals = normalize(cameras.unproject(truth.depth) - centre[:, None], dim=-1)
    normals = rearrange(normals, "v (h w) c -> v c h w", h=balls.resolution)
    rays = cameras.rays(balls.resolution)
    towards = -(normals * rearrange(rays.dirs, "v (h w) c -> v c h w", h=balls.resolution)).sum(1)
    # A density that grows by STEEP along a way at this cosine is entered by so much on average.
    entered = (math.pi / 2 / STEEP / towards.clamp(min=CORE / 10)).sqrt()[:, None]
    core = (towards[:, None] > math.sqrt(1 - CORE**2)) & (truth.opacity > 0.5)
    seen = core & (found.opacity > 0.9)
    error = float(depth_errors(found.depth, truth.depth + entered, seen).absolute.mean())
    worse = float(depth_errors(flat.depth, truth.depth, seen).absolute.mean())
    read = normals_from_depth(found.depth, found.opacity > 0.9, cameras)
    angle = math.degrees(float(normal_errors(read.normals, normals, read.valid & seen).mean()))
    bound, far, most = BOUNDS["depth"], BOUNDS["depth_flat"], BOUNDS["normals"]
    share = float(seen.sum() / core.sum())
    return [
        (
            f"rendered balls: depth off by {error:.4f} world units, at most {bound:g}",
            error <= bound,
        ),
        (f"rendered balls: {share:.3f} of them is opaque, at least 0.99", share >= 0.99),
        (f"flat depth of balls: off by {worse:.3f} world units, at least {far:g}", worse >= far),
        (f"rendered balls: normals off by {angle:.2f} degrees, at most {most:g}", angle <= most),
    ]


def _billboards(figures: ViewSource, cfg: GeometryConfig) -> list[tuple[str, bool]]:
    """The figures are round; with their depth flattened they are cards."""
    result = []
    for words, source, card in (
        ("figures", figures, False),
        ("flat depth of figures", Disturbed(figures, perturbations.flatten_depth, 1.0), True),
    ):
        found = take(source, cfg, range(cfg.items))
        assert found is not None  # both have depth
        relief = sum(found.values["relief"]) / cfg.items
        share = sum(found.values["billboards"]) / cfg.items
        sign, held = ("<", relief < cfg.flat) if card else (">=", relief >= 2 * cfg.flat)
        bound = cfg.flat if card else 2 * cfg.flat
        result += [
            (f"{words}: geometry.relief {relief:.3f} {sign} {bound:g}", held),
            (f"{words}: geometry.billboards {share:g} is {int(card)}", share == card),
        ]
    return result

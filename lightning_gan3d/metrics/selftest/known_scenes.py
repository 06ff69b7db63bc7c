"""Checks of depth, normals and flatness on balls, traced exactly and rendered from a density."""

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import DensityConfig, Field, FieldSample, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.geometry.shape_statistics import measure_geometry
from lightning_gan3d.metrics.geometry.surfaces import (
    depth_error,
    normal_error,
    normals_from_depth,
)
from lightning_gan3d.metrics.selftest.perturbations import Perturbed, flatten_depth
from lightning_gan3d.metrics.sources import ViewSource
from renderers import RENDERERS

RADIUS, OFFSET = 0.65, 0.3
"""Radius of the balls, and distance of their centres from the origin, so that all views differ."""
FAR = 4.2
"""Depth of the background behind a ball."""
WAVES = 6
"""Plane waves in the texture of a ball."""
STEEP = 2000.0
"""Slope of a ball's density, per world unit squared: an almost sharp surface."""
SCENE = SceneConfig(box=2.0, feature_dim=3, density=DensityConfig(activation="relu"))
CORE = 0.85
"""Share of a ball's radius within which depth is compared; farther out, rays graze it."""
BOUNDS = {"depth": 0.005, "depth_flat": 0.1, "normals": 6.0}
"""Largest error of rendered balls, in world units and degrees; for `depth_flat`, the smallest."""

Check = tuple[str, bool]
"""Description with the measured value, and whether the check holds."""


@dataclass(frozen=True, eq=False)
class Balls(ViewSource):
    """Balls near the origin with a texture of plane waves, traced exactly: item i is ball i.

    Without shading and antialiasing, so that a point has one colour in all views.
    """

    labels: Float[Tensor, "n 25"]
    resolution: int
    seed: int = 0

    def base(self, items: Int64[Tensor, " b"]) -> Cameras:
        """Return one camera of the labels per item."""
        rows = [d.integers("label", len(self.labels), (1,)) for d in self._draws(items)]
        return Cameras.from_label(self.labels[torch.cat(rows)])

    def centres(self, items: Int64[Tensor, " b"]) -> Float[Tensor, "b 3"]:
        """Return the centres, in world units."""
        directions = [d.normal("centre", (1, 3)) for d in self._draws(items)]
        return OFFSET * torch.stack([normalize(x, dim=-1)[0] for x in directions])

    def views(self, items: Int64[Tensor, " b"], cameras: Cameras) -> Images:
        """Trace the balls."""
        k = len(cameras.cam2world) // len(items)
        rays, draws = cameras.rays(self.resolution), self._draws(items)
        origins = rays.origins - self.centres(items)[:, None].repeat_interleave(k, 0)
        along = (origins * rays.dirs).sum(-1)
        root = along.square() - origins.square().sum(-1) + RADIUS**2
        hit = root > 0
        t = -along - root.clamp(min=0).sqrt()
        points = rays.origins + rays.dirs * t[..., None]
        frequency = torch.stack([5 * d.normal("frequency", (WAVES, 3)) for d in draws])
        phase = torch.stack([6.3 * d.uniform("phase", (WAVES, 1)) for d in draws])
        colour = torch.stack([d.normal("colour", (3, WAVES)) for d in draws])
        frequency, phase, colour = (x.repeat_interleave(k, 0) for x in (frequency, phase, colour))
        waves = torch.sin(frequency @ points.mT + phase)  # v w r
        texture = torch.tanh(0.5 * colour @ waves)
        image = _square(torch.where(hit[:, None], texture, 1.0), self.resolution)
        depth = _square(torch.where(hit, t, FAR)[:, None], self.resolution)
        return Images(image, image, depth, _square(hit[:, None].float(), self.resolution))

    def _draws(self, items: Int64[Tensor, " b"]) -> list[Draws]:
        return [Draws(self.seed).scope("balls").at(int(i)) for i in items]


def _square(x: Float[Tensor, "v c r"], size: int) -> Float[Tensor, "v c h w"]:
    return rearrange(x, "v c (h w) -> v c h w", h=size)


@dataclass(frozen=True, eq=False)
class BallField(Field):
    """Balls as densities that rise steeply at the surface."""

    centre: Float[Tensor, "b 3"]
    scene_cfg: SceneConfig = SCENE

    def __call__(
        self, points: Float[Tensor, "b n 3"], dirs: Float[Tensor, "b n 3"] | None = None
    ) -> FieldSample:
        """Return the density at points, and grey."""
        del dirs  # the colour does not depend on them
        inward = RADIUS - (points - self.centre[:, None]).norm(dim=-1, keepdim=True)
        return FieldSample(STEEP * inward, torch.full_like(points, 0.5))


def check_geometry(balls: Balls, figures: EvaluationContext) -> list[Check]:
    """Compare rendered with traced balls, and check the flatness of figures and of cards."""
    cfg = figures.cfg.geometry
    assert cfg is not None, "the self-test measures geometry"
    return [*_check_balls(balls, torch.arange(cfg.items)), *_check_flatness(figures, cfg.flat)]


def _check_balls(balls: Balls, items: Int64[Tensor, " b"]) -> list[Check]:
    """Render balls as densities by the volume renderer, and compare with the traced balls."""
    kind, make = RENDERERS["volume"]
    renderer = make(kind(samples_coarse=96, samples_fine=48))
    cameras, centre = balls.base(items), balls.centres(items)
    with torch.no_grad():
        rendered = renderer(BallField(centre), cameras, balls.resolution)
    truth = balls.views(items, cameras)
    flat = flatten_depth(balls, items, cameras, 1.0)
    assert truth.depth is not None
    assert truth.opacity is not None
    assert flat.depth is not None
    assert rendered.depth is not None
    assert rendered.opacity is not None
    normals = normalize(cameras.unproject(truth.depth) - centre[:, None], dim=-1)
    normals = _square(normals.mT, balls.resolution)
    dirs = _square(cameras.rays(balls.resolution).dirs.mT, balls.resolution)
    cosine = -(normals * dirs).sum(1)
    # Mean penetration of a ray, at this cosine to the normal, into a density of slope STEEP.
    entered = (math.pi / 2 / STEEP / cosine.clamp(min=CORE / 10)).sqrt()[:, None]
    core = (cosine[:, None] > math.sqrt(1 - CORE**2)) & (truth.opacity > 0.5)
    opaque = core & (rendered.opacity > 0.9)
    error = float(depth_error(rendered.depth, truth.depth + entered, opaque).mean())
    error_flat = float(depth_error(flat.depth, truth.depth, opaque).mean())
    of_depth = normals_from_depth(rendered.depth, rendered.opacity > 0.9, cameras)
    valid = of_depth.valid & opaque
    angle = math.degrees(float(normal_error(of_depth.normals, normals, valid).mean()))
    share = float(opaque.sum() / core.sum())
    bound, least, most = BOUNDS["depth"], BOUNDS["depth_flat"], BOUNDS["normals"]
    return [
        (f"rendered balls: depth error {error:.4f} world units <= {bound:g}", error <= bound),
        (f"rendered balls: opaque share {share:.3f} >= 0.99", share >= 0.99),
        (f"flat balls: depth error {error_flat:.3f} world units >= {least:g}", error_flat >= least),
        (f"rendered balls: error of normals {angle:.2f} degrees <= {most:g}", angle <= most),
    ]


def _check_flatness(figures: EvaluationContext, flat: float) -> list[Check]:
    """Figures are round; with flat depth they are billboards."""
    checks = []
    cards = replace(figures, source=Perturbed(figures.source, flatten_depth, 1.0))
    for name, context, is_card in (("figures", figures, False), ("flat figures", cards, True)):
        values = {m.key: m.value for m in measure_geometry(context)}
        relief, share = values["geometry.relief"], values["geometry.billboards"]
        assert relief is not None
        bound, sign = (flat, "<") if is_card else (2 * flat, ">=")
        holds = relief < bound if is_card else relief >= bound
        checks += [
            (f"{name}: geometry.relief {relief:.3f} {sign} {bound:g}", holds),
            (f"{name}: geometry.billboards {share:g} is {int(is_card)}", share == is_card),
        ]
    return checks

"""Loss terms beside the adversarial loss, by kind: `loss.terms` of the configuration.

A term is a configuration and a function `term(cfg, at) -> loss`. The module weighs the loss and
averages it over views and the global batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from lightning_gan3d import registry
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, Count, NonNegative, Positive, Share
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import GeneratorConfig
from lightning_gan3d.images import Images
from lightning_gan3d.training import losses
from lightning_gan3d.training.config import TermConfig
from lightning_gan3d.training.schedules import ScheduleState
from representations.solid import Solid
from representations.splats import Splats


class TermInput(NamedTuple):
    """What a term may read: b generated scenes, or one view of each."""

    scene: Any
    schedule: ScheduleState
    draws: Draws
    """Of this term alone, independent of all others."""
    images: Images | None = None
    """One view of each scene; None for terms of scenes."""
    cameras: Cameras | None = None
    """Those of the images."""

    @property
    def depth(self) -> Float[Tensor, "b 1 h w"]:
        """Distance along the rays in world units."""
        assert self.images is not None, "set `needs` of the term to depth"
        assert self.images.depth is not None, "checked with the configuration"
        return self.images.depth

    @property
    def opacity(self) -> Float[Tensor, "b 1 h w"]:
        """Opacity in [0, 1]."""
        assert self.images is not None, "set `needs` of the term to opacity"
        assert self.images.opacity is not None, "checked with the configuration"
        return self.images.opacity

    @property
    def mask(self) -> Float[Tensor, "b n h w"]:
        """Visible share of each object, in [0, 1]."""
        assert self.images is not None, "set `needs` of the term to mask"
        assert self.images.mask is not None, "checked with the configuration"
        return self.images.mask

    def points(self, num: int) -> Float[Tensor, "b n 3"]:
        """Draw points uniformly in the box of each scene."""
        scene, shape = self.scene, (self.scene.batch, num, 3)
        device = scene.tensors()[0].device
        half: float = scene.box / 2
        return (self.draws.uniform("points", shape, device, on_device=True) * 2 - 1) * half


@dataclass(frozen=True)
class PointsConfig(TermConfig):
    """Options of terms of points."""

    num_points: Count = 1000
    """Points per scene, uniform in the box."""


@dataclass(frozen=True)
class DensitySmoothnessConfig(PointsConfig):
    """Options of `density_smoothness`; `loss.density_reg` is the same term in EG3D's lazy step."""

    needs = "density"
    distance: Positive = 0.004
    """Standard deviation of the distance of a pair per axis, as a share of the box."""


def density_smoothness(cfg: DensitySmoothnessConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean |sigma_raw(p) - sigma_raw(q)|, q near p (EG3D, Chan et al. 2022, supplement)."""
    points = at.points(cfg.num_points)
    step = at.draws.normal("neighbours", points.shape, points.device, on_device=True)
    return losses.density_l1(at.scene, points, points + step * (cfg.distance * at.scene.box))


@dataclass(frozen=True)
class EikonalConfig(PointsConfig):
    """Options of `eikonal`; StyleSDF weighs it by 0.1."""

    needs = "sdf"


def eikonal(cfg: EikonalConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean (|grad d| - 1)^2 of a signed distance d (Gropp et al. 2020, eq. 2; StyleSDF)."""
    return losses.eikonal(at.scene, at.points(cfg.num_points))


@dataclass(frozen=True)
class MinimalSurfaceConfig(PointsConfig):
    """Options of `minimal_surface`; StyleSDF weighs it by 0.05."""

    needs = "sdf"
    sharpness: Positive = 100.0
    """Decay of the penalty with |d|, per world unit."""


def minimal_surface(cfg: MinimalSurfaceConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean exp(-sharpness |d|): few points lie near a surface (StyleSDF, Or-El et al. 2022)."""
    d = at.scene.density(at.points(cfg.num_points))
    return torch.exp(-cfg.sharpness * d.abs()).mean()


@dataclass(frozen=True)
class DepthVarianceConfig(TermConfig):
    """Options of `depth_variance`."""

    needs = "depth"
    std: Positive = 0.05
    """Standard deviation of camera z, in world units, from which there is no penalty."""


def depth_variance(cfg: DepthVarianceConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean relu(1 - Var(z) / std^2) over views: against billboards, where it is 1.

    The variance of camera z is that over pixels, weighted by opacity, which gets no gradient.
    """
    assert at.cameras is not None, "images have cameras"
    z, weight = at.cameras.depth_z(at.depth), at.opacity.detach()
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    mean = (weight * z).sum((2, 3), keepdim=True)
    variance = (weight * (z - mean).square()).sum((1, 2, 3))
    return relu(1 - variance / cfg.std**2).mean()


@dataclass(frozen=True)
class CoverageConfig(TermConfig):
    """Options of `coverage`."""

    needs = "opacity"
    low: Share = 0.3
    """Lowest mean opacity of a view without penalty; GIRAFFE HD: 0.3."""
    high: Share = 1.0
    """Highest mean opacity of a view without penalty."""

    def __post_init__(self) -> None:
        """Check that the range is not empty."""
        if self.low > self.high:
            raise ConfigError(
                f"coverage: low={self.low} is above high={self.high}; use low of at most high",
                field="low",
            )


def coverage(cfg: CoverageConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean relu(low - m) + relu(m - high) over views, m mean opacity (GIRAFFE HD, Xue et al. 2022).

    GIRAFFE HD has only the lower bound.
    """
    mean = at.opacity.mean((1, 2, 3))
    return (relu(cfg.low - mean) + relu(mean - cfg.high)).mean()


@dataclass(frozen=True)
class BimodalityConfig(TermConfig):
    """Options of `bimodality`."""

    needs = "opacity"


def bimodality(cfg: BimodalityConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean log(0.1 + a) + log(1.1 - a) - log(0.11) over pixels, a opacity: 0 at 0 and 1.

    The prior of Neural Volumes (Lombardi et al. 2019); `splat_opacity` is the same for Gaussians.
    """
    return _undecided_opacity(at.opacity)


def _undecided_opacity(a: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
    return ((0.1 + a).log() + (1.1 - a).log()).mean() - math.log(0.11)


@dataclass(frozen=True)
class TotalVariationConfig(TermConfig):
    """Options of `total_variation`."""

    needs = "depth"


def total_variation(cfg: TotalVariationConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean |dt/dx| + |dt/dy| of the depth t, in world units per image width.

    Differences of neighbouring pixels (Rudin et al. 1992), weighted by the opacity of both, which
    gets no gradient: edges to an empty background do not count. The unit makes it independent of
    the resolution. RegNeRF (Niemeyer et al. 2022) squares the differences.
    """
    t, a = at.depth, at.opacity.detach()
    dx = t.diff(dim=3).abs() * a[..., 1:] * a[..., :-1]
    dy = t.diff(dim=2).abs() * a[..., 1:, :] * a[..., :-1, :]
    return (dx.mean() + dy.mean()) * t.shape[-1]


@dataclass(frozen=True)
class UndecidedConfig(TermConfig):
    """Options of `undecided`."""

    needs = "solid"


def undecided(cfg: UndecidedConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean of 4 v (1 - v) over voxels of occupancy v; 0 if all are empty or full."""
    v: Float[Tensor, "b 1 n n n"] = at.scene.occupancy
    return (4 * v * (1 - v)).mean()


@dataclass(frozen=True)
class SplatPositionConfig(TermConfig):
    """Options of `splat_position`; GGHead weighs it by 0.1."""

    needs = "splats"


def splat_position(cfg: SplatPositionConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean square of the raw position map of Gaussians (GGHead, Kirschstein et al. 2024)."""
    return _raw_squares(at)[:, 0].mean()


@dataclass(frozen=True)
class SplatScaleConfig(TermConfig):
    """Options of `splat_scale`; GGHead weighs it by 0.05."""

    needs = "splats"


def splat_scale(cfg: SplatScaleConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean square of the raw scale map of Gaussians, without which GGHead collapses."""
    return _raw_squares(at)[:, 1].mean()


def _raw_squares(at: TermInput) -> Float[Tensor, "b 2"]:
    squares: Tensor | None = at.scene.raw_squares
    assert squares is not None, "generated splats have them"
    return squares


@dataclass(frozen=True)
class SplatOpacityConfig(TermConfig):
    """Options of `splat_opacity`; GGHead weighs it by 1, late in the training."""

    needs = "splats"


def splat_opacity(cfg: SplatOpacityConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean log(0.1 + o) + log(1.1 - o) - log(0.11) over Gaussians of opacity o (GGHead)."""
    return _undecided_opacity(at.scene.opacities)


@dataclass(frozen=True)
class ContainmentConfig(TermConfig):
    """Options of `containment`; GIRAFFE HD weighs it by 14."""

    needs = "mask"
    padding: NonNegative = 0.1
    """Margin around the box of an object, as a share of half its edge."""


def containment(cfg: ContainmentConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean of the masks outside the projected boxes, with padding (GIRAFFE HD, Xue et al. 2022).

    A pixel sees the box if the ray through its centre meets it; placements get no gradient.
    """
    assert at.cameras is not None, "images have cameras"
    with torch.no_grad():
        rays = at.cameras.rays(at.mask.shape[-1])
        seen = [x.is_hit(rays, cfg.padding) for x in at.scene.objects]
    outside = ~torch.stack(seen, dim=1).view_as(at.mask)
    return (at.mask * outside).mean()


@dataclass(frozen=True)
class ObjectShareConfig(TermConfig):
    """Options of `object_share`; GIRAFFE HD weighs it by 14."""

    needs = "mask"
    low: Share = 0.3
    """Lowest mean of an object's mask without penalty."""


def object_share(cfg: ObjectShareConfig, at: TermInput) -> Float[Tensor, ""]:
    """Mean relu(low - mean mask) over objects and views: `coverage` of GIRAFFE HD, for masks."""
    return relu(cfg.low - at.mask.mean((2, 3))).mean()


@dataclass(frozen=True)
class BinarisationConfig(TermConfig):
    """Options of `binarisation`; GIRAFFE HD weighs it by 4."""

    needs = "mask"


def binarisation(cfg: BinarisationConfig, at: TermInput) -> Float[Tensor, ""]:  # noqa: ARG001  # no options
    """Mean min(m, 1 - m) of masks, 0 if each pixel is all or nothing (GIRAFFE HD)."""
    return torch.minimum(at.mask, 1 - at.mask).mean()


LOSS_TERMS: dict[str, tuple[type, Callable[[Any, TermInput], Float[Tensor, ""]]]] = {
    "density_smoothness": (DensitySmoothnessConfig, density_smoothness),
    "eikonal": (EikonalConfig, eikonal),
    "minimal_surface": (MinimalSurfaceConfig, minimal_surface),
    "depth_variance": (DepthVarianceConfig, depth_variance),
    "coverage": (CoverageConfig, coverage),
    "bimodality": (BimodalityConfig, bimodality),
    "containment": (ContainmentConfig, containment),
    "object_share": (ObjectShareConfig, object_share),
    "binarisation": (BinarisationConfig, binarisation),
    "total_variation": (TotalVariationConfig, total_variation),
    "undecided": (UndecidedConfig, undecided),
    "splat_position": (SplatPositionConfig, splat_position),
    "splat_scale": (SplatScaleConfig, splat_scale),
    "splat_opacity": (SplatOpacityConfig, splat_opacity),
}


def named(terms: Sequence[Any]) -> dict[str, Any]:
    """Terms by kind; those of a repeated kind by kind and position, e.g. `coverage.1`."""
    kinds = [registry.name_of("loss_terms")(type(term)) for term in terms]
    names = [k if kinds.count(k) == 1 else f"{k}.{i}" for i, k in enumerate(kinds)]
    return dict(zip(names, terms, strict=True))


def check_terms(terms: Sequence[Any], generator: GeneratorConfig) -> None:
    """Reject terms that need what the scenes or the renderer of a generator do not have."""
    activation = generator.scene.density.activation
    scenes = generator.representation_type.scene_type
    for name, term in named(terms).items():
        problem = ""
        if not isinstance(term, TermConfig):
            problem = f"{type(term).__name__} must derive from TermConfig"
        elif term.needs in ("field", "density", "sdf") and not generator.is_field:
            problem = "this representation has no density field; remove the term"
        elif term.needs == "sdf" and activation != "sdf":
            problem = f"generator.scene.density.activation={activation}: use sdf, or remove it"
        elif term.needs == "density" and activation == "sdf":
            problem = "a signed distance has slopes of 1; use the kind eikonal"
        elif term.needs == "solid" and scenes is not Solid:
            problem = "the scenes are no solids; use representation.kind=solid, or remove the term"
        elif term.needs == "splats" and not issubclass(scenes, Splats):
            problem = "the scenes are no splats; use representation.kind=splats, or remove the term"
        elif term.needs == "mask" and not generator.renderer_type.has_masks:
            problem = "the scenes have no objects; use kind=composed for both, or remove the term"
        elif term.needs in ("depth", "opacity") and not generator.renderer_type.has_depth:
            kind = registry.name_of("renderers")(type(generator.renderer))
            problem = f"generator.renderer.kind={kind} has no {term.needs}; remove the term"
        if problem:
            raise ConfigError(f"loss.terms: {name}: {problem}", field="loss")

"""The volume renderer: one field, queried along rays in chunks, coarse and fine by the same call."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import Field, Renderer, Rendering, RenderSettings, SceneConfig
from lightning_gan3d.draws import Draws
from renderers.compositing import (
    Compositing,
    clamped_depth,
    expected_depth,
    pair_weights,
    share_pairs,
    standard_weights,
)
from renderers.sampling import (
    Bounds,
    Importance,
    Span,
    Strata,
    edges_of,
    eg3d_importance,
    invert_cdf,
    span,
    stratified,
)


@dataclass(frozen=True)
class VolumeRendererConfig:
    """How rays are sampled and composited. EG3D's released rules are the values `eg3d`."""

    samples_coarse: int = 48
    """Stratified samples of a ray."""
    samples_fine: int = 48
    """Samples of a ray placed where the coarse ones found density; 0 leaves that pass out."""
    bounds: Literal["near_far", "box", "sphere"] = "box"
    """What of a ray is rendered: [near, far]; or its part within the field's box, or within the ball inscribed in it."""
    near: float | None = None
    """Distance from the camera at which rays begin, in world units. None (box, sphere): at the bounds."""
    far: float | None = None
    """Distance from the camera at which rays end, and the depth of the background. None (box, sphere): behind the bounds."""
    outside: Literal["empty", "field"] = "empty"
    """Density of samples outside the box: none, or whatever the field says there."""
    background: float = 0.0
    """Every channel of what lies behind the field, in [0, 1]: 0 is black, 1 white."""
    strata: Literal["within", "eg3d"] = "within"
    """`within`: strata fill [near, far]. `eg3d`: linspace with both ends, so that the last one lies beyond far."""
    compositing: Literal["standard", "eg3d"] = "standard"
    """`standard`: intervals end at near, midway between samples, and at far. `eg3d`: pairs of adjacent samples."""
    importance: Literal["standard", "eg3d"] = "standard"
    """`standard`: inverse of the weights' distribution. `eg3d`: pooled, and half an interval toward the camera."""
    depth: Literal["far", "eg3d"] = "far"
    """Depth of an empty ray: that of the background. `eg3d`: all depths clamped to the samples of the whole batch."""
    density_noise: float = 0.0
    """Standard deviation of noise on the raw density, against fog. Drawn, so absent where `draws` is None."""
    chunk: int = 131072
    """Points per call of the field: bounds the memory of a rendering without gradient. No effect on results."""
    recompute: bool = False
    """Keep no samples for the backward pass and compute each chunk again there: less memory, more time."""

    def __post_init__(self) -> None:
        """Check ranges and what the rules need of each other."""
        eg3d_pairs = self.compositing == "eg3d" or self.strata == "eg3d"
        least = 4 if self.samples_fine and self.importance == "eg3d" else 2 if eg3d_pairs else 1
        if self.samples_coarse < least:
            raise ConfigError(
                f"renderer.samples_coarse={self.samples_coarse}: these rules need {least} or more",
                "samples_coarse",
            )
        if self.samples_fine < 0:
            raise ConfigError(
                f"renderer.samples_fine={self.samples_fine}: use 0 (none) or more", "samples_fine"
            )
        if self.bounds == "near_far" and (self.near is None or self.far is None):
            missing = "near" if self.near is None else "far"
            raise ConfigError(
                f"renderer.{missing}=None: bounds=near_far needs both distances; or use bounds=box",
                missing,
            )
        if self.near is not None and self.near < 0:
            raise ConfigError(f"renderer.near={self.near}: use 0 or more, in world units", "near")
        if self.far is not None and self.far <= (self.near or 0.0):
            raise ConfigError(
                f"renderer.far={self.far}: use more than near={self.near or 0.0}", "far"
            )
        if not 0 <= self.background <= 1:
            raise ConfigError(
                f"renderer.background={self.background}: use 0 (black) to 1 (white)", "background"
            )
        if self.density_noise < 0:
            raise ConfigError(
                f"renderer.density_noise={self.density_noise}: use 0 or more", "density_noise"
            )
        if self.chunk < max(self.samples_coarse, self.samples_fine):
            raise ConfigError(
                f"renderer.chunk={self.chunk}: use at least the samples of one ray, e.g. 131072",
                "chunk",
            )


class RayRendering(NamedTuple):
    """What `render_rays` returns: features in [0, 1] over the background, expected distance, opacity in [0, 1]."""

    feature: Float[Tensor, "b r c"]
    depth: Float[Tensor, "b r 1"]
    opacity: Float[Tensor, "b r 1"]


class _Random(NamedTuple):
    """What is drawn for all rays of an image at once, so that chunks do not change it."""

    jitter: Float[Tensor, "b r s"] | None = None
    u: Float[Tensor, "b r f"] | None = None
    noise: Float[Tensor, "b r all"] | None = None

    def part(self, scenes: slice, rays: slice) -> "_Random":
        return _Random(*(None if x is None else x[scenes, rays] for x in self))


class _Samples(NamedTuple):
    sigma_raw: Float[Tensor, "b r s"]
    feature: Float[Tensor, "b r s c"]
    inside: Bool[Tensor, "b r s"] | None


class _Chunk(NamedTuple):
    """Sums along the rays of one chunk; `nearest` and `farthest` are those of its samples, where depth needs them."""

    feature: Float[Tensor, "b r c"]
    depth_sum: Float[Tensor, "b r 1"]
    opacity: Float[Tensor, "b r 1"]
    nearest: Float[Tensor, "b r 1"]
    farthest: Float[Tensor, "b r 1"]


class VolumeRenderer(Renderer):
    """Renders any field by quadrature along rays."""

    accepts = Field

    def __init__(self, cfg: VolumeRendererConfig, scene: SceneConfig) -> None:
        """Keep the options."""
        super().__init__()
        self.cfg = cfg
        self.scene_cfg = scene

    def forward(
        self,
        scene: Field,
        cameras: Cameras,
        resolution: int,
        settings: RenderSettings | None = None,
        draws: Draws | None = None,
    ) -> Rendering:
        """Render v = b * k square views of `resolution`; camera i sees scene i // k."""
        views = len(cameras.cam2world)
        if views % scene.batch:
            raise ValueError(
                f"{views} cameras for {scene.batch} scenes: use a multiple of {scene.batch}"
            )
        grouped = (
            rearrange(x, "(b k) r c -> b (k r) c", b=scene.batch) for x in cameras.rays(resolution)
        )
        out = self.render_rays(scene, Rays(*grouped), settings, draws)
        feature, depth, opacity = (
            rearrange(x, "b (k h w) c -> (b k) c h w", h=resolution, w=resolution) for x in out
        )
        return Rendering(feature * 2 - 1, depth, opacity)

    def render_rays(
        self,
        field: Field,
        rays: Rays,
        settings: RenderSettings | None = None,
        draws: Draws | None = None,
    ) -> RayRendering:
        """Render rays (b, r) of b scenes. `draws=None` takes stratum middles and u = (i + 1/2) / N."""
        o = self.options(settings)
        bounds, background = span(*rays, field.box, o.bounds, o.near, o.far)
        random = _draw(o, rays.origins, draws)
        again = o.recompute and torch.is_grad_enabled()
        rows: list[_Chunk] = []
        for scenes, columns in _chunks(*rays.origins.shape[:2], o):
            row = []
            for part in columns:
                some = field if scenes == slice(0, field.batch) else field.index(scenes)
                args = (
                    o,
                    some,
                    Rays(*(x[scenes, part] for x in rays)),
                    Span(*(x[scenes, part] for x in bounds)),
                    random.part(scenes, part),
                )
                row.append(
                    checkpoint(_march, *args, use_reentrant=False, preserve_rng_state=False)
                    if again
                    else _march(*args)
                )
            rows.append(_join(row, dim=1))
        total = _join(rows, dim=0)
        if o.depth == "eg3d":
            depth = clamped_depth(
                total.depth_sum, total.opacity, total.nearest.amin(), total.farthest.amax()
            )
        else:
            depth = expected_depth(total.depth_sum, total.opacity, background)
        feature = total.feature
        if o.background:
            feature = feature + (1 - total.opacity) * o.background
        return RayRendering(feature, depth, total.opacity)

    def options(self, settings: RenderSettings | None) -> VolumeRendererConfig:
        """Lay the settings of a call over the configuration; their combination is checked like any other."""
        if settings is None:
            return self.cfg
        given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        return dataclasses.replace(self.cfg, **{k: v for k, v in given.items() if v is not None})


def _draw(o: VolumeRendererConfig, origins: Float[Tensor, "b r 3"], draws: Draws | None) -> _Random:
    if draws is None:
        return _Random()
    shape, device = origins.shape[:2], origins.device
    jitter = draws.uniform("jitter", (*shape, o.samples_coarse), device, on_device=True)
    u = noise = None
    if o.samples_fine:
        u = draws.uniform("importance", (*shape, o.samples_fine), device, on_device=True).to(
            origins.dtype
        )
    if o.density_noise:
        all_samples = (*shape, o.samples_coarse + o.samples_fine)
        noise = o.density_noise * draws.normal("density_noise", all_samples, device, on_device=True)
    return _Random(jitter.to(origins.dtype), u, noise)


def _chunks(
    num_scenes: int, num_rays: int, o: VolumeRendererConfig
) -> Iterator[tuple[slice, list[slice]]]:
    """Cut scenes, then rays, so that no call of the field sees more than `chunk` points."""
    samples = max(o.samples_coarse, o.samples_fine)
    scenes = max(1, min(num_scenes, o.chunk // samples))
    rays = o.chunk // (samples * scenes)
    for first in range(0, num_scenes, scenes):
        columns = [slice(i, min(i + rays, num_rays)) for i in range(0, num_rays, rays)]
        yield slice(first, min(first + scenes, num_scenes)), columns


def _join(parts: list[_Chunk], dim: int) -> _Chunk:
    return (
        parts[0]
        if len(parts) == 1
        else _Chunk(*(torch.cat(x, dim) for x in zip(*parts, strict=True)))
    )


def _march(
    o: VolumeRendererConfig, field: Field, rays: Rays, bounds: Span, random: _Random
) -> _Chunk:
    """Sample, query and composite the rays of one chunk."""
    t, end = stratified(bounds, o.samples_coarse, random.jitter, o.strata)
    coarse = _query(o, field, rays, t, random.noise, 0)
    if not o.samples_fine:
        weights, opacity = _weights(
            o.compositing, field, coarse.sigma_raw, coarse.inside, t, bounds.near, end
        )
        return _sum([(weights, coarse.feature)], weights, t, opacity)
    with torch.no_grad():
        fine_t = _fine(o, field, coarse, t, bounds.near, end, random.u)
    fine = _query(o, field, rays, fine_t, random.noise, o.samples_coarse)
    t, order = torch.cat([t, fine_t], dim=-1).sort(dim=-1)
    sigma_raw = torch.cat([coarse.sigma_raw, fine.sigma_raw], dim=-1).gather(-1, order)
    inside = None
    if coarse.inside is not None and fine.inside is not None:
        inside = torch.cat([coarse.inside, fine.inside], dim=-1).gather(-1, order)
    weights, opacity = _weights(o.compositing, field, sigma_raw, inside, t, bounds.near, end)
    own = torch.empty_like(weights).scatter(-1, order, weights)  # back to where the features lie
    own_coarse, own_fine = own.split([o.samples_coarse, o.samples_fine], dim=-1)
    return _sum([(own_coarse, coarse.feature), (own_fine, fine.feature)], weights, t, opacity)


def _query(
    o: VolumeRendererConfig,
    field: Field,
    rays: Rays,
    t: Float[Tensor, "b r s"],
    noise: Tensor | None,
    first: int,
) -> _Samples:
    num_rays, samples = t.shape[1:]
    # Channel by channel, as fields gather and multiply; a field sees the transpose, which costs nothing.
    origins, dirs = (rearrange(x, "b r c -> b c r 1") for x in rays)
    points = torch.addcmul(origins, dirs, t[:, None])
    flat = rearrange(points, "b c r s -> b (r s) c")
    towards = None
    if field.needs_dirs:
        towards = rearrange(dirs.expand_as(points), "b c r s -> b (r s) c")
    sample = field(flat, towards)
    sigma_raw = rearrange(sample.sigma_raw, "b (r s) 1 -> b r s", r=num_rays).to(t.dtype)
    if noise is not None:
        sigma_raw = sigma_raw + noise[..., first : first + samples]
    inside = None
    if o.outside == "empty" and (o.bounds == "near_far" or o.strata == "eg3d"):
        inside = points.abs().amax(dim=1) <= field.box / 2
    return _Samples(
        sigma_raw, rearrange(sample.feature, "b (r s) c -> b r s c", r=num_rays), inside
    )


def _weights(
    rule: Compositing,
    field: Field,
    sigma_raw: Float[Tensor, "b r s"],
    inside: Bool[Tensor, "b r s"] | None,
    t: Float[Tensor, "b r s"],
    near: Float[Tensor, "b r 1"],
    end: Float[Tensor, "b r 1"],
) -> tuple[Float[Tensor, "b r s"], Float[Tensor, "b r 1"]]:
    """Return the weight of each sample and the opacity of each ray."""
    if rule == "standard":
        sigma = field.sigma(sigma_raw)
        if inside is not None:
            sigma = torch.where(inside, sigma, 0.0)
        return standard_weights(sigma, edges_of(t, near, end))
    pairs = _pairs(field, sigma_raw, inside, t)
    return share_pairs(pairs), pairs.sum(-1, keepdim=True)


def _pairs(
    field: Field,
    sigma_raw: Float[Tensor, "b r s"],
    inside: Bool[Tensor, "b r s"] | None,
    t: Float[Tensor, "b r s"],
) -> Float[Tensor, "b r m"]:
    sigma = field.sigma((sigma_raw[..., 1:] + sigma_raw[..., :-1]) / 2)
    if inside is not None:
        sigma = torch.where(inside[..., 1:] & inside[..., :-1], sigma, 0.0)
    return pair_weights(sigma, t)


def _fine(
    o: VolumeRendererConfig,
    field: Field,
    coarse: _Samples,
    t: Float[Tensor, "b r s"],
    near: Float[Tensor, "b r 1"],
    end: Float[Tensor, "b r 1"],
    u: Float[Tensor, "b r f"] | None,
) -> Float[Tensor, "b r f"]:
    """Place the fine samples. Drawn u are uniform for EG3D's rule, and one per stratum of [0, 1) otherwise."""
    stratum = torch.arange(o.samples_fine, device=t.device, dtype=t.dtype)
    if u is None:
        u = ((stratum + 0.5) / o.samples_fine).expand(*t.shape[:2], -1)
    elif o.importance == "standard":
        u = (stratum + u) / o.samples_fine
    if o.importance == "eg3d":
        return eg3d_importance(t, _pairs(field, coarse.sigma_raw, coarse.inside, t), u)
    weights, _ = _weights("standard", field, coarse.sigma_raw, coarse.inside, t, near, end)
    return invert_cdf(edges_of(t, near, end), weights, u)


def _sum(
    parts: list[tuple[Float[Tensor, "b r _"], Float[Tensor, "b r _ c"]]],
    weights: Float[Tensor, "b r s"],
    t: Float[Tensor, "b r s"],
    opacity: Float[Tensor, "b r 1"],
) -> _Chunk:
    features = [(w[..., None] * f).sum(dim=2) for w, f in parts]
    feature = features[0] if len(features) == 1 else features[0] + features[1]
    depth_sum = (weights * t).sum(-1, keepdim=True)
    return _Chunk(feature, depth_sum, opacity, t[..., :1], t[..., -1:])

"""Rendered depth of generated heads beside the depth that their images imply.

Generated heads have no true depth. A network learns the depth of procedural heads from their
images, and estimates it from generated ones, as EG3D does with a face reconstruction network.
"""

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.ellipsoids import ObjectView
from lightning_gan3d.data.synthetic.synth import SynthConfig, SynthObjects, sample_cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import quantise
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import DepthConfig
from lightning_gan3d.metrics.context import EvaluationContext, mean_of
from lightning_gan3d.metrics.geometry.shape_statistics import NO_DEPTH
from lightning_gan3d.metrics.pose.estimators import ImageReader, ImageRegressor
from lightning_gan3d.metrics.synthetic_reader import ReaderTask, trained_reader

NAMES = ("depth.correlation", "depth.error")
SIZE = 24
"""Side of the estimated depth maps."""
FOREGROUND = 0.5
"""Estimated coverage and rendered opacity from which a pixel counts."""
SHARE = 0.5
"""Share of the pixels that show a head which must be opaque."""


def pearson(
    a: Float[Tensor, "n p"], b: Float[Tensor, "n p"], valid: Bool[Tensor, "n p"]
) -> Float[Tensor, " n"]:
    """Correlation over the valid entries of each row; 0 if either is constant there."""

    def centred(x: Tensor) -> Tensor:
        x = torch.where(valid, x.double(), 0)
        mean = x.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        return torch.where(valid, x - mean[:, None], 0)

    a, b = centred(a), centred(b)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norms > 1e-9, (a * b).sum(dim=1) / norms, 0).float()


def relief_of(
    depth: Float[Tensor, "n 1 h w"], cameras: Cameras, radius: float
) -> Float[Tensor, "n 1 h w"]:
    """Height above the plane through the origin that faces the camera; `depth` along the rays."""
    return radius - cameras.depth_z(depth)


def measure_depth(context: EvaluationContext) -> list[Metric]:
    """Compare rendered depth with the estimate, at pixels that show a head and are opaque.

    Cameras are drawn from the distribution of the data, also for generators trained with a prior.
    Returns nothing if the data do not show procedural heads.
    """
    cfg, source, synth = context.cfg.depth, context.source, context.synth
    if cfg is None or synth is None or synth.kind != "heads":
        return []
    if source.fixed_cameras:
        return [missing(name, NO_DEPTH) for name in NAMES]
    cameras = sample_cameras(synth, cfg.items, Draws(context.seed).scope("depth cameras"))
    first = source.views(torch.tensor([0]), cameras.select(torch.tensor([0])))
    if first.depth is None or first.opacity is None:
        return [missing(name, NO_DEPTH) for name in NAMES]
    network, r2 = depth_reader(context, cfg, synth)
    parts = []
    for items in torch.split(torch.arange(cfg.items), context.cfg.batch):
        camera = cameras.select(items)
        views = source.views(items, camera)
        assert views.depth is not None  # as of the first view
        assert views.opacity is not None
        estimate = network(quantise(views.image).to(context.device)).cpu()
        opacity = views.opacity.float().cpu()
        relief = relief_of(views.depth.float().cpu(), camera, synth.radius)
        # Weighted, since depth is undefined where nothing is.
        weight = resized(opacity)
        relief = resized(torch.where(opacity > 0, relief, 0) * opacity) / weight.clamp(min=1e-6)
        parts.append((rearrange(relief, "n 1 h w -> n (h w)"), weight.flatten(1), estimate))
    relief, weight, estimate = (torch.cat(x) for x in zip(*parts, strict=True))
    expected, coverage = estimate.chunk(2, dim=1)
    shown = coverage >= FOREGROUND
    valid = shown & (weight >= FOREGROUND)
    enough = valid.sum(dim=1) >= SHARE * shown.sum(dim=1).clamp(min=1)
    error = torch.where(valid, relief - expected, 0).abs().sum(dim=1) / valid.sum(dim=1)
    note = (
        f"{cfg.items} images from cameras of the data; depth estimated at {SIZE} x {SIZE} pixels "
        f"by a network trained on {cfg.iterations} x {cfg.batch} images of {cfg.heads:,} other "
        f"heads (R² on held-out heads {float(r2):.3f}); pixels whose estimated coverage and "
        f"opacity are at least {FOREGROUND:g}"
    )
    empty = f"no head is at least {SHARE:.0%} opaque"
    return [
        mean_of(NAMES[0], pearson(relief, expected, valid), "", note, enough, empty),
        mean_of(NAMES[1], error, "", f"mean absolute, world units: {note}", enough, empty),
    ]


def resized(x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 s s"]:
    """Resize maps to those of the network."""
    return interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)


def depth_reader(
    context: EvaluationContext, cfg: DepthConfig, synth: SynthConfig
) -> tuple[ImageReader, Tensor]:
    """Return a network from images to relief and coverage, and R² of relief on held-out heads."""

    def targets(heads: SynthObjects, cameras: Cameras, _: ObjectView) -> Tensor:
        view = heads.render(torch.arange(cfg.heads), cameras, SIZE)
        covered = view.mask >= FOREGROUND
        relief = torch.where(covered, relief_of(view.depth, cameras, synth.radius), torch.nan)
        return torch.cat([relief.flatten(1), covered.float().flatten(1)], dim=1)

    def r2(output: Tensor, target: Tensor) -> Tensor:
        known = ~target[:, : SIZE**2].isnan()
        value, estimate = target[:, : SIZE**2][known], output[:, : SIZE**2][known]
        return 1 - (estimate - value).square().mean() / value.var(correction=0)

    network = partial(ImageRegressor, dim=2 * SIZE**2)
    task = ReaderTask("depth", cfg.heads, network, targets, r2)
    return trained_reader(context, synth, cfg, task)

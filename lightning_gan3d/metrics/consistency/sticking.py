"""Texture sticking: does detail move with the surface, or stay on the screen, as the camera moves?

Karras et al. (2021) show it in videos. Here the change of fine detail is regressed on the change
that motion predicts: motion of the coarse image, or of the surface by the rendered depth.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d, max_pool2d, pad

from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency.reprojection import NO_DEPTH
from lightning_gan3d.metrics.consistency.warp import Surfaces, surfaces
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext, mean_of

FRAMES = 3
"""Frames of each half of an orbit. Each half estimates motion independently, so noise and shape
changes give different errors."""
FINE, MIDDLE, COARSE, WINDOW = 0.8, 2.0, 2.5, 3.0
"""Standard deviations of Gaussians in pixels: detail is the difference of the first two; motion is
that of the image at `COARSE`, by least squares over `WINDOW`."""
UNEXPLAINED = 0.3
"""Largest share of the squared change of the coarse image that the other half's motion leaves."""
BORDER, CONTOUR = 8, 5
"""Pixels not used at the border, and around depth edges, since an outline is no texture."""
STILL = 0.05
"""Motion in pixels between two frames below which a pixel is not used."""
LEAST_PIXELS, LEAST_LATENTS = 0.01, 0.5
"""Share of the pixels that a latent needs to have a value, and of the latents with one."""
KINDS = {
    "sticking": f"motion of the image at a Gaussian of {COARSE:g} pixels",
    "sticking_depth": "motion of the surface by the rendered depth, away from depth edges",
}
"""The motion with which detail is compared, by the last part of the metric's name."""

Motion = tuple[Tensor, Tensor, Tensor]
"""Motion from frame to frame in pixels (n k 2 h w, x before y), another estimate of it whose errors
are independent, and where both are known (n k h w)."""


def blurred(x: Float[Tensor, "*n h w"], sigma: float, slope: int = 0) -> Float[Tensor, "*n h w"]:
    """Filter by a Gaussian, or by its derivative along one axis: -1 (x) or -2 (y)."""
    radius = math.ceil(4 * sigma)
    t = torch.arange(-radius, radius + 1).to(x)
    smooth = torch.softmax(-(t**2) / (2 * sigma**2), dim=0)
    for axis in (-1, -2):
        kernel = t * smooth / (t**2 * smooth).sum() if axis == slope else smooth
        rows = x.movedim(axis, -1)
        flat = pad(rows.reshape(-1, 1, rows.shape[-1]), (radius, radius), mode="replicate")
        x = conv1d(flat, kernel[None, None]).view(rows.shape).movedim(-1, axis)
    return x


def slopes(image: Float[Tensor, "n f c h w"], *sigma: float) -> tuple[Tensor, ...]:
    """Filter by a Gaussian or by the difference of two: level, slopes along x and y, and change.

    All lie between neighbouring frames; the first three are means of both.
    """
    maps = [
        blurred(image, sigma[0], axis) - sum(blurred(image, s, axis) for s in sigma[1:])
        for axis in (0, -1, -2)
    ]
    return *((x[:, 1:] + x[:, :-1]) / 2 for x in maps), maps[0][:, 1:] - maps[0][:, :-1]


def coarse_motion(image: Float[Tensor, "n f c h w"]) -> Motion:
    """Estimate motion by windowed least squares (Lucas and Kanade 1981); n = 2 halves of b orbits.

    Known where the motion of one half explains the change in the other but for `UNEXPLAINED`.
    """
    _, x, y, t = slopes(image, COARSE)
    products = torch.stack([x * x, x * y, y * y, x * t, y * t, t * t])
    xx, xy, yy, xt, yt, tt = blurred(products.mean(dim=(2, 3)), WINDOW)
    a, c = xx + 1e-8, yy + 1e-8  # along an edge, motion is zero
    flow = torch.stack([xy * yt - c * xt, xy * xt - a * yt], dim=1) / (a * c - xy**2)[:, None]
    other = flow.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    u, v = other.unbind(1)
    left = tt + 2 * (u * xt + v * yt) + u * u * xx + 2 * u * v * xy + v * v * yy
    return flow[:, None], other[:, None], (left <= UNEXPLAINED * tt)[:, None]


def surface_motion(frames: Surfaces, n: int) -> Motion:
    """Return the motion of surface points by their depth; v = n * f frames."""
    size, cameras = frames.z.shape[-1], frames.cameras
    points = cameras.unproject(frames.z / cameras.depth_z(torch.ones_like(frames.z)))
    first = torch.arange(len(points), device=points.device).view(n, -1)[:, :-1].flatten()
    before = cameras.select(first).project(points[first])[0]
    uv = cameras.select(first + 1).project(points[first])[0] - before
    flow = rearrange(uv * size, "(n k) (h w) i -> n k i h w", n=n, h=size)
    near_edge = max_pool2d(1 - frames.usable.float(), 2 * CONTOUR + 1, 1, CONTOUR)
    usable = near_edge.view(n, -1, size, size) == 0
    return flow, flow, usable[:, 1:] & usable[:, :-1]


def sticking(
    image: Float[Tensor, "n f c h w"], motion: Motion, detail: float
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return the sticking of b orbits, n = 2 b, and the share of pixels that it is computed from.

    Least squares of the change on that which the motion predicts, with the other half's motion as
    an instrument: errors in the motion then do not pull the slope towards zero.
    """
    level, x, y, change = slopes(image, FINE, MIDDLE)
    own, other = (u[:, :, :1] * x + u[:, :, 1:] * y for u in motion[:2])
    moves = torch.minimum(*(u.square().sum(dim=2) for u in motion[:2])) >= STILL**2
    used = moves & motion[2] & (blurred(level.square().mean(dim=2), MIDDLE) >= detail**2)
    used = pad(used[..., BORDER:-BORDER, BORDER:-BORDER], (BORDER,) * 4)

    def mean(x: Tensor) -> Float[Tensor, " b"]:
        return rearrange(x * used[:, :, None], "(b n) ... -> b (n ...)", n=2).mean(dim=1)

    return 1 + mean(change * other) / mean(own * other), mean(torch.ones_like(own[:, :, :1]))


def measure_sticking(context: EvaluationContext) -> list[Metric]:
    """Measure texture sticking on orbits about the world's y axis around each latent's camera."""
    cfg, source = context.cfg.motion, context.source
    if cfg is None or cfg.items is None:
        return []
    why = "stored images have one view each" if source.fixed_cameras else context.without_cameras
    angle = 4 * cfg.step / context.train.resolution
    azimuth = (torch.arange(2 * FRAMES) - FRAMES + 0.5) * angle
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in KINDS}
    for items, cameras in () if why else context.arcs(cfg.items, azimuth):
        views = source.views(items, cameras)
        colours = views.image.clamp(-1, 1).float()
        if not bool(colours.isfinite().all()):
            why = NOT_FINITE
            break
        image = rearrange(colours / 2 + 0.5, "(n f) c h w -> n f c h w", f=FRAMES)
        parts["sticking"].append(sticking(image, coarse_motion(image), cfg.detail))
        if views.depth is not None and views.opacity is not None:
            frames = surfaces(colours, views, cameras.to(colours.device), ConsistencyConfig())
            motion = surface_motion(frames, len(image))
            parts["sticking_depth"].append(sticking(image, motion, cfg.detail))
    note = (
        f"{2 * FRAMES} frames {angle:.3g} rad apart around the world's y axis; change of detail "
        f"(Gaussians of {FINE:g} and {MIDDLE:g} pixels, deviation >= {cfg.detail:g}), least squares"
    )
    few = f"detail and known motion at less than {LEAST_PIXELS:.0%} of the pixels of most latents"
    metrics = []
    for kind, part in parts.items():
        if why or not part:
            metrics.append(missing(f"motion.{kind}", why or NO_DEPTH, "share"))
            continue
        values, used = (torch.cat(x).cpu() for x in zip(*part, strict=True))
        valid = used >= LEAST_PIXELS
        valid &= valid.float().mean() >= LEAST_LATENTS
        about = f"{KINDS[kind]}; {float(used.mean()):.1%} of the pixels used; {note}"
        metrics.append(mean_of(f"motion.{kind}", values, "share", about, valid, few))
    return metrics

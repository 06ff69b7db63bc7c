"""Variety of images without downloaded weights: recall and coverage of reduced images; duplicates.

SWD does not see missing variety: four objects, or 40 images that repeat, score almost as well as a
trained generator. Not the pose regressor's features: they hold the pose and little of the object.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.context import EvaluationContext
from lightning_gan3d.metrics.distribution.feature_store import Features, Subset
from lightning_gan3d.metrics.distribution.precision_recall import coverage, covered, radii

K = 3
"""The neighbour that sets the radii."""
NAMES = ("quality.recall_pixels", "quality.coverage_pixels")
NUM_LATENTS = 128
"""Latents that are seen from one camera."""
SAME = 0.1
"""Distance below which two latents show one object, as a share of real images' median distance."""


def variety_metrics(
    samples: Features, train: Features, held_out: Features, protocol: str
) -> list[Metric]:
    """Return recall and coverage of held-out images by samples, and by training images.

    The latter (`_real`) are the ceiling. Equally many images of each set: the values depend on it.
    """
    n = min(len(samples), len(train), len(held_out))
    if n <= K:
        why = f"{n} images of each set are too few: set data.holdout and evaluation.num_images"
        return [missing(name, why, "share") for name in NAMES]
    real = _evenly(held_out, n)
    rows = []
    for suffix, images in (("", samples), ("_real", train)):
        fake = _evenly(images, n)
        recall = covered(real, fake, radii(fake, K)), "inside the balls of"
        cover = coverage(real, fake, K), "whose ball holds one of"
        for name, (value, what) in zip(NAMES, (recall, cover), strict=True):
            others = "training images" if suffix else "generated images"
            note = f"share of held-out images {what} {n:,} {others}, k = {K}; {protocol}"
            rows.append(Metric(name + suffix, value, "share", n, note=note))
    return rows


def _evenly(x: Features, n: int) -> Features:
    """Return n vectors, spread evenly over a set."""
    return Subset(x, torch.linspace(0, len(x) - 1, n).long())


def measure_duplicates(context: EvaluationContext) -> list[Metric]:
    """Measure the share of latents that show the object of another latent.

    All are seen from one camera. Like the birthday test (Arora and Zhang 2018), but by distance.
    """
    cfg, source = context.cfg.distribution, context.source
    if cfg is None:
        return []
    if source.fixed_cameras:
        why = "stored images cannot be seen from one camera"
        return [missing("quality.duplicates", why, "share")]
    if len(context.real) < 2:
        return [missing("quality.duplicates", "one real image: use two or more", "share")]
    camera = source.base(torch.tensor([0]))
    parts = []
    for items in torch.split(torch.arange(NUM_LATENTS), context.cfg.batch):
        cameras = Cameras(*(x.expand(len(items), -1, -1) for x in camera))
        parts.append(_reduced(source.views(items, cameras).image, cfg.pixels))
    order = Draws(context.seed).scope("duplicates").permutation("images", len(context.real))
    real = _reduced(to_float(context.real.images(order[:NUM_LATENTS])), cfg.pixels)
    note = (
        f"share of {NUM_LATENTS} latents, all seen from one camera, whose nearest other one is "
        f"nearer than {SAME:g} of the median distance of real images; RMS difference at "
        f"{cfg.pixels} pixels"
    )
    value = duplicates(torch.cat(parts), real)
    return [Metric("quality.duplicates", value, "share", NUM_LATENTS, note=note)]


def duplicates(x: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> float:
    """Share of vectors whose nearest other one is nearer than `SAME` of real ones' median."""
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    if not bool(distance.isfinite().all()):
        return math.nan
    nearest = distance.fill_diagonal_(torch.inf).amin(dim=1)
    return float((nearest <= SAME * torch.pdist(real).median()).double().mean())


def _reduced(image: Float[Tensor, "n 3 h w"], pixels: int) -> Float[Tensor, "n d"]:
    size = min(pixels, image.shape[-1])
    image = image.float().cpu()
    return interpolate(image, (size, size), mode="bilinear", antialias=True).flatten(1)

"""All measures that stored images allow; the others are missing, and say what they lack."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange

from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import EvaluationConfig, RefitConfig
from lightning_gan3d.metrics.consistency import reprojection
from lightning_gan3d.metrics.consistency.label_follows_camera import measure_following
from lightning_gan3d.metrics.consistency.refit import NO_BOX, reduced, refit, without_views
from lightning_gan3d.metrics.consistency.view_selection import farthest_first, visible_box
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution
from lightning_gan3d.metrics.distribution.crew import ALONE, Crew
from lightning_gan3d.metrics.evaluate import measure_images
from lightning_gan3d.metrics.geometry import shape_statistics
from lightning_gan3d.metrics.pose.estimator import measure_estimator
from lightning_gan3d.metrics.protocol import keyed
from lightning_gan3d.metrics.sources import ImageSet
from lightning_gan3d.metrics.stored_images import StoredImages

NO_DEPTH = "stored images come without depth"
NO_CAMERAS = "the images come without cameras (dataset.json)"


def evaluate_stored(
    stored: StoredImages,
    train: ImageSet,
    test: ImageSet | None,
    cfg: EvaluationConfig,
    device: torch.device | str = "cpu",
    seed: int = 0,
    cache: Path | None = None,
    weights: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    crew: Crew = ALONE,
) -> list[Metric]:
    """Compare stored images with a data set, in an order drawn by the seed; as `evaluate`.

    They must have the data's resolution: what resized them would decide the numbers.
    """
    if stored.resolution != train.resolution:
        raise ConfigError(
            f"{stored.path}: images of {stored.resolution} pixels, the data's have "
            f"{train.resolution}; set data.resolution={stored.resolution}, or store them so"
        )
    if len(stored) < 2:
        raise ConfigError(f"{stored.path}: holds {len(stored)} image; a distribution takes two up")
    if cfg.distribution is not None and cfg.distribution.poses is not None:
        raise ConfigError(
            "evaluation.distribution.poses: stored images have the cameras that they have; set it "
            "to null"
        )
    n = min(cfg.num_images, len(stored))
    posed = stored.labels is not None
    sample = stored.sample(len(stored), seed)
    result = []
    if crew.leads:
        of_images = replace(cfg, num_images=n, pose=cfg.pose if posed else None)
        result = measure_images(sample, train, test, of_images, device, seed, None, cache)
        result = [replace(m, note=f"{m.note}; {sample.protocol}") for m in result]
    if cfg.pose is not None and not posed:
        names = ("", "estimator_") if cfg.pose.estimator is not None else ("",)
        for name in names:
            within = f"pose.{name}within_{cfg.pose.threshold_degrees:g}deg"
            result += [missing(within, NO_CAMERAS, "share")]
            result += [missing(f"pose.{name}median_deg", NO_CAMERAS, "deg")]
    elif crew.leads and cfg.pose is not None and cfg.pose.estimator is not None:
        result += measure_estimator(sample, train, test, cfg.pose, n, cfg.batch, device)
    if cfg.identity is not None:
        why = "stored images cannot be seen from two cameras that a latent shares"
        result += [missing(f"identity.{name}", why) for name in ("cosine", "cosine_others")]
    if cfg.distribution is not None:
        d = cfg.distribution
        most = min(d.num_images or n, len(stored))
        result += measure_distribution(
            sample,
            train,
            test,
            replace(d, num_images=most, repeats=1),
            n,
            cfg.batch,
            device,
            seed,
            cache,
            weights,
            folder,
            crew,
        )
    if not crew.leads:
        return []
    if cfg.consistency is not None:
        result += reprojection.all_missing(cfg.consistency, NO_DEPTH, "")
    if cfg.refit is not None:
        result += refit_stored(stored, cfg.refit, seed, device)
    if cfg.following:
        result += measure_following(sample, train.labels, cfg.consistency, cfg.refit)
    if cfg.geometry is not None:
        result += shape_statistics.without_depth()
    return keyed(result, cfg, stored, train, test, seed)


def refit_stored(
    stored: StoredImages, cfg: RefitConfig, seed: int = 0, device: torch.device | str = "cpu"
) -> list[Metric]:
    """Fit fields to stored views of items that one set of cameras has seen, as `measure_refit`."""
    orbits = stored.orbits(2 * cfg.views)
    if isinstance(orbits, str):
        return without_views(f"takes {2 * cfg.views} views of each item; {orbits}")
    order = farthest_first(orbits.cameras, 2 * cfg.views)
    if isinstance(order, str):
        return without_views(order)
    order = torch.cat([order[0::2], order[1::2]])
    cameras = orbits.cameras.select(order).to(device)
    box = cfg.box or visible_box(cameras)
    if box <= 0:
        return without_views(NO_BOX)
    half = torch.arange(cfg.views, device=cameras.cam2world.device)
    which = orbits.images[: cfg.items, order]
    image = reduced(to_float(stored.images(which.T.flatten())).to(device), cfg.resolution)
    views = rearrange(image, "(v m) c h w -> v m c h w", m=len(which))
    seen, held_out = cameras.select(half), cameras.select(half + cfg.views)
    return refit(views, seen, held_out, box, cfg, Draws(seed).scope("refit"))

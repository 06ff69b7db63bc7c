"""All measures of one generator, each with its protocol in words."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.generator import Generator
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.cache import kept_measures
from lightning_gan3d.metrics.config import (
    SEED,
    EvaluationConfig,
    PoseConfig,
    SwdConfig,
)
from lightning_gan3d.metrics.consistency.label_follows_camera import measure_following
from lightning_gan3d.metrics.consistency.lpips_map import trunk_of
from lightning_gan3d.metrics.consistency.refit import measure_refit
from lightning_gan3d.metrics.consistency.reprojection import measure_ceiling, measure_consistency
from lightning_gan3d.metrics.distribution.compare_features import measure_distribution
from lightning_gan3d.metrics.distribution.crew import ALONE, Crew
from lightning_gan3d.metrics.distribution.distance import ImageDistance, fakes
from lightning_gan3d.metrics.geometry.shape_statistics import measure_geometry, measure_truth
from lightning_gan3d.metrics.pose.estimator import measure_estimator
from lightning_gan3d.metrics.pose.identity import measure_identity
from lightning_gan3d.metrics.pose.regressor import (
    PoseRegressor,
    kept_regressor,
    pose_errors,
    pose_errors_of,
)
from lightning_gan3d.metrics.protocol import keyed
from lightning_gan3d.metrics.sources import GeneratorSource, ImageSet, ViewSource


@contextmanager
def evaluating(generator: Generator) -> Iterator[None]:
    """Put a generator into evaluation mode, and back."""
    training = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(training)


def source_of(
    generator: Generator, labels: Float[Tensor, "n 25"], device: torch.device | str, seed: int
) -> GeneratorSource:
    """See a generator as a source of views; its labels are drawn from those given."""
    return GeneratorSource(generator, generator.cfg.z_dim, torch.as_tensor(labels), seed, device)


def evaluate(
    generator: Generator,
    train: ImageSet,
    test: ImageSet | None,
    cfg: EvaluationConfig,
    device: torch.device | str = "cpu",
    seed: int = SEED,
    *,
    initial: Generator | None = None,
    truth: ViewSource | None = None,
    cache: Path | None = None,
    weights: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    crew: Crew = ALONE,
) -> list[Metric]:
    """Take all measures of a generator that is on `device`.

    `initial` is the generator before training, from which the share of the way to the floor is
    reckoned; `truth` shows the data's own objects, which say what the consistency measures can
    reach. What depends on the data alone is kept in `cache`. `weights` are paths of pretrained
    networks, given by hand; `folder` takes tables beside the measures. A measure that could not be
    taken is missing, with its reason.
    """
    with evaluating(generator):
        source = source_of(generator, train.labels, device, seed)
        start = None
        if initial is not None and cfg.swd is not None and crew.leads:
            with evaluating(initial):
                distance = ImageDistance(train, test, cfg.swd, cfg.num_images, seed, cache)
                start = distance.of(source_of(initial, train.labels, device, seed), cfg.batch)[
                    "mean"
                ]
        return evaluate_source(
            source,
            train,
            test,
            cfg,
            device,
            seed,
            initial_swd=start,
            truth=truth,
            cache=cache,
            weights=weights,
            folder=folder,
            crew=crew,
        )


def evaluate_source(
    source: ViewSource,
    train: ImageSet,
    test: ImageSet | None,
    cfg: EvaluationConfig,
    device: torch.device | str = "cpu",
    seed: int = SEED,
    *,
    initial_swd: float | None = None,
    truth: ViewSource | None = None,
    cache: Path | None = None,
    weights: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    crew: Crew = ALONE,
) -> list[Metric]:
    """Take all measures of whatever shows views; see `evaluate`.

    Processes that do not lead do their part of the features, and return nothing.
    """
    labels = torch.as_tensor(train.labels)
    result = []
    if crew.leads:
        result = measure_images(source, train, test, cfg, device, seed, initial_swd, cache)
    if cfg.distribution is not None:
        result += measure_distribution(
            source,
            train,
            test,
            cfg.distribution,
            cfg.num_images,
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
        result += measure_consistency(source, cfg.consistency, cfg.batch)
        if truth is not None:
            consistency, found = cfg.consistency, trunk_of(cfg.consistency.lpips)
            trunk = (
                None if isinstance(found, str) else found.sha256
            )  # a path says not what it holds
            result += kept_measures(
                cache,
                "consistency-truth",
                [train.fingerprint, asdict(consistency), seed, trunk],
                lambda: measure_ceiling(truth, consistency, cfg.batch),
            )
    if cfg.refit is not None:
        refit = cfg.refit
        result += measure_refit(source, labels, refit, seed, cfg.batch, device)
        if truth is not None:
            result += kept_measures(
                cache,
                "refit-truth",
                [train.fingerprint, asdict(refit), seed],
                lambda: measure_refit(truth, labels, refit, seed, cfg.batch, "cpu", "_truth"),
            )
    if cfg.following:
        result += measure_following(
            source, labels, cfg.consistency, cfg.refit, seed, cfg.batch, device
        )
    if cfg.identity is not None:
        result += measure_identity(source, cfg.identity, cfg.batch, device)
    if cfg.pose is not None and cfg.pose.estimator is not None:
        result += measure_estimator(
            source, train, test, cfg.pose, cfg.num_images, cfg.batch, device
        )
    if cfg.geometry is not None:
        geometry = cfg.geometry
        result += measure_geometry(source, geometry, truth, seed)
        if truth is not None:
            result += kept_measures(
                cache,
                "geometry-truth",
                [train.fingerprint, asdict(geometry), seed],
                lambda: measure_truth(truth, geometry, seed),
            )
    return keyed(result, cfg, source, train, test, seed)


def measure_images(
    source: ViewSource,
    train: ImageSet,
    test: ImageSet | None,
    cfg: EvaluationConfig,
    device: torch.device | str,
    seed: int,
    initial_swd: float | None,
    cache: Path | None,
) -> list[Metric]:
    """Take the measures of single images, all on the same ones: distribution and pose."""
    distance = regressor = None
    num_images = cfg.num_images
    if cfg.swd is not None:
        distance = ImageDistance(train, test, cfg.swd, num_images, seed, cache)
        num_images = distance.num_images
    if cfg.pose is not None:
        regressor = kept_regressor(train, cfg.pose, seed, device, cache)
    if distance is None and regressor is None:
        return []
    collected = distance.collect() if distance is not None else None
    angles: list[Tensor] = []
    for images, cameras in fakes(source, num_images, cfg.batch):
        if collected is not None:
            collected.add(images)
        if regressor is not None:
            angles.append(pose_errors(regressor, images, cameras).cpu())
    result: list[Metric] = []
    if distance is not None and collected is not None:
        result += _distances(distance, distance.real.distance(collected), initial_swd)
    if regressor is not None and cfg.pose is not None:
        result += _poses(regressor, torch.cat(angles), train, test, cfg.pose, device)
    return result


def _distances(
    distance: ImageDistance, found: dict[str, float], initial: float | None
) -> list[Metric]:
    n, note = distance.num_images, distance.protocol
    if not math.isfinite(found["mean"]):
        return [missing("quality.swd", f"the generator's images are not finite ({note})")]
    result = [Metric.of_key("quality.swd", found["mean"], "", n, note=note)]
    for name, value in found.items():
        if name != "mean":
            whole = f"whole images reduced to {distance.cfg.coarsest} pixels"
            level = whole if name == "pixels" else f"level {name} alone"
            result.append(
                Metric.of_key(f"quality.swd_{name}", value, "", n, note=f"{level}: {note}")
            )
    floor = distance.floor["mean"]
    if distance.held_out:
        real = "as many training images in the generator's place"
    else:
        real = "disjoint halves of the training images"
    result.append(Metric.of_key("quality.swd_floor", floor, "", n, note=f"{real}: {note}"))
    way = "share of the way from the generator before training to real images"
    if initial is None or not math.isfinite(initial):
        why = "a state before training was not measured (fine-tuned or imported ones have none)"
        return [
            *result,
            missing("quality.swd_init", why),
            missing("quality.swd_way", f"{way}: {why}", "share"),
        ]
    result.append(
        Metric.of_key("quality.swd_init", initial, "", n, note=f"before training: {note}")
    )
    if initial <= floor:
        why = f"before training it was {initial:.4g}, not above the floor of {floor:.4g}"
        return [*result, missing("quality.swd_way", f"{way}: {why}", "share")]
    share = (initial - found["mean"]) / (initial - floor)
    return [*result, Metric.of_key("quality.swd_way", share, "share", n, note=f"{way}: {note}")]


def _poses(
    regressor: PoseRegressor,
    angles: Float[Tensor, " n"],
    train: ImageSet,
    test: ImageSet | None,
    cfg: PoseConfig,
    device: torch.device | str,
) -> list[Metric]:
    real = pose_errors_of(regressor, test if test is not None else train, device)
    whose = "held-out" if test is not None else "its own training"
    note = (
        "angle of the rotation between the camera asked for and the one read by a regressor "
        "trained on "
        f"{cfg.iterations} x {cfg.batch} real images at "
        f"{regressor.resolution}x{regressor.resolution} pixels"
    )
    result = []
    for suffix, values, words in (
        ("", angles, "generated images"),
        ("_real", real, f"{whose} real images, the most that can be read"),
    ):
        share_name = f"pose.within_{cfg.threshold_degrees:g}deg{suffix}"
        median_name = f"pose.median_deg{suffix}"
        if not bool(values.isfinite().all()):
            why = f"the generator's images are not finite ({note})"
            result += [missing(share_name, why, "share"), missing(median_name, why, "deg")]
            continue
        degrees = values.rad2deg()
        share = float((degrees <= cfg.threshold_degrees).float().mean())
        result += [
            Metric.of_key(share_name, share, "share", len(values), note=f"{words}: {note}"),
            Metric.of_key(
                median_name, float(degrees.median()), "deg", len(values), note=f"{words}: {note}"
            ),
        ]
    return result


def swd_of(
    generator: Generator,
    images: ImageSet,
    cfg: EvaluationConfig,
    device: torch.device | str = "cpu",
    seed: int = SEED,
) -> dict[str, float]:
    """Return the image distance to `num_images_training` real images.

    Keys: `swd`, and the levels as `swd_32`, `swd_16`..., `swd_pixels`. For use while training. It
    is larger than the final one, for it is taken over fewer images.
    """
    distance = ImageDistance(images, images, cfg.swd or SwdConfig(), cfg.num_images_training, seed)
    with evaluating(generator):
        found = distance.of(source_of(generator, images.labels, device, seed), cfg.batch)
    return {"swd" if k == "mean" else f"swd_{k}": v for k, v in found.items()}

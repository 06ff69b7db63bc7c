"""Pose read by an estimator that the user gives, on generated and on real images."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.config import PoseConfig
from lightning_gan3d.metrics.distribution.distance import fakes
from lightning_gan3d.metrics.pose.regressor import angle_between, rotation_from_6d
from lightning_gan3d.metrics.sources import ImageSet, ViewSource
from lightning_gan3d.metrics.torchscript import Scripted, ScriptedError, load_scripted


def read_rotations(network: Scripted, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 3"]:
    """Read rotations of cam2world: nine numbers, or the first two columns in six."""
    found = network(image, None)
    if found.shape[1:] == (6,):
        return rotation_from_6d(found)
    if found.shape[1:] == (3, 3):
        # Made orthonormal: an estimator's matrix need not quite be a rotation.
        return rotation_from_6d(torch.cat([found[:, :, 0], found[:, :, 1]], dim=-1))
    raise ScriptedError(
        f"{network.field}={network.path}: returns shape {tuple(found.shape)}; use (n, 3, 3), the "
        "rotation of cam2world, or (n, 6), its first two columns"
    )


def measure_estimator(
    source: ViewSource,
    train: ImageSet,
    test: ImageSet | None,
    cfg: PoseConfig,
    num_images: int,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> list[Metric]:
    """Measure the angle between the cameras asked for and those read by `cfg.estimator`.

    Real images are measured with it, as many: what the estimator can read, and whether its axes are
    ours. Nothing where no estimator is given.
    """
    if cfg.estimator is None:
        return []
    network = load_scripted("pose.estimator", cfg.estimator, device)
    real = test if test is not None else train
    num_images = min(num_images, len(real))
    generated, stored = [], []
    for images, cameras in fakes(source, num_images, batch):
        rotation = cameras.cam2world[:, :3, :3]
        generated.append(angle_between(read_rotations(network, images), rotation).cpu())
    labels = torch.as_tensor(real.labels)
    for which in torch.split(torch.arange(num_images), batch):
        rotation = Cameras.from_label(labels[which].to(device)).cam2world[:, :3, :3]
        image = to_float(real.images(which)).to(device)
        stored.append(angle_between(read_rotations(network, image), rotation).cpu())
    note = (
        "angle of the rotation between the camera asked for and the one read by the given "
        f"estimator ({network.protocol})"
    )
    result = []
    for suffix, words, parts in (
        ("", "generated images", generated),
        ("_real", f"{'held-out' if test is not None else 'training'} images", stored),
    ):
        angles = torch.cat(parts).rad2deg()
        names = (
            (f"pose.estimator_within_{cfg.threshold_degrees:g}deg{suffix}", "share"),
            (f"pose.estimator_median_deg{suffix}", "deg"),
        )
        if not bool(angles.isfinite().all()):
            why = f"images, or what the estimator reads, are not finite ({note})"
            result += [missing(name, why, unit) for name, unit in names]
            continue
        share = float((angles <= cfg.threshold_degrees).float().mean())
        for (name, unit), value in zip(names, (share, float(angles.median())), strict=True):
            result.append(Metric.of_key(name, value, unit, len(angles), note=f"{words}: {note}"))
    return result

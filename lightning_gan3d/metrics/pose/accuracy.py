"""Pose accuracy: the angle between an image's camera and the pose that a network estimates."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import to_float
from lightning_gan3d.metric import Metric, missing
from lightning_gan3d.metrics.context import NOT_FINITE, EvaluationContext
from lightning_gan3d.metrics.pose.estimators import (
    angle_between,
    cached_regressor,
    load_network,
    read_rotations,
)

READ_BATCH = 256
"""Real images read at a time."""
Read = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n 3 3"]]
"""Maps images in [-1, 1] to the rotations of their cameras (cam2world)."""
MEANS = 30
"""Weighted means of the search for the rotation of the world."""


@dataclass
class PoseReader:
    """A pose estimator, and what it read from the generated images so far."""

    prefix: str
    """Prefix of the metrics' names: `pose.` or `pose.estimator_`."""
    read: Read
    description: str
    """Description of the network, for the notes."""
    num_images: int
    """Largest number of generated images, and of real images."""
    batch: int = READ_BATCH
    rotations: list[Float[Tensor, "2 n 3 3"]] = field(default_factory=list)
    """Rotations that were read, and those of the cameras, batch by batch."""

    def add(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> None:
        """Add generated images and their cameras."""
        left = self.num_images - sum(x.shape[1] for x in self.rotations)
        if left > 0:
            with torch.no_grad():
                pair = torch.stack([self.read(images), cameras.cam2world[:, :3, :3]])
            self.rotations.append(pair[:, :left].cpu())

    def metrics(self, context: EvaluationContext) -> list[Metric]:
        """Return the metrics of generated images, and of real images as the ceiling."""
        cfg = context.cfg.pose
        assert cfg is not None, "no reader without options"
        real = real_errors(self.read, context, self.num_images, self.batch)
        estimated, true = torch.cat(self.rotations, dim=1)
        split = "training" if context.test is None else "held-out"
        note = f"angle between an image's camera and the one read by {self.description}"
        result = []
        for suffix, images, errors in (
            ("", "generated images", angle_between(estimated, true)),
            ("_real", f"{split} images, the best achievable", real),
        ):
            share, median = names(self.prefix, cfg.threshold_degrees, suffix)
            if not bool(errors.isfinite().all()):
                why = f"{NOT_FINITE} ({note})"
                result += [missing(share, why, "share"), missing(median, why, "deg")]
                continue
            degrees, n = errors.rad2deg(), len(errors)
            within = float((degrees <= cfg.threshold_degrees).float().mean())
            text = f"{images}: {note}"
            result += [
                Metric(share, within, "share", n, note=text),
                Metric(median, float(degrees.median()), "deg", n, note=text),
            ]
        return result + self._aligned(estimated, true, note)

    def _aligned(
        self, estimated: Float[Tensor, "n 3 3"], true: Float[Tensor, "n 3 3"], note: str
    ) -> list[Metric]:
        """Return the error after the best rotation of the world, and the angle of this rotation."""
        text = f"one rotation of the world, fitted to all images: {note}"
        if not bool(estimated.isfinite().all()):
            return [missing(x, f"{NOT_FINITE} ({text})", "deg") for x in aligned(self.prefix)]
        turned = world_rotation(estimated, true) @ true
        angles = angle_between(estimated, turned), angle_between(true, turned)
        return [
            Metric(name, float(x.rad2deg().median()), "deg", len(true), note=text)
            for name, x in zip(aligned(self.prefix), angles, strict=True)
        ]


def world_rotation(
    estimated: Float[Tensor, "n 3 3"], true: Float[Tensor, "n 3 3"]
) -> Float[Tensor, "3 3"]:
    """Rotation R of the world that minimises the sum of the norms of `estimated - R true`.

    Geometric median by weighted chordal means (Hartley et al. 2013): robust to outliers.
    """
    relative = (estimated @ true.mT).double()
    weight = relative.new_ones(len(relative))
    for _ in range(MEANS):
        u, _, v = torch.linalg.svd(torch.einsum("n,nij->ij", weight, relative))
        u = torch.cat([u[:, :2], u[:, 2:] * torch.linalg.det(u @ v)], dim=1)
        weight = 1 / (relative - u @ v).flatten(1).norm(dim=1).clamp(min=1e-3)
    rotation: Tensor = u @ v
    return rotation.to(estimated)


def aligned(prefix: str) -> tuple[str, str]:
    """Names of the metrics after the best rotation: median error, angle of the rotation."""
    return f"{prefix}aligned_median_deg", f"{prefix}alignment_deg"


def names(prefix: str, threshold: float, suffix: str = "") -> tuple[str, str]:
    """Names of the two metrics: share within the threshold, and median."""
    return f"{prefix}within_{threshold:g}deg{suffix}", f"{prefix}median_deg{suffix}"


def pose_readers(context: EvaluationContext, num_images: int) -> list[PoseReader]:
    """Return the regressor and the user's estimator, as far as they are configured."""
    cfg = context.cfg.pose
    if cfg is None:
        return []
    regressor = cached_regressor(context, cfg)
    size = f"{regressor.resolution}x{regressor.resolution}"
    description = (
        f"a regressor trained on {cfg.iterations} x {cfg.batch} real images at {size} pixels"
    )
    all_images = max(num_images, len(context.real))
    readers = [PoseReader("pose.", regressor, description, all_images)]
    if cfg.estimator is not None:
        network = load_network("pose.estimator", cfg.estimator, context.device)
        description = f"the given estimator ({network.protocol})"
        num, batch = min(context.cfg.num_images, len(context.real)), context.cfg.batch
        read = partial(read_rotations, network)
        readers.append(PoseReader("pose.estimator_", read, description, num, batch))
    return readers


def without_cameras(context: EvaluationContext, why: str) -> list[Metric]:
    """Return the metrics of generated images as missing."""
    cfg = context.cfg.pose
    if cfg is None:
        return []
    prefixes = ("pose.", "pose.estimator_") if cfg.estimator is not None else ("pose.",)
    rows = [(*names(prefix, cfg.threshold_degrees), *aligned(prefix)) for prefix in prefixes]
    units = ("share", "deg", "deg", "deg")
    return [missing(n, why, unit) for row in rows for n, unit in zip(row, units, strict=True)]


def pose_errors(
    read: Read, images: Float[Tensor, "n 3 h w"], cameras: Cameras
) -> Float[Tensor, " n"]:
    """Angles in radians between estimated and true cameras."""
    with torch.no_grad():
        return angle_between(read(images), cameras.cam2world[:, :3, :3]).cpu()


def real_errors(
    read: Read, context: EvaluationContext, num: int, batch: int = READ_BATCH
) -> Float[Tensor, " n"]:
    """Pose errors of the first `num` real images."""
    real, device = context.real, context.device
    labels = torch.as_tensor(real.labels)
    errors = []
    for indices in torch.split(torch.arange(min(num, len(real))), batch):
        cameras = Cameras.from_label(labels[indices].to(device))
        images = to_float(real.images(indices)).to(device)
        errors.append(pose_errors(read, images, cameras))
    return torch.cat(errors)

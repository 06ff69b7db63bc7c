"""What all metrics of one evaluation share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lightning_gan3d.metrics.config import SEED, EvaluationConfig
from lightning_gan3d.metrics.sources import ImageSet, ViewSource


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """Generated and real images, options, device and folders of one evaluation."""

    source: ViewSource
    """Generated images, from any camera."""
    train: ImageSet
    """Training images."""
    test: ImageSet | None
    """Held-out images, if there are any."""
    cfg: EvaluationConfig = EvaluationConfig()
    """Options of all metrics."""
    device: torch.device = torch.device("cpu")
    """Where networks of the metrics run."""
    seed: int = SEED
    """Key of every random choice."""
    truth: ViewSource | None = None
    """The data set's own objects, whose metrics are the ceiling."""
    cache: Path | None = None
    """Folder of what generators of the same data share."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Paths of pretrained networks, by the names that `gan3d weights list` shows."""
    folder: Path | None = None
    """Where tables beside the metrics are written."""

"""All measures of one generator, each with its protocol in words."""

from dataclasses import dataclass

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metrics.consistency import ConsistencyConfig
from lightning_gan3d.metrics.pose import PoseConfig
from lightning_gan3d.metrics.refit import RefitConfig
from lightning_gan3d.metrics.swd import SwdConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on how many images."""

    num_images: int = 1000
    """Generated images that serve the distribution and pose measures."""
    batch: int = 32
    """Images generated at a time."""
    swd: SwdConfig | None = SwdConfig()
    """Sliced Wasserstein distance; null leaves it out."""
    consistency: ConsistencyConfig | None = ConsistencyConfig()
    """Reprojection between views; null leaves it out."""
    refit: RefitConfig | None = RefitConfig()
    """Refitting a field to views; null leaves it out."""
    pose: PoseConfig | None = PoseConfig()
    """Pose read by a regressor; null leaves it out."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field in ("num_images", "batch"):
            if getattr(self, field) < 1:
                raise ConfigError(
                    f"evaluation.{field}={getattr(self, field)}: use a whole number from 1",
                    field=field,
                )

"""Pose accuracy: a small regressor trained on the real images reads the camera of generated ones."""

from dataclasses import dataclass

from lightning_gan3d.config import ConfigError


@dataclass(frozen=True)
class PoseConfig:
    """The protocol of the pose measure."""

    resolution: int = 32
    """Side in pixels of what the regressor sees; larger images are reduced to it."""
    iterations: int = 900
    """Training steps of the regressor."""
    batch: int = 64
    """Images of one training step."""
    threshold_degrees: float = 20.0
    """An image counts as posed right where its camera lies within this angle of the one asked for."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field, least in (("resolution", 16), ("iterations", 1), ("batch", 1)):
            if getattr(self, field) < least:
                raise ConfigError(
                    f"pose.{field}={getattr(self, field)}: use a whole number from {least}",
                    field=field,
                )
        if not 0 < self.threshold_degrees <= 180:
            raise ConfigError(
                f"pose.threshold_degrees={self.threshold_degrees}: use degrees in (0, 180], e.g. 20",
                field="threshold_degrees",
            )

"""View consistency by reprojection: views of one item are warped into one another by the rendered depth."""

from dataclasses import dataclass

from lightning_gan3d.config import ConfigError


@dataclass(frozen=True)
class ConsistencyConfig:
    """The protocol of the reprojection measure."""

    items: int = 32
    """Latents whose views are compared."""
    angle: float = 0.25
    """Radians between neighbouring views; the camera is carried around the world's y axis."""
    steps: int = 2
    """Neighbours on either side of the label's own camera: 2 * steps + 1 views a latent."""
    tolerance: float = 0.02
    """A point is hidden where it lies behind the target's depth by more than this share of its distance."""
    foreground: float = 0.5
    """Opacity from which a pixel is foreground."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.items < 1:
            raise ConfigError(
                f"consistency.items={self.items}: use a whole number from 1, e.g. 32", field="items"
            )
        if not 0 < self.angle < 1.6:
            raise ConfigError(
                f"consistency.angle={self.angle}: radians between neighbours, in (0, 1.6), e.g. 0.25",
                field="angle",
            )
        if self.steps < 1:
            raise ConfigError(
                f"consistency.steps={self.steps}: use a whole number from 1, e.g. 2", field="steps"
            )
        if not 0 < self.tolerance < 1:
            raise ConfigError(
                f"consistency.tolerance={self.tolerance}: a share of the distance in (0, 1), e.g. 0.02",
                field="tolerance",
            )
        if not 0 < self.foreground <= 1:
            raise ConfigError(
                f"consistency.foreground={self.foreground}: an opacity in (0, 1], e.g. 0.5",
                field="foreground",
            )

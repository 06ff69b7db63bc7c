"""Sliced Wasserstein distance between patches of Laplacian pyramids (Karras et al. 2018): needs no trained network."""

from dataclasses import dataclass

from lightning_gan3d.config import ConfigError


@dataclass(frozen=True)
class SwdConfig:
    """The protocol of the sliced Wasserstein distance."""

    patches: int = 128
    """Patches of 7x7 pixels drawn from each image and pyramid level."""
    projections: int = 512
    """Random directions onto which the patches are projected."""
    coarsest: int = 16
    """Side of the coarsest pyramid level, in pixels."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.patches < 1:
            raise ConfigError(
                f"swd.patches={self.patches}: use a whole number from 1, e.g. 128", field="patches"
            )
        if self.projections < 1:
            raise ConfigError(
                f"swd.projections={self.projections}: use a whole number from 1, e.g. 512",
                field="projections",
            )
        if self.coarsest < 7:
            raise ConfigError(
                f"swd.coarsest={self.coarsest}: a level must hold a patch of 7 pixels; use 16",
                field="coarsest",
            )

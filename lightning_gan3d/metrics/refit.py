"""View consistency without depth: a small field fitted to some views of an item must predict the others."""

from dataclasses import dataclass

from lightning_gan3d.config import ConfigError


@dataclass(frozen=True)
class RefitConfig:
    """The protocol of the refitting measure."""

    items: int = 8
    """Latents to which a field of their own is fitted."""
    views: int = 12
    """Views to fit, and as many held-out ones between them."""
    resolution: int = 32
    """Side in pixels at which views are fitted and compared; larger images are reduced to it."""
    iterations: int = 300
    """Steps of the optimiser."""
    grid: int = 32
    """Points along an edge of the fitted grid."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field, least in (
            ("items", 1),
            ("views", 2),
            ("resolution", 8),
            ("iterations", 1),
            ("grid", 4),
        ):
            if getattr(self, field) < least:
                raise ConfigError(
                    f"refit.{field}={getattr(self, field)}: use a whole number from {least}",
                    field=field,
                )

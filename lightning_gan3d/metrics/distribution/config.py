"""The protocol of the distribution measures."""

from dataclasses import dataclass

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metrics.distribution.features import Mode
from lightning_gan3d.metrics.posed import PosesConfig


@dataclass(frozen=True)
class DistributionConfig:
    """What is compared, on how many images, and how."""

    num_images: int | None = None
    """Generated images; null: as many as `evaluation.num_images`. Papers use 50000."""
    mode: Mode = "clean"
    """Resizing and network of clean-fid; StyleGAN's and EG3D's FID is `legacy_tensorflow`."""
    clip: bool = False
    """Whether to measure in CLIP's features too; needs its weights and OpenAI's package."""
    poses: PosesConfig | None = None
    """Cameras of the generated images; null: those of the training images."""
    repeats: int = 1
    """Sets of generated images, each of other latents; from 2 on there are intervals."""
    kid_subsets: int = 100
    """Random subsets over which KID is averaged."""
    kid_subset_size: int = 1000
    """Images of such a subset."""
    kid_whole: int = 5000
    """Images of each set for KID without subsets, which has a bootstrap interval."""
    infinity_from: int = 5000
    """Fewest images from which FID is extrapolated; it takes twice as many altogether."""
    splits: int = 10
    """Parts over which the Inception score is averaged."""
    k: int = 3
    """Neighbour that sets the radii of precision and recall."""
    pixels: int = 16
    """Side to which images are reduced to look for memorisation."""
    wait_minutes: float = 60.0
    """Minutes without a new shard of features after which process 0 gives the others up."""

    def __post_init__(self) -> None:
        """Check ranges."""
        least = {"repeats": 1, "kid_subsets": 1, "kid_subset_size": 2, "kid_whole": 2}
        least |= {"infinity_from": 2, "splits": 1, "k": 1, "pixels": 1}
        if self.num_images is not None:
            least["num_images"] = 2
        for field, low in least.items():
            if getattr(self, field) < low:
                raise ConfigError(
                    f"distribution.{field}={getattr(self, field)}: use a whole number from {low}",
                    field=field,
                )
        if not self.wait_minutes > 0:
            raise ConfigError(
                f"distribution.wait_minutes={self.wait_minutes}: use a number above 0, e.g. 60",
                field="wait_minutes",
            )

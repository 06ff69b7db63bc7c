"""The options with which people's own images become a data set."""

from dataclasses import dataclass
from typing import Literal

from lightning_gan3d.config import ConfigError
from lightning_gan3d.data.captures.normalise import Centre, Front, Up
from lightning_gan3d.data.decode import Convert


@dataclass(frozen=True)
class FromPosesConfig:
    """How images with poses are read, normalised and cut."""

    resolution: int = 256
    """Side of the images in pixels."""
    format: Literal["auto", "colmap", "transforms"] = "auto"
    """Where the cameras are: COLMAP's model (.bin or .txt), or transforms.json."""
    images: str = ""
    """Folder of the images, where it is not that of the cameras."""
    objects: Literal["none", "folder"] = "none"
    """`folder`: each sub-folder is an object, with cameras of its own or within one set of them."""
    per_object: bool = True
    """Bring each object to the origin by itself; else all share one world, and stay where they
    are in it."""
    up: Up = "auto"
    """Direction in the user's world that becomes +y; auto: what is up for the cameras."""
    centre: Centre = "axes"
    """What becomes the origin: the point nearest to all optical axes, the median of COLMAP's
    points, the mean camera, or the user's own origin."""
    front: Front = "auto"
    """Direction in the user's world from the object to the frontal camera, becomes +z. auto: the
    mean camera where they stand on one side; none: x stays right."""
    radius: float | None = 2.7
    """Median distance of the cameras after scaling, in world units; null keeps the scale."""
    crop: Literal["centre", "none"] = "centre"
    """How rectangles become squares; `none` refuses them."""
    background: Convert = "none"
    """Colour that is laid under transparent images, and turns gray ones to RGB; none refuses."""
    skip_missing: bool = False
    """Leave out cameras whose image is not there."""
    ignore_distortion: bool = False
    """Take distorted images for undistorted ones: wrong by as much as the lens bends."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 8 <= self.resolution <= 2048:
            raise ConfigError(
                f"resolution={self.resolution}: use 8 to 2048, e.g. 256", field="resolution"
            )
        if self.radius is not None and not self.radius > 0:
            raise ConfigError(
                f"radius={self.radius}: use a positive length, e.g. 2.7, or null", field="radius"
            )
        if self.images and self.objects == "folder":
            raise ConfigError(
                f"images={self.images}: with objects=folder, images are below the source; leave "
                "it out",
                field="images",
            )

"""What every preparer lets a user choose."""

from dataclasses import dataclass
from typing import Literal

from lightning_gan3d.config import ConfigError

Convention = Literal["opencv", "opengl"]
WorldUp = Literal["y", "z"]


@dataclass(frozen=True)
class PrepareConfig:
    """Options that all preparers share."""

    cameras: str = ""
    """JSON file of the cameras. Empty: `dataset.json` of SRC, else its `cameras.json`."""
    convention: Convention = "opencv"
    """Axes of the cameras in SRC: x right, and y down, z forward; or y up, z backward."""
    world_up: WorldUp = "y"
    """Axis of the world in SRC that points up; z (as in Blender) becomes y, and -y becomes z."""
    missing: Literal["refuse", "skip"] = "refuse"
    """What to do with images without a camera and cameras without an image."""
    resolution: int = 512
    """Side of the written images in pixels; images are reduced (Lanczos), never enlarged."""
    centre_square: bool = False
    """Cut the centred square out of images that are not square; cameras describe that square."""
    background: Literal["none", "black", "white"] = "none"
    """Colour under transparent pixels; `none` refuses what is not 8-bit RGB."""
    mirror: bool = False
    """Add a mirrored copy, with a mirrored pose, of each training image."""
    rebalance: str = ""
    """Repeat training images: `yaw` (rare views more often), or a JSON file of counts."""
    max_replicas: int = 16
    """How often an image may occur at most, its mirrored copies not counted."""
    max_images: int = 0
    """Use only that many, the first ones listed. 0: all."""
    holdout: float = 0.0
    """Share to hold out as the split `test`, picked by name; no copies are made of these."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 4 <= self.resolution <= 4096:
            raise ConfigError(
                f"resolution={self.resolution}: use 4 to 4096, e.g. 128", field="resolution"
            )
        if self.max_replicas < 1:
            raise ConfigError(
                f"max_replicas={self.max_replicas}: use 1 or more, e.g. 16", field="max_replicas"
            )
        if self.max_images < 0:
            raise ConfigError(
                f"max_images={self.max_images}: use 0 (all) or more", field="max_images"
            )
        if not 0 <= self.holdout < 1:
            raise ConfigError(
                f"holdout={self.holdout}: use a share in [0, 1), e.g. 0.1", field="holdout"
            )

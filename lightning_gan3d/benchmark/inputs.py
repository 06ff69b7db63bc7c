"""The inputs of every measurement: random latents, and cameras whose frame the box just fills."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.generator import Generator

ELEVATION = 0.35
"""Radians above the equator: rays cross the box obliquely, as they do in training."""
RADIUS_OVER_BOX = 2.7
"""EG3D's distance of the camera from the centre, in edges of the box."""


class Inputs(NamedTuple):
    """Latents and their cameras."""

    z: Float[Tensor, "b z_dim"]
    label: Float[Tensor, "b 25"]
    cameras: Cameras


def make_inputs(generator: Generator, batch: int = 1) -> Inputs:
    """Return b latents and one camera each, around the box, on the generator's device.

    The focal length makes the box's middle slice fill the frame, so that no pixel is wasted on
    emptiness and no part of the scene is left out. The distance is the middle of the renderer's
    near and far where it has them, for a camera elsewhere would see nothing between the two.
    """
    device = next(generator.parameters()).device
    box = generator.cfg.scene.box
    near = getattr(generator.cfg.renderer, "near", None)
    far = getattr(generator.cfg.renderer, "far", None)
    radius = (near + far) / 2 if near is not None and far is not None else RADIUS_OVER_BOX * box
    with torch.device("cpu"):  # whatever the caller's default: the generator may be on `meta`
        cameras = Cameras.orbit(batch, ELEVATION, radius, focal=radius / box)
        z = torch.randn(batch, generator.cfg.z_dim, generator=torch.Generator().manual_seed(0))
    return Inputs(z.to(device), cameras.to_label().to(device), cameras.to(device))

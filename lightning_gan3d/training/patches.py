"""Patches of images: the discriminator sees parts at full resolution (GRAF, EpiGRAF)."""

from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.training.config import PatchConfig

BETA = (0.001, 0.8)
"""Second parameter of Beta(1, b) at the start and at the end of the schedule, as EpiGRAF."""


class Patches(NamedTuple):
    """Square parts of images; all numbers are shares of the side of the whole image."""

    scale: Float[Tensor, " v"]
    left: Float[Tensor, " v"]
    top: Float[Tensor, " v"]

    def numbers(self) -> Float[Tensor, "v 3"]:
        """Return scale and offsets, the input of `discriminator.patch=modulate`."""
        return torch.stack(self, dim=1)


def draw_patches(
    cfg: PatchConfig, smallest: float, progress: float, groups: tuple[int, int], draws: Draws
) -> Patches:
    """Draw scales and uniform offsets. At `progress` 0, scales are 1; at 1, `smallest` to 1.

    `uniform`: U(1 - progress (1 - smallest), 1), GRAF (Schwarz et al. 2020) at progress 1. `beta`:
    smallest + (1 - smallest) Beta(1, b), EpiGRAF (Skorokhodov et al. 2022).
    `groups`: number of images, and size of the groups that share a patch. Image i belongs to group
    i mod (number / size), as in minibatch deviation.
    """
    num, size = groups
    u = draws.uniform("patch", (max(1, num // size), 3)).repeat(min(size, num), 1)
    if cfg.scales == "uniform":
        share = 1 - progress * (1 - u[:, 0])
    else:
        b = BETA[0] + (BETA[1] - BETA[0]) * progress
        share = 1 - (1 - u[:, 0]) ** (1 / b)  # inverse of the cumulative distribution
    scale = smallest + (1 - smallest) * share
    return Patches(scale, (1 - scale) * u[:, 1], (1 - scale) * u[:, 2])


def crop_cameras(cameras: Cameras, patches: Patches) -> Cameras:
    """Return the cameras whose images are the patches."""
    scale, left, top = (x.to(cameras.intrinsics) for x in patches)
    return cameras.crop(left, top, scale, scale)


def crop_images(
    images: Float[Tensor, "v c h w"], patches: Patches, resolution: int
) -> Float[Tensor, "v c r r"]:
    """Resample patches bilinearly at the centres of their pixels, without antialiasing.

    Rendered patches have one ray through each pixel's centre, so both alias alike.
    """
    centres = (torch.arange(resolution, device=images.device) + 0.5) / resolution
    scale, left, top = (x.to(images)[:, None] for x in patches)
    x, y = left + scale * centres, top + scale * centres
    x, y = repeat(x, "v w -> v h w", h=resolution), repeat(y, "v h -> v h w", w=resolution)
    grid = torch.stack([x, y], dim=-1)
    return grid_sample(images, 2 * grid - 1, padding_mode="border", align_corners=False)

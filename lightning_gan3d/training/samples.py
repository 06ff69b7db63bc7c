"""Sample grids: rows share a latent, columns a camera; under each row of images its depth."""

import math
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images, resize, to_uint8
from lightning_gan3d.metrics.consistency.warp import carry
from lightning_gan3d.training.config import LoggingConfig


def sample_cameras(labels: Float[Tensor, "n 25"], cfg: LoggingConfig) -> Cameras:
    """Cameras of the columns: the data's camera of median elevation, swung around the y axis."""
    origins = Cameras.from_label(labels).origins
    elevation = torch.asin(origins[:, 1] / origins.norm(dim=1))
    middle = labels[elevation.argsort()[len(labels) // 2]][None]
    azimuth = math.atan2(*Cameras.from_label(middle).origins[0, [0, 2]].tolist())
    swing = torch.linspace(-cfg.sample_swing, cfg.sample_swing, cfg.sample_views)
    if cfg.sample_views == 1:
        swing = torch.zeros(1)
    return carry(Cameras.from_label(middle), swing - azimuth)


@torch.no_grad()
def sample_grid(
    generator: Generator, cameras: Cameras, cfg: LoggingConfig, seed: int, device: torch.device
) -> UInt8[Tensor, "h w 3"]:
    """Draw the grid; a row at a time, so that memory does not grow with it."""
    draws = Draws(seed).scope("samples")
    label = cameras.to_label()[len(cameras.cam2world) // 2][None].to(device)
    rows = []
    for i in range(cfg.sample_latents):
        z = draws.at(i).normal("z", (1, generator.cfg.z_dim), device)
        images = generator.views(z, label, cameras.to(device))
        rows.append(_row(to_uint8(images.image).cpu()))
        shown = shown_depth(images, generator.resolution)
        if shown is not None:
            rows.append(_row(shown))
    return torch.cat(rows)


def shown_depth(images: Images, resolution: int) -> UInt8[Tensor, "v 3 r r"] | None:
    """Depth as grey: near is light, far dark, black where nothing is; one range for the row."""
    if images.depth is None or images.opacity is None:
        return None
    depth, seen = images.depth.float().cpu(), images.opacity.float().cpu() > 0.5
    surface = depth[seen]
    if not len(surface):
        return torch.zeros(len(depth), 3, resolution, resolution, dtype=torch.uint8)
    near, far = surface.min(), surface.max()
    light = 1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6)
    shown = torch.where(seen, light * 2 - 1, -1.0)
    return to_uint8(resize(shown, resolution)).expand(-1, 3, -1, -1)


def save_png(image: UInt8[Tensor, "h w 3"], path: Path) -> None:
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.numpy()).save(path)


def _row(images: UInt8[Tensor, "v 3 h w"]) -> UInt8[Tensor, "h vw 3"]:
    return rearrange(images, "v c h w -> h (v w) c")

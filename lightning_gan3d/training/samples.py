"""Sample grids, and statistics of rendered scenes that reveal degenerate 3D."""

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
from lightning_gan3d.training.config import LoggingConfig

FLAT, EMPTY, FULL = 0.01, 0.02, 0.98
FOREGROUND, MIN_PIXELS = 0.5, 16


def sample_cameras(labels: Float[Tensor, "n 25"], cfg: LoggingConfig) -> Cameras:
    """Cameras of the columns: the data's camera of median elevation, rotated around the y axis."""
    origins = Cameras.from_label(labels).origins
    elevation = torch.asin(origins[:, 1] / origins.norm(dim=1))
    middle = labels[elevation.argsort()[len(labels) // 2]][None]
    azimuth = math.atan2(*Cameras.from_label(middle).origins[0, [0, 2]].tolist())
    swing = torch.linspace(-cfg.sample_swing, cfg.sample_swing, cfg.sample_views)
    if cfg.sample_views == 1:
        swing = torch.zeros(1)
    return Cameras.from_label(middle).rotate_y(swing - azimuth)


@torch.no_grad()
def sample_grid(
    generator: Generator, cameras: Cameras, cfg: LoggingConfig, seed: int, device: torch.device
) -> UInt8[Tensor, "h w 3"]:
    """Render one row per latent and one column per camera; below each row, its depth."""
    draws = Draws(seed).scope("samples")
    label = cameras.to_label()[len(cameras.cam2world) // 2][None].to(device)
    rows = []
    for i in range(cfg.sample_latents):
        z = draws.at(i).normal("z", (1, generator.cfg.z_dim), device)
        images = generator.views(z, label, cameras.to(device))
        rows.append(to_uint8(images.image).cpu())
        depth = depth_image(images, generator.resolution)
        if depth is not None:
            rows.append(depth)
    return torch.cat([rearrange(row, "v c h w -> h (v w) c") for row in rows])


def depth_image(images: Images, resolution: int) -> UInt8[Tensor, "v 3 r r"] | None:
    """Depth as grey levels: near is light, far dark, background black; one range for all views."""
    if images.depth is None or images.opacity is None:
        return None
    depth, mask = images.depth.float().cpu(), images.opacity.float().cpu() > FOREGROUND
    surface = depth[mask]
    if not len(surface):
        return torch.zeros(len(depth), 3, resolution, resolution, dtype=torch.uint8)
    near, far = surface.min(), surface.max()
    grey = 1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6)
    grey = torch.where(mask, grey * 2 - 1, -1.0)
    return to_uint8(resize(grey, resolution)).expand(-1, 3, -1, -1)


def save_png(image: UInt8[Tensor, "h w 3"], path: Path) -> None:
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.numpy()).save(path)


def relief(
    depth: Float[Tensor, "v 1 h w"], opacity: Float[Tensor, "v 1 h w"], cameras: Cameras
) -> Float[Tensor, ""]:
    """Root mean square distance of the visible surface from its best-fit plane, in world units.

    0 for a billboard of any orientation. Mean over views; NaN if no view shows a surface.
    """
    points = cameras.unproject(depth)
    mask = (opacity > FOREGROUND).flatten(1)[..., None].float()
    count = mask.sum(1).clamp(min=1)
    centred = (points - (points * mask).sum(1, keepdim=True) / count[:, None]) * mask
    covariance = centred.mT @ centred / count[:, None]
    distance = torch.linalg.eigvalsh(covariance)[:, 0].clamp(min=0).sqrt()
    valid: Tensor = distance[count[:, 0] >= MIN_PIXELS]
    return valid.mean()


def scene_statistics(images: Images, cameras: Cameras, box: float) -> dict[str, float]:
    """Mean opacity, and relief as a share of the box; empty for scenes without depth."""
    if images.depth is None or images.opacity is None:
        return {}
    depth, opacity = images.depth.float().cpu(), images.opacity.float().cpu()
    statistics = {"scene/opacity": float(opacity.mean())}
    flatness = float(relief(depth, opacity, cameras.to("cpu"))) / box
    return statistics if math.isnan(flatness) else {**statistics, "scene/relief": flatness}


def scene_warnings(statistics: dict[str, float]) -> list[str]:
    """Describe degenerate scenes."""
    warnings = []
    opacity = statistics.get("scene/opacity", 0.5)
    if opacity < EMPTY:
        warnings.append("empty scene: almost no ray hits a surface")
    if opacity > FULL:
        warnings.append("opaque scene: almost every ray hits a surface")
    if statistics.get("scene/relief", 1.0) < FLAT:
        warnings.append("flat scene: the surface is a billboard")
    return warnings

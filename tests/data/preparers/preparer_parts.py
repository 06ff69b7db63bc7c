"""Images whose colours encode pixel positions, and cameras that look at known points."""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.dataset import DataConfig, ImageDataset

SIDE = 64
"""Pixels of an aligned image."""
FOCAL = 1.5
"""Focal length in widths of an aligned image."""


def ramp(side: int = SIDE, height: int | None = None, blue: int = 0) -> np.ndarray:
    """Red encodes a pixel's x and green its y: relative to the size, times 255."""
    height = height or side
    x = (np.arange(side) + 0.5) / side * 255
    y = (np.arange(height) + 0.5) / height * 255
    shape = (height, side)
    red, green = np.broadcast_to(x, shape), np.broadcast_to(y[:, None], shape)
    return np.rint(np.stack([red, green, np.full(shape, blue)], axis=-1)).astype(np.uint8)


def encoded(pixels: np.ndarray, suffix: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


def cameras(num: int = 6, focal: float = FOCAL, radius: float = 2.7, seed: int = 0) -> Cameras:
    """Cameras of random azimuth and elevation, so that no two are equal or mirrored."""
    draw = np.random.default_rng(seed)
    azimuth = torch.from_numpy(draw.uniform(-0.7, 0.7, num))
    elevation = torch.from_numpy(draw.uniform(-0.3, 0.3, num))
    result = Cameras.on_sphere(azimuth, elevation, radius, focal)
    k = torch.tensor([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]], dtype=torch.float64)
    return result._replace(intrinsics=k.repeat(num, 1, 1))


def labels_json(names: list[str], cams: Cameras, **extra: Any) -> bytes:
    rows = cams.to_label().double().tolist()
    pairs = [[n, r] for n, r in zip(names, rows, strict=True)]
    return json.dumps({"labels": pairs, **extra}).encode()


def poses_json(names: list[str], cams: Cameras, size: float = SIDE) -> bytes:
    """A pose and intrinsics in pixels for each image, as EG3D's pipeline for faces writes them."""
    scale = torch.tensor([size, size, 1.0], dtype=torch.float64)[:, None]
    k = cams.intrinsics * scale
    rows = zip(names, cams.cam2world.tolist(), k.tolist(), strict=True)
    return json.dumps({n: {"pose": p, "intrinsics": q} for n, p, q in rows}).encode()


def save(files: dict[str, bytes], path: Path) -> Path:
    """Write files to a folder, or to a zip if the path ends in `.zip`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def opened(path: Path, split: str = "all", **options: Any) -> ImageDataset:
    return ImageDataset(DataConfig(path=str(path), **options), split)


def index_of(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return json.loads((path / "dataset.json").read_text())
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))


def colour_at(image: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Colour of an image (3, h, w) at relative coordinates, divided by 255."""
    grid = (uv * 2 - 1).to(torch.float64)[None, None, None]
    sample = torch.nn.functional.grid_sample(image[None].double(), grid, align_corners=False)
    return sample[0, :, 0, 0] / 255


def points(num: int, seed: int = 1) -> torch.Tensor:
    """Points near the origin, float64, (num, 3)."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.25, 0.25, (num, 3)))


def turned(cams: Cameras) -> Cameras:
    """The same cameras in OpenGL axes, in a world whose z points up."""
    angle = torch.tensor(math.pi / 2, dtype=torch.float64)
    turn = torch.eye(4, dtype=torch.float64)  # about x: y to z, z to -y
    turn[1, 1] = turn[2, 2] = angle.cos()
    turn[1, 2], turn[2, 1] = -angle.sin(), angle.sin()
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    return cams._replace(cam2world=turn @ cams.cam2world.double() @ flip)

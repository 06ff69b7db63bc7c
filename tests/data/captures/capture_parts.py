"""Captures of known points in an arbitrary coordinate system, in the formats of COLMAP and NeRF."""

import json
import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras

# Position, scale and orientation of the object.
CENTRE = np.array([12.0, -7.0, 3.5])
SCALE = 4.2
AXIS, ANGLE = np.array([0.36, 0.48, 0.8]), 2.1
WIDTH, HEIGHT = 90, 64
FX, FY, CX, CY = 88.0, 84.0, 47.0, 30.5


class Capture(NamedTuple):
    """Cameras, and points that the images show."""

    cam2world: np.ndarray
    points: np.ndarray
    rotation: np.ndarray
    names: list[str]
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def intrinsics(self) -> np.ndarray:
        k = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
        return np.diag([self.width / WIDTH, self.height / HEIGHT, 1]) @ k

    def pixels_of(self, i: int, points: np.ndarray) -> np.ndarray:
        local = (points - self.cam2world[i, :3, 3]) @ self.cam2world[i, :3, :3]
        uv = (local / local[:, 2:]) @ self.intrinsics.T
        return uv[:, :2]


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def capture(num=12, azimuths=None, elevation=0.35, size=(WIDTH, HEIGHT), distance=3.0) -> Capture:
    """Cameras that look at an object; then rotated, shifted and scaled."""
    azimuth = torch.arange(num) * (2 * math.pi / num) if azimuths is None else azimuths
    level = torch.full_like(azimuth, elevation)
    level[::2] += 0.3
    poses = Cameras.on_sphere(azimuth.double(), level.double(), distance).cam2world.numpy().copy()
    points = np.array(
        [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [-0.4, -0.3, 0.2], [0.1, -0.5, -0.3]]
    )
    rotation = rotation_about(AXIS, ANGLE)
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = CENTRE + SCALE * poses[:, :3, 3] @ rotation.T
    names = [f"shot {i:02d}.png" for i in range(len(poses))]
    return Capture(poses, CENTRE + SCALE * points @ rotation.T, rotation, names, *size)


def ramp(width: int, height: int) -> np.ndarray:
    """An image whose red and green encode the horizontal and vertical position of a pixel."""
    u = (np.arange(width) + 0.5) / width * 255
    v = (np.arange(height) + 0.5) / height * 255
    pixels = np.zeros((height, width, 3))
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = u[None, :], v[:, None], 77
    return np.rint(pixels).astype(np.uint8)


def write_images(folder: Path, shot: Capture) -> None:
    for name in shot.names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp(shot.width, shot.height)).save(path)


def world2cam(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The quaternion (real part first) and translation that COLMAP writes."""
    r = pose[:3, :3].T
    # the eigenvector of Bar-Itzhack (2000), which has no special cases
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    x, y, z, w = np.linalg.eigh(k / 3)[1][:, -1]
    return np.array([w, x, y, z]), -r @ pose[:3, 3]


def write_colmap_txt(folder: Path, shot: Capture, model="PINHOLE", extra=()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    k = shot.intrinsics
    params = [k[0, 0], k[1, 1], k[0, 2], k[1, 2], *extra]
    line = " ".join(repr(float(p)) for p in params)
    (folder / "cameras.txt").write_text(
        f"# Camera list\n7 {model} {shot.width} {shot.height} {line}\n"
    )
    lines = ["# Image list with two lines of data per image:"]
    for i, name in enumerate(shot.names):
        q, t = world2cam(shot.cam2world[i])
        numbers = " ".join(repr(float(x)) for x in [*q, *t])
        lines += [f"{i + 1} {numbers} 7 {name}", "1.5 2.5 -1 3.0 4.0 1" if i % 2 else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [
        f"{i + 1} {' '.join(repr(float(x)) for x in p)} 1 2 3 0.5 1 0 2 1"
        for i, p in enumerate(shot.points)
    ]
    (folder / "points3D.txt").write_text("# 3D point list\n" + "\n".join(rows) + "\n")


def write_colmap_bin(folder: Path, shot: Capture, model=1, extra=()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    k = shot.intrinsics
    params = [k[0, 0], k[1, 1], k[0, 2], k[1, 2], *extra]
    data = struct.pack("<QIiQQ", 1, 7, model, shot.width, shot.height)
    (folder / "cameras.bin").write_bytes(data + struct.pack(f"<{len(params)}d", *params))
    data = struct.pack("<Q", len(shot.names))
    for i, name in enumerate(shot.names):
        q, t = world2cam(shot.cam2world[i])
        data += struct.pack("<I7dI", i + 1, *q, *t, 7) + name.encode() + b"\0"
        data += struct.pack("<Q", i % 3) + struct.pack("<ddQ", 1.5, 2.5, 1) * (i % 3)
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(shot.points))
    for i, p in enumerate(shot.points):
        data += struct.pack("<Q3d3BdQ", i + 1, *p, 1, 2, 3, 0.5, 2) + struct.pack("<4I", 1, 0, 2, 1)
    (folder / "points3D.bin").write_bytes(data)


def transforms(shot: Capture, **keys: object) -> dict[str, object]:
    k = shot.intrinsics
    frames = [
        {
            "file_path": f"./images/{name}",
            "transform_matrix": (shot.cam2world[i] @ np.diag([1.0, -1, -1, 1])).tolist(),
        }
        for i, name in enumerate(shot.names)
    ]
    camera = {
        "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2],
        "w": shot.width, "h": shot.height,
    }  # fmt: skip
    return {**camera, **keys, "frames": frames}


def write_transforms(folder: Path, shot: Capture, **keys: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms.json").write_text(json.dumps(transforms(shot, **keys)))

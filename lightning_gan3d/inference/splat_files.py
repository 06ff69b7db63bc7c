"""Gaussians as files that viewers of splats open: the PLY of 3D Gaussian splatting, and SPZ.

Axes: our world is right-handed with x right, y up and z toward the frontal camera, as SPZ (RUB). A
PLY has x right, y down and z away from it (RDF), as 3D Gaussian splatting writes: half a turn about
x.
"""

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import atomic_path
from lightning_gan3d.inference.config import SplatFileOptions
from lightning_gan3d.inference.model import Subject, open_model, output_folder, parse_seeds
from lightning_gan3d.progress import track
from representations.splats import Splats

C0 = 0.28209479177387814
"""Of the spherical harmonics of degree 0: 1 / sqrt(4 pi)."""
CLEAREST = 1e-6
"""Opacities are written in [CLEAREST, 1 - CLEAREST], where their logits are finite."""
THINNEST = 1e-12
"""Smallest standard deviation in world units; its logarithm is finite."""
SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 3
SPZ_ANTIALIASED = 1
"""Flag: opacities are those of a renderer that lowers the opacity of small Gaussians."""
SPZ_COLOUR = 0.15
"""Steps of 1/255 of a coefficient of degree 0: beyond [0, 1] of the colour."""


def splats(reference: str, options: SplatFileOptions, out: Path | None = None) -> str:
    """Write the Gaussians of each seed as a file; returns a summary."""
    seeds = parse_seeds(options.seeds)
    model = open_model(reference, options)
    cfg = model.generator.cfg
    if not issubclass(cfg.representation_type.scene_type, Splats):
        scenes = cfg.representation_type.scene_type.__name__
        raise ConfigError(f"{reference}: it makes {scenes} scenes, not splats; use gan3d mesh")
    antialias = bool(getattr(cfg.renderer, "antialias", False))
    out = output_folder([reference], "splats", out)
    out.mkdir(parents=True, exist_ok=True)
    lines = [model.summary]
    for seed in track(seeds, "splats", len(seeds)):
        scene = Subject(model, model.styles_of(seed, options), prepare=False).scene
        file = out / f"seed{seed:04d}.{options.format}"
        data = to_ply(scene) if options.format == "ply" else to_spz(scene, antialias)
        with atomic_path(file) as temporary:
            temporary.write_bytes(data)
        lines.append(f"{file}: {scene.means.shape[1]:,} Gaussians, {len(data):,} bytes")
    return "\n".join(lines)


def to_ply(scene: Splats) -> bytes:
    """Return one scene as the PLY of 3D Gaussian splatting, binary and little-endian, axes RDF.

    Colours are those of the rendering: the first three features.
    """
    turn = np.array([1, -1, -1])
    opacities = _array(scene.opacities).clip(CLEAREST, 1 - CLEAREST)
    columns: dict[str, Any] = {
        "x y z": _array(scene.means) * turn,
        "nx ny nz": np.zeros((len(opacities), 3)),
        "f_dc_0 f_dc_1 f_dc_2": (_array(scene.features)[:, :3] - 0.5) / C0,
    }
    if scene.harmonics is not None:
        rest = _array(scene.harmonics) * np.array([-1, -1, 1])[:, None]  # of y, z and x
        columns[" ".join(f"f_rest_{i}" for i in range(9))] = rest.swapaxes(1, 2).reshape(
            -1, 9
        )  # red first, then green, then blue
    columns |= {
        "opacity": np.log(opacities / (1 - opacities))[:, None],
        "scale_0 scale_1 scale_2": np.log(_array(scene.scales).clip(THINNEST)),
        "rot_0 rot_1 rot_2 rot_3": _quaternions(scene) * np.array([1, *turn]),
    }
    names = " ".join(columns).split()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(opacities)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    return "\n".join(header).encode() + np.hstack(list(columns.values())).astype("<f4").tobytes()


def to_spz(scene: Splats, antialias: bool) -> bytes:
    """Return one scene as SPZ 3 (Niantic): 8 bits per value, positions in 24 bits, axes RUB.

    `antialias`: whether the renderer lowers the opacity of small Gaussians.
    """
    means = _array(scene.means)
    # As fine as 24 bits with sign allow.
    bits = min(23 - math.ceil(math.log2(np.abs(means).max() + 1e-9)), 23)
    degree = 0 if scene.harmonics is None else 1
    flags = SPZ_ANTIALIASED if antialias else 0
    header = struct.pack("<3I4B", SPZ_MAGIC, SPZ_VERSION, len(means), degree, bits, flags, 0)
    fixed = np.rint(means * 2**bits).clip(-(2**23), 2**23 - 1).astype("<i4")
    colours = (_array(scene.features)[:, :3] - 0.5) / C0 * SPZ_COLOUR + 0.5
    parts = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3],
        # Not 0 or 255, whose logits are infinite.
        _bytes(255 * _array(scene.opacities)).clip(1, 254),
        _bytes(255 * colours),
        _bytes(16 * (np.log(_array(scene.scales).clip(THINNEST)) + 10)),
        _smallest_three(_quaternions(scene)),
    ]
    if scene.harmonics is not None:
        parts.append(_bytes(128 * _array(scene.harmonics) + 128))  # coefficients outer, rgb inner
    return gzip.compress(header + b"".join(part.tobytes() for part in parts), mtime=0)


def _array(x: Tensor) -> Float[np.ndarray, "*n"]:
    """Return the tensor of one scene as an array."""
    assert len(x) == 1, "a file has one scene; select it with Scene.index"
    return np.asarray(x[0].detach().double().cpu())


def _bytes(x: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    return np.asarray(np.rint(x).clip(0, 255), np.uint8)


def _quaternions(scene: Splats) -> Float[np.ndarray, "n 4"]:
    """Unit quaternions w, x, y, z."""
    return _array(torch.nn.functional.normalize(scene.rotations.double(), dim=-1))


def _smallest_three(quaternions: Float[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 4"]:
    """Pack unit quaternions into 32 bits: the index of the largest of x, y, z, w, then the others.

    Each of these has a sign and 9 bits; 511 is sqrt(1/2). The largest is positive.
    """
    xyzw = np.roll(quaternions, -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)
    sign = np.where(np.take_along_axis(xyzw, largest[:, None], axis=1) < 0, -1, 1)
    others = np.array([[j for j in range(4) if j != i] for i in range(4)])[largest]
    three = np.take_along_axis(xyzw * sign, others, axis=1)
    parts = (np.rint(np.abs(three) * 511 * math.sqrt(2)).astype("<u4")) | ((three < 0) << 9)
    packed = (largest << 30) | (parts[:, 0] << 20) | (parts[:, 1] << 10) | parts[:, 2]
    return np.asarray(packed, "<u4").view(np.uint8).reshape(-1, 4)

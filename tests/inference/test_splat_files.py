"""Files of Gaussians: read back by their formats' descriptions, they show the same picture."""

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from varied_splats import SCENE, one_splat, random_splats, views

from lightning_gan3d.config import ConfigError
from lightning_gan3d.inference.config import SplatFileOptions
from lightning_gan3d.inference.splat_files import C0, splats, to_ply, to_spz
from representations.splats import Splats


def read_ply(data):
    """Columns of a binary PLY of floats, by name."""
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    assert lines[2].startswith("element vertex ")
    assert len(lines) == 3 + len(names)
    rows = np.frombuffer(body, [(name, "<f4") for name in names])
    assert len(rows) == int(lines[2].split()[-1])
    return rows


def from_ply(data):
    """Read the scene of a PLY of 3D Gaussian splatting, axes RDF (x right, y down, z forward)."""
    rows = read_ply(data)

    def of(*names):
        return torch.tensor(np.stack([rows[name] for name in names], axis=-1))[None]

    turn = torch.tensor([1.0, -1.0, -1.0])
    harmonics = None
    if "f_rest_0" in rows.dtype.names:
        rest = of(*(f"f_rest_{i}" for i in range(9))).unflatten(-1, (3, 3)).mT  # m, rgb
        harmonics = rest * torch.tensor([-1.0, -1.0, 1.0])[:, None]
    return Splats(
        of("x", "y", "z") * turn,
        of("scale_0", "scale_1", "scale_2").exp(),
        of("rot_0", "rot_1", "rot_2", "rot_3") * torch.tensor([1.0, 1.0, -1.0, -1.0]),
        of("opacity").sigmoid()[..., 0],
        of("f_dc_0", "f_dc_1", "f_dc_2") * C0 + 0.5,
        SCENE,
        harmonics,
    )


def from_spz(data):
    """Read the scene of an SPZ of version 3, axes RUB (x right, y up, z backward)."""
    raw = gzip.decompress(data)
    magic, version, n, degree, bits, flags, reserved = struct.unpack("<3I4B", raw[:16])
    assert (raw[:4], version, reserved) == (b"NGSP", 3, 0)
    assert magic == 0x5053474E
    body = np.frombuffer(raw[16:], np.uint8)
    sizes = [9, 1, 3, 3, 4, 9 * degree]
    assert len(body) == n * sum(sizes)
    parts = np.split(body, np.cumsum(sizes)[:-1] * n)
    positions, alphas, colours, scales, rotations, rest = (
        x.reshape(n, k).astype(np.int64) for x, k in zip(parts, sizes, strict=True)
    )
    triples = positions.reshape(n, 3, 3) @ np.array([1, 2**8, 2**16])
    means = (triples - (triples >= 2**23) * 2**24) / 2**bits
    packed = rotations @ np.array([1, 2**8, 2**16, 2**24])
    quaternions = np.zeros((n, 4))
    for row, word in zip(quaternions, packed, strict=True):
        largest = word >> 30
        for j in reversed([j for j in range(4) if j != largest]):  # the last has the lowest bits
            row[j] = (word & 511) / 511 * np.sqrt(0.5) * (-1 if word & 512 else 1)
            word >>= 10
        row[largest] = np.sqrt(1 - (row**2).sum())
    harmonics = (rest.reshape(n, 3, 3) - 128) / 128 if degree else None

    def batch(x):
        return torch.tensor(x, dtype=torch.float32)[None]

    scene = Splats(
        batch(means), batch(np.exp(scales / 16 - 10)), batch(quaternions[:, [3, 0, 1, 2]]),
        batch(alphas[:, 0] / 255), batch((colours / 255 - 0.5) / 0.15 * C0 + 0.5), SCENE,
        None if harmonics is None else batch(harmonics),
    )  # fmt: skip
    return scene, flags


@pytest.mark.parametrize("harmonics", [False, True])
def test_a_ply_shows_the_same_picture(harmonics):
    scene = random_splats(harmonics=harmonics)
    read = from_ply(to_ply(scene))
    own, other = views(scene, background=1.0), views(read, background=1.0)
    assert own.feature.std() > 0.1
    assert (own.feature - other.feature).abs().max() < 1e-4
    assert (own.depth - other.depth).abs().max() < 1e-4


@pytest.mark.parametrize("harmonics", [False, True])
def test_an_spz_shows_nearly_the_same_picture(harmonics):
    scene = random_splats(harmonics=harmonics)
    read, flags = from_spz(to_spz(scene, antialias=True))
    assert flags == 1
    assert from_spz(to_spz(scene, antialias=False))[1] == 0
    assert (read.means - scene.means).abs().max() < 2**-23
    assert (read.scales / scene.scales).log().abs().max() <= 1 / 32 + 1e-6
    unit = torch.nn.functional.normalize(scene.rotations, dim=-1)
    assert (read.rotations * unit).sum(-1).abs().min() > 1 - 1e-5
    difference = (views(scene).feature - views(read).feature).abs()
    assert difference.max() < 0.1
    assert difference.mean() < 0.005


def test_opacities_of_0_and_1_stay_finite():
    scene = random_splats()
    assert (scene.opacities == 0).any()
    assert (scene.opacities == 1).any()
    logits = read_ply(to_ply(scene))["opacity"]
    assert np.isfinite(logits).all()
    assert np.abs(1 / (1 + np.exp(-logits)) - scene.opacities[0].numpy()).max() < 2e-6
    read, _ = from_spz(to_spz(scene, antialias=True))
    assert read.opacities.logit().isfinite().all()


def test_flat_gaussians_stay_finite():
    scene = random_splats()
    scene = replace(scene, scales=scene.scales * torch.tensor([1.0, 1.0, 0.0]))
    assert all(np.isfinite(x).all() for x in read_ply(to_ply(scene)).view("<f4"))
    assert from_spz(to_spz(scene, antialias=True))[0].scales.min() > 0


def test_axes_of_the_formats():
    """Our y is up: down in a PLY, up in SPZ. The frontal camera is on our +z."""
    scene = one_splat(mean=(0.1, 0.2, 0.3))
    row = read_ply(to_ply(scene))[0]
    assert [row[k] for k in "xyz"] == pytest.approx([0.1, -0.2, -0.3])
    assert from_spz(to_spz(scene, True))[0].means[0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_the_layout_of_a_ply():
    names = read_ply(to_ply(random_splats(harmonics=True))).dtype.names
    expected = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 "
    expected += "".join(f"f_rest_{i} " for i in range(9))
    assert names == tuple(
        f"{expected}opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
    )


def test_the_command_writes_a_file_for_each_seed(exports, tmp_path):
    for form in ("ply", "spz"):
        options = SplatFileOptions(seeds="0-1", format=form, device="cpu")
        text = splats(str(exports["splats"]), options, tmp_path)
        assert text.count(" Gaussians, ") == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["seed0000.ply", "seed0000.spz", "seed0001.ply", "seed0001.spz"]
    one, other = ((tmp_path / name).read_bytes() for name in names[::2])
    assert one != other
    read, flags = from_spz((tmp_path / "seed0000.spz").read_bytes())
    assert flags == 1  # the renderer's default
    assert f"seed0001.spz: {read.means.shape[1]:,} Gaussians" in text
    assert torch.allclose(read.means, from_ply(one).means, atol=1e-6)


def test_other_generators_have_no_gaussians(exports, tmp_path):
    with pytest.raises(ConfigError, match="makes VoxelField scenes, not splats; use gan3d mesh"):
        splats(str(exports["voxel"]), SplatFileOptions(device="cpu"), tmp_path / "none")
    assert not (tmp_path / "none").exists()

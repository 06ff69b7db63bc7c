"""Procedural solids: shapes, renderings and data sets."""

import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.data.archive import open_source
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.labels import read_index
from lightning_gan3d.data.synthetic.solids import ATTRIBUTES, Solids, SolidsConfig, draw_solids
from lightning_gan3d.data.synthetic.synth import (
    SynthConfig,
    SynthObjects,
    make_synth,
    read_truth,
    sample_cameras,
)
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import to_uint8
from renderers.raster import RasterConfig, RasterRenderer
from representations.solid import Solid

SMALL = SynthConfig(kind="solids", num_images=12, num_objects=6, holdout=0.34, resolution=16)
SHAPES = tuple(ATTRIBUTES)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("solids") / "solids.zip"
    make_synth(SMALL, path)
    return path


def one(shape, n=32, **attributes):
    """One solid; attributes in voxels, except for switches and the exponent."""
    lengths = {
        k: torch.tensor([v * (1.0 if k in ("exponent", "arms", "open") else 2 / n)])
        for k, v in attributes.items()
    }
    return Solids(SolidsConfig(shape=shape, n=n), lengths)


TUB = {
    "half_length": 12.0,
    "half_width": 6.0,
    "half_height": 4.0,
    "corner": 1e-3,
    "wall": 2.0,
    "floor": 3.0,
}


@pytest.mark.parametrize("n", [32, 64])
def test_a_tub_with_a_box_as_hollow_has_the_volume_of_both(n):
    tub = one("tub", n, **TUB, exponent=200.0)
    (voxels,) = tub.voxels()
    assert int(voxels.sum()) == 24 * 12 * 8 - 20 * 8 * 5
    middle = n // 2
    assert not voxels[middle, middle + 3, middle]  # the layer below the rim
    assert not voxels[middle, middle - 1, middle]
    assert voxels[middle, middle - 4 : middle - 1, middle].all()  # the floor, three voxels
    assert not voxels[middle, middle - 5, middle]


def test_the_hollow_of_exponent_2_is_half_an_ellipsoid():
    tub = one("tub", 128, **{k: 4 * v for k, v in TUB.items()}, exponent=2.0)
    missing = 96 * 48 * 32 - int(tub.voxels().sum())
    assert missing == pytest.approx(2 / 3 * math.pi * 40 * 16 * 20, rel=0.01)


def test_the_edges_of_a_tub_are_cylinders():
    tub = one("tub", 128, **{k: 4 * v for k, v in TUB.items()} | {"corner": 24.0}, exponent=2.0)
    (voxels,) = tub.voxels()
    floor = int(voxels[:, 64 - 16 + 1].sum())  # of a stadium
    assert floor == pytest.approx(48 * 48 + math.pi * 24**2, rel=0.01)


def test_sofas_and_chairs_have_the_volume_of_their_parts():
    sofa = {
        "half_width": 9.0,
        "half_depth": 5.0,
        "foot": 2.0,
        "seat": 4.0,
        "back": 6.0,
        "back_thickness": 3.0,
        "arm": 3.0,
        "arm_thickness": 2.0,
    }
    feet = 4 * 3 * 3 * 2  # of 0.16 world units, so three centres of voxels
    parts = feet + 18 * 10 * 4 + 18 * 3 * 6
    assert int(one("sofa", **sofa, arms=0.2).voxels().sum()) == parts
    assert int(one("sofa", **sofa, arms=0.3).voxels().sum()) == parts + 2 * 2 * 7 * 3
    chair = {
        "half_width": 6.0,
        "half_depth": 5.0,
        "leg": 8.0,
        "leg_thickness": 2.0,
        "seat": 2.0,
        "back": 10.0,
        "back_thickness": 2.0,
        "frame": 3.0,
    }
    parts = 4 * 2 * 2 * 8 + 12 * 10 * 2 + 12 * 2 * 10
    assert int(one("chair", **chair, arms=0.0, open=0.0).voxels().sum()) == parts
    opened = parts - 6 * 2 * 4
    assert int(one("chair", **chair, arms=0.0, open=0.9).voxels().sum()) == opened
    arms = 2 * 2 * (8 * 2 + 2 * 3)  # the rest, and the post below its end
    assert int(one("chair", **chair, arms=0.9, open=0.9).voxels().sum()) == opened + arms


@pytest.mark.parametrize("shape", SHAPES)
def test_solids_fit_the_unit_sphere_differ_and_are_two_voxels_thick(shape):
    cfg = SolidsConfig(shape=shape)
    solids = draw_solids(cfg, 60, seed=3)
    voxels = solids.voxels().numpy()
    corner = np.abs((np.arange(33) - 16) / 16)
    outer = np.maximum(corner[1:], corner[:-1])
    z, y, x = np.meshgrid(outer, outer, outer, indexing="ij")
    assert 0.7 < (np.sqrt(x**2 + y**2 + z**2) * voxels).max() <= 1
    assert len({v.tobytes() for v in voxels}) > 50
    for solid in voxels:
        assert ndimage.label(solid)[1] == 1
        # Each voxel belongs to a filled block of 2^3.
        assert (ndimage.binary_opening(solid, np.ones((2, 2, 2))) == solid).all()
    for name, (low, high) in ATTRIBUTES[shape].items():
        values = solids.attributes[name]
        assert low <= float(values.min()) < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < float(values.max()) <= high
    few = draw_solids(cfg, 3, seed=3)
    assert np.array_equal(few.voxels().numpy(), voxels[:3])


def test_depth_of_a_block_is_exact():
    """A tub of 24 x 8 x 12 voxels of 1/16, and its floor through the hollow."""
    tub = one("tub", **TUB, exponent=200.0)
    level = Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]]), focal=1.5)
    above = Cameras.look_at(torch.tensor([[0.0, 3.0, 0.0]]), focal=1.5, up=(0.0, 0.0, -1.0))
    view = tub.render(level, 31, 9.0)
    assert float(view.depth[0, 0, 15, 15]) == pytest.approx(3 - 6 / 16, abs=1e-5)
    assert float(view.depth[0, 0, 0, 0]) == 9
    assert (float(view.mask[0, 0, 15, 15]), float(view.mask[0, 0, 0, 0])) == (1, 0)
    hollow = tub.render(above, 31, 9.0)
    assert float(hollow.depth[0, 0, 15, 15]) == pytest.approx(3 + 1 / 16, abs=1e-5)


@pytest.mark.parametrize("samples", [1, 2])
def test_images_are_those_of_the_exact_renderer_bit_by_bit(samples):
    cfg = SolidsConfig(shape="chair", samples=samples, background=0.25, n=64)
    solids = draw_solids(cfg, 12, seed=0)
    cameras = sample_cameras(dataclasses.replace(SMALL, solids=cfg), 12, Draws(0))
    view = solids.render(cameras, 24, 9.0)
    renderer = RasterRenderer(RasterConfig(samples=samples, background=0.25))
    occupancy = solids.voxels()[:, None].float()
    white = torch.ones(12, 3, 64, 64, 64)
    expected = renderer(Solid(occupancy, white, SceneConfig(box=2.0)), cameras, 24)
    assert torch.equal(view.image, expected.feature)
    assert torch.equal(view.mask, expected.opacity)
    hit = view.mask > 0
    assert torch.equal(view.depth[hit], expected.depth[hit])
    assert (view.depth[~hit] == 9).all()
    assert view.image[0, :, 0, 0].tolist() == [-0.5] * 3


def test_the_level_is_positive_inside():
    solids = draw_solids(SolidsConfig(shape="sofa"), 1, seed=0)
    centre = (torch.arange(32) + 0.5) / 16 - 1
    z, y, x = torch.meshgrid(centre, centre, centre, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(1, -1, 3)
    level = solids.level(points).reshape(1, 32, 32, 32)
    torch.testing.assert_close(level, solids.voxels().float() - 0.5)
    outside = torch.tensor([[0.0, 1.1, 0.0], [4.0, 0.0, 0.0]])[None]
    assert (solids.level(outside) == -0.5).all()


def test_a_data_set_of_solids_has_their_truth(small):
    data = ImageDataset(DataConfig(path=str(small)), "all")
    objects = SynthObjects.open(small)
    assert objects.cfg == SMALL
    assert not data.warnings(2.0)
    assert data.objects.tolist() == [*range(6), *range(6)]
    cameras = Cameras.from_label(data.labels)
    view = objects.render(data.objects, cameras, 16)
    assert torch.equal(to_uint8(view.image), data.images(range(12)))
    for i in (0, 7):
        depth, mask = read_truth(data, i)
        assert torch.equal(depth, view.depth[i])
        assert torch.equal(mask, view.mask[i])
        assert (depth[mask == 0] == SMALL.far).all()
    assert objects.level(torch.tensor([0]), torch.zeros(1, 1, 3)).shape == (1, 1)
    assert objects.attributes() == {}


def test_equal_options_give_equal_bytes_and_are_stored(small, tmp_path):
    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    make_synth(SMALL, tmp_path / "again.zip")
    assert digest(tmp_path / "again.zip") == digest(small)
    cfg = dataclasses.replace(SMALL, solids=SolidsConfig("chair", 40, 1.0, 2), num_images=6)
    make_synth(cfg, tmp_path / "other.zip")
    assert SynthObjects.open(tmp_path / "other.zip").cfg == cfg
    stored = read_index(open_source(tmp_path / "other.zip"))["synth"]
    assert stored["solids"] == {"shape": "chair", "n": 40, "background": 1.0, "samples": 2}
    assert "scenes" not in stored
    for kind in ("figures", "scenes"):
        other = SynthConfig(kind=kind, num_images=2, num_objects=2, holdout=0.0, resolution=8)
        make_synth(other, tmp_path / kind)
        assert "solids" not in read_index(open_source(tmp_path / kind))["synth"]


def test_cameras_look_down_from_all_sides():
    origins = sample_cameras(SMALL, 2000, Draws(0)).origins / SMALL.radius
    elevation = origins[:, 1].asin()
    assert 0.4 <= float(elevation.min()) < 0.42
    assert 0.98 < float(elevation.max()) <= 1.0
    assert origins.mean(0)[[0, 2]].abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "figures", "solids": {}}, "solids with kind=figures: only kind=solids"),
        ({"scenes": {}}, "scenes with kind=solids: only kind=scenes"),
        ({"background": "black"}, "background=black: kind=solids reads solids.background"),
        ({"elevation_max": 0.3}, "elevation_max=0.3: only kind=figures"),
        ({"solids": {"n": 16}}, "n=16"),
        ({"solids": {"shape": "bed"}}, "shape=bed.*tub"),
        ({"solids": {"samples": 0}}, "samples=0"),
    ],
)
def test_options_that_cannot_be_met_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        build(SynthConfig, {"kind": "solids", **options})

"""The path tracer of solids: the hits of the grid walk, Lambert's law, shadows, and its bits."""

import dataclasses

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from renderers.exact.mitsuba_backend import VARIANT
from renderers.raster import RasterConfig, RasterRenderer
from representations.solid import Solid

mitsuba = pytest.importorskip("mitsuba", exc_type=ImportError)

WALK = RasterConfig(backend="grid_walk", background=0.3)
PATHS = dataclasses.replace(WALK, backend="mitsuba")
GENERIC = Cameras.on_sphere(torch.tensor([0.3, 2.0, 4.4]), torch.tensor([0.5, -0.9, 0.1]), 2.7, 1.1)
FRONT = Cameras.on_sphere(torch.zeros(1), torch.zeros(1), 6.0, 3.0)


def solid(filled, colour=None):
    occupancy = filled.float()[:, None]
    white = torch.ones_like(occupancy).expand(-1, 3, -1, -1, -1)
    return Solid(occupancy, white if colour is None else colour, SceneConfig(box=2.0))


def random_solid(share, num=1, n=6):
    rng = torch.Generator().manual_seed(1)
    filled = torch.rand(num, n, n, n, generator=rng) < share
    return solid(filled, torch.rand(num, 3, n, n, n, generator=rng))


def block():
    """Colours that differ from face to face."""
    filled = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    filled[:, 1:3, 1:3, 1:3] = True
    return solid(filled, torch.tensor([0.9, 0.5, 0.1]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 4))


def shifted(x, y):
    intrinsics = GENERIC.intrinsics.clone()
    intrinsics[:, :2, 2] = torch.tensor([x, y])
    return GENERIC._replace(intrinsics=intrinsics)


CAMERAS = {
    "generic": GENERIC,
    "off-centre": shifted(0.62, 0.41),
    "patches": GENERIC.crop(0.2, 0.4, 0.3, 0.3),
    "among": Cameras.look_at(torch.tensor([[0.06, 0.11, 0.13]]), torch.ones(1, 3), 0.4),
}


@pytest.mark.parametrize("cameras", CAMERAS)
@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 1.0])
def test_hits_are_those_of_the_walk(cameras, share):
    scene, view = random_solid(share), CAMERAS[cameras]
    scene.occupancy[:, :, 3, 3, 3] *= cameras != "among"  # the camera's own voxel is empty
    walk, traced = (RasterRenderer(cfg)(scene, view, 63) for cfg in (WALK, PATHS))
    differ = (walk.opacity != traced.opacity) | ((walk.depth - traced.depth).abs() > 1e-4)
    assert differ.float().mean() < 5e-3
    missed = ((walk.opacity == 0) & (traced.opacity == 0)).expand(-1, 3, -1, -1)
    assert torch.equal(walk.feature[missed], traced.feature[missed])


@pytest.mark.parametrize("ambient", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("frame", ["world", "camera"])
def test_a_convex_block_has_the_brightness_of_lamberts_law(ambient, frame):
    light = {"ambient": ambient, "light_frame": frame, "light": (0.4, 1.0, 0.7)}
    walk, traced = (
        RasterRenderer(dataclasses.replace(cfg, **light))(block(), GENERIC, 32)
        for cfg in (WALK, dataclasses.replace(PATHS, spp=64))
    )
    inside = -torch.nn.functional.max_pool2d(-walk.opacity, 3, 1, 1) == 1
    values, counts = walk.feature[:, 0][inside[:, 0]].unique(return_counts=True)
    for value in values[counts > 20]:  # one brightness per visible face
        face = (walk.feature[:, :1] == value) & inside
        # Without pixels at edges, whose colour is a mean over both faces.
        face = -torch.nn.functional.max_pool2d(-face.float(), 3, 1, 1) == 1
        here = face.expand_as(walk.feature)
        expected, seen = ((x.feature / 2 + 0.5)[here] for x in (walk, traced))
        torch.testing.assert_close(seen.mean(), expected.mean(), rtol=0.01, atol=1e-3)
        torch.testing.assert_close(seen, expected, rtol=0.05, atol=1e-3)


def test_hollows_are_darker_and_shadows_fall():
    filled = torch.ones(1, 8, 8, 8, dtype=torch.bool)
    filled[:, 2:, 2:6, 2:6] = False  # open toward +z
    lights = {"sky": (1.0, (0.0, 0.0, 1.0)), "sun": (0.0, (1.0, 0.0, 1.0))}
    ratio = {}
    for name, (ambient, light) in lights.items():
        cfg = dataclasses.replace(PATHS, ambient=ambient, light=light, spp=64)
        out = RasterRenderer(cfg)(solid(filled), FRONT, 48)
        image = out.feature[0, 0] / 2 + 0.5
        floor, rim = (out.depth[0, 0] > 6.2) & (out.opacity[0, 0] == 1), out.depth[0, 0] < 5.5
        assert floor.sum() > 50
        ratio[name] = float(image[floor].mean() / image[rim].mean())
    # Sky over the floor: a square opening at 1.5 times its side has a form factor below 0.2.
    assert 0.05 < ratio["sky"] < 0.35
    assert 0.0 < ratio["sun"] < 0.35  # only light from the walls


def test_equal_seeds_give_equal_bits_for_any_batch_and_threads():
    import drjit

    scene, renderer = random_solid(0.3, num=3), RasterRenderer(PATHS)
    together = renderer(scene, GENERIC, 40)
    threads = drjit.thread_count()
    for num in (1, 4):
        drjit.set_thread_count(num)
        alone = renderer(scene.index(slice(1, 2)), GENERIC.select(slice(1, 2)), 40)
        drjit.set_thread_count(threads)
        assert all(torch.equal(a[0], b[1]) for a, b in zip(alone[:3], together[:3], strict=True))
    other = RasterRenderer(dataclasses.replace(PATHS, spp=4))(scene, GENERIC, 40)
    assert not torch.equal(other.feature, together.feature)
    assert str(renderer.backend).startswith("Mitsuba 3.")


def test_the_variant_of_other_users_is_kept():
    before = mitsuba.variant()
    mitsuba.set_variant("scalar_spectral")
    try:
        RasterRenderer(PATHS)(block(), FRONT, 8)
        assert mitsuba.variant() == "scalar_spectral" != VARIANT
    finally:
        if before:
            mitsuba.set_variant(before)


@pytest.mark.parametrize("entry", [(0, 0), (0, 1)])
def test_cameras_without_square_pixels_are_rejected(entry):
    intrinsics = GENERIC.intrinsics.clone()
    intrinsics[:, entry[0], entry[1]] += 0.1
    with pytest.raises(ConfigError, match=r"backend=mitsuba: .*pixels are square; use grid_walk"):
        RasterRenderer(PATHS)(block(), GENERIC._replace(intrinsics=intrinsics), 8)

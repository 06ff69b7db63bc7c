"""The exact renderer of solids: analytic images, and brute force over all voxels."""

import dataclasses
import os
import sys

import numpy as np
import pytest
import torch

import renderers.exact
from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.contract import Renderer, SceneConfig
from renderers import raster
from renderers.exact import grid_walk, opengl
from renderers.exact.views import NORMALS
from renderers.raster import RasterConfig, RasterRenderer, choose_backend
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.solid import Solid

BOX = 2.0
SCENE = SceneConfig(box=BOX, feature_dim=3)
WALK = RasterConfig(backend="grid_walk")
FULL_LIGHT = dataclasses.replace(WALK, ambient=1.0)


def solid(filled, colour=None):
    """Solids of (b, n, n, n) booleans, white by default."""
    occupancy = filled.float()[:, None]
    white = torch.ones_like(occupancy).expand(-1, 3, -1, -1, -1)
    return Solid(occupancy, white if colour is None else colour, SCENE)


def random_solid(num, n, share, seed=0):
    rng = torch.Generator().manual_seed(seed)
    filled = torch.rand(num, n, n, n, generator=rng) < share
    return solid(filled, torch.rand(num, 3, n, n, n, generator=rng))


def box_of(n, low, high):
    """Voxels low, ..., high - 1 along each axis are filled."""
    filled = torch.zeros(1, n, n, n, dtype=torch.bool)
    filled[:, low:high, low:high, low:high] = True
    return solid(filled)


def along(axis, sign, focal=2.0, offset=(0.03, -0.05)):
    """A camera on an axis that looks along it: rays through the middle are parallel to axes."""
    eye, target, up = torch.zeros(3), torch.zeros(3), [0.0, 0.0, 0.0]
    eye[axis] = 3.0 * sign
    for a, o in zip([(axis + 1) % 3, (axis + 2) % 3], offset, strict=True):
        eye[a] = target[a] = o
    up[(axis + 1) % 3] = 1.0
    return Cameras.look_at(eye[None], target[None], focal, tuple(up))


def join(*cameras):
    return Cameras(*(torch.cat(x) for x in zip(*cameras, strict=True)))


def brute_force(scene, cameras, resolution):
    """First filled voxel on each ray, its distance and the face through which the ray enters."""
    n = scene.occupancy.shape[-1]
    z, y, x = (scene.occupancy[0, 0].numpy() > 0.5).nonzero()
    low = np.stack([x, y, z], axis=-1) * (BOX / n) - BOX / 2
    rays = cameras.to(dtype=torch.float64).rays(resolution)
    origins, dirs = (r.numpy()[:, :, None] for r in rays)
    t, face = np.full(dirs.shape[:2], np.inf), np.full(dirs.shape[:2], -1)
    if not len(x):
        return t, face, face
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (low - origins) / dirs, (low + BOX / n - origins) / dirs
    parallel = (dirs == 0) & np.ones_like(one, dtype=bool)
    within = (low <= origins) & (origins < low + BOX / n)
    enters = np.where(parallel, np.where(within, -np.inf, np.inf), np.minimum(one, two))
    leaves = np.where(parallel, np.where(within, np.inf, -np.inf), np.maximum(one, two))
    enter, leave = enters.max(axis=-1), leaves.min(axis=-1)
    enter = np.where((enter < leave) & (enter > 0), enter, np.inf)
    first = enter.argmin(axis=-1)[..., None]
    t = np.take_along_axis(enter, first, axis=-1)[..., 0]
    axis = np.take_along_axis(enters.argmax(axis=-1), first, axis=-1)[..., 0]
    sign = np.take_along_axis(dirs[:, :, 0], axis[..., None], axis=-1)[..., 0] < 0
    voxel = ((z * n + y) * n + x)[first[..., 0]]
    return t, 2 * axis + sign, voxel


GENERIC = Cameras.on_sphere(torch.tensor([0.3, 2.0, 4.4]), torch.tensor([0.5, -0.9, 0.1]), 2.7, 1.1)
SKEWED = GENERIC._replace(
    intrinsics=torch.tensor([[1.1, 0.1, 0.4], [0.0, 1.5, 0.55], [0.0, 0.0, 1.0]]).expand(3, 3, 3)
)
CAMERAS = {
    "generic": GENERIC,
    "skewed": SKEWED,
    "patches": GENERIC.crop(0.2, 0.4, 0.4, 0.3),
    "axes": join(*(along(a, s) for a in range(3) for s in (-1, 1))),
    "among": Cameras.look_at(torch.tensor([[0.06, 0.11, 0.13]]), torch.ones(1, 3), 0.4),
}


@pytest.mark.parametrize("cameras", CAMERAS)
@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.9, 1.0])
def test_the_walk_equals_a_test_of_all_voxels(cameras, share):
    scene, view = random_solid(1, 6, share), CAMERAS[cameras]
    if cameras == "among":  # the camera's own voxel is empty
        scene.occupancy[0, 0, 3, 3, 3] = 0
    cfg = dataclasses.replace(WALK, background=0.3, light=(0.2, 0.5, -0.6), ambient=0.2)
    out = RasterRenderer(cfg)(scene, view, 15)
    t, face, voxel = brute_force(scene, view, 15)
    hit = np.isfinite(t).reshape(-1, 15, 15)
    assert np.array_equal(out.opacity[:, 0].numpy(), hit)
    np.testing.assert_allclose(out.depth[:, 0].numpy()[hit], t.reshape(hit.shape)[hit], rtol=1e-5)
    shade = raster.face_shade(cfg, view).numpy()
    colour = np.zeros((*hit.shape, 3)) + 0.3
    number = np.repeat(np.arange(len(view.cam2world)), 15 * 15).reshape(hit.shape)[hit]
    albedo = scene.colour[0].flatten(1).mT.numpy()[voxel.reshape(hit.shape)[hit]]
    colour[hit] = albedo * shade[number, face.reshape(hit.shape)[hit]][:, None]
    seen = out.feature.permute(0, 2, 3, 1).numpy() / 2 + 0.5
    np.testing.assert_allclose(seen, colour, atol=1e-6)


def test_a_ray_on_the_boundary_of_two_voxels_is_in_the_upper_one():
    view = along(2, 1, offset=(0.0, 0.0))
    for index in (0, 1):
        filled = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
        filled[..., index] = True
        out = RasterRenderer(WALK)(solid(filled), view, 1)
        assert float(out.opacity) == index


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_box_seen_head_on_is_a_square_at_its_distance(axis, sign):
    scene, view = box_of(8, 2, 6), along(axis, sign, focal=1.7, offset=(0.0, 0.0))
    out = RasterRenderer(FULL_LIGHT)(scene, view, 64)
    # The face at 0.5 is 2.5 in front of the camera and reaches to 0.5 on either side.
    edge = 64 * (0.5 - 1.7 * 0.5 / 2.5)
    inside = [edge < i + 0.5 < 64 - edge for i in range(64)]
    expected = torch.tensor([[a and b for a in inside] for b in inside])
    assert torch.equal(out.opacity[0, 0] == 1, expected)
    assert out.opacity.sum() == expected.sum()
    depth_z = view.depth_z(out.depth)[0, 0]
    torch.testing.assert_close(depth_z[expected], torch.full_like(depth_z[expected], 2.5))
    assert torch.equal(out.feature[0, :, expected], torch.ones(3, int(expected.sum())))
    assert torch.equal(out.feature[0, :, ~expected], -torch.ones(3, int((~expected).sum())))
    behind = torch.full_like(depth_z[~expected], 3 + 3**0.5)
    torch.testing.assert_close(out.depth[0, 0][~expected], behind)


def test_more_rays_per_pixel_measure_the_covered_area():
    scene, view = box_of(8, 2, 6), along(2, 1, focal=1.7, offset=(0.0, 0.0))
    area = (2 * 1.7 * 0.5 / 2.5) ** 2
    cfg = dataclasses.replace(FULL_LIGHT, samples=16, background=0.5)
    out = RasterRenderer(cfg)(scene, view, 10)
    assert float(out.opacity.mean()) == pytest.approx(area, abs=0.01)
    torch.testing.assert_close(out.feature, out.opacity.expand_as(out.feature))  # 0 to 1, on grey
    edge = (out.opacity > 0) & (out.opacity < 1)
    assert edge.any()
    assert (view.depth_z(out.depth)[edge] - 2.5).abs().max() < 0.02


LIGHTS = [(0.0, 0.0, 1.0), (0.0, 3.0, 4.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)]


@pytest.mark.parametrize("light", LIGHTS)
def test_a_face_has_the_brightness_of_lamberts_law(light):
    colour = torch.rand(1, 3, 1, 1, 1)
    scene = solid(torch.ones(1, 1, 1, 1, dtype=torch.bool), colour)
    cfg = dataclasses.replace(WALK, light=light, ambient=0.3)
    out = RasterRenderer(cfg)(scene, along(2, 1), 1)
    cosine = {(0.0, 0.0, 1.0): 1.0, (0.0, 3.0, 4.0): 0.8}.get(light, 0.0)
    expected = colour.flatten() * (0.3 + 0.7 * cosine)
    torch.testing.assert_close(out.feature.flatten() / 2 + 0.5, expected)


def test_a_light_of_the_camera_follows_it():
    scene = solid(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    head = dataclasses.replace(WALK, light=(0.0, 0.0, -1.0), light_frame="camera", ambient=0.0)
    out = RasterRenderer(head)(scene, CAMERAS["axes"], 1)
    torch.testing.assert_close(out.feature, torch.ones_like(out.feature))
    above = dataclasses.replace(head, light=(0.0, -1.0, 0.0))  # y is down
    view = Cameras.on_sphere(torch.zeros(1), torch.tensor([0.6]), 3.0, 2.0)
    shade = raster.face_shade(above, view)[0]
    expected = {(0, 1, 0): np.cos(0.6), (0, 0, -1): np.sin(0.6)}  # the camera leans over +z
    for value, normal in zip(shade.tolist(), NORMALS, strict=True):
        assert value == pytest.approx(expected.get(normal, 0.0), abs=1e-6)


def test_faces_are_seen_from_outside_only():
    inside = Cameras.look_at(torch.tensor([[0.1, 0.2, 0.15]]), torch.ones(1, 3), 0.3)
    full = solid(torch.ones(1, 4, 4, 4, dtype=torch.bool))
    assert not RasterRenderer(WALK)(full, inside, 9).opacity.any()
    hollow = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    hollow[:, 1:3, 1:3, 1:3] = False
    out = RasterRenderer(WALK)(solid(hollow), inside, 9)
    assert out.opacity.all()
    points = inside.unproject(out.depth)[0]  # on the walls of the cavity
    torch.testing.assert_close(points.abs().amax(-1), torch.full((81,), 0.5))


def test_each_camera_sees_its_scene_for_any_number_of_threads(monkeypatch):
    scene, view = random_solid(3, 8, 0.2), Cameras.orbit(6, 0.3, 3.0, 1.2)
    renderer = RasterRenderer(WALK)
    together = renderer(scene, view, 40)
    for i in range(6):
        alone = renderer(scene.index(slice(i // 2, i // 2 + 1)), view.select(slice(i, i + 1)), 40)
        for a, b in zip(alone[:3], together[:3], strict=True):
            assert torch.equal(a[0], b[i])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for a, b in zip(renderer(scene, view, 40)[:3], together[:3], strict=True):
        assert torch.equal(a, b)
    assert str(renderer.backend) == "grid walk, numba, 3 threads"
    with pytest.raises(ValueError, match="5 cameras for 3 scenes: use a multiple of 3"):
        renderer(scene, Cameras.orbit(5), 4)


def ball(n, radius):
    centre = (torch.arange(n) + 0.5) / n * BOX - BOX / 2
    z, y, x = torch.meshgrid(centre, centre, centre, indexing="ij")
    moved = (x - 0.15) ** 2 + (y + 0.1) ** 2 + (z - 0.1) ** 2
    return solid((moved.sqrt() < radius)[None])


def test_the_volume_renderer_sees_the_same_from_the_same_cameras():
    scene = ball(48, 0.7)
    view = join(Cameras.orbit(3, 0.4, 3.0, 1.3), SKEWED)
    soft = VolumeRenderer(VolumeRendererConfig(samples_coarse=96, samples_fine=96))
    with torch.no_grad():
        smooth, exact = soft(scene, view, 48), RasterRenderer(WALK)(scene, view, 48)
    opaque, hit = smooth.opacity > 0.5, exact.opacity == 1
    overlap = (opaque & hit).sum((1, 2, 3)) / (opaque | hit).sum((1, 2, 3))
    assert overlap.min() > 0.95
    # The others are beyond the steps of the surface, where the soft one is wider by half a voxel.
    error = (smooth.depth - exact.depth).abs()[opaque & hit]
    assert error.quantile(0.9) < BOX / 48
    assert error.median() < BOX / 48 / 4
    nothing = smooth.opacity == 0
    assert nothing.any()
    torch.testing.assert_close(exact.depth[nothing], smooth.depth[nothing])


def test_a_rendering_has_no_gradient():
    scene = random_solid(1, 4, 0.5)
    scene = scene.map(lambda x: x.requires_grad_())
    out = RasterRenderer(WALK)(scene, Cameras.orbit(1), 8)
    assert not any(x.requires_grad for x in out[:3])
    assert not RasterRenderer.differentiable
    assert Renderer.differentiable
    assert VolumeRenderer.differentiable


CHANGES = {
    "threshold": 0.95,
    "light": (-1.0, 0.2, 0.1),
    "light_frame": "camera",
    "ambient": 0.9,
    "background": 0.5,
    "samples": 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_has_an_effect(name):
    scene = random_solid(1, 6, 0.3)
    scene = dataclasses.replace(scene, occupancy=scene.occupancy * 0.9)

    def render(cfg):
        out = RasterRenderer(cfg)(scene, GENERIC, 9)
        return torch.cat([x.flatten() for x in out[:3]])

    changed = dataclasses.replace(WALK, **{name: CHANGES[name]})
    assert not torch.allclose(render(WALK), render(changed))
    assert {f.name for f in dataclasses.fields(RasterConfig)} == {*CHANGES, "backend", "spp"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, r"renderer\.threshold="),
        ({"light": [0.0, 0.0, 0.0]}, r"renderer\.light=.*not a direction; use"),
        ({"samples": 0}, r"renderer\.samples="),
        ({"backend": "opengl"}, r"renderer\.backend="),
        (
            {"spp": 64},
            r"renderer\.spp=64: only mitsuba traces paths; use backend=mitsuba, or spp=16",
        ),
        ({"spp": 5, "backend": "mitsuba"}, r"renderer\.spp="),
    ],
)
def test_impossible_options_are_rejected_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        build(RasterConfig, options, path="generator.renderer.")


def test_backends_that_cannot_be_used_are_named_with_the_remedy(monkeypatch):
    assert choose_backend("auto")[1] is grid_walk
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "mitsuba", None)
        message = r"backend=mitsuba: .*pip install 'lightning-gan3d\[mitsuba\]'; or use auto"
        with pytest.raises(ConfigError, match=message):
            RasterRenderer(RasterConfig(backend="mitsuba"))
    monkeypatch.setattr(opengl, "_context", None)
    monkeypatch.setattr(opengl, "_fault", "")
    monkeypatch.setitem(sys.modules, "moderngl", None)
    message = r"backend=moderngl: .*moderngl.*pip install 'lightning-gan3d\[raster\]'; or use grid"
    with pytest.raises(ConfigError, match=message):
        choose_backend("moderngl")
    monkeypatch.delattr(renderers.exact, "grid_walk")
    monkeypatch.setitem(sys.modules, "renderers.exact.grid_walk", None)
    with pytest.raises(ConfigError, match=r"backend=grid_walk: .*or use moderngl"):
        choose_backend("grid_walk")
    with pytest.raises(ConfigError, match=r"backend=auto: .*\[raster\]'; grid_walk: "):
        choose_backend("auto")


@pytest.fixture
def gl():
    if reason := opengl.unavailable():
        pytest.skip(reason)


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("cameras", CAMERAS)
@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 1.0])
def test_opengl_draws_what_the_walk_finds(cameras, share):
    scene, view = random_solid(1, 6, share, seed=1), CAMERAS[cameras]
    cfg = dataclasses.replace(WALK, background=0.3, light=(0.2, 0.5, -0.6), ambient=0.2)
    walk = RasterRenderer(cfg)(scene, view, 63)
    renderer = RasterRenderer(dataclasses.replace(cfg, backend="moderngl"))
    drawn = renderer(scene, view, 63)
    assert str(renderer.backend).startswith("moderngl, ")
    difference = torch.cat([a - b for a, b in zip(drawn[:3], walk[:3], strict=True)], dim=1).abs()
    # OpenGL rounds corners to 1/256 of a pixel: some pixels at edges show the face beside.
    assert (difference.amax(dim=1) > 1e-3).float().mean() < 3e-3
    cfg = dataclasses.replace(cfg, samples=4)
    walk = RasterRenderer(cfg)(scene, view, 16)
    drawn = RasterRenderer(dataclasses.replace(cfg, backend="moderngl"))(scene, view, 16)
    assert (drawn.feature - walk.feature).abs().max() < 4 * 2 / 4**2  # 4 of 16 rays
    assert (drawn.feature - walk.feature).abs().mean() < 1e-3


@pytest.mark.usefixtures("gl")
def test_opengl_is_not_used_after_a_fork():
    if not (child := os.fork()):
        os._exit(0 if "spawn" in opengl.unavailable() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not opengl.unavailable()

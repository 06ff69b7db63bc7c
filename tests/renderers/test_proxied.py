"""The proxy of the exact renderer: absorption, shading, networks, and which of both is seen."""

import dataclasses

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import GeneratorConfig
from renderers.proxied import ProxiedConfig, ProxiedRenderer
from renderers.raster import RasterConfig, RasterRenderer, face_shade
from renderers.soft import SoftConfig, SoftRenderer, visible_shade
from renderers.volume import VolumeRendererConfig
from representations.solid import ABSORBED, Solid, SolidConfig, randomised

SCENE = SceneConfig(box=2.0, feature_dim=3)
WALK = RasterConfig(backend="grid_walk")
PLAIN = SoftConfig(network="none")
PROXIED = ProxiedConfig(WALK, SoftConfig())
FRONT = Cameras.orbit(1, radius=3.0, elevation=0.0, focal=2.0)


def white(occupancy):
    return Solid(occupancy, torch.ones_like(occupancy).expand(-1, 3, -1, -1, -1), SCENE)


def block(n=16, low=4, high=12, value=1.0):
    """A cube of voxels low, ..., high - 1."""
    occupancy = torch.zeros(1, 1, n, n, n)
    occupancy[..., low:high, low:high, low:high] = value
    return white(occupancy)


def centre(image):
    side = image.shape[-1]
    return image[..., side // 2, side // 2]


@pytest.mark.parametrize("absorption", ["product", "sum"])
def test_light_is_absorbed_by_the_product_or_the_sum_of_occupancies(absorption):
    cfg = dataclasses.replace(PLAIN, absorption=absorption, shading=False, samples=512)
    out = SoftRenderer(cfg)(block(value=0.3), FRONT, 9)  # 8 voxels behind the middle pixel
    expected = (
        1 - (1 - 0.3 * ABSORBED) ** 8 if absorption == "product" else 1 - torch.e ** (-0.3 * 8)
    )
    assert float(centre(out.opacity)) == pytest.approx(expected, abs=2e-3)
    assert float(centre(out.feature)[0, 0] + 1) / 2 == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("light", [(0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.0, 0.0, -1.0)])
def test_a_face_is_shaded_as_the_exact_renderer_does(light):
    exact = RasterRenderer(dataclasses.replace(WALK, light=light))(block(), FRONT, 9)
    soft = SoftRenderer(dataclasses.replace(PLAIN, light=light, samples=256))(block(), FRONT, 9)
    torch.testing.assert_close(centre(soft.feature), centre(exact.feature), atol=0.05, rtol=0)
    torch.testing.assert_close(centre(soft.depth), centre(exact.depth), atol=0.08, rtol=0)


def test_a_light_of_the_camera_shades_each_view_alike():
    cfg = dataclasses.replace(PLAIN, light=(0.0, 0.0, -1.0), light_frame="camera", ambient=0.0)
    cameras = Cameras.orbit(4, radius=3.0, elevation=0.0, focal=2.0)
    out = SoftRenderer(cfg)(block(), cameras, 9).feature
    torch.testing.assert_close(out, out[:1].expand_as(out), atol=1e-4, rtol=0)
    assert float(centre(out)[0, 0]) > 0.9


def test_voxels_have_the_brightness_of_their_visible_faces():
    """Of balls with dents, against the exact renderer."""
    scene = randomised(white(torch.zeros(2, 1, 16, 16, 16)), 0.6, Draws(1))
    scene = white((scene.occupancy > 0.5).float())
    cameras = Cameras.orbit(2, radius=4.0, elevation=0.5, focal=2.0)
    exact = RasterRenderer(dataclasses.replace(WALK, samples=4))(scene, cameras, 24)
    errors = []
    for shading in (True, False):
        cfg = dataclasses.replace(PLAIN, samples=192, shading=shading)
        soft = SoftRenderer(cfg)(scene, cameras, 24)
        errors.append(float((soft.feature - exact.feature).abs().mean()))
    assert errors[0] < 0.2, errors
    assert errors[0] < 0.4 * errors[1], errors


def test_a_voxel_seen_along_an_axis_has_the_brightness_of_one_face():
    shade = visible_shade(block(), FRONT, WALK)
    expected = face_shade(WALK, FRONT)[0, 5]  # the face toward +z
    torch.testing.assert_close(shade[0, 0, 11, 7:9, 7:9], expected.expand(2, 2), atol=0.02, rtol=0)


def test_the_gradient_reaches_voxels_that_the_threshold_hides():
    occupancy = torch.full((1, 1, 8, 8, 8), 0.2, requires_grad=True)
    assert float(RasterRenderer(WALK)(white(occupancy), FRONT, 8).opacity.sum()) == 0
    SoftRenderer(PLAIN)(white(occupancy), FRONT, 8).feature.sum().backward()
    assert occupancy.grad is not None
    assert bool((occupancy.grad[0, 0, :, 4, 4] != 0).all())  # along the ray of the middle


def test_the_residual_network_starts_at_the_soft_rendering():
    torch.manual_seed(0)
    cameras = Cameras.orbit(2, radius=3.0, elevation=0.3, focal=1.5)
    with_network, without = SoftRenderer(SoftConfig()), SoftRenderer(PLAIN)
    images = [r(block(), cameras, 8).feature for r in (with_network, without)]
    torch.testing.assert_close(*images)
    assert with_network.network is not None
    images[0].sum().backward()
    last = list(with_network.network.parameters())[-1]
    assert last.grad is not None
    assert float(last.grad.abs().sum()) > 0


def test_rendernet_sees_the_view_and_the_light():
    torch.manual_seed(0)
    cfg = SoftConfig(network="rendernet", channels=4, samples=10, layers=1)
    renderer = SoftRenderer(cfg)
    scene = randomised(block(), 0.6, Draws(0))
    views = Cameras.orbit(3, radius=3.0, elevation=0.3, focal=1.5)
    out = renderer(scene, views, 8)
    assert out.feature.shape == (3, 3, 8, 8)
    alone = renderer(scene, views.select(slice(1, 2)), 8)
    torch.testing.assert_close(out.feature[1:2], alone.feature)
    renderer.network.cfg = dataclasses.replace(cfg, light=(-1.0, 0.0, 0.0))
    assert not torch.allclose(renderer(scene, views, 8).feature, out.feature)


def test_random_solids_differ_and_have_a_surface():
    like = white(torch.zeros(6, 1, 16, 16, 16))
    scene = randomised(like, 0.6, Draws(0))
    filled = (scene.occupancy > 0.5).float().mean((1, 2, 3, 4))
    assert len(filled.unique()) == 6
    assert float(filled.min()) > 0.01
    assert float(filled.max()) < 0.6
    torch.testing.assert_close(scene.colour, like.colour)


def test_absorption_does_not_change_the_shade():
    product, summed = (
        SoftRenderer(dataclasses.replace(PLAIN, absorption=name))._lit(block(), FRONT)
        for name in ("product", "sum")
    )
    assert torch.equal(product.colour, summed.colour)
    assert not torch.equal(product.occupancy, summed.occupancy)


def test_the_exact_renderer_is_seen_and_the_proxy_has_the_gradient():
    scene = block().map(lambda x: x.clone().requires_grad_())
    renderer = ProxiedRenderer(ProxiedConfig(WALK, PLAIN))
    exact, smooth = renderer(scene, FRONT, 8), renderer.proxy(scene, FRONT, 8)
    assert torch.equal(exact.feature, RasterRenderer(WALK)(scene, FRONT, 8).feature)
    assert torch.equal(smooth.feature, SoftRenderer(PLAIN)(scene, FRONT, 8).feature)
    assert smooth.feature.requires_grad
    assert not exact.feature.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": WALK}, "proxy.kind=raster: has no gradient"),
        ({"exact": PROXIED}, "exact.kind=proxied: renders no solids"),
        ({"proxy": SoftConfig(ambient=0.1)}, "exact.ambient=0.4, proxy.ambient=0.1"),
        ({"proxy": VolumeRendererConfig(background=1.0)}, "proxy.background=1.0"),
    ],
)
def test_pairs_that_do_not_fit_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        dataclasses.replace(PROXIED, **options)


def test_training_needs_a_proxy_and_inversion_a_gradient():
    def generator(renderer):
        return GeneratorConfig(SolidConfig(), renderer, scene=SCENE)

    generator(PROXIED).check_gradient("training")
    generator(PLAIN).check_gradient("inversion")
    with pytest.raises(ConfigError, match=r"raster: it has no gradient, which training .* proxied"):
        generator(WALK).check_gradient("training")
    with pytest.raises(ConfigError, match=r"proxied: .* inversion needs; set .*=volume$"):
        generator(PROXIED).check_gradient("inversion")

import pytest
import torch

from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.networks.resample import resize
from lightning_gan3d.networks.superresolution import SuperResolution, SuperResolutionConfig


def make(out_resolution=32, feature_dim=6, **options):
    torch.manual_seed(0)
    options = {"factor": 2, "channels": (8, 4)} | options
    return SuperResolution(SuperResolutionConfig(**options), feature_dim, 10, out_resolution)


def inputs(size, views=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(views, 6, size, size, generator=generator)
    return feature[:, :3], feature, torch.randn(views, 5, 10, generator=generator)


@pytest.mark.parametrize(("factor", "work"), [(2, 16), (4, 16), (8, 8)])
@pytest.mark.parametrize("size", [4, 8, 16, 24])
def test_shapes(factor, work, size):
    net = make(factor=factor)
    assert net.work_resolution == work
    rgb, feature, ws = inputs(size)
    before = feature.clone()
    image = net.upscale(rgb, feature, ws).image
    assert image.shape == (2, 3, 32, 32)
    assert torch.equal(feature, before)  # EG3D adds into its input; image_raw must not change
    # Renderings of another size are resized first.
    torch.testing.assert_close(
        net.upscale(resize(rgb, work), resize(feature, work), ws).image, image
    )


def test_without_a_network_the_rendering_is_the_image():
    net = make(factor=1)
    assert not list(net.parameters())
    rgb, feature, ws = inputs(32)
    assert net.upscale(rgb, feature, ws).image is rgb
    rgb, feature, ws = inputs(20)
    torch.testing.assert_close(net.upscale(rgb, feature, ws).image, resize(rgb, 32))


def test_names_and_shapes_of_eg3ds_8xdc():
    net = SuperResolution(
        SuperResolutionConfig(factor=8, channels=(256, 128), noise="const"), 32, 512, 512
    )
    assert net.work_resolution == 128
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert shapes["block0.conv0.weight"] == (256, 32, 3, 3)
    assert shapes["block0.conv1.noise_const"] == (256, 256)
    assert shapes["block0.torgb.weight"] == (3, 256, 1, 1)
    assert shapes["block1.conv0.weight"] == (128, 256, 3, 3)
    assert shapes["block1.conv1.noise_const"] == (512, 512)
    assert shapes["block1.torgb.affine.weight"] == (128, 512)
    assert len(shapes) == 2 * (2 * 6 + 4)
    assert net.block0.up == net.block1.up == 2
    assert make(factor=2).block0.up == make(factor=4).block0.up == 1


def test_only_the_last_style_is_used():
    net = make()
    rgb, feature, ws = inputs(16)
    other = torch.randn_like(ws)
    other[:, -1] = ws[:, -1]
    expected = net.upscale(rgb, feature, ws).image
    torch.testing.assert_close(net.upscale(rgb, feature, other).image, expected)
    assert not torch.allclose(net.upscale(rgb, feature, ws + 1).image, expected)


def test_rendered_colours_are_added_to_the_image():
    net = make()
    rgb, feature, ws = inputs(16)
    added = net.upscale(rgb + 1, feature, ws).image - net.upscale(rgb, feature, ws).image
    torch.testing.assert_close(added[..., 2:-2, 2:-2], torch.ones(2, 3, 28, 28))


def test_the_residual_is_added_to_the_raw_image_if_configured():
    for factor, size in ((2, 16), (4, 16)):
        rgb, feature, ws = inputs(size)
        plain, leaky = make(factor=factor), make(factor=factor, residual_in_raw=True)
        assert plain.upscale(rgb, feature, ws).image_raw is rgb
        actual = leaky.upscale(rgb, feature, ws)
        torch.testing.assert_close(actual.image, plain.upscale(rgb, feature, ws).image)
        alone = leaky.upscale(torch.zeros_like(rgb), feature, ws).image_raw
        torch.testing.assert_close(actual.image_raw - rgb, alone)
        assert alone.std() > 0.1
    rgb, feature, ws = inputs(24)  # resized first, so nothing is shared
    assert leaky.upscale(rgb, feature, ws).image_raw is rgb
    with pytest.raises(ConfigError, match="residual_in_raw"):
        make(factor=8, residual_in_raw=True)


def test_noise_is_limited_by_the_configuration():
    rgb, feature, ws = inputs(16)
    draws = Draws(seed=0)
    results = {}
    for noise in ("none", "const", "random"):
        net = make(noise=noise)
        for name, p in net.named_parameters():
            if name.endswith("noise_strength"):
                p.data.fill_(0.5)
        results[noise] = [
            net.upscale(rgb, feature, ws, m, draws).image for m in ("none", "const", "random")
        ]
    none, const, random = results["none"], results["const"], results["random"]
    assert torch.equal(none[0], none[1])
    assert torch.equal(none[0], none[2])
    assert not torch.equal(const[0], const[1])
    assert torch.equal(const[1], const[2])
    assert not torch.equal(random[1], random[2])


def test_options_have_effect():
    rgb, feature, ws = inputs(24)
    base = make().upscale(rgb, feature, ws).image
    assert not torch.allclose(make(antialias=False).upscale(rgb, feature, ws).image, base)
    assert not torch.allclose(make(conv_clamp=0.05).upscale(rgb, feature, ws).image, base)
    assert make(channels=(8, 5)).block1.conv1.weight.shape == (5, 5, 3, 3)


def test_a_factor_that_does_not_divide_the_resolution_is_rejected():
    with pytest.raises(ConfigError, match=r"factor=8.*30"):
        make(out_resolution=30, factor=8)

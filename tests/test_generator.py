import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.cost import num_parameters
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import resize

KINDS = ["triplane", "voxel", "nerf_mlp", "image2d"]


def small(kind, *overrides, resolution=32):
    torch.manual_seed(0)
    return Generator(load_experiment(f"demo/{kind}", overrides).generator, resolution).eval()


def inputs(n=2, z_dim=64):
    cameras = Cameras.on_sphere(torch.linspace(0, 2, n), torch.full((n,), 0.3), 3.2, focal=1.5)
    return Draws(1).normal("z", (n, z_dim)), cameras.to_label(), cameras


@pytest.mark.parametrize("kind", KINDS)
def test_images_have_their_shapes_and_are_deterministic(kind):
    generator = small(kind)
    z, label, _ = inputs()
    with torch.no_grad():
        first, again = generator(z, label, resolution=16), generator(z, label, resolution=16)
    assert first.image.shape == (2, 3, 32, 32)
    assert first.image_raw.shape == (2, 3, 16, 16)
    assert torch.equal(first.image, again.image)
    assert first.image_raw.abs().max() <= 1.01
    if kind == "image2d":
        assert first.depth is None
        torch.testing.assert_close(first.image_raw, resize(first.image, 16))
    else:
        assert first.depth is not None
        assert first.depth.shape == (2, 1, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_one_latent_equal_single_images(kind):
    generator = small(kind)
    z, label, cameras = inputs()
    with torch.no_grad():
        both = generator.views(z[:1], label[:1], cameras)
        condition = label[1:] if kind == "image2d" else label[:1]
        alone = generator(z[:1], condition, cameras.select(slice(1, 2)))
    torch.testing.assert_close(both.image[1:], alone.image, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both.image[0], both.image[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["triplane", "voxel", "nerf_mlp"])
def test_a_cached_scene_renders_the_same_images(kind):
    generator = small(kind)
    z, label, cameras = inputs()
    with torch.no_grad():
        ws = generator.mapping(z, label)
        images = generator.render(generator.scene(ws), ws, cameras)
        direct = generator(z, label)
    torch.testing.assert_close(images.image, direct.image)


def test_super_resolution_upsamples_each_view_of_a_scene():
    generator = small(
        "triplane",
        "generator.superresolution={factor: 2, channels: [8, 8]}",
        "generator.scene.feature_dim=8",
    )
    assert generator.rendering_resolution == 16
    z, label, cameras = inputs()
    with torch.no_grad():
        images = generator.views(z[:1], label[:1], cameras)
    assert images.image.shape == (2, 3, 32, 32)
    assert images.image_raw.shape == (2, 3, 16, 16)


def test_latents_labels_and_truncation_matter():
    generator = small("triplane", "generator.mapping.condition=camera")
    z, label, cameras = inputs()
    with torch.no_grad():
        base = generator(z, label, cameras).image
        other_z = generator(z.flip(0), label, cameras).image
        other_label = generator(z, label.flip(0), cameras).image
        mean = generator(z, label, cameras, truncation_psi=0.0).image
        seen_together = generator(z[:1].expand(2, -1), label, cameras, truncation_psi=0.0).image
    assert not torch.allclose(base, other_z, atol=1e-4)
    assert not torch.allclose(base, other_label, atol=1e-6)
    torch.testing.assert_close(mean, seen_together)


def test_draws_jitter_the_samples_and_none_does_not():
    generator = small("voxel")
    z, label, _ = inputs()
    with torch.no_grad():
        plain = generator(z, label).image
        jittered = generator(z, label, draws=Draws(0)).image
        same = generator(z, label, draws=Draws(0)).image
    assert torch.equal(jittered, same)
    assert not torch.equal(plain, jittered)


def test_gradients_reach_every_parameter():
    for kind in KINDS:
        generator = small(kind).train()
        z, label, _ = inputs()
        images = generator(z, label, draws=Draws(0))
        images.image.square().mean().backward()
        without = [n for n, p in generator.named_parameters() if p.grad is None]
        assert not without, (kind, without)
        assert num_parameters(generator) > 10_000

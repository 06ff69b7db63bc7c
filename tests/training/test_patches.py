"""Training on patches: crops of renderings and of images, scales, and what the networks see."""

import dataclasses

import pytest
import torch
from scipy import stats

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from lightning_gan3d.generator import Generator
from lightning_gan3d.images import Images
from lightning_gan3d.networks.discriminator import Discriminator, DiscriminatorConfig
from lightning_gan3d.training.config import PatchConfig
from lightning_gan3d.training.module import make_modules
from lightning_gan3d.training.patches import (
    BETA,
    Patches,
    crop_cameras,
    crop_images,
    draw_patches,
)

PATCHED = [
    *("training.patch.resolution=8", "training.patch.fade_kimg=0", "discriminator.channels=[8,8]"),
    "training.rendering_resolution={initial: null, final: null}",
]


def at(left, top, scale, num=2):
    return Patches(*(torch.full((num,), x) for x in (scale, left, top)))


def test_a_rendered_patch_equals_the_crop_of_the_full_rendering(tiny):
    torch.manual_seed(0)
    config = tiny("generator.renderer.samples_coarse=8").generator
    generator = Generator(config, 16)
    z, cameras = torch.randn(2, 8), Cameras.orbit(2, 0.3, 3.2, 1.5)
    ws = generator.mapping(z, cameras.to_label())
    scene = generator.scene(ws)
    full = generator.render(scene, ws, cameras, 16)
    cropped = crop_cameras(cameras, at(0.25, 0.5, 0.5))
    patch = generator.render(scene, ws, cropped, 8)
    for name in ("image_raw", "depth", "opacity"):
        whole, part = getattr(full, name), getattr(patch, name)
        torch.testing.assert_close(part, whole[:, :, 8:16, 4:12], rtol=1e-4, atol=1e-4)


def test_resampled_patches_are_exact_where_the_image_is_linear():
    y, x = torch.meshgrid(*[(torch.arange(16) + 0.5) / 16] * 2, indexing="ij")
    images = torch.stack([x, y, x - 2 * y])[None].repeat(2, 1, 1, 1)
    patches = at(0.2, 0.3, 0.43)
    centres = (torch.arange(8) + 0.5) / 8 * 0.43
    result = crop_images(images, patches, 8)
    rows, columns = (0.3 + centres)[:, None], (0.2 + centres)[None]
    expected = torch.stack([columns + 0 * rows, rows + 0 * columns, columns - 2 * rows])
    torch.testing.assert_close(result, expected[None].expand(2, -1, -1, -1))
    random = torch.randn(2, 3, 16, 16)
    assert torch.allclose(
        crop_images(random, at(0.25, 0.5, 0.5), 8), random[:, :, 8:, 4:12], atol=1e-6
    )
    assert torch.allclose(crop_images(random, at(0.0, 0.0, 1.0), 16), random, atol=1e-6)


@pytest.mark.parametrize("scales", ["beta", "uniform"])
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_scales_have_their_distribution(scales, progress):
    cfg, num = PatchConfig(scales=scales), 4000
    patches = draw_patches(cfg, 0.25, progress, (num, 1), Draws(0))
    scale, left, top = (x.numpy() for x in patches)
    assert 0.25 - 1e-6 <= scale.min() <= scale.max() <= 1 + 1e-6
    for offset in (left, top):
        assert offset.min() >= 0
        assert (offset + scale).max() <= 1 + 1e-6
    if scales == "uniform":
        law = stats.uniform(1 - progress * 0.75, max(progress * 0.75, 1e-9))
    else:
        law = stats.beta(1, BETA[0] + (BETA[1] - BETA[0]) * progress, 0.25, 0.75)
    assert abs(scale.mean() - law.mean()) < 0.02
    if progress > 0:
        assert stats.kstest(scale, law.cdf).pvalue > 1e-3
        share = (left[scale < 0.999] / (1 - scale[scale < 0.999])).astype(float)
        assert stats.kstest(share, "uniform").pvalue > 1e-3
    else:
        assert (scale > 0.98).mean() > 0.98  # almost whole images


def test_images_of_a_minibatch_deviation_group_share_a_patch():
    patches = draw_patches(PatchConfig(), 0.25, 1.0, (8, 4), Draws(0))
    scale = patches.scale.view(4, 2)  # image i belongs to group i mod 2
    assert bool((scale == scale[:1]).all())
    assert float(scale[0, 0]) != float(scale[0, 1])


def test_both_networks_see_the_patch_that_the_discriminator_is_told(tiny):
    config = tiny(*PATCHED, "discriminator.patch=modulate", "discriminator.mbstd_group=2")
    module, data = make_modules(config)
    (mb, *_) = module.split(next(iter(data.train_dataloader(0, 1))))
    told, rendered = [], []
    judge, render = module.discriminator.forward, module.generator.render

    def seen(images, label, patch, batches):
        told.extend(zip(images.image.chunk(batches), patch.chunk(batches), strict=True))
        return judge(images, label, patch, batches)

    def drawn(scene, ws, cameras, *rest):
        rendered.append(cameras)
        return render(scene, ws, cameras, *rest)

    module.discriminator.forward, module.generator.render = seen, drawn
    module.discriminator_step([mb])
    (fake, fake_patch), (real, real_patch) = told
    assert fake.shape[-1] == real.shape[-1] == 8
    assert not torch.equal(fake_patch, real_patch)
    label = module.fake_labels(mb.scope("D"))
    scale, left, top = fake_patch.unbind(1)
    expected = crop_cameras(Cameras.from_label(label), Patches(scale, left, top))
    torch.testing.assert_close(rendered[0].intrinsics, expected.intrinsics)
    whole = mb.images.float() / 127.5 - 1
    torch.testing.assert_close(real, crop_images(whole, Patches(*real_patch.unbind(1)), 8))


def test_the_discriminator_is_modulated_from_a_factor_of_one():
    torch.manual_seed(0)
    plain = DiscriminatorConfig(channels=(8, 8, 8), dual=False, conditioning="none")
    net = Discriminator(dataclasses.replace(plain, patch="modulate"), 16)
    weights = {k: v for k, v in net.state_dict().items() if "modulation" not in k}
    without = Discriminator(plain, 16)
    without.load_state_dict(weights)
    images, label = Images(torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)), torch.zeros(4, 25)
    patch = torch.rand(4, 3)
    torch.testing.assert_close(net(images, label, patch), without(images, label))
    torch.nn.init.normal_(net.modulation.out0.weight)
    assert not torch.allclose(net(images, label, patch), net(images, label, patch.roll(1, 0)))
    whole = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    assert torch.equal(net(images, label), net(images, label, whole))


def test_patches_of_one_block_are_modulated_too():
    torch.manual_seed(0)
    options = {"channels": (8, 8), "dual": False, "conditioning": "none", "patch": "modulate"}
    net = Discriminator(DiscriminatorConfig(**options), 8)
    torch.nn.init.normal_(net.modulation.out0.weight)
    images, label = Images(torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)), torch.zeros(4, 25)
    patch = torch.rand(4, 3)
    assert not torch.allclose(net(images, label, patch), net(images, label, patch.roll(1, 0)))


def test_a_run_on_patches_generates_whole_images(tiny, start):
    from lightning_gan3d.checkpoints.load import load_discriminator, load_generator

    code, path, _ = start(tiny(*PATCHED, "training.kimg=0.016", "discriminator.patch=modulate"))
    assert code == 0
    generator = load_generator(path)
    label = Cameras.orbit(1, 0.2, 3.2, 1.5).to_label()
    assert generator(torch.randn(1, 8), label).image_raw.shape[-1] == 16
    assert load_discriminator(path).resolutions == [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.patch.resolution=32"], "the images have 16 pixels; use 16 or less"),
        (["discriminator.dual=true"], "set discriminator.dual=false"),
        (["training.rendering_resolution.initial=8"], "rendering_resolution.initial=null"),
        (["training.patch=null", "discriminator.patch=modulate"], "set training.patch too"),
        (["kind"], "set a 3D generator.representation"),
    ],
)
def test_options_without_patches_are_rejected(tiny, start, options, message):
    kind = "image2d" if "kind" in options else "triplane"
    with pytest.raises(ConfigError, match=message):
        start(tiny(*PATCHED, *(o for o in options if o != "kind"), kind=kind))

"""Heads: GIRAFFE's neural renderer, and GIRAFFE HD's renderers of layers."""

import dataclasses

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.images import Rendering
from lightning_gan3d.networks.mapping import MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolutionConfig
from renderers.composed import ComposedRendererConfig
from renderers.config import VolumeRendererConfig
from renderers.image_heads import GiraffeConfig, GiraffeHdConfig, GiraffeHead
from representations.composition import ComposedConfig
from representations.nerf_mlp import NerfMlpConfig

MLP = NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0)
CAMERAS = Cameras.orbit(2, 0.2, 3.2, 1.4)
LABEL = torch.zeros(2, 25)
LAYERS = GiraffeHdConfig(factor=4, channels=(8, 6), shape_layers=2)


def make(head=LAYERS, num_objects=2, background=MLP, resolution=32):
    cfg = GeneratorConfig(
        ComposedConfig(MLP, background, num_objects=num_objects, shape_share=0.5),
        ComposedRendererConfig(samples_coarse=4),
        z_dim=8 * (3 * num_objects + (background is not None)),
        w_dim=8,
        mapping=MappingConfig(condition="none"),
        scene=SceneConfig(box=2.0, feature_dim=6),
        head=head,
    )
    torch.manual_seed(0)
    generator = Generator(cfg, resolution).eval()
    with torch.no_grad():  # noise and biases start at zero
        for p in generator.superresolution.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return generator


def styles(generator, seed=1):
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(2, generator.representation.num_ws, 8, generator=noise)


def render(generator, ws):
    with torch.no_grad():
        return generator.synthesis(ws, CAMERAS)[1]


def rows(generator, name):
    first = 0
    for code in generator.representation.codes:
        if code.name == name:
            return slice(first, first + code.num_ws)
        first += code.num_ws
    raise KeyError(name)


def test_images_and_masks_have_full_size():
    generator = make()
    assert generator.rendering_resolution == 8
    images = render(generator, styles(generator))
    assert images.image.shape == (2, 3, 32, 32)
    assert images.mask.shape == (2, 2, 32, 32)
    assert images.image_raw.shape == (2, 3, 8, 8)
    assert images.depth.shape == (2, 1, 8, 8)
    assert bool((images.image.abs() <= 1).all())
    assert bool((images.mask.sum(1) <= 1 + 1e-5).all())


def test_objects_do_not_change_the_background_where_their_masks_are_zero():
    generator = make(num_objects=1)
    head = generator.superresolution
    ws = styles(generator)
    changed = ws.clone()
    changed[:, : rows(generator, "background").start] += 1.0
    assert not torch.allclose(render(generator, changed).image, render(generator, ws).image)
    with torch.no_grad():
        for block in head.objects.blocks:
            block.torgb.bias[3] -= 1e4  # masks of zero
    assert torch.equal(render(generator, changed).image, render(generator, ws).image)
    with torch.no_grad():
        for block in head.objects.blocks:
            block.torgb.bias[3] += 2e4  # masks of one: the background's network does not matter
    covered = render(generator, ws).image
    with torch.no_grad():
        for p in head.background.parameters():
            p.add_(1.0)
    assert torch.equal(render(generator, ws).image, covered)


def test_each_style_reaches_the_layers_of_its_code():
    generator = make(num_objects=1)
    head, seen = generator.superresolution, []
    for block in head.objects.blocks:
        for layer in (block.conv0, block.conv1):
            layer.affine.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    ws = styles(generator)
    render(generator, ws)
    shape = ws[:, rows(generator, "object0.shape").start]
    appearance = ws[:, rows(generator, "object0.appearance").start]
    expected = [shape, shape, appearance, appearance]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_the_order_of_the_objects_does_not_matter():
    generator = make()
    ws = styles(generator)
    own = generator.representation.object.num_ws + 1
    swapped = torch.cat([ws[:, own : 2 * own], ws[:, :own], ws[:, 2 * own :]], dim=1)
    one, two = render(generator, ws), render(generator, swapped)
    assert torch.allclose(one.image, two.image, atol=1e-5)
    assert torch.allclose(one.mask, two.mask.flip(1), atol=1e-5)


def test_an_edited_scene_keeps_the_styles_of_its_objects():
    generator, seen = make(), []
    ws = styles(generator)
    scene = generator.scene(ws)
    layer = generator.superresolution.objects.blocks[0].conv0.affine
    layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        generator.render(scene.remove(0), ws, CAMERAS)
    assert torch.equal(seen[0], ws[:, rows(generator, "object1.shape").start])
    with torch.no_grad():
        empty = generator.render(scene.remove(0).remove(0), ws, CAMERAS)
    assert len(seen) == 1
    assert empty.mask.shape == (2, 0, 8, 8)


def test_gradients_reach_every_parameter():
    for head in (LAYERS, GiraffeConfig(factor=4, min_channels=4)):
        generator = make(head)
        images = generator.synthesis(styles(generator), CAMERAS)[1]
        images.image.square().sum().backward()
        for name, p in generator.superresolution.named_parameters():
            assert p.grad is not None, name
            assert 0 < float(p.grad.abs().sum()) < float("inf"), name


def test_the_neural_renderer_is_translation_equivariant_and_starts_from_the_features():
    torch.manual_seed(0)
    cfg = GiraffeConfig(factor=4, min_channels=4)
    head = GiraffeHead(cfg, SceneConfig(feature_dim=16), 8, 64, ())
    assert [conv.out_channels for conv in head.convs] == [8, 4]
    assert [conv.in_channels for conv in head.to_rgb] == [16, 8, 4]
    feature = torch.zeros(1, 16, 16, 16)
    feature[..., 6, 6] = torch.randn(16)
    moved = feature.roll((2, 2), dims=(2, 3))
    one, two = (head(Rendering(x, None, None), LABEL[:1, None]).image for x in (feature, moved))
    inner = (..., slice(16, 40), slice(16, 40))
    assert torch.allclose(one[inner], two.roll((-8, -8), dims=(2, 3))[inner], atol=1e-5)
    assert float(one[inner].detach().std()) > 1e-3


def test_impossible_heads_are_rejected():
    with pytest.raises(ConfigError, match=r"head\.kind=giraffe_hd: needs a scene with background"):
        make(background=None)
    with pytest.raises(ConfigError, match=r"head\.factor=4: does not divide the resolution 30"):
        make(resolution=30)
    with pytest.raises(ConfigError, match=r"head.channels=\[8\]: factor=4 needs 2 numbers"):
        GiraffeHdConfig(factor=4, channels=(8,))
    cfg = make().cfg
    with pytest.raises(ConfigError, match=r"superresolution.factor=2: generator.head replaces"):
        dataclasses.replace(cfg, superresolution=SuperResolutionConfig(factor=2))
    with pytest.raises(ConfigError, match=r"kind=giraffe_hd: needs the masks of objects; set"):
        dataclasses.replace(cfg, renderer=VolumeRendererConfig())

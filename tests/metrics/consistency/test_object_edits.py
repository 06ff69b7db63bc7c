"""Edits of objects of generated scenes of parts."""

import dataclasses

import pytest
import torch
from metric_views import Labels, context

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.contract import DensityConfig, SceneConfig
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import PartsConfig
from lightning_gan3d.metrics.consistency.object_edits import (
    background_change,
    leak,
    measure_parts,
    redrawn_objects,
)
from lightning_gan3d.metrics.sources import GeneratorSource
from lightning_gan3d.networks.mapping import MappingConfig
from lightning_gan3d.networks.superresolution import SuperResolutionConfig
from renderers.composed import ComposedRendererConfig
from renderers.config import VolumeRendererConfig
from renderers.image_heads import GiraffeHdConfig
from representations.composition import ComposedConfig
from representations.nerf_mlp import NerfMlpConfig

MLP = NerfMlpConfig(hidden_dim=8, num_layers=2, omega=6.0)
LABELS = Cameras.orbit(9, 0.2, 3.2, 1.4).to_label()
VOLUME = VolumeRendererConfig(samples_coarse=4, samples_fine=0)
SCENE = SceneConfig(
    box=2.0, feature_dim=4, density=DensityConfig(scale=20.0, prior_strength=8.0, prior_radius=0.8)
)


def source(head=None, **options):
    cfg = GeneratorConfig(
        ComposedConfig(MLP, MLP, shape_share=0.5, **options),
        ComposedRendererConfig(samples_coarse=6),
        z_dim=32,
        w_dim=8,
        mapping=MappingConfig(condition="none", lr_mul=1.0),
        scene=SCENE,
        superresolution=SuperResolutionConfig(factor=1),
        head=head,
    )
    torch.manual_seed(0)
    generator = Generator(cfg, 16).eval().requires_grad_(False)
    return GeneratorSource(generator, 32, LABELS, seed=1)


def values_of(source, **options):
    cfg = PartsConfig(items=6, **options)
    metrics = measure_parts(context(source, Labels(LABELS), parts=cfg))
    return {m.name.removeprefix("parts."): m.value for m in metrics}


def test_objects_of_a_volume_stay_in_their_boxes_and_those_of_a_2d_head_leak():
    values = values_of(source())
    assert values["leak"] == pytest.approx(0, abs=1e-6)
    # Beyond their masks, faint objects still colour some pixels of the background.
    assert 0 <= values["background_change"] < 0.5
    assert values_of(source(GiraffeHdConfig(factor=2, channels=(8,))))["leak"] > 0.2


def test_a_turned_object_is_that_of_an_orbiting_camera_with_a_2d_head_too():
    generator = source(GiraffeHdConfig(factor=2, channels=(8,))).generator
    ws = torch.randn(1, generator.representation.num_ws, 8)
    scene = generator.scene(ws).only(0)
    (placed,) = scene.objects
    scene = scene.exchange(0, dataclasses.replace(placed, translation=torch.zeros(1, 3)))
    camera = Cameras.from_label(LABELS[:1])
    turned = generator.render(scene.change(0, turn=0.5), ws, camera)
    orbited = generator.render(scene, ws, camera.rotate_y(torch.tensor([-0.5])))
    assert torch.allclose(turned.image, orbited.image, atol=1e-4)
    assert not torch.allclose(turned.image, generator.render(scene, ws, camera).image, atol=1e-4)


def test_only_the_objects_are_redrawn():
    src = source()
    ws, other = redrawn_objects(src, torch.arange(3), 3)
    first = src.generator.representation.object.num_ws + 1
    assert torch.equal(ws[:, first:], other[:, first:])
    assert not torch.equal(ws[:, :first], other[:, :first])
    assert torch.equal(other[0, 0], src.latents(torch.tensor([3]))[0, :8])  # its placement


def images_of(image, mask):
    return Images(image, image, mask=mask)


def test_background_change_counts_the_pixels_that_no_mask_covers():
    image = torch.zeros(1, 3, 4, 4)
    mask = torch.zeros(1, 2, 4, 4)
    mask[0, :, 0] = 0.3  # both objects together reach 0.5 in the first row
    changed = image.clone()
    changed[0, 1, 0] = 0.5  # not counted
    changed[0, 2, 1, :2] = 1.1 / 127.5  # two of twelve pixels, by one level
    changed[0, 2, 2] = 0.2 / 127.5  # less than a level
    assert float(
        background_change(images_of(image, mask), images_of(changed, mask))
    ) == pytest.approx(2 / 12)
    whole = images_of(image, torch.ones(1, 1, 4, 4))
    assert bool(background_change(whole, whole).isnan().all())


def test_leak_is_the_share_of_the_masks_outside_the_boxes():
    src = source()
    ws = src.generator.mapping(src.latents(torch.arange(1)), LABELS[:1])
    scene = src.generator.scene(ws)
    cameras = Cameras.from_label(LABELS[:1])
    hit = scene.objects[0].is_hit(cameras.rays(16)).view(1, 1, 16, 16)
    assert 0.02 < float(hit.float().mean()) < 0.6
    image = torch.zeros(1, 3, 16, 16)
    even = leak(images_of(image, torch.full((1, 1, 16, 16), 0.4)), scene, cameras)
    assert float(even) == pytest.approx(1 - float(hit.float().mean()))
    assert float(leak(images_of(image, hit.float()), scene, cameras)) == 0


def test_scenes_without_parts_have_no_such_metrics():
    src = source()
    assert values_of(dataclasses.replace(src, generator=object())) == {}
    plain = dataclasses.replace(src.generator.cfg, representation=MLP, renderer=VOLUME)
    assert values_of(dataclasses.replace(src, generator=Generator(plain, 16))) == {}
    unmasked = dataclasses.replace(src.generator.cfg, renderer=VOLUME)
    other = dataclasses.replace(src, generator=Generator(unmasked, 16))
    metrics = measure_parts(context(other, Labels(LABELS), parts=PartsConfig(items=2)))
    assert {m.value for m in metrics} == {None}
    assert all("the renderer has no masks" in m.note for m in metrics)
    assert measure_parts(context(src, Labels(LABELS), parts=None)) == []

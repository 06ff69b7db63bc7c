"""Scenes of parts: placement, composition and edits against closed forms."""

import dataclasses
import math

import pytest
import torch
from analytic_fields import SCENE, FormulaField, clouds, constant, smooth

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.draws import Draws
from renderers.composed import ComposedRenderer, ComposedRendererConfig
from renderers.volume import VolumeRenderer, VolumeRendererConfig
from representations.parts import Composed, Placed

SIZE = 12
CAMERAS = Cameras.on_sphere(torch.tensor([0.3, -0.8]), torch.tensor([0.1, 0.4]), 3.2, 1.4)


def placed(field, scale=1.0, rotation=0.0, translation=(0.0, 0.0, 0.0)):
    ones = torch.ones(field.batch)
    return Placed(field, scale * ones, rotation * ones, torch.tensor([translation]) * ones[:, None])


def composed(*objects, background=None):
    return Composed(objects, background, torch.full((objects[0].batch,), 8.0), SCENE)


def render(scene, cameras=CAMERAS, draws=None, **options):
    options = {"samples_coarse": 16, "background": 0.5} | options
    return ComposedRenderer(ComposedRendererConfig(**options))(scene, cameras, SIZE, draws)


def close(one, two, atol=1e-4):
    pairs = zip(one[:3], two[:3], strict=True)
    return all(torch.allclose(a, b, atol=atol) for a, b in pairs)


PAIR = (
    placed(clouds(1), 0.4, 0.7, (-0.5, 0.1, 0.0)),
    placed(clouds(1).map(lambda x: -x), 0.4, 0.0, (0.5, 0.0, 0.1)),
)
"""Objects whose boxes do not overlap."""


@pytest.mark.parametrize("order", ["layers", "joint"])
def test_an_object_that_fills_the_box_is_rendered_as_by_the_volume_renderer(order):
    field = clouds(2)
    cfg = VolumeRendererConfig(samples_coarse=16, samples_fine=0, background=0.5)
    expected = VolumeRenderer(cfg)(field, CAMERAS, SIZE)
    assert close(render(composed(placed(field)), order=order), expected)


@pytest.mark.parametrize("order", ["layers", "joint"])
def test_turning_an_object_is_orbiting_the_camera_the_other_way(order):
    scene, angle = composed(placed(clouds(1), 0.8)), 0.7
    turned = render(scene.change(0, turn=angle), order=order)
    orbited = render(scene, CAMERAS.rotate_y(torch.tensor([-angle])), order=order)
    assert close(turned, orbited)
    assert not close(turned, render(scene, order=order))


def test_moving_and_resizing_an_object_is_moving_the_camera():
    scene = composed(placed(clouds(1), 0.5))
    shift = torch.tensor([0.3, -0.1, 0.2])
    camera = CAMERAS.cam2world.clone()
    camera[:, :3, 3] -= shift
    moved = render(scene.change(0, move=tuple(shift.tolist())))
    nearer = render(scene, CAMERAS._replace(cam2world=camera))
    assert torch.allclose(moved.feature, nearer.feature, atol=1e-4)
    # Twice the size from twice the distance: density per world unit halves.
    far = CAMERAS.cam2world.clone()
    far[:, :3, 3] *= 2
    larger = render(scene.change(0, resize=2.0), CAMERAS._replace(cam2world=far))
    small = render(scene)
    assert torch.allclose(larger.feature, small.feature, atol=1e-4)
    seen = small.opacity > 0.01
    assert torch.allclose(larger.depth[seen], 2 * small.depth[seen], atol=1e-3)


def test_constant_density_has_the_opacity_of_its_length():
    field = FormulaField(torch.tensor([[1.5]]), constant)
    front = Cameras.on_sphere(torch.zeros(1), torch.zeros(1), 3.2, 1.4)
    for order in ("layers", "joint"):
        for scale in (0.3, 0.9):
            out = render(composed(placed(field, scale)), front, order=order)
            middle = out.opacity[0, 0, SIZE // 2, SIZE // 2]
            # The ray through a pixel beside the centre is longer by less than 0.2 %.
            assert float(middle) == pytest.approx(1 - math.exp(-1.5 * 2), rel=3e-3)


def test_disjoint_objects_as_layers_and_jointly_are_equal():
    scene = composed(*PAIR)
    for azimuth in (0.0, 1.2, 2.0, 3.6):  # either object may be in front
        cameras = CAMERAS.rotate_y(torch.tensor([azimuth]))
        layers, joint = (render(scene, cameras, order=o) for o in ("layers", "joint"))
        assert close(layers, joint)
        assert torch.allclose(layers.layers.mask, joint.layers.mask, atol=1e-4)


def test_overlapping_objects_jointly_converge_to_the_field_of_both():
    scene = composed(placed(clouds(1), 0.6), placed(clouds(1).map(lambda x: -x), 0.7, 0.4))
    volume = VolumeRenderer(VolumeRendererConfig(samples_coarse=512, samples_fine=0))
    expected = volume(scene, CAMERAS, SIZE)
    joint = render(scene, order="joint", samples_coarse=256, background=0.0)
    assert torch.allclose(joint.feature, expected.feature, atol=0.02)
    seen = expected.opacity > 0.05  # the depth of an empty ray is that of the background
    assert torch.allclose(joint.depth[seen], expected.depth[seen], atol=0.02)
    layers = render(scene, order="layers", samples_coarse=256, background=0.0)
    assert not torch.allclose(layers.feature, expected.feature, atol=0.02)


@pytest.mark.parametrize("order", ["layers", "joint"])
def test_removing_an_object_restores_what_was_behind_it_bitwise(order):
    scene = composed(*PAIR, background=clouds(1))
    for index in (0, 1):
        alone = composed(PAIR[1 - index], background=scene.background)
        removed = render(scene.remove(index), order=order)
        for one, two in zip(removed[:3], render(alone, order=order)[:3], strict=True):
            assert torch.equal(one, two)
    empty = render(scene.remove(0).remove(0), order=order)
    assert torch.equal(empty.opacity, torch.zeros_like(empty.opacity))
    assert torch.allclose(empty.feature, empty.layers.background * 2 - 1)


def test_the_volume_renderer_draws_the_background_too():
    scene = composed(*PAIR, background=clouds(1))
    cfg = VolumeRendererConfig(samples_coarse=512, samples_fine=0)
    plain, skipping = (VolumeRenderer(dataclasses.replace(cfg, skip_cells=n)) for n in (0, 8))
    expected = render(scene, samples_coarse=256).feature
    assert torch.allclose(plain(scene, CAMERAS, SIZE).feature, expected, atol=0.02)
    with torch.no_grad():
        skipped = skipping(skipping.prepare(scene), CAMERAS, SIZE).feature
    assert torch.allclose(skipped, expected, atol=0.02)


def test_layers_are_the_rendering():
    out = render(composed(*PAIR, background=clouds(1)))
    mask, behind = out.layers.mask, out.layers.background
    rest = 1 - mask.sum(1, keepdim=True)
    whole = out.layers.objects.sum(1) + rest * behind
    assert torch.allclose(out.feature, whole * 2 - 1, atol=1e-5)
    assert torch.allclose(out.opacity, 1 - rest, atol=1e-6)
    assert 0.05 < float(mask[:, 0].amax()) <= 1


def test_a_projected_box_holds_the_mask_and_is_that_of_its_corners():
    cube = FormulaField(torch.tensor([[50.0]]), constant)
    scene = composed(placed(cube, 0.3, 0.5, (0.2, -0.1, 0.3)))
    cameras = Cameras.on_sphere(torch.tensor([0.4]), torch.tensor([0.2]), 3.2, 1.4)
    size = 128
    renderer = ComposedRenderer(ComposedRendererConfig(samples_coarse=8))
    mask = renderer(scene, cameras, size).layers.mask[0, 0] > 0.5
    ys, xs = mask.nonzero().unbind(1)
    seen = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / size
    assert torch.allclose(scene.objects[0].box_in(cameras)[0], seen, atol=1.5 / size)


def test_the_background_depends_on_the_ray_alone_and_meets_the_sphere():
    scene = composed(placed(clouds(1)), background=FormulaField(torch.zeros(1, 3), smooth))
    rays = CAMERAS.rays(4)
    rays = type(rays)(*(x.reshape(1, -1, 3) for x in rays))
    seen = []

    def record(points, key):
        seen.append(points)
        return smooth(points, key)

    dataclasses.replace(scene, background=FormulaField(torch.zeros(1, 3), record)).backdrop(rays)
    (points,) = seen
    assert torch.allclose(points.norm(dim=-1), torch.ones(1, 32), atol=1e-5)
    toward = 8 * points - rays.origins
    cosine = torch.cosine_similarity(toward, rays.dirs, dim=-1)
    assert torch.allclose(cosine, torch.ones(1, 32), atol=1e-5)
    turned = render(scene.change(0, turn=1.0)).layers.background
    assert torch.equal(turned, render(scene).layers.background)


def test_jitter_differs_between_objects_and_gradients_are_finite():
    key = torch.tensor([[0.1, 0.0, 0.0]], requires_grad=True)
    scene = composed(placed(FormulaField(key, smooth)), placed(FormulaField(key, smooth)))
    for order in ("layers", "joint"):
        out = render(scene, draws=Draws(0), order=order, path="plain")
        one, two = out.layers.mask.unbind(1)
        assert not torch.equal(one, two)
        (gradient,) = torch.autograd.grad(out.feature.square().sum(), key)
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0


def test_many_rays_are_rendered_in_chunks(monkeypatch):
    scene, calls, genuine = composed(*PAIR), [], ComposedRenderer._joint

    def counted(self, objects, rays, draws):
        calls.append(rays.origins.shape[1])
        return genuine(self, objects, rays, draws)

    monkeypatch.setattr(ComposedRenderer, "_joint", counted)
    whole = render(scene, order="joint")
    monkeypatch.setattr("renderers.composed.CHUNK", 700)
    with torch.no_grad():
        chunked = render(scene, order="joint")
    assert len(calls) > 3
    assert max(calls[1:]) * 16 * 2 <= 700
    assert close(chunked, whole)


def test_options_without_effect_are_rejected():
    with pytest.raises(ConfigError, match="samples_fine=4: order=joint has none"):
        ComposedRendererConfig(order="joint", samples_fine=4)


def test_an_object_of_another_scene_takes_its_place():
    one, two = composed(*PAIR), composed(placed(clouds(2).index(slice(1, 2)), 0.4))
    mixed = one.exchange(0, two.objects[0])
    assert close(render(mixed.only(0)), render(two.only(0)))
    assert len(one.add(two.objects[0]).objects) == 3
    assert one.index(slice(0, 1)).objects[1].batch == 1

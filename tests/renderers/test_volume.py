import dataclasses
import math

import pytest
import torch
from analytic_fields import FormulaField, cameras, clouds, constant, floor, ray, sphere
from kernel_comparison import make_field, views

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.draws import Draws
from renderers.ray_marching import Jitter, Request, render_request
from renderers.sampling import ray_span
from renderers.volume import VolumeRenderer, VolumeRendererConfig

EG3D = dict(rules="eg3d")


def renderer(**options):
    options = {"samples_coarse": 12, "samples_fine": 12, **options}
    return VolumeRenderer(VolumeRendererConfig(**options))


def key(*values):
    return torch.tensor([values])


@pytest.mark.parametrize("samples", [(1, 0), (2, 0), (13, 0), (1, 3), (12, 12)])
@pytest.mark.parametrize("jittered", [False, True])
@pytest.mark.parametrize("placement", ["weights", "nucleus"])
def test_constant_density_for_any_samples_and_chunk(samples, jittered, placement):
    field = FormulaField(key(0.7), constant)
    draws = Draws(0) if jittered else None
    coarse, fine = samples
    placement = placement if fine else "weights"
    for chunk in (coarse + fine, 1000):
        o = renderer(
            samples_coarse=coarse,
            samples_fine=fine,
            chunk=chunk,
            background=1.0,
            importance=placement,
        )
        out = o.render_rays(field, ray((0, 0, 3.0), (0, 0, -1.0)), draws=draws)
        opacity = 1 - math.exp(-0.7 * 2)
        assert out.opacity.item() == pytest.approx(opacity, rel=1e-5)
        expected = torch.tensor([0.2, 0.4, 0.8]) * opacity + 1 - opacity
        torch.testing.assert_close(out.feature.flatten(), expected)


def test_constant_density_ends_at_near_and_far():
    field = FormulaField(key(0.7), constant)
    o = renderer(samples_fine=0, near=2.5, far=3.25, bounds="near_far")
    out = o.render_rays(field, ray((0, 0, 3.0), (0, 0, -1.0)))
    assert out.opacity.item() == pytest.approx(1 - math.exp(-0.7 * 0.75), rel=1e-5)


def test_a_sphere_has_the_opacity_of_its_chords():
    x = torch.linspace(0, 0.95, 20)
    origins = torch.stack([x, torch.zeros(20), torch.full((20,), 3.0)], -1)[None]
    rays = Rays(origins, torch.tensor([0.0, 0, -1]).expand(1, 20, 3))
    out = renderer(samples_coarse=400, samples_fine=0).render_rays(
        FormulaField(key(1.3, 0.8), sphere), rays
    )
    chord = 2 * (0.64 - x**2).clamp_min(0).sqrt()
    torch.testing.assert_close(
        out.opacity.flatten(), 1 - torch.exp(-1.3 * chord), atol=5e-3, rtol=0
    )
    hit = chord > 0.3
    # Symmetric about z = 0 only in the limit of no density; an opaque sphere shows its front.
    out = renderer(samples_coarse=400).render_rays(FormulaField(key(1e4, 0.8), sphere), rays)
    front = 3 - (0.64 - x**2).clamp_min(0).sqrt()
    torch.testing.assert_close(out.depth.flatten()[hit], front[hit], atol=5e-3, rtol=0)


@pytest.mark.parametrize("tilt", [0.0, 0.4])
@pytest.mark.parametrize("options", [{}, EG3D])
def test_an_opaque_slab_has_its_depth(tilt, options):
    # A floor at z < 0.25 seen from z = 3: at distance 2.75 / cos(tilt). EG3D's rule smears it over
    # the interval between the samples before and in it.
    o = renderer(samples_coarse=64, samples_fine=64, **options)
    direction = (math.sin(tilt), 0.0, -math.cos(tilt))
    out = o.render_rays(FormulaField(key(1e4, 0.25), floor), ray((-0.5, 0, 3.0), direction))
    assert out.opacity.item() == pytest.approx(1)
    assert out.depth.item() == pytest.approx(2.75 / math.cos(tilt), abs=0.03)


def test_depth_is_that_of_the_background_where_the_ray_is_empty():
    rays = ray((0, 0, 3.0), (0, 0, -1.0))
    empty = FormulaField(key(0.0), constant)
    assert renderer().render_rays(empty, rays).depth.item() == pytest.approx(3 + 3**0.5)
    assert renderer(far=4.5).render_rays(empty, rays).depth.item() == 4.5


@pytest.mark.parametrize("options", [{}, EG3D, {"bounds": "sphere"}])
def test_one_ray_and_a_ray_that_misses(options):
    o = renderer(background=1.0, **options)
    field = FormulaField(key(5.0), constant)
    assert o.render_rays(field, ray((0, 0, 3.0), (0, 0, -1.0))).opacity.item() > 0.99
    rays = ray((0, 0, 3.0), (0, 1.0, -0.1))
    missed = o.render_rays(field, rays, draws=Draws(1))
    assert missed.opacity.item() == 0
    assert missed.feature.flatten().tolist() == [1, 1, 1]
    if not options:
        assert missed.depth.item() == pytest.approx(3 + 3**0.5)


def test_a_ray_that_misses_is_decided_alone():
    field = FormulaField(key(5.0), constant)
    both = Rays(
        *(
            torch.cat(x, 1)
            for x in zip(
                ray((0, 0, 3.0), (0, 0, -1.0)), ray((0, 0, 3.0), (0, 1.0, -0.1)), strict=True
            )
        )
    )
    one, two = (
        renderer().render_rays(field, both),
        renderer().render_rays(field, Rays(both.origins[:, 1:], both.dirs[:, 1:])),
    )
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a[:, 1:], b)


def test_gradients_of_rays_that_miss_are_finite():
    raw = torch.tensor([[5.0]], requires_grad=True)
    out = renderer()(FormulaField(raw, constant), cameras(1), 8)
    (out.feature.sum() + out.depth.sum() + out.opacity.sum()).backward()
    assert bool(raw.grad.isfinite().all())
    assert raw.grad.item() != 0


def test_skewed_intrinsics_show_points_where_they_project():
    view = cameras(3)
    intrinsics = view.intrinsics.clone()
    intrinsics[:, 0, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 1] = 0.3, 0.42, 1.9
    view = view._replace(intrinsics=intrinsics)
    field = FormulaField(key(1e4, 0.1).expand(3, 2), floor)
    out = renderer(samples_coarse=48, samples_fine=96)(field, view, 9)
    solid = out.opacity.flatten(2)[:, 0] > 0.999
    assert solid.sum() > 60
    points = view.unproject(out.depth)
    uv, _ = view.project(points)
    v, u = torch.meshgrid(*[(torch.arange(9) + 0.5) / 9] * 2, indexing="ij")
    pixel = torch.stack([u, v], -1).reshape(1, -1, 2).expand_as(uv)
    torch.testing.assert_close(uv[solid], pixel[solid], atol=1e-4, rtol=0)
    colour = out.feature.flatten(2).mT
    torch.testing.assert_close(colour[solid], points[solid], atol=0.03, rtol=0)


@pytest.mark.parametrize("options", [{}, EG3D, {"bounds": "near_far", "near": 2.0, "far": 4.0}])
def test_chunks_do_not_change_results(options):
    field, view = clouds(2), cameras(4)
    options = {"density_noise": 0.5, **options}
    whole = renderer(chunk=10**6, **options)(field, view, 8, draws=Draws(3))
    assert whole.opacity.std() > 0.1
    for chunk in (12, 12 * 7, 12 * 128, 12 * 128 * 2 - 1):
        part = renderer(chunk=chunk, **options)(field, view, 8, draws=Draws(3))
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_field_never_sees_more_points_than_a_chunk():
    for chunk in (12, 100, 1000, 5000):
        field = clouds(3)
        with torch.no_grad():
            renderer(chunk=chunk)(field, cameras(6), 8)
        assert max(field.calls) <= chunk
        assert sum(field.calls) == 6 * 64 * 24


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


def test_rendering_without_gradient_holds_outputs_and_a_chunk():
    view = cameras(2)
    with torch.no_grad(), LargestTensor() as out:
        renderer(chunk=2000)(clouds(1), view, 32)
    # Rays, 3 numbers each, are the largest outputs: no tensor has rays * samples numbers.
    assert out.numel == 2 * 32 * 32 * 3
    with torch.no_grad(), LargestTensor() as out:
        renderer(chunk=10**6)(clouds(1), view, 32)
    assert out.numel >= 2 * 32 * 32 * 12 * 3  # the check can fail


def test_recompute_gives_equal_gradients_and_saves_samples():
    def run(recompute):
        raw = clouds(2).key.requires_grad_()
        field = dataclasses.replace(clouds(2), key=raw)
        saved = []

        def pack(x):
            saved.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            o = renderer(chunk=12 * 64, recompute=recompute, density_noise=0.3)
            out = o(field, cameras(2), 16, draws=Draws(0))
        (out.feature.square().sum() + out.depth.sum()).backward()
        return out, raw.grad, sum(saved)

    out, grad, saved = run(False)
    again, grad_again, saved_again = run(True)
    torch.testing.assert_close(out.feature, again.feature)
    torch.testing.assert_close(grad, grad_again)
    assert saved_again < saved / 4


def test_views_of_a_scene_equal_rendering_each_alone():
    field, view = clouds(2), cameras(6)
    together = renderer()(field, view, 8)
    for i in range(6):
        alone = renderer()(field.index(slice(i // 3, i // 3 + 1)), view.select(slice(i, i + 1)), 8)
        for a, b in zip(together[:3], alone[:3], strict=True):
            torch.testing.assert_close(a[i : i + 1], b)
    with pytest.raises(ValueError, match="5 cameras for 2 scenes: use a multiple of 2"):
        renderer()(field, cameras(5), 8)


def test_permuted_scenes_give_permuted_views():
    field, view, order = clouds(3), cameras(3), torch.tensor([2, 0, 1])
    straight = renderer()(field, view, 8)
    permuted = renderer()(field.index(order), view.select(order), 8)
    for a, b in zip(straight[:3], permuted[:3], strict=True):
        torch.testing.assert_close(a[order], b)


def test_rendering_is_deterministic_and_draws_are_keyed():
    field, view, o = clouds(1), cameras(1), renderer(density_noise=1.0)
    torch.testing.assert_close(o(field, view, 8), o(field, view, 8), rtol=0, atol=0)
    quiet = renderer()(field, view, 8)
    torch.testing.assert_close(o(field, view, 8), quiet, rtol=0, atol=0)  # no draws, no noise
    one, two = o(field, view, 8, draws=Draws(1)), o(field, view, 8, draws=Draws(2))
    torch.testing.assert_close(one, o(field, view, 8, draws=Draws(1)), rtol=0, atol=0)
    assert not torch.equal(one.feature, two.feature)


def test_fine_samples_are_one_per_stratum_and_carry_no_gradient():
    queries = []

    def formula(points, key):
        queries.append(points)
        return constant(points, key)

    raw = torch.tensor([[0.0]], requires_grad=True)
    field = FormulaField(raw, formula)
    rays = ray((0, 0, 3.0), (0, 0, -1.0))
    o = VolumeRendererConfig(samples_coarse=4, samples_fine=50)
    u = torch.rand(1, 1, 50, generator=torch.Generator().manual_seed(0))
    render_request(Request(o, field, rays, ray_span(rays, 2.0, o)[0], Jitter(None, u)))
    fine = queries[1]
    assert not fine.requires_grad
    # An empty ray is sampled evenly, so that strata of u are strata of the ray.
    stratum = ((1 - fine[0, :, 2]) / 2 * 50).floor()
    assert stratum.tolist() == list(range(50))


@pytest.mark.parametrize("noise", [[[0.0, 0, 9, 9]], [[9.0, 9, 0, 0]]])
def test_coarse_and_fine_samples_have_their_own_noise(noise):
    o = VolumeRendererConfig(samples_coarse=2, samples_fine=2)
    rays = ray((0, 0, 3.0), (0, 0, -1.0))
    span, _ = ray_span(rays, 2.0, o)
    jitter = Jitter(None, None, torch.tensor([noise]))
    request = Request(o, FormulaField(key(0.0), constant), rays, span, jitter)
    sums = render_request(request)
    # Half of the ray is solid, whichever samples the noise makes so.
    assert sums.opacity.item() == pytest.approx(1, abs=1e-2)
    quiet = render_request(dataclasses.replace(request, jitter=Jitter()))
    assert quiet.opacity.item() == 0


def test_the_features_of_a_rendering_lie_around_zero():
    field = FormulaField(key(1e3), constant)
    out = renderer()(field, Cameras.orbit(1, focal=2.0), 4)
    expected = torch.tensor([-0.6, -0.2, 0.6]).view(1, 3, 1, 1).expand_as(out.feature)
    torch.testing.assert_close(out.feature, expected)


def test_points_outside_the_box_are_empty_unless_the_field_is_asked():
    rays, field = ray((0, 0, 3.0), (0, 0, -1.0)), FormulaField(key(0.5), constant)
    options = dict(bounds="near_far", near=1.0, far=5.0, samples_coarse=400, samples_fine=0)
    inside = renderer(**options).render_rays(field, rays)
    assert inside.opacity.item() == pytest.approx(1 - math.exp(-0.5 * 2), abs=3e-3)
    everywhere = renderer(outside="field", **options).render_rays(field, rays)
    assert everywhere.opacity.item() == pytest.approx(1 - math.exp(-0.5 * 4), rel=1e-5)


def test_mixed_precision_leaves_the_rays_alone():
    field, view = clouds(2), cameras(2)
    expected = renderer()(field, view, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = renderer()(field, view, 8)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_gradients_reach_cameras():
    field, view = clouds(1), cameras(1).to(dtype=torch.float64)
    field = field.to(dtype=torch.float64)

    def picture(cam2world):
        out = renderer(samples_coarse=16, samples_fine=0)(
            field, view._replace(cam2world=cam2world), 2
        )
        return out.feature, out.depth

    assert torch.autograd.gradcheck(picture, (view.cam2world.clone().requires_grad_(),))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["triplane", "voxel"])
def test_a_prepared_scene_may_be_kept_in_half_the_memory(kind, precision):
    field = make_field(kind, channels=16)
    options = {"samples_coarse": 12, "samples_fine": 12}
    whole = VolumeRenderer(VolumeRendererConfig(**options))
    half = VolumeRenderer(VolumeRendererConfig(**options, cache_precision=precision))
    assert whole.prepare(field) is field
    prepared = half.prepare(field)
    assert prepared.nbytes * 2 == field.nbytes
    with torch.no_grad():
        expected, result = whole(field, views(2), 12), half(prepared, views(2), 12)
    error = float((expected.feature - result.feature).abs().max())
    assert 1e-6 < error < (0.1 if precision == "bf16" else 0.02)


def test_a_scene_without_grids_is_kept_as_it_is():
    ball = FormulaField(torch.tensor([[30.0, 0.3]]), sphere)
    cfg = VolumeRendererConfig(cache_precision="bf16")
    assert VolumeRenderer(cfg).prepare(ball) is ball


def test_cells_that_are_skipped_are_those_of_the_whole_precision():
    field = make_field("triplane", channels=16)
    options = {"skip_cells": 8}
    whole = VolumeRenderer(VolumeRendererConfig(**options)).prepare(field)
    half = VolumeRenderer(VolumeRendererConfig(**options, cache_precision="bf16")).prepare(field)
    assert torch.equal(whole.occupied, half.occupied)
    assert half.field.planes.dtype == torch.bfloat16

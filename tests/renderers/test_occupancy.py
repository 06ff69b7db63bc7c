import dataclasses

import pytest
import torch
from analytic_fields import FormulaField, cameras, sphere
from kernel_comparison import make_field, views

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.draws import Draws
from renderers.occupancy import OccupiedField, find_occupied
from renderers.sampling import RaySpan, ray_span
from renderers.volume import VolumeRenderer, VolumeRendererConfig

BALL = FormulaField(torch.tensor([[30.0, 0.3], [30.0, 0.15]]), sphere)
"""Two scenes: dense balls of radius 0.3 and 0.15 in a box of edge 2."""


def renderer(**options):
    options = {"samples_coarse": 48, "samples_fine": 24, **options}
    return VolumeRenderer(VolumeRendererConfig(**options))


def test_occupied_cells_cover_the_ball_and_one_cell_around_it():
    cells = 32
    occupied = find_occupied(BALL, cells, 0.01).occupied
    centre = ((torch.arange(cells) + 0.5) / cells - 0.5) * 2
    z, y, x = torch.meshgrid(centre, centre, centre, indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt()
    diagonal = 2 / cells * 3**0.5
    for grid, ball in zip(occupied, (0.3, 0.15), strict=True):
        assert grid[radius < ball].all()
        assert not grid[radius > ball + 2.01 * diagonal].any()


def test_axes_are_x_y_z_and_not_mirrored():
    def corner(points, key):
        inside = ((points - torch.tensor([0.8, -0.3, 0.1])).abs() < 0.05).all(-1, keepdim=True)
        return key[..., :1] * inside, torch.full_like(points, 0.5)

    grid = find_occupied(FormulaField(torch.tensor([[50.0]]), corner), 40, 0.01).occupied[0]
    z, y, x = (grid.nonzero().float().mean(0) + 0.5) / 40 * 2 - 1
    torch.testing.assert_close(
        torch.stack([x, y, z]), torch.tensor([0.8, -0.3, 0.1]), atol=0.03, rtol=0
    )


def test_empty_rays_are_skipped_and_the_picture_stays():
    plain, skipping = renderer(), renderer(skip_cells=32)
    prepared = skipping.prepare(BALL)
    assert isinstance(prepared, OccupiedField)
    view = cameras(4)
    queries = BALL.calls
    with torch.no_grad():
        queries.clear()
        expected = plain(BALL, view, 24)
        all_points = sum(queries)
        queries.clear()
        result = skipping(prepared, view, 24)
        some_points = sum(queries)
    assert 0 < some_points < 0.3 * all_points
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    # Scenes keep their order, and each its own rays.
    assert result.opacity[:2].sum() > 2 * result.opacity[2:].sum() > 0


def test_skipped_rays_are_at_most_as_opaque_as_configured():
    fog = FormulaField(torch.tensor([[0.004, 2.0]]), sphere)  # opacity 0.0138 across the box
    with torch.no_grad():
        for share, rendered in ((0.01, True), (0.02, False)):
            o = renderer(skip_cells=8, skip_opacity=share)
            assert (o(o.prepare(fog), cameras(1), 8).opacity.max() > 0) == rendered


@pytest.mark.parametrize("draws", [None, Draws(4)])
@pytest.mark.parametrize("samples_fine", [0, 24])
def test_the_rule_of_eg3d_and_the_background_hold_for_skipped_rays(samples_fine, draws):
    options = dict(
        rules="eg3d", background=1.0,
        bounds="near_far", near=1.5, far=5.0, samples_fine=samples_fine,
    )  # fmt: skip
    plain, skipping = renderer(**options), renderer(**options, skip_cells=32)
    with torch.no_grad():
        expected = plain(BALL, cameras(2), 16, draws)
        result = skipping(skipping.prepare(BALL), cameras(2), 16, draws)
    torch.testing.assert_close(result.feature, expected.feature, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.opacity, expected.opacity, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.depth, expected.depth, atol=1e-4, rtol=0)


def test_with_a_gradient_nothing_is_skipped():
    field = make_field()
    leaf = field.planes.clone().requires_grad_()
    field = dataclasses.replace(field, planes=leaf)
    o = renderer(skip_cells=8, path="plain")
    prepared = o.prepare(field)
    nowhere = dataclasses.replace(prepared, occupied=torch.zeros_like(prepared.occupied))
    o(nowhere, views(1), 4).feature.sum().backward()
    assert leaf.grad.abs().sum() > 0
    with torch.no_grad():
        assert o(nowhere, views(1), 4).opacity.sum() == 0


def test_a_prepared_field_is_a_scene_and_answers_as_its_field():
    field = make_field("voxel", batch=2)
    o = renderer(skip_cells=4)
    prepared = o.prepare(field)
    assert o.prepare(prepared) is prepared
    assert o.prepare(field) is not field
    assert renderer().prepare(field) is field
    assert prepared.batch == 2
    assert prepared.nbytes == field.nbytes + 2 * 4**3
    points = torch.rand(1, 7, 3) - 0.5
    one = prepared.index(slice(1, 2))
    for a, b in zip(one(points), field.index(slice(1, 2))(points), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.density(points), field.index(slice(1, 2)).density(points))
    assert prepared.lower().grids.shape == field.lower().grids.shape
    assert (prepared.box, prepared.needs_dirs) == (field.box, field.needs_dirs)


def test_another_precision_leaves_the_cells_a_mask():
    o = renderer(skip_cells=4, path="plain")
    prepared = o.prepare(make_field())
    half = prepared.to(dtype=torch.bfloat16)
    assert half.tensors()[0].dtype == torch.bfloat16
    assert torch.equal(half.occupied, prepared.occupied)
    with torch.no_grad():
        back = half.to(dtype=torch.float32)
        assert o(back, views(1), 4).opacity.max() > 0


@pytest.mark.parametrize("bounds", ["box", "sphere"])
def test_no_ray_through_an_occupied_cell_is_missed(bounds):
    # One cell of 16^3, hit by rays through random points well within it: none crosses less of it
    # than the step of half a cell.
    generator = torch.Generator().manual_seed(1)
    grid = torch.zeros(1, 16, 16, 16, dtype=torch.bool)
    grid[0, 7, 9, 5] = True
    field = OccupiedField(BALL.index(slice(0, 1)), grid)
    low = torch.tensor([5.0, 9.0, 7.0]) / 16 * 2 - 1
    inner = low + 2 / 16 * (0.25 + 0.5 * torch.rand(200, 3, generator=generator))
    eye = Cameras.orbit(200, 0.4, 3.0).origins
    dirs = torch.nn.functional.normalize(inner - eye, dim=-1)
    rays = Rays(eye[None], dirs[None])
    span, _ = ray_span(rays, 2.0, VolumeRendererConfig(bounds=bounds))
    assert field.hit_by(rays, span).all()
    away = Rays(rays.origins, -rays.dirs)
    span = RaySpan(torch.zeros(1, 200, 1), torch.full((1, 200, 1), 2.0))
    assert not field.hit_by(away, span).any()

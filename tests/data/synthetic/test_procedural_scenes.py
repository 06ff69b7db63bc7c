"""Procedural scenes: placement, boxes, instance masks and edits are exact."""

import dataclasses
import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.animals import ATTRIBUTES, build_animals
from lightning_gan3d.data.synthetic.ellipsoids import Ellipsoids, level_of, render_ellipsoids
from lightning_gan3d.data.synthetic.scenes import Scenes, ScenesConfig, draw_scenes
from lightning_gan3d.draws import Draws

RADIUS, FOCAL, FAR = 3.2, 1.5, 9.0
THREE = ScenesConfig(objects_max=3)


def around(azimuth: torch.Tensor, elevation: float = 0.2) -> Cameras:
    return Cameras.on_sphere(azimuth, torch.full_like(azimuth, elevation), RADIUS, FOCAL)


def drawn(num: int, cfg: ScenesConfig = THREE, seed: int = 0) -> Scenes:
    return draw_scenes(cfg, num, RADIUS, seed)


def triples(num: int) -> Scenes:
    return drawn(num, ScenesConfig(objects_min=3, objects_max=3))


def single(own: Ellipsoids, scale: float, rotation: float, translation: list[float]) -> Scenes:
    """One scene of one object before white."""
    return Scenes(
        (own,),
        {},
        torch.tensor([[scale]]),
        torch.tensor([[rotation]]),
        torch.tensor([[translation]]),
        torch.tensor([[True]]),
        None,
    )


def animals(num: int, **changed: torch.Tensor) -> Ellipsoids:
    """Animals with attributes in the middle of their ranges, but for the changed ones."""
    values = {k: torch.full((num,), (low + high) / 2) for k, (low, high) in ATTRIBUTES.items()}
    return build_animals({**values, **changed})


def random_animals(num: int) -> Ellipsoids:
    ranges = ATTRIBUTES.items()
    u = Draws(7).uniform("a", (len(ATTRIBUTES), num))
    return build_animals({k: a + (b - a) * x for (k, (a, b)), x in zip(ranges, u, strict=True)})


# Animals


def test_animals_stand_in_the_cylinder_of_the_cube_and_touch_it():
    parts = random_animals(50)
    size = 1 / parts.axes.diagonal(dim1=-2, dim2=-1)
    assert torch.equal(parts.axes, torch.diag_embed(1 / size))
    angle = torch.linspace(0, 2 * math.pi, 121)
    ring = torch.stack([angle.sin(), angle.cos()], -1)
    edge = parts.centre[:, :, None, [0, 2]] + size[:, :, None, [0, 2]] * ring
    reach = edge.norm(dim=-1).amax((1, 2))
    low, high = ((parts.centre + s * size)[..., 1] for s in (-1, 1))
    torch.testing.assert_close(low.amin(1), torch.full((50,), -1.0))
    fill = torch.maximum(reach, (high.amax(1) + 1) / 2)
    assert float(fill.max()) < 1 + 1e-5
    assert float(fill.min()) > 0.9


def test_each_side_of_an_animal_looks_different():
    scene = single(animals(1), 1.0, 0.0, [0.0, 0.0, 0.0]).select(torch.zeros(4, dtype=torch.long))
    views = scene.render(around(torch.arange(4) * math.pi / 2, 0.0), 64, FAR).objects.image
    front, left, back, right = views
    for first, second in ((front, back.flip(-1)), (left, right.flip(-1)), (front, left)):
        share = ((first - second).abs().amax(0) > 0.2).float().mean()
        assert float(share) > 0.02
    # The muzzle, the palest part, is in front: on the left of the image if seen from the left.
    muzzle = (left.amin(0) > 0.0) & (left.amax(0) < 1)
    assert float(muzzle[:, :32].sum()) > 20


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_of_an_animal_changes_the_picture(name):
    pair = animals(2, **{name: torch.tensor(ATTRIBUTES[name]) + torch.tensor([0.0, -0.1])})
    a, b = render_ellipsoids(pair, around(torch.full((2,), 0.7)), 48).image
    assert float(((a - b).abs().amax(0) > 0.08).float().mean()) > 0.003


# Placement and projection


def test_depth_of_a_placed_ellipsoid_is_analytic():
    size, centre = torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0.05, -0.2, 0.1])
    own = Ellipsoids(centre[None, None], (torch.eye(3) / size)[None, None], torch.ones(1, 1, 3))
    scale, angle, place = 0.6, 0.8, [0.2, -0.1, -0.3]
    camera = around(torch.tensor([0.3]))
    view = single(own, scale, angle, place).render(camera, 32, FAR).objects
    # Rays in the object's coordinates: p = R^T (x - t) / s, by the azimuth of vectors.
    dirs = camera.rays(64).dirs[0].double()
    offset = camera.origins[0].double() - torch.tensor(place).double()

    def to_own(v):
        azimuth = torch.atan2(v[..., 0], v[..., 2]) - angle
        flat = v[..., [0, 2]].norm(dim=-1)
        return torch.stack([azimuth.sin() * flat, v[..., 1], azimuth.cos() * flat], -1) / scale

    o, d = (to_own(offset) - centre) / size, to_own(dirs) / size
    a, b, c = d.square().sum(-1), d @ o, o @ o - 1
    root = b * b - a * c
    t = ((-b - root.clamp(min=0).sqrt()) / a).view(32, 2, 32, 2)
    hit = (root > 0).view(32, 2, 32, 2)
    inside = hit.all(3).all(1)
    expected = t.mean((1, 3))
    assert float(inside.float().mean()) > 0.04
    torch.testing.assert_close(
        view.depth[0, 0][inside].double(), expected[inside], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(view.mask[0, 0].double(), hit.double().mean((1, 3)))
    assert torch.all(view.depth[0, 0][~hit.any(3).any(1)] == FAR)


def test_turning_an_object_equals_orbiting_the_camera_back():
    angles = torch.tensor([0.0, 0.4, 1.9, -2.6])
    own, zero = random_animals(1), [0.0, 0.0, 0.0]
    front = around(torch.zeros(4))
    scene = single(own, 0.7, 0.0, zero).select(torch.zeros(4, dtype=torch.long))
    turned = scene.turned(0, angles).render(front, 32, FAR)
    orbited = scene.render(front.select(torch.tensor([0])).rotate_y(-angles), 32, FAR)
    for a, b in zip(turned.objects, orbited.objects, strict=True):
        differs = (a - b).abs() > 1e-3
        assert float(differs.float().mean()) < 1e-3  # rays that graze an edge
    assert float((turned.objects.image[0] - turned.objects.image[2]).abs().mean()) > 0.02


@pytest.mark.parametrize("turn", [0.0, math.pi / 4])
def test_the_box_of_a_known_cube_is_its_projection(turn):
    s, camera = 0.4, around(torch.zeros(1), 0.0)
    box = single(animals(1), s, turn, [0.0, 0.0, 0.0]).boxes(camera)[0, 0]
    # Corners at +-(s, s), or turned by 45 degrees on the axes.
    nearest = s if turn == 0 else math.sqrt(2) * s
    x = FOCAL * (s / (RADIUS - s) if turn == 0 else math.sqrt(2) * s / RADIUS)
    y = FOCAL * s / (RADIUS - nearest)
    torch.testing.assert_close(box, torch.tensor([0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y]))


def test_boxes_follow_objects_and_hold_their_masks():
    scenes, cameras = triples(10), around(torch.linspace(-1, 1, 10))
    view = scenes.render(cameras, 48, FAR)
    boxes = scenes.boxes(cameras)
    for i in range(3):
        alone = scenes
        for j in {0, 1, 2} - {i}:
            alone = alone.removed(j)
        whole = alone.render(cameras, 48, FAR).boxes[:, i]
        for seen in (whole, view.boxes[:, i]):
            seen = seen[~seen[:, 0].isnan()]
            assert len(seen) > 7
        outside = torch.stack([boxes[:, i, :2] - whole[:, :2], whole[:, 2:] - boxes[:, i, 2:]])
        assert float(outside.amax()) < 1 / 48
        # Animals stand on the bottom of their cubes.
        moved = scenes.moved(i, torch.tensor([0.0, 0.3, 0.0])).boxes(cameras)
        assert (moved[:, i, 3] < boxes[:, i, 3]).all()
        assert torch.equal(moved[:, i - 1], boxes[:, i - 1])


def test_boxes_of_pixels_are_tight():
    view = triples(8).render(around(torch.zeros(8)), 32, FAR)
    for shares, boxes in zip(view.shares.flatten(0, 1), view.boxes.flatten(0, 1), strict=True):
        if not (shares > 0).any():
            assert boxes.isnan().all()
            continue
        y, x = (shares > 0).nonzero().T
        expected = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 32
        assert torch.equal(boxes, expected)


# Masks and edits


def test_masks_partition_the_image_and_nearer_objects_hide_farther_ones():
    scenes, cameras = triples(20), around(torch.linspace(-0.5, 0.5, 20))
    view = scenes.render(cameras, 32, FAR)
    assert torch.equal(view.shares.sum(1, keepdim=True), view.objects.mask)
    assert float(view.objects.mask.max()) == 1
    assert view.instances.unique().tolist() == [0, 1, 2, 3]
    full = view.objects.mask == 1
    alone = [scenes.removed(j).removed(k) for j, k in ((1, 2), (0, 2), (0, 1))]
    depths = torch.cat([x.render(cameras, 32, FAR).objects.depth for x in alone], 1)
    pure = (view.shares.amax(1, keepdim=True) == 1) & full
    chosen = depths.gather(1, (view.instances - 1).clamp(min=0))
    assert torch.equal(chosen[pure], view.objects.depth[pure])
    assert torch.equal(chosen[pure], depths.amin(1, keepdim=True)[pure])
    overlap = (depths < FAR).sum(1, keepdim=True) > 1
    assert int((pure & overlap).sum()) > 50


def test_the_instance_is_what_covers_most_of_a_pixel():
    view = triples(20).render(around(torch.zeros(20)), 16, FAR)
    everything = torch.cat([1 - view.objects.mask, view.shares], 1)
    assert torch.equal(everything.gather(1, view.instances)[:, 0], everything.amax(1))
    half = (view.objects.mask == 0.5) & (view.shares.amax(1, keepdim=True) == 0.5)
    assert half.any()
    assert (view.instances[half] == 0).all()


def test_removing_an_object_leaves_the_background_and_all_other_pixels():
    scenes, cameras = triples(12), around(torch.linspace(-0.3, 0.3, 12))
    before = scenes.render(cameras, 32, FAR)
    empty = scenes.removed(0).removed(1).removed(2).render(cameras, 32, FAR)
    assert float(empty.objects.mask.max()) == 0
    assert torch.all(empty.objects.depth == FAR)
    nothing = dataclasses.replace(scenes, present=torch.zeros(12, 3, dtype=torch.bool))
    assert torch.equal(nothing.render(cameras, 32, FAR).objects.image, empty.objects.image)
    after = scenes.removed(1).render(cameras, 32, FAR)
    without = (before.shares[:, 1:2] == 0).expand(-1, 3, -1, -1)
    assert torch.equal(after.objects.image[without], before.objects.image[without])
    assert torch.equal(after.objects.depth[without[:, :1]], before.objects.depth[without[:, :1]])
    bare = (after.objects.mask == 0).expand(-1, 3, -1, -1)
    assert int((bare & ~without).sum()) > 100
    assert torch.equal(after.objects.image[bare], empty.objects.image[bare])
    assert torch.all(after.shares[:, 1] == 0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s.turned(0, 2.0),
        lambda s: s.moved(0, torch.tensor([0.2, 0.0, -0.1])),
        lambda s: s.resized(0, 0.7),
    ],
    ids=["turned", "moved", "resized"],
)
def test_edits_change_no_pixel_that_shows_the_object_neither_before_nor_after(edit):
    scenes, cameras = triples(10), around(torch.linspace(-0.3, 0.3, 10))
    kept = [x.clone() for x in (scenes.rotation, scenes.translation, scenes.scale)]
    before, after = (x.render(cameras, 32, FAR) for x in (scenes, edit(scenes)))
    assert all(map(torch.equal, kept, (scenes.rotation, scenes.translation, scenes.scale)))
    without = (before.shares[:, :1] + after.shares[:, :1] == 0).expand(-1, 3, -1, -1)
    assert torch.equal(after.objects.image[without], before.objects.image[without])
    assert float((after.objects.image - before.objects.image)[~without].abs().mean()) > 0.05


def test_resized_objects_stand_at_the_same_height():
    before, after = triples(5), triples(5).resized(1, 0.5)
    torch.testing.assert_close(after.scale[:, 1], 0.5 * before.scale[:, 1])
    bottom = [(x.translation[..., 1] - x.scale) for x in (before, after)]
    torch.testing.assert_close(*bottom)


# Draws


def test_numbers_of_objects_are_equally_frequent():
    for least, most in ((1, 3), (2, 3), (1, 1)):
        count = drawn(300, ScenesConfig(objects_min=least, objects_max=most)).present.sum(1)
        share = torch.bincount(count, minlength=4)[least : most + 1] / 300
        expected = 1 / (most - least + 1)
        assert share.sum() == 1
        torch.testing.assert_close(share, torch.full_like(share, expected), atol=0.11, rtol=0)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_placements_are_within_their_ranges_and_fill_them(most):
    cfg = ScenesConfig(objects_min=most, objects_max=most, rotation_min=-0.6, rotation_max=0.2)
    scenes = drawn(200, cfg)
    x, y, z = scenes.translation.unbind(-1)
    for values, (low, high) in (
        (x, (-cfg.width, cfg.width)),
        (z, (-cfg.width, cfg.width)),
        (scenes.scale, cfg.scale),
        (scenes.rotation, (-0.6, 0.2)),
    ):
        margin = 0.05 * (high - low)
        assert low <= float(values.min()) < low + margin
        assert high - margin < float(values.max()) <= high
    torch.testing.assert_close(y - scenes.scale, torch.full_like(y, -0.5))
    assert float(drawn(200).rotation.abs().max()) > 3.1


def test_objects_do_not_interpenetrate_and_fit_the_box():
    scenes = drawn(30)
    pairs = [(0, 1), (0, 2), (1, 2)]
    flat = scenes.translation[..., [0, 2]]
    for i, j in pairs:
        both = scenes.present[:, i] & scenes.present[:, j]
        distance = (flat[:, i] - flat[:, j]).norm(dim=-1)
        assert (distance > scenes.scale[:, i] + scenes.scale[:, j])[both].all()
    directions = torch.nn.functional.normalize(Draws(0).normal("d", (80, 3)), dim=-1)
    for i in range(3):
        parts = scenes.in_world(i)
        surface = torch.einsum("mpij,nj->mpni", torch.linalg.inv(parts.axes), directions)
        points = (surface + parts.centre[:, :, None]).flatten(1, 2)
        assert float(points[scenes.present[:, i]].abs().amax()) <= 1 + 1e-5
        for j in {0, 1, 2} - {i}:
            both = scenes.present[:, i] & scenes.present[:, j]
            assert float(level_of(scenes.in_world(j), points)[both].amax()) < 0


def test_a_scene_depends_neither_on_their_number_nor_on_the_batch():
    few, many = drawn(4, seed=3), drawn(12, seed=3)
    cameras = around(torch.linspace(-0.2, 0.2, 12))
    together = many.render(cameras, 16, FAR)
    for i in range(4):
        one = torch.tensor([i])
        alone = few.select(one).render(cameras.select(one), 16, FAR)
        assert torch.equal(alone.objects.image[0], together.objects.image[i])
        assert torch.equal(alone.objects.depth[0], together.objects.depth[i])
        assert torch.equal(alone.shares[0], together.shares[i])
    assert not torch.equal(drawn(4, seed=4).rotation, few.rotation)


def test_backgrounds_are_functions_of_the_ray_and_independent_of_the_objects():
    scenes = drawn(300, ScenesConfig())
    cameras = around(torch.linspace(-3, 3, 12), 0.15)
    some = scenes.select(torch.arange(12)).removed(0)
    whole = some.render(cameras, 32, FAR).objects.image
    corner = some.render(cameras.crop(0.25, 0.25, 0.5, 0.5), 16, FAR).objects.image
    differs = (corner - whole[:, :, 8:24, 8:24]).abs() > 1e-3
    assert float(differs.float().mean()) < 0.01  # rays on the edge of a pattern
    backdrops = scenes.backdrops
    assert backdrops is not None
    assert len(backdrops.patterns.unique(dim=0)) == 9
    numbers = [
        scenes.objects[0].colour[:, 0],
        backdrops.floor_colours.flatten(1),
        backdrops.wall_colours.flatten(1),
    ]
    related = torch.corrcoef(torch.cat(numbers, 1).T)
    assert float(related[:3, 3:].abs().max()) < 4 / 300**0.5
    assert float(related[3:9, 9:].abs().max()) < 4 / 300**0.5
    assert float(whole.std((0, 1)).min()) > 0.1


def test_the_floor_is_below_the_horizon_at_the_height_of_the_objects():
    scene = drawn(1, ScenesConfig())
    backdrops = scene.backdrops
    assert backdrops is not None
    plain = backdrops._replace(floor_colours=torch.zeros(1, 2, 3), wall_colours=torch.ones(1, 2, 3))
    patternless = plain._replace(patterns=torch.zeros(1, 2, dtype=torch.long))
    origin, radius = torch.tensor([[0.0, 0.3, 1.0]]), float(backdrops.wall_radius)
    edge = torch.tensor([0.0, -0.5, -radius]) - origin[0]
    dirs = torch.stack([edge + torch.tensor([0.0, dy, 0.0]) for dy in (-0.01, 0.01)])
    dirs = torch.nn.functional.normalize(dirs, dim=-1)[None]
    assert patternless.colours(origin, dirs)[0].tolist() == [[0.0] * 3, [1.0] * 3]


def test_the_densest_options_leave_room():
    scale = 0.4
    for most, spread in ((2, 0.4041), (3, 0.552)):
        cfg = ScenesConfig(most, most, scale, scale, spread)
        assert drawn(25, cfg).present.all()

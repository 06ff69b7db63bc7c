import math

import pytest
import torch
from metric_views import (
    Disturbed,
    change_colour,
    figures,
    flatten_depth,
    scale_depth,
    swap_views,
    turn_pose,
)
from torch.nn.functional import interpolate

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig, FlickerConfig
from lightning_gan3d.metrics.consistency.reprojection import KINDS, all_missing, measure_consistency
from lightning_gan3d.metrics.consistency.ssim import psnr
from lightning_gan3d.metrics.consistency.view_pairs import pair_sums, pairs_apart
from lightning_gan3d.metrics.consistency.warp import carry, on_surface, resize_depth_z, warp

CFG = ConsistencyConfig(items=8, flicker=None)


def measured(source, cfg=CFG):
    return {m.metric.removeprefix("consistency."): m for m in measure_consistency(source, cfg)}


def plane_view(cameras, size):
    """The plane z = 0, coloured by an affine function of x and y: interpolating it is exact."""
    rays = cameras.rays(size)
    t = -rays.origins[..., 2] / rays.dirs[..., 2]
    points = rays.origins + rays.dirs * t[..., None]
    colour = torch.stack([points[..., 0], points[..., 1], points[..., 0] - points[..., 1]], 1) * 0.3
    depth = t.view(-1, 1, size, size)
    return colour.view(-1, 3, size, size), depth


def two_cameras():
    """Two cameras of one orientation, so that the map between their images is affine."""
    cam2world = torch.eye(4).repeat(2, 1, 1)
    cam2world[:, 1, 1] = cam2world[:, 2, 2] = -1  # looks along -z, y up
    cam2world[0, :3, 3] = torch.tensor([0.0, 0.0, 3.0])
    cam2world[1, :3, 3] = torch.tensor([0.3, -0.2, 2.5])
    k = torch.tensor([[1.2, 0.0, 0.5], [0.0, 1.2, 0.5], [0.0, 0.0, 1.0]])
    return Cameras(cam2world, k.repeat(2, 1, 1))


def warped_pair(image, cameras, depth, tolerance=0.02, opaque=None):
    z = cameras.depth_z(depth)
    opaque = torch.ones_like(z, dtype=torch.bool) if opaque is None else opaque
    a, b = slice(0, 1), slice(1, 2)
    return warp(
        image[a], cameras.select(a), z[a], opaque[a], cameras.select(b), z[b], opaque[b], tolerance
    )


def test_an_affine_plane_warps_exactly():
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    found = warped_pair(image, cameras, depth)
    valid = found.valid[0, 0]
    assert 300 < int(valid.sum()) < 24 * 24  # some of the second view lies outside the first
    assert torch.allclose(found.image[0][:, valid], image[1][:, valid], atol=1e-5)
    assert (image[0] - image[1])[:, valid].abs().mean() > 0.02


def test_depth_along_the_ray_taken_for_camera_z_is_noticed():
    """The mistake that is common among peers: off the axis the two differ by the cosine."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    wrong = depth.square() / cameras.depth_z(depth)  # as though `depth` were z
    found = warped_pair(image, cameras, wrong, tolerance=0.5)
    valid = found.valid[0, 0]
    assert (found.image[0] - image[1])[:, valid].abs().max() > 1e-3


def test_points_outside_the_source_are_excluded_not_clamped():
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    found = warped_pair(image, cameras, depth)
    points = cameras.unproject(depth)[1:]
    uv, _ = cameras.select(slice(0, 1)).project(points)
    inside = ((uv * 24 >= 0.5) & (uv * 24 <= 23.5)).all(-1).view(24, 24)
    assert torch.equal(found.valid[0, 0], inside)


def test_what_an_occluder_hides_is_excluded():
    """A square that only the source sees hides a part of the plane from it."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    clear = warped_pair(image, cameras, depth).valid
    hidden = depth.clone()
    hidden[0, :, 8:16, 8:16] *= 0.5
    image[0, :, 8:16, 8:16] = 5.0
    found = warped_pair(image, cameras, hidden)
    assert found.valid.sum() < clear.sum() - 30
    valid = found.valid[0, 0]
    assert torch.allclose(found.image[0][:, valid], image[1][:, valid], atol=1e-5)


def test_the_z_buffer_keeps_the_nearest_of_two_points_on_a_pixel():
    """The source's own depth hides nothing here: only the target's points hide one another."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    depth[0] = 50.0
    both = warped_pair(image, cameras, depth).valid
    near = depth.clone()
    near[1, :, :, ::2] *= 0.7  # every second column of the target lies in front
    found = warped_pair(image, cameras, near).valid
    behind = found[0, 0, :, 1::2].sum() / both[0, 0, :, 1::2].sum()
    assert behind < 0.75
    wide = warped_pair(image, cameras, near, tolerance=0.9).valid
    assert wide[0, 0, :, 1::2].sum() > found[0, 0, :, 1::2].sum()


def test_only_what_both_see_as_foreground_is_compared():
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    opaque = torch.ones_like(depth, dtype=torch.bool)
    opaque[1, :, :12] = False
    assert not warped_pair(image, cameras, depth, opaque=opaque).valid[0, 0, :12].any()
    opaque = torch.ones_like(opaque)
    opaque[0] = False
    assert not warped_pair(image, cameras, depth, opaque=opaque).valid.any()


def test_the_depth_of_a_tilted_plane_is_resized_exactly():
    eye = torch.tensor([[0.8, 0.4, 2.0]])
    cameras = Cameras.look_at(eye, focal=2.0)
    _, low = plane_view(cameras, 16)
    _, high = plane_view(cameras, 48)
    z, _ = resize_depth_z(cameras.depth_z(low), torch.ones_like(low), 48)
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    assert torch.allclose(z[inner], cameras.depth_z(high)[inner], rtol=1e-5)


def test_the_far_background_does_not_pull_the_depth_of_a_silhouette():
    z = torch.full((1, 1, 8, 8), 100.0)
    opacity = torch.zeros(1, 1, 8, 8)
    z[..., 4:] = 2.0
    opacity[..., 4:] = 1.0
    found, alpha = resize_depth_z(z, opacity, 16)
    assert found[alpha > 0.2].max() < 2.001


def test_a_steep_plane_has_no_edges_and_a_step_has_them_on_both_sides():
    eye = torch.tensor([[2.4, 0.4, 1.0]])  # looks along the plane z = 0 rather than at it
    cameras = Cameras.look_at(eye, focal=3.0)
    _, depth = plane_view(cameras, 16)
    z = cameras.depth_z(depth)
    assert (z[..., 1:] / z[..., :-1] - 1).abs().max() > 0.02  # a slope above the tolerance
    assert on_surface(z, 0.02, 16).all()
    for step, edge in ((1.01, False), (1.05, True), (0.95, True)):
        stepped = torch.cat([z[..., :8], z[..., 8:] * step], dim=-1)
        columns = on_surface(stepped, 0.02, 16)[0, 0].all(dim=0)
        assert columns.tolist() == [not (edge and i in (7, 8)) for i in range(16)]
        doubled = on_surface(stepped, 0.02, 32)[0, 0].all(dim=0)
        assert doubled.tolist() == [not (edge and 12 < i < 19) for i in range(32)]


def test_cameras_are_carried_around_the_y_axis():
    start = Cameras.on_sphere(torch.tensor([0.3]), torch.tensor([0.4]), radius=2.0)
    found = carry(start, torch.tensor([-0.2, 0.0, 0.5]))
    expected = Cameras.on_sphere(torch.tensor([0.1, 0.3, 0.8]), torch.full((3,), 0.4), radius=2.0)
    assert torch.allclose(found.cam2world, expected.cam2world, atol=1e-6)
    assert torch.equal(found.intrinsics, expected.intrinsics)


def test_pairs_are_compared_in_both_directions():
    for distance, expected in ((1, [(0, 1), (1, 2), (1, 0), (2, 1)]), (2, [(0, 2), (2, 0)])):
        first, second = pairs_apart(3, distance)
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_psnr_of_a_known_error():
    assert float(psnr(torch.tensor(0.01))) == pytest.approx(20.0)
    assert float(psnr(torch.tensor(0.0))) == pytest.approx(100.0)


def test_errors_are_in_unit_images():
    """Two views from one camera that differ by 0.2 in [-1, 1]: 0.1 in [0, 1], 20 dB."""
    camera = carry(two_cameras().select(slice(0, 1)), torch.zeros(2))
    _, depth = plane_view(camera, 16)
    image = torch.zeros(2, 3, 16, 16)
    image[1] += 0.2
    errors = pair_sums(image, camera, depth, torch.ones_like(depth), 2, 0.02, 0.9)
    assert float(psnr(errors.warped / errors.compared)) == pytest.approx(20.0, abs=1e-3)
    assert errors.compared == errors.shown == 2 * 16 * 16
    assert float(errors.depth_median) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def ceiling():
    return measured(figures())


def test_ground_truth_is_near_the_ceiling(ceiling):
    assert ceiling["gain_raw"].value > 12
    assert ceiling["psnr_raw"].value > 45
    assert ceiling["coverage_raw"].value > 0.35
    assert ceiling["psnr"].n == 8
    assert ceiling["psnr"].unit == "dB"


@pytest.mark.parametrize(
    "change", [scale_depth, flatten_depth, turn_pose, swap_views, change_colour]
)
def test_each_disturbance_lowers_it(ceiling, change):
    found = measured(Disturbed(figures(), change))
    assert found["psnr_raw"].value < ceiling["psnr_raw"].value - 4
    assert found["gain_raw"].value < ceiling["gain_raw"].value - 3


def test_image_and_rendering_are_measured_apart(ceiling):
    """After super-resolution the image has another size; the depth is resized to it."""

    def upsampled(source, items, cameras):
        low = source.views(items, cameras)
        return Images(figures(64).views(items, cameras).image, low.image, low.depth, low.opacity)

    found = measured(Disturbed(figures(), upsampled))
    assert found["psnr_raw"].value == pytest.approx(ceiling["psnr_raw"].value)
    assert found["psnr"].value != found["psnr_raw"].value
    assert found["psnr"].value > 28
    assert found["gain"].value > 8


def enlarged(change=lambda image: image, size=64):
    """A super-resolution that interpolates, and then does `change`."""

    def see(source, items, cameras):
        found = source.views(items, cameras)
        image = interpolate(found.image_raw, (size, size), mode="bilinear", align_corners=False)
        return found._replace(image=change(image))

    return Disturbed(figures(), see)


def test_before_and_after_super_resolution_are_compared_at_one_size(ceiling):
    """Enlarging alone changes the PSNR, and costs nothing against the control."""
    found = measured(enlarged())
    for kind in set(KINDS) - {"lpips"}:
        assert found[f"{kind}_enlarged"].value == found[kind].value
        assert found[f"{kind}_enlarged"].items == found[kind].items
    assert found["psnr_enlarged"].value > found["psnr_raw"].value + 2
    assert "lpips_enlarged" not in found
    assert not any("_enlarged@" in name for name in found)
    assert "enlarged bilinearly" in found["psnr_enlarged"].note
    assert ceiling["psnr_enlarged"].value is None
    assert "the size of the image" in ceiling["psnr_enlarged"].note


def test_what_super_resolution_really_costs_is_seen_against_the_control():
    def noise(image):
        return image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))

    found = measured(enlarged(noise))
    assert found["psnr"].value < found["psnr_enlarged"].value - 10
    assert found["gain"].value < found["gain_enlarged"].value - 5
    assert found["psnr_enlarged"].value == measured(enlarged())["psnr"].value


def test_without_depth_it_is_missing_with_the_reason():
    def without(source, items, cameras):
        return source.views(items, cameras)._replace(depth=None)

    found = measured(Disturbed(figures(), without))
    assert len(found) == 2 * (7 + 4 * 4) + 6
    assert all(m.value is None and "no depth" in m.note for m in found.values())


def test_flicker_is_measured_with_it_unless_left_out():
    """Missing rows without a measurement are those of a measurement without curves."""
    cfg = ConsistencyConfig(items=2, flicker=FlickerConfig(items=2, frames=3))
    found = measure_consistency(figures(), cfg, suffix="_x", curves=False)
    assert [(m.metric, m.unit) for m in all_missing(cfg, "why", "_x")] == [
        (m.metric, m.unit) for m in found
    ]
    assert {"consistency.flicker_x", "consistency.flicker_raw_x"} < {m.metric for m in found}


def test_mist_is_not_covered_by_the_little_that_can_be_compared(ceiling):
    """The upper half of every view is half-transparent: a PSNR of the rest is over half of it."""

    def misty(source, items, cameras):
        found = source.views(items, cameras)
        opacity = found.opacity.clone()
        opacity[:, :, :16] *= 0.5
        return found._replace(opacity=opacity)

    found = measured(Disturbed(figures(), misty))
    assert found["coverage"].value < 0.75 * ceiling["coverage"].value
    assert "opacity >= 0.1" in found["coverage"].note


def test_latents_without_anything_to_compare_are_counted_and_lower_the_coverage(ceiling):
    def first_is_mist(source, items, cameras):
        found = source.views(items, cameras)
        k = len(cameras.cam2world) // len(items)
        share = torch.where(items == 0, 0.5, 1.0).repeat_interleave(k)[:, None, None, None]
        return found._replace(opacity=found.opacity * share)

    found = measured(Disturbed(figures(), first_is_mist))
    assert found["psnr"].n == 7
    assert "nothing to compare in 1 of 8 latents" in found["psnr"].note
    assert found["coverage"].items[0] == 0
    assert found["coverage"].n == 8
    assert "nothing to compare" not in ceiling["psnr"].note


def test_without_foreground_it_is_missing_with_the_reason():
    def transparent(source, items, cameras):
        found = source.views(items, cameras)
        return found._replace(opacity=found.opacity * 0.1)

    found = measured(Disturbed(figures(), transparent))
    shares = {name for name, m in found.items() if name.startswith("coverage")}
    control = {name for name in found if "lpips" in name or "enlarged" in name}
    others = [m for name, m in found.items() if name not in control | shares]
    assert all(m.value is None and "foreground" in m.note for m in others)


def test_images_that_are_not_finite_are_missing_not_a_number():
    def broken(source, items, cameras):
        found = source.views(items, cameras)
        return found._replace(image=found.image * math.nan)

    assert measured(Disturbed(figures(), broken))["psnr"].value is None


def test_it_does_not_depend_on_the_batch(ceiling):
    small = {m.metric: m.value for m in measure_consistency(figures(), CFG, batch=1)}
    assert small["consistency.psnr"] == pytest.approx(ceiling["psnr"].value, rel=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"items": 4},
        {"angle": 0.4},
        {"steps": 1},
        {"tolerance": 0.2},
        {"foreground": 0.4},
    ],
)
def test_each_option_has_an_effect(ceiling, other):
    found = measured(figures(), ConsistencyConfig(**{"items": 8, "flicker": None, **other}))
    assert found["psnr"].value != ceiling["psnr"].value


@pytest.mark.parametrize(
    ("field", "value"),
    [("items", 0), ("angle", 2.0), ("steps", 0), ("tolerance", 0.0), ("foreground", 1.1)],
)
def test_impossible_protocols_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"consistency.{field}={value}") as error:
        ConsistencyConfig(**{field: value})
    assert error.value.field == field


def constant(source, items, cameras):
    found = source.views(items, cameras)
    return found._replace(image=found.image * 0 + 0.3, image_raw=found.image * 0 + 0.3)


def test_without_texture_the_gain_is_undefined_so_that_a_constant_image_cannot_win():
    found = measured(Disturbed(figures(), constant))
    assert found["psnr"].value == pytest.approx(100)
    for name in ("gain", "gain_raw"):
        assert found[name].value is None
        assert "undefined without texture" in found[name].note


def test_a_picture_that_ignores_the_camera_has_texture_and_a_negative_gain():
    def still(source, items, cameras):
        found = source.views(items, source.base(items))
        k = len(cameras.cam2world) // len(items)
        return Images(*(x.repeat_interleave(k, 0) for x in found))

    found = measured(Disturbed(figures(), still))
    assert found["gain"].n == 8
    assert found["gain"].value < -10


def test_latents_without_texture_are_left_out_of_the_gain_and_counted():
    def some(source, items, cameras):
        found = source.views(items, cameras)
        k = len(cameras.cam2world) // len(items)
        plain = (items < 2).repeat_interleave(k)[:, None, None, None]
        image = torch.where(plain, torch.full_like(found.image, 0.3), found.image)
        return found._replace(image=image, image_raw=image)

    found = measured(Disturbed(figures(), some))
    assert found["gain"].n == 6
    assert found["psnr"].n == 8
    assert "2 latents without texture left out" in found["gain"].note
    eager = measured(figures(), ConsistencyConfig(items=8, texture=0.5, flicker=None))
    assert eager["gain"].value is None


def test_depth_that_is_scaled_is_measured_in_the_compared_pixels():
    """Views of a plane from 3 and 2.5 away, the second one's depth a tenth too large."""
    cameras = two_cameras()
    image, depth = plane_view(cameras, 24)
    assert warped_pair(image, cameras, depth).depth_error.max() < 1e-5
    depth[1] *= 1.1
    found = warped_pair(image, cameras, depth, tolerance=0.5)
    valid = found.valid[0, 0]
    # The point is 1.1 * 2.5 from the second camera's plane, hence 3.25 from the first one's.
    assert torch.allclose(found.depth_error[0, 0][valid], torch.tensor(3.25 / 3 - 1), atol=1e-4)
    assert not found.depth_error[0, 0][~valid].any()


def test_depth_errors_and_similarity_are_at_their_ceilings_and_leave_them(ceiling):
    assert ceiling["ssim"].value > 0.95
    assert ceiling["depth_error"].value < 0.005
    assert ceiling["depth_median"].value < 0.003
    found = measured(Disturbed(figures(), scale_depth))
    assert found["ssim"].value < ceiling["ssim"].value - 0.02
    assert found["depth_error"].value > ceiling["depth_error"].value + 0.005
    assert found["depth_median"].value > ceiling["depth_median"].value + 0.005


def test_curves_begin_with_the_neighbours_and_hold_fewer_pixels_as_views_part(ceiling):
    for kind in ("psnr", "ssim", "depth_error", "coverage"):
        for stage in ("", "_raw"):
            assert ceiling[f"{kind}{stage}@0.25"].value == ceiling[f"{kind}{stage}"].value
    shares = [ceiling[f"coverage@{angle}"].value for angle in ("0.25", "0.5", "0.75", "1")]
    assert sorted(shares, reverse=True) == shares
    assert shares[-1] < shares[0] - 0.1
    assert "pairs 0.75 rad apart" in ceiling["psnr@0.75"].note
    without = measure_consistency(figures(), CFG, curves=False)
    assert not any("@" in m.metric for m in without)
    assert without[0] == ceiling["psnr"]


class Mean:
    """Stands in for a perceptual network: the difference of the means of whole images."""

    name = "lpips_of_means"
    protocol = "means"

    def __call__(self, a, b):
        apart = (a.mean(dim=(1, 2, 3)) - b.mean(dim=(1, 2, 3))).abs()
        return apart[:, None, None, None].expand_as(a[:, :1])


def test_a_perceptual_network_sees_differences_at_compared_pixels_alone(ceiling):
    """Where nothing may be compared, both images it is shown hold the target."""
    found = {m.metric: m for m in measure_consistency(figures(), CFG, load=lambda _: Mean())}
    lpips = found["consistency.lpips_of_means"]
    assert lpips.value < 0.02
    assert "means" in lpips.note
    swapped = Disturbed(figures(), swap_views)
    worse = {m.metric: m for m in measure_consistency(swapped, CFG, load=lambda _: Mean())}
    assert worse["consistency.lpips_of_means"].value > 2 * lpips.value
    assert ceiling["lpips"].value is None
    assert "gan3d weights fetch lpips" in ceiling["lpips"].note
    small = {m.metric: m for m in measure_consistency(figures(16), CFG, load=lambda _: Mean())}
    assert "32 pixels" in small["consistency.lpips_of_means"].note


def test_items_are_kept_with_gaps_where_nothing_is_compared():
    def empty_first(source, items, cameras):
        found = source.views(items, cameras)
        shown = (items.repeat_interleave(len(cameras.cam2world) // len(items)) > 0).float()
        return found._replace(opacity=found.opacity * shown.view(-1, 1, 1, 1))

    found = measured(Disturbed(figures(), empty_first))
    for name in ("psnr", "gain", "coverage"):
        row = found[name]
        assert row.items[0] is None
        kept = [x for x in row.items if x is not None]
        assert len(kept) == row.n == len(row.items) - 1
        assert sum(kept) / row.n == pytest.approx(row.value, rel=1e-5)

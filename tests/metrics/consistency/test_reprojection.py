import math

import pytest
import torch
from metric_views import (
    Perturbed,
    change_colour,
    context,
    figures,
    flatten_depth,
    scale_depth,
    swap_views,
    turn_pose,
)
from torch.nn.functional import interpolate

from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig
from lightning_gan3d.metrics.consistency import reprojection
from lightning_gan3d.metrics.consistency.equal_sharpness import KINDS as EQUAL_SHARPNESS
from lightning_gan3d.metrics.consistency.image_similarity import LpipsMap
from lightning_gan3d.metrics.consistency.reprojection import KINDS, measure_consistency

CFG = ConsistencyConfig(items=8, flicker=None)


def measured(source, cfg=CFG, **options):
    metrics = measure_consistency(context(source, consistency=cfg, **options))
    return {m.key.removeprefix("consistency."): m for m in metrics}


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
def test_each_perturbation_lowers_it(ceiling, change):
    metrics = measured(Perturbed(figures(), change))
    assert metrics["psnr_raw"].value < ceiling["psnr_raw"].value - 4
    assert metrics["gain_raw"].value < ceiling["gain_raw"].value - 3


def test_image_and_rendering_are_measured_apart(ceiling):
    """After super-resolution the image has another size; the depth is resized to it."""

    def upsampled(source, items, cameras):
        low = source.views(items, cameras)
        return Images(figures(64).views(items, cameras).image, low.image, low.depth, low.opacity)

    metrics = measured(Perturbed(figures(), upsampled))
    assert metrics["psnr_raw"].value == pytest.approx(ceiling["psnr_raw"].value)
    assert metrics["psnr"].value != metrics["psnr_raw"].value
    assert metrics["psnr"].value > 28
    assert metrics["gain"].value > 8


def enlarged(change=lambda image: image, size=64):
    """A super-resolution that interpolates, and then does `change`."""

    def see(source, items, cameras):
        rendered = source.views(items, cameras)
        image = interpolate(rendered.image_raw, (size, size), mode="bilinear", align_corners=False)
        return rendered._replace(image=change(image))

    return Perturbed(figures(), see)


def test_before_and_after_super_resolution_are_compared_at_one_size(ceiling):
    """Enlarging alone changes the PSNR, and costs nothing against the control."""
    metrics = measured(enlarged())
    for kind in {*KINDS, *EQUAL_SHARPNESS} - {"lpips"}:
        assert metrics[f"{kind}_enlarged"].value == metrics[kind].value
        assert metrics[f"{kind}_enlarged"].items == metrics[kind].items
    assert metrics["psnr_enlarged"].value > metrics["psnr_raw"].value + 2
    assert "lpips_enlarged" not in metrics
    assert not any("_enlarged@" in name for name in metrics)
    assert "enlarged bilinearly" in metrics["psnr_enlarged"].note
    assert ceiling["psnr_enlarged"].value is None
    assert "the size of the image" in ceiling["psnr_enlarged"].note


def test_the_control_isolates_the_cost_of_super_resolution():
    def noise(image):
        return image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))

    metrics = measured(enlarged(noise))
    assert metrics["psnr"].value < metrics["psnr_enlarged"].value - 10
    assert metrics["gain"].value < metrics["gain_enlarged"].value - 5
    assert metrics["psnr_enlarged"].value == measured(enlarged())["psnr"].value


def test_without_depth_it_is_missing_with_the_reason():
    def without(source, items, cameras):
        return source.views(items, cameras)._replace(depth=None)

    metrics = measured(Perturbed(figures(), without))
    assert len(metrics) == 2 * (10 + 4 * 4) + 9
    assert {(k, m.unit) for k, m in metrics.items()} == {
        (k, m.unit) for k, m in measured(figures()).items()
    }
    assert all(m.value is None and "no depth" in m.note for m in metrics.values())


def test_mist_is_not_covered_by_the_little_that_can_be_compared(ceiling):
    """The upper half of every view is half-transparent: a PSNR of the rest is over half of it."""

    def misty(source, items, cameras):
        metrics = source.views(items, cameras)
        opacity = metrics.opacity.clone()
        opacity[:, :, :16] *= 0.5
        return metrics._replace(opacity=opacity)

    metrics = measured(Perturbed(figures(), misty))
    assert metrics["coverage"].value < 0.75 * ceiling["coverage"].value
    assert "opacity >= 0.1" in metrics["coverage"].note


def test_latents_without_anything_to_compare_are_counted_and_lower_the_coverage(ceiling):
    def first_is_mist(source, items, cameras):
        metrics = source.views(items, cameras)
        k = len(cameras.cam2world) // len(items)
        share = torch.where(items == 0, 0.5, 1.0).repeat_interleave(k)[:, None, None, None]
        return metrics._replace(opacity=metrics.opacity * share)

    metrics = measured(Perturbed(figures(), first_is_mist))
    assert metrics["psnr"].n == 7
    assert "nothing to compare in 1 of 8 latents" in metrics["psnr"].note
    assert metrics["coverage"].items[0] == 0
    assert metrics["coverage"].n == 8
    assert "nothing to compare" not in ceiling["psnr"].note


def test_without_foreground_it_is_missing_with_the_reason():
    def transparent(source, items, cameras):
        metrics = source.views(items, cameras)
        return metrics._replace(opacity=metrics.opacity * 0.1)

    metrics = measured(Perturbed(figures(), transparent))
    shares = {name for name, m in metrics.items() if name.startswith("coverage")}
    control = {name for name in metrics if "lpips" in name or "enlarged" in name}
    strict = {name for name in metrics if name.partition("_raw")[0] in EQUAL_SHARPNESS}
    assert metrics["gain"].value == 0
    assert metrics["hidden"].value == 1
    others = [m for name, m in metrics.items() if name not in control | shares | strict]
    assert all(m.value is None and "foreground" in m.note for m in others)


def test_images_that_are_not_finite_are_missing_not_a_number():
    def broken(source, items, cameras):
        rendered = source.views(items, cameras)
        return rendered._replace(image=rendered.image * math.nan)

    assert measured(Perturbed(figures(), broken))["psnr"].value is None


def test_it_does_not_depend_on_the_batch(ceiling):
    small = measured(figures(), batch=1)
    assert small["psnr"].value == pytest.approx(ceiling["psnr"].value, rel=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"items": 4},
        {"angle": 0.4},
        {"steps": 1},
        {"tolerance": 0.2},
        {"foreground": 0.4},
        {"pixels": 16},
        {"depth_pixels": 16},
    ],
)
def test_each_option_has_an_effect(ceiling, other):
    metrics = measured(figures(), ConsistencyConfig(**{"items": 8, "flicker": None, **other}))
    assert metrics["gain"].value != ceiling["gain"].value


@pytest.mark.parametrize(
    ("field", "value"),
    [("items", 0), ("angle", 2.0), ("steps", 0), ("tolerance", 0.0), ("foreground", 1.1)],
)
def test_invalid_options_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(ConsistencyConfig, [f"{field}={value}"])


def constant(source, items, cameras):
    rendered = source.views(items, cameras)
    return rendered._replace(image=rendered.image * 0 + 0.3, image_raw=rendered.image * 0 + 0.3)


def test_without_texture_the_gain_is_undefined_so_that_a_constant_image_cannot_win():
    metrics = measured(Perturbed(figures(), constant))
    assert metrics["psnr"].value == pytest.approx(100)
    for name in ("gain", "gain_raw"):
        assert metrics[name].value is None
        assert "undefined without texture" in metrics[name].note


def test_a_picture_that_ignores_the_camera_has_texture_and_a_negative_gain():
    def still(source, items, cameras):
        metrics = source.views(items, source.base(items))
        k = len(cameras.cam2world) // len(items)
        return Images(*(x.repeat_interleave(k, 0) for x in metrics if x is not None))

    metrics = measured(Perturbed(figures(), still))
    assert metrics["gain"].n == 8
    assert metrics["gain"].value < -10


def test_latents_without_texture_do_not_change_the_gain(ceiling):
    def change(source, items, cameras):
        metrics = source.views(items, cameras)
        k = len(cameras.cam2world) // len(items)
        plain = (items < 2).repeat_interleave(k)[:, None, None, None]
        image = torch.where(plain, torch.full_like(metrics.image, 0.3), metrics.image)
        return metrics._replace(image=image, image_raw=image)

    metrics = measured(Perturbed(figures(), change))
    assert metrics["gain"].value == pytest.approx(ceiling["gain"].value, abs=2)
    eager = measured(figures(), ConsistencyConfig(items=8, texture=0.5, flicker=None))
    assert eager["gain"].value is None


def test_depth_errors_and_similarity_are_at_their_ceilings_and_leave_them(ceiling):
    assert ceiling["ssim"].value > 0.95
    assert ceiling["depth_error"].value < 0.005
    assert ceiling["depth_median"].value < 0.003
    metrics = measured(Perturbed(figures(), scale_depth))
    assert metrics["ssim"].value < ceiling["ssim"].value - 0.02
    assert metrics["depth_error"].value > ceiling["depth_error"].value + 0.005
    assert metrics["depth_median"].value > ceiling["depth_median"].value + 0.005


def test_curves_begin_with_the_neighbours_and_hold_fewer_pixels_as_views_part(ceiling):
    for kind in ("psnr", "ssim", "depth_error", "coverage"):
        for stage in ("", "_raw"):
            assert ceiling[f"{kind}{stage}@0.25"].value == ceiling[f"{kind}{stage}"].value
    shares = [ceiling[f"coverage@{angle}"].value for angle in ("0.25", "0.5", "0.75", "1")]
    assert sorted(shares, reverse=True) == shares
    assert shares[-1] < shares[0] - 0.1
    assert "pairs 0.75 rad apart" in ceiling["psnr@0.75"].note
    without = measured(figures(), curves=False)
    assert not any("@" in key for key in without)
    assert without["psnr"] == ceiling["psnr"]


class Mean(LpipsMap):
    """Stands in for LPIPS: the difference of the means of whole images."""

    network = "ofmeans0"
    protocol = "means"

    def __init__(self):
        pass

    def __call__(self, a, b):
        apart = (a.mean(dim=(1, 2, 3)) - b.mean(dim=(1, 2, 3))).abs()
        return apart[:, None, None, None].expand_as(a[:, :1])


def test_lpips_sees_differences_at_compared_pixels_only(ceiling, monkeypatch):
    """At other pixels, the target fills both of its images."""
    assert ceiling["lpips"].value is None
    assert "gan3d weights fetch lpips" in ceiling["lpips"].note
    monkeypatch.setattr(reprojection, "load_lpips", lambda _: Mean())
    lpips = measured(figures())["lpips_ofmeans0"]
    assert lpips.value < 0.02
    assert "means" in lpips.note
    assert measured(Perturbed(figures(), swap_views))["lpips_ofmeans0"].value > 2 * lpips.value
    assert "32 pixels" in measured(figures(16))["lpips_ofmeans0"].note


def test_items_without_compared_pixels_are_gaps():
    def empty_first(source, items, cameras):
        metrics = source.views(items, cameras)
        shown = (items.repeat_interleave(len(cameras.cam2world) // len(items)) > 0).float()
        return metrics._replace(opacity=metrics.opacity * shown.view(-1, 1, 1, 1))

    metrics = measured(Perturbed(figures(), empty_first))
    for name in ("psnr", "coverage"):
        row = metrics[name]
        assert row.items[0] is None
        kept = [x for x in row.items if x is not None]
        assert len(kept) == row.n == len(row.items) - 1
        assert sum(kept) / row.n == pytest.approx(row.value, rel=1e-5)

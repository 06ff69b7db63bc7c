import math

import pytest
import torch
from metric_views import (
    Labels,
    Perturbed,
    change_colour,
    context,
    figure_labels,
    figures,
    swap_views,
    turn_pose,
)

from lightning_gan3d.cameras import Cameras, Rays
from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.metrics.config import RefitConfig
from lightning_gan3d.metrics.consistency.camera_choice import farthest_first, visible_box
from lightning_gan3d.metrics.consistency.fitted_field import FittedFields, shade, trilinear
from lightning_gan3d.metrics.consistency.refit import measure_refit

CFG = RefitConfig(items=3, iterations=60, rays=256, samples=16, grid=16, resolution=16)
SHORT = {"items": 2, "iterations": 4, "rays": 64, "samples": 8, "grid": 8, "resolution": 12}


def measured(source, cfg=CFG, labels=None):
    metrics = measure_refit(context(source, Labels(labels), refit=cfg))
    return {m.key.removeprefix("refit."): m for m in metrics}


def test_trilinear_weights_reproduce_a_linear_function():
    side, box = 6, 2.0
    centre = (torch.arange(side) + 0.5) / side * box - box / 2
    x, y, z = torch.meshgrid(centre, centre, centre, indexing="ij")
    values = (2 * x - 3 * y + 0.5 * z).flatten()
    points = (torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 1.6
    index, weights = trilinear(points, side, box)
    expected = points @ torch.tensor([2.0, -3.0, 0.5])
    assert torch.allclose((values[index] * weights).sum(1), expected, atol=1e-5)
    assert torch.allclose(weights.sum(1), torch.ones(200), atol=1e-6)


def test_constant_density_gives_the_opacity_of_its_length_for_any_number_of_samples():
    """A ray along z through a box of edge 1.5: length 1.5, opacity 1 - exp(-sigma 1.5)."""
    raw = 1.0
    sigma = 10 * math.log1p(math.exp(raw - 2))
    values = torch.zeros(64, 4)
    values[:, 0] = raw
    values[:, 1:] = 50.0  # white
    fields = FittedFields(values, torch.full((3, 1), -50.0))  # over black
    rays = Rays(torch.tensor([[[0.1, 0.2, 4.0]]]), torch.tensor([[[0.0, 0.0, -1.0]]]))
    for samples in (1, 3, 20):
        result = shade(fields, rays, 1.5, torch.full((1, samples), 0.3))
        assert torch.allclose(
            result, torch.full_like(result, 1 - math.exp(-sigma * 1.5)), atol=1e-6
        )


def test_a_ray_that_misses_the_box_shows_the_background():
    values = torch.full((64, 4), 5.0)
    fields = FittedFields(values, torch.tensor([[0.0], [1.0], [-1.0]]))
    rays = Rays(torch.tensor([[[3.0, 0.2, 4.0]]]), torch.tensor([[[0.0, 0.0, -1.0]]]))
    result = shade(fields, rays, 1.5, torch.full((1, 8), 0.5))
    assert torch.equal(result[0], fields.background.sigmoid())


def test_items_do_not_mix():
    g = torch.Generator().manual_seed(0)
    two = [torch.randn(64, 4, generator=g) * 3 for _ in range(2)]
    both = torch.stack(two, dim=-1).flatten(1)
    rays = Rays(torch.tensor([[[0.1, 0.2, 4.0]]]), torch.tensor([[[0.0, 0.0, -1.0]]]))
    jitter = torch.full((1, 8), 0.5)
    result = shade(FittedFields(both, torch.zeros(3, 2)), rays, 1.5, jitter)
    for i in range(2):
        alone = shade(FittedFields(two[i], torch.zeros(3, 1)), rays, 1.5, jitter)
        assert torch.allclose(result[..., i : i + 1], alone, atol=1e-6)


def test_the_visible_box_is_that_of_the_sphere_which_fills_the_frame():
    focal = 0.5 / math.tan(math.asin(1 / 3.2))
    cameras = Cameras.orbit(5, elevation=0.3, radius=3.2, focal=focal)
    assert visible_box(cameras) == pytest.approx(2.0, abs=1e-5)
    turned = cameras.cam2world @ torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert visible_box(Cameras(turned, cameras.intrinsics)) < 0


def test_selected_cameras_are_spread_and_distinct():
    labels = figure_labels()
    cameras = Cameras.from_label(labels)
    both = cameras.select(farthest_first(cameras, 24)).cam2world
    assert len(both.flatten(1).unique(dim=0)) == 24
    distance = torch.cdist(both[:, :3, 3], both[:, :3, 3]) + torch.eye(24) * 10
    random = labels[:24].view(24, 25)[:, [3, 7, 11]]
    at_random = torch.cdist(random, random) + torch.eye(24) * 10
    assert distance.min() > 3 * at_random.min()


def test_cameras_in_too_few_directions_are_rejected_not_repeated():
    """Twelve cameras, each of 20 images: twelve fitted ones would be the held-out ones."""
    twelve = figure_labels()[:12].repeat(20, 1)
    metrics = measured(figures(), labels=twelve)
    assert all(m.value is None for m in metrics.values())
    assert "24 directions" in metrics["psnr"].note
    assert "there are 12" in metrics["gain"].note
    assert "there are 12" in farthest_first(Cameras.from_label(twelve), 13)
    assert len(farthest_first(Cameras.from_label(twelve), 12).unique()) == 12


def one_colour(source, items, cameras):
    """All views of a latent in one colour, as of a collapsed generator."""
    return source.views(items, cameras)._replace(image=torch.full((len(cameras[0]), 3, 8, 8), 0.3))


def test_items_without_texture_are_excluded_from_the_gain(ceiling):
    cfg = RefitConfig(**SHORT)
    plain = measured(Perturbed(figures(), one_colour), cfg)
    assert plain["psnr"].value > 25
    assert plain["gain"].value is None
    assert "undefined without texture" in plain["gain"].note

    def first(source, items, cameras):
        rendered = source.views(items, cameras)
        k = len(cameras.cam2world) // len(items)
        shown = (items > 0).repeat_interleave(k)[:, None, None, None]
        return rendered._replace(image=torch.where(shown, rendered.image, 0.3))

    gain = measured(Perturbed(figures(), first), cfg)["gain"]
    assert gain.n == 1
    assert gain.items[0] is None
    assert gain.value == pytest.approx(gain.items[1])
    assert "1 latents without texture left out" in gain.note
    assert "left out" not in ceiling["gain"].note


@pytest.fixture(scope="module")
def ceiling():
    return measured(figures())


def test_ground_truth_is_near_the_ceiling(ceiling):
    assert ceiling["psnr"].value > 22.5
    assert ceiling["gain"].value > 5
    assert ceiling["psnr_fit"].value > ceiling["psnr"].value
    assert ceiling["psnr"].n == 3


@pytest.mark.parametrize("change", [turn_pose, swap_views, change_colour])
def test_each_perturbation_lowers_it(ceiling, change):
    metrics = measured(Perturbed(figures(), change))
    assert metrics["psnr"].value < ceiling["psnr"].value - 1
    assert metrics["gain"].value < ceiling["gain"].value - 1
    assert metrics["psnr_fit"].value < ceiling["psnr_fit"].value - 1


def test_it_needs_no_depth_and_is_the_same_again(ceiling):
    def without(source, items, cameras):
        return source.views(items, cameras)._replace(depth=None, opacity=None)

    again = measured(Perturbed(figures(), without))
    assert again["psnr"].value == ceiling["psnr"].value


def test_cameras_that_look_elsewhere_are_named(ceiling):
    assert ceiling["psnr"].value is not None
    cameras = Cameras.from_label(figure_labels(60))
    away = Cameras(cameras.cam2world @ torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])), cameras[1])
    metrics = measured(figures(), labels=away.to_label())
    assert all(m.value is None and "refit.box" in m.note for m in metrics.values())


@pytest.mark.parametrize(
    "other",
    [
        {"items": 3},
        {"views": 8},
        {"resolution": 10},
        {"iterations": 6},
        {"rays": 65},
        {"samples": 12},
        {"grid": 12},
        {"box": 1.6},
    ],
)
def test_each_option_has_an_effect(other):
    values = [measured(figures(), RefitConfig(**{**SHORT, **o}))["psnr"].value for o in ({}, other)]
    assert values[0] != values[1]


def test_texture_decides_which_gains_are_defined():
    cfg = RefitConfig(**SHORT, texture=0.9)
    assert measured(figures(), cfg)["gain"].value is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("items", 0),
        ("views", 1),
        ("resolution", 4),
        ("iterations", 1),
        ("rays", 0),
        ("samples", 1),
        ("grid", 7),
        ("texture", 0.0),
        ("box", -1.0),
    ],
)
def test_invalid_options_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(RefitConfig, [f"{field}={value}"])

"""What neither blur, nor paleness, nor hidden pixels may buy: the deficits of known figures."""

import pytest
import torch
from metric_views import Labels, Perturbed, change_colour, context, figures, turn_pose
from torch.nn.functional import avg_pool2d
from torchvision.transforms.functional import gaussian_blur

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.config import ConsistencyConfig, RefitConfig
from lightning_gan3d.metrics.consistency.reference import known_views
from lightning_gan3d.metrics.consistency.refit import measure_refit
from lightning_gan3d.metrics.consistency.reprojection import measure_consistency

REFIT = RefitConfig(items=4, views=8, iterations=80, rays=256, samples=16, grid=16)
REPROJECTION = ConsistencyConfig(items=12, steps=1, flicker=None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("known")


def refit(source, cache, **options):
    metrics = measure_refit(context(source, refit=REFIT, cache=cache, **options))
    return {m.key.removeprefix("refit."): m for m in metrics}


def reprojection(source, cache, **options):
    metrics = measure_consistency(
        context(source, consistency=REPROJECTION, cache=cache, curves=False, **options)
    )
    return {m.key.removeprefix("consistency."): m for m in metrics}


def imaged(change):
    """Figures with their images changed, and their geometry kept."""

    def see(source, items, cameras):
        views = source.views(items, cameras)
        image = change(views.image)
        return views._replace(image=image, image_raw=image)

    return Perturbed(figures(), see)


BLURRED = imaged(lambda image: gaussian_blur(image, 9, 1.0))
PALE = imaged(lambda image: 0.3 + 0.25 * image)


def test_blur_and_paleness_raise_the_psnr_of_a_refit_and_its_ceiling_alike(cache):
    sharp = refit(figures(), cache, truth=figures())
    assert abs(sharp["deficit"].value) < 1.5
    for source, rise in ((BLURRED, 4), (PALE, 6)):
        cheat = refit(source, cache, truth=figures())
        assert cheat["psnr"].value > sharp["psnr"].value + rise
        assert cheat["ceiling"].value > sharp["ceiling"].value + 0.8 * rise
        assert cheat["deficit"].value > sharp["deficit"].value - 1.5
    tinted = refit(Perturbed(figures(), change_colour), cache, truth=figures())
    assert tinted["deficit"].value > sharp["deficit"].value + 1.5
    assert tinted["deficit"].items == pytest.approx(
        [tinted["ceiling"].items[i] - tinted["psnr"].items[i] for i in range(4)], abs=1e-3
    )


def test_blur_and_paleness_do_not_lower_the_deficit_of_reprojection(cache):
    """The blur is the largest that its gate lets pass."""
    sharp = reprojection(figures(), cache, truth=figures())
    pale = reprojection(PALE, cache, truth=figures())
    assert pale["psnr"].value > sharp["psnr"].value + 10
    assert pale["gain"].value == pytest.approx(sharp["gain"].value, abs=0.1)
    assert pale["deficit"].value == pytest.approx(sharp["deficit"].value, abs=0.2)
    turned = Perturbed(figures(), turn_pose)
    blurred = Perturbed(imaged(lambda image: gaussian_blur(image, 9, 0.6)), turn_pose)
    deficits = [reprojection(s, cache, truth=figures())["deficit"].value for s in (turned, blurred)]
    assert deficits[1] > deficits[0] - 3
    assert deficits[0] > sharp["deficit"].value + 5


def test_coarse_depth_and_half_transparent_detail_do_not_raise_the_gain(cache):
    """Both hide the pixels that are hard to predict, and raise the PSNR of the others."""

    def coarse(source, items, cameras):
        views = source.views(items, cameras)
        return views._replace(
            depth=avg_pool2d(views.depth, 4), opacity=avg_pool2d(views.opacity, 4)
        )

    def hide_detail(source, items, cameras):
        views = turn_pose(source, items, cameras)
        detail = (views.image - gaussian_blur(views.image, 7, 2.0)).abs().mean(1, keepdim=True)
        return views._replace(opacity=torch.where(detail > 0.1, 0.5, 1.0) * views.opacity)

    large = figures(64)
    plain = reprojection(large, cache, truth=large)
    cheat = reprojection(Perturbed(large, coarse), cache, truth=large)
    assert cheat["psnr"].value > plain["psnr"].value + 3
    assert cheat["gain"].value < plain["gain"].value
    turned = reprojection(Perturbed(large, turn_pose), cache, truth=large)
    cheat = reprojection(Perturbed(large, hide_detail), cache, truth=large)
    assert cheat["psnr"].value > turned["psnr"].value + 1
    assert cheat["hidden"].value > turned["hidden"].value + 0.1
    assert cheat["gain"].value < turned["gain"].value


def test_depth_of_a_higher_resolution_is_reduced(cache):
    """The same images over depth of 64 and 128 pixels, of which 32 are used."""

    def finer(source, items, cameras):
        views = figures(128).views(items, cameras)
        return source.views(items, cameras)._replace(depth=views.depth, opacity=views.opacity)

    large = figures(64)
    plain = reprojection(large, cache, truth=large)
    fine = reprojection(Perturbed(large, finer), cache, truth=large)
    assert fine["coverage"].value > plain["coverage"].value + 0.01
    assert fine["hidden"].value == pytest.approx(plain["hidden"].value, abs=0.05)


def test_without_objects_of_the_data_procedural_figures_are_the_ceiling(cache):
    """They fill the box that the cameras see, here half as large and half as far."""
    source = figures()
    labels = source.labels.clone()
    labels[:, [3, 7, 11]] /= 2
    near = context(source, Labels(labels), cache=cache)
    views = known_views(near, torch.arange(2), Cameras.from_label(labels[:2]), 32)
    far = known_views(context(source), torch.arange(2), Cameras.from_label(source.labels[:2]), 32)
    assert torch.allclose(views.image, far.image, atol=1e-3)
    assert torch.allclose(views.depth, far.depth / 2, atol=1e-3)
    with_truth, without = (refit(source, cache, **x) for x in ({"truth": figures()}, {}))
    assert without["ceiling"].value == pytest.approx(with_truth["ceiling"].value, abs=3)


def test_two_sets_of_real_objects_have_no_deficit(cache):
    """Hidden pixels and contrast differ by chance between objects; neither may decide."""
    for first in (0, 12):
        source = Perturbed(
            figures(), lambda source, items, cameras, n=first: source.views(items + n, cameras)
        )
        assert abs(reprojection(source, cache, truth=figures())["deficit"].value) < 4


def test_depth_that_is_not_finite_is_missing_not_a_number(cache):
    broken = Perturbed(
        figures(),
        lambda source, *args: source.views(*args)._replace(
            depth=source.views(*args).depth * torch.nan
        ),
    )
    gain = reprojection(broken, cache)["gain"]
    assert gain.value is None
    assert "not finite" in gain.note

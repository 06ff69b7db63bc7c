"""Amplitudes by Parseval's theorem and by cosines; filters by what they leave."""

import math

import pytest
import torch
from metric_views import SYNTH, figure_labels
from torchvision.transforms.functional import gaussian_blur

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.data.synthetic.synth import SynthObjects
from lightning_gan3d.metrics.consistency.spectrum import Amplitude, amplitude_of, with_amplitude


@pytest.fixture(scope="module")
def views():
    """Two figures from six cameras, in [0, 1]."""
    cameras = Cameras.from_label(figure_labels(12))
    image = SynthObjects(SYNTH).render(torch.arange(12) // 6, cameras, 32).image / 2 + 0.5
    return image.unflatten(0, (2, 6)).transpose(0, 1)


def test_contrast_is_the_deviation_from_the_mean_colour_of_an_item(views):
    deviation = views - views.mean(dim=(0, 3, 4), keepdim=True)
    expected = float(deviation.square().mean().sqrt())
    assert amplitude_of(views).contrast == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("waves", "is_detail"), [(3, False), (7, False), (9, True), (15, True)])
def test_a_cosine_is_detail_above_half_of_nyquists_frequency(waves, is_detail):
    """Cosines of the reflected image: 16 waves over 32 pixels are Nyquist's frequency."""
    x = (torch.arange(32) + 0.5) / 32
    image = 0.5 + 0.2 * torch.cos(2 * math.pi * waves * x).expand(1, 1, 3, 32, 32)
    contrast, detail = amplitude_of(image)
    assert contrast == pytest.approx(0.2 / math.sqrt(2), rel=1e-3)
    assert detail == pytest.approx(contrast if is_detail else 0.0, abs=1e-3)


def test_a_blur_is_matched_by_a_blur(views):
    """The filter finds the Gaussian: the result is the blurred views, up to the clipping."""
    blurred = gaussian_blur(views.flatten(0, 1), 13, 1.2).view_as(views)
    matched = with_amplitude(views, amplitude_of(blurred))
    assert float((matched - blurred).square().mean().sqrt()) < 0.004
    assert float((views - blurred).square().mean().sqrt()) > 0.04


@pytest.mark.parametrize("factor", [0.25, 0.7])
def test_pale_views_are_matched_by_pale_views(views, factor):
    mean = views.mean(dim=(0, 3, 4), keepdim=True)
    pale = mean + factor * (views - mean)
    assert torch.allclose(with_amplitude(views, amplitude_of(pale)), pale, atol=1e-3)


def test_views_are_sharpened_at_most_fourfold(views):
    contrast, detail = amplitude_of(views)
    sharper = amplitude_of(with_amplitude(views, Amplitude(contrast, 1.3 * detail)))
    assert sharper.detail == pytest.approx(1.3 * detail, rel=0.1)
    extreme = amplitude_of(with_amplitude(views, Amplitude(contrast, contrast)))
    assert extreme.detail < 4.1 * detail


def test_views_that_are_not_finite_stay_so(views):
    assert bool(with_amplitude(views, amplitude_of(views * math.nan)).isnan().all())


def test_nothing_bleeds_into_a_mask():
    """A white card on black: blurred within its mask, it stays white."""
    mask = torch.zeros(1, 1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    card = mask.expand(1, 1, 3, 32, 32)
    blurred = gaussian_blur(card[0], 13, 1.5)[None]
    target = amplitude_of(blurred)
    edge = with_amplitude(card, target)[0, 0, 0, 8, 16]
    inside = with_amplitude(card, target, mask)[0, 0, 0, 8, 16]
    assert float(edge) < 0.8
    assert float(inside) > 0.95

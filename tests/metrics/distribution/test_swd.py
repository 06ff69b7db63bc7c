import math

import numpy as np
import pytest
import torch
from metric_views import figure_labels, figures
from torch.nn.functional import interpolate

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.metrics.config import SwdConfig
from lightning_gan3d.metrics.distribution.swd import (
    Descriptors,
    SlicedWasserstein,
    blur,
    describe,
    laplacian_pyramid,
)

CFG = SwdConfig(patches=32, projections=64)


@pytest.fixture(scope="module")
def pictures():
    """Two disjoint sets of 48 pictures of one distribution."""
    labels = figure_labels(96)
    image = figures().render(torch.arange(96) % 40, Cameras.from_label(labels), 32).image
    return image[:48], image[48:]


def distance(a, b, cfg=CFG, seed=0):
    return SlicedWasserstein.of(describe([a], cfg, seed), seed).distance(describe([b], cfg, seed))


def test_equal_sets_are_at_distance_zero_and_others_are_not(pictures):
    a, b = pictures
    assert all(value == 0 for value in distance(a, a).values())
    assert all(value > 0 for value in distance(a, b).values())


def test_batches_do_not_change_it(pictures):
    a, b = pictures
    real = SlicedWasserstein.of(describe([a], CFG))
    whole = real.distance(describe([b], CFG))
    assert real.distance(describe(b.split(7), CFG)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("level", ["mean", "32", "16", "pixels"])
def test_it_grows_with_blur_and_with_brightness(pictures, level):
    a, b = pictures

    def blurred(times):
        image = b
        for _ in range(times):
            image = blur(image)
        return distance(a, image)[level]

    def brighter(by):
        return distance(a, b + by)[level]

    steps = [blurred(0), blurred(1), blurred(3)]
    if level in ("mean", "32"):
        assert steps == sorted(steps)
        assert steps[2] > 3 * steps[0]
    if level != "32":  # a constant is not in the Laplacian levels
        steps = [brighter(0), brighter(-0.2), brighter(-0.4)]
        assert steps == sorted(steps)
        assert steps[2] > 2 * steps[0]


def test_a_known_shift_gives_a_known_distance():
    """Adding a constant d to all images moves a projection by d * sum(direction) / std."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(64, 3, 16, 16, generator=g)
    cfg = SwdConfig(patches=4, projections=32)
    real = SlicedWasserstein.of(describe([a], cfg))
    d = 0.7
    directions = real.tensors["pixels/directions"].unflatten(0, (3, 256)).sum(1)
    expected = (directions * d / real.tensors["pixels/std"][0]).sum(0).abs().mean()
    assert real.distance(describe([a + d], cfg))["pixels"] == pytest.approx(float(expected), 1e-4)


def test_blocks_are_the_wasserstein_distance_of_sorted_values(pictures, monkeypatch):
    a, b = pictures
    exact = distance(a, b)
    monkeypatch.setattr("lightning_gan3d.metrics.distribution.swd.BLOCKS", 200)
    assert distance(a, b)["32"] == pytest.approx(exact["32"], rel=0.1)
    monkeypatch.undo()
    real, fake = describe([a], CFG), describe([b], CFG)
    prepared = SlicedWasserstein.of(real)
    mean, std, directions = (prepared.tensors[f"16/{k}"] for k in ("mean", "std", "directions"))
    x, y = (
        np.sort((((s.level("16") - mean) / std).flatten(1) @ directions).numpy(), axis=0)
        for s in (real, fake)
    )
    assert prepared.distance(fake)["16"] == pytest.approx(float(np.abs(x - y).mean()), rel=1e-3)


def test_each_sets_own_statistics_hide_contrast(pictures):
    a, _ = pictures
    half = a * 0.5
    assert distance(a, half)["16"] > 0.1
    own = distance(a, half, SwdConfig(patches=32, projections=64, normalisation="each"))
    assert own["16"] < 1e-5


def test_options_and_seed_change_the_value(pictures):
    a, b = pictures
    values = {
        distance(a, b, cfg)["mean"]
        for cfg in (
            CFG,
            SwdConfig(patches=16, projections=64),
            SwdConfig(patches=32, projections=32),
            SwdConfig(patches=32, projections=64, coarsest=8),
        )
    }
    values.add(distance(a, b, seed=1)["mean"])
    assert len(values) == 5


@pytest.mark.parametrize(
    ("size", "coarsest", "sides"),
    [(32, 16, [32, 16]), (64, 16, [64, 32, 16]), (33, 16, [33]), (24, 8, [24, 12]), (8, 16, [8])],
)
def test_sides_of_the_pyramid(size, coarsest, sides):
    image = torch.randn(2, 3, size, size)
    levels = laplacian_pyramid(image, coarsest)
    assert list(levels) == sides
    assert [v.shape[-1] for v in levels.values()] == sides


def test_levels_add_up_to_the_image_and_a_constant_one_has_no_details():
    image = torch.randn(2, 3, 32, 32)
    fine, coarse = laplacian_pyramid(image, 16).values()
    zeros = torch.zeros_like(image)
    zeros[:, :, ::2, ::2] = coarse
    assert torch.allclose(fine + blur(zeros, gain=4.0), image, atol=1e-5)
    fine, coarse = laplacian_pyramid(torch.full((1, 3, 32, 32), 0.3), 16).values()
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert fine[inner].abs().max() < 1e-5
    assert torch.allclose(coarse, torch.full_like(coarse, 0.3), atol=1e-5)


def test_unequal_counts_are_rejected(pictures):
    a, b = pictures
    real = SlicedWasserstein.of(describe([a], CFG))
    with pytest.raises(ValueError, match="47 to 48"):
        real.distance(describe([b[:47]], CFG))


def test_whole_images_are_reduced_to_the_coarsest_side(pictures):
    large = interpolate(pictures[0][:4], scale_factor=2.0)
    descriptors = Descriptors(CFG)
    descriptors.add(large)
    assert descriptors.names == ["64", "32", "16", "pixels"]
    assert descriptors.level("pixels").shape == (4, 3, 256)
    assert math.isclose(descriptors.level("64").shape[0], 4 * 32)

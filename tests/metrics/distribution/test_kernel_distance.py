import numpy as np
import pytest
import torch
from cleanfid import fid
from stand_in import InMemory

from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.distribution.kernel_distance import (
    BLOCK,
    mmd,
    subset_distances,
    whole_distance,
)

G = torch.Generator().manual_seed(5)


def normal(n, d=16, shift=0.0):
    return torch.randn(n, d, generator=G, dtype=torch.float64) + shift


def test_the_whole_set_as_one_subset_gives_the_value_of_clean_fid():
    x, y = normal(200), normal(200, shift=0.2)
    expected = fid.kernel_distance(x.numpy(), y.numpy(), num_subsets=1, max_subset_size=200)
    assert mmd(x, y) == pytest.approx(expected, rel=1e-9)
    (distance,) = subset_distances(InMemory(x), InMemory(y), 100, 1000, Draws(0))
    assert float(distance) == pytest.approx(expected, rel=1e-9)


def test_subsets_average_to_the_closed_form_and_are_keyed():
    # E (x.y/d + 1)^3 of normals with equal means m: x.y/d has mean s = |m|^2/d. In one dimension
    # without means: E k = 1 + 3 E (xy)^2 = 4 for both sets, so that the discrepancy is 0; with a
    # deviation of 2: E k = 1 + 3 * 16 and between the sets 1 + 3 * 4, so 4 + 49 - 26 = 27.
    x, y = normal(3000, 1), 2 * normal(3000, 1)
    first, again, other = (
        subset_distances(InMemory(x), InMemory(y), 40, 300, Draws(seed)) for seed in (0, 0, 1)
    )
    assert float(first.mean()) == pytest.approx(27, rel=0.1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique()) == 40


def test_the_whole_set_in_blocks_is_the_plain_estimate():
    x, y = normal(BLOCK + 100), normal(BLOCK // 2, shift=0.1)
    whole = whole_distance(InMemory(x), InMemory(y))
    assert whole.value == pytest.approx(mmd(x, y), rel=1e-9)
    assert whole.low < whole.value < whole.high


@pytest.mark.parametrize("c", [0.5, 0.0])
def test_the_interval_covers_the_truth(c):
    """Fewer than 183 of 200 intervals of 95 % cover the truth with a probability of 2 %.

    Normals in d dimensions with means 0 and c: s = x.y/d has the mean 0, 0 or c^2, the variance
    1/d, (1 + c^2)/d or (1 + 2 c^2)/d, the third central moment 0, 0 or 6 c^2/d^2.
    """
    d, fresh, covered = 16, [], 0
    of_shifted = (1 + c**2) ** 3 + 3 * (1 + c**2) * (1 + 2 * c**2) / d + 6 * c**2 / d**2
    truth = (1 + 3 / d) + of_shifted - 2 * (1 + 3 * (1 + c**2) / d)
    for _ in range(200):
        x, y = normal(100, d), normal(100, d, c)
        whole = whole_distance(InMemory(x), InMemory(y))
        fresh.append(whole.value)
        covered += whole.low <= truth <= whole.high
    assert covered >= 183
    # Unbiased, too: including self-pairs would raise it far above the truth.
    assert np.mean(fresh) == pytest.approx(truth, abs=4 * np.std(fresh) / 200**0.5)


def test_the_interval_is_as_wide_as_fresh_samples_scatter():
    """At 60 images the jackknife is 1.06 times as wide, the bootstrap 1.14 times."""
    x, y = normal(600 * 60, 64), normal(600 * 60, 64, shift=0.3)
    wholes = [
        whole_distance(InMemory(a), InMemory(b))
        for a, b in zip(x.split(60), y.split(60), strict=True)
    ]
    scatter = np.std([whole.value for whole in wholes])
    assert np.mean([whole.deviation for whole in wholes]) == pytest.approx(scatter, rel=0.1)


def test_equal_images_are_at_distance_zero_with_an_interval_of_no_width():
    # Then each average of the kernel over pairs is that of one pair.
    x, y = torch.ones(30, 4, dtype=torch.float64), torch.ones(20, 4, dtype=torch.float64)
    assert whole_distance(InMemory(x), InMemory(y)) == pytest.approx((0, 0, 0, 0), abs=1e-9)

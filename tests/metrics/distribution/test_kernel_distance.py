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
    whole = whole_distance(InMemory(x), InMemory(y), Draws(0), repeats=20)
    assert whole.value == pytest.approx(mmd(x, y), rel=1e-9)
    assert whole.low < whole.value < whole.high


@pytest.mark.parametrize(("scale", "truth"), [(2, 27), (1, 0)])
def test_the_interval_is_as_wide_as_fresh_samples_scatter_and_covers_the_truth(scale, truth):
    """Fewer than 36 of 40 intervals of 95 % cover the truth with a probability of 5 %.

    Between equal distributions the bootstrap is too wide, here by a factor of two, since the first
    term of the statistic's expansion is zero: only check that it is not too narrow.
    """
    fresh, covered, deviations = [], 0, []
    for i in range(40):
        x, y = normal(150, 1), scale * normal(150, 1)
        whole = whole_distance(InMemory(x), InMemory(y), Draws(i), repeats=80)
        fresh.append(whole.value)
        deviations.append(whole.deviation)
        covered += whole.low <= truth <= whole.high
    assert np.mean(deviations) > 0.5 * np.std(fresh)
    if truth:
        assert np.mean(deviations) < 1.5 * np.std(fresh)
    assert covered >= 36
    # Unbiased, too: including self-pairs would raise it far above the truth.
    assert np.mean(fresh) == pytest.approx(truth, abs=4 * np.std(fresh) / 40**0.5)


def test_equal_images_are_at_distance_zero_in_every_repeat():
    # Then each average of the kernel over pairs is that of one pair.
    x, y = torch.ones(30, 4, dtype=torch.float64), torch.ones(20, 4, dtype=torch.float64)
    assert whole_distance(InMemory(x), InMemory(y), Draws(0)) == pytest.approx(
        (0, 0, 0, 0), abs=1e-9
    )

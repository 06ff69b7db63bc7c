import numpy as np
import pytest
import torch
from cleanfid import fid

from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.distribution.feature_store import Held
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
    wanted = fid.kernel_distance(x.numpy(), y.numpy(), num_subsets=1, max_subset_size=200)
    assert mmd(x, y) == pytest.approx(wanted, rel=1e-9)
    (found,) = subset_distances(Held(x), Held(y), 100, 1000, Draws(0))
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_subsets_average_to_the_closed_form_and_are_keyed():
    # E (x.y/d + 1)^3 of normals with equal means m: x.y/d has mean s = |m|^2/d. In one dimension
    # without means: E k = 1 + 3 E (xy)^2 = 4 for both sets, so that the discrepancy is 0; with a
    # deviation of 2: E k = 1 + 3 * 16 and between the sets 1 + 3 * 4, so 4 + 49 - 26 = 27.
    x, y = normal(3000, 1), 2 * normal(3000, 1)
    found = subset_distances(Held(x), Held(y), 40, 300, Draws(0))
    assert float(found.mean()) == pytest.approx(27, rel=0.1)
    assert torch.equal(found, subset_distances(Held(x), Held(y), 40, 300, Draws(0)))
    assert not torch.equal(found, subset_distances(Held(x), Held(y), 40, 300, Draws(1)))
    assert len(found.unique()) == 40


def test_the_whole_set_in_blocks_is_the_plain_estimate():
    x, y = normal(BLOCK + 100), normal(BLOCK // 2, shift=0.1)
    found = whole_distance(Held(x), Held(y), Draws(0), repeats=20)
    assert found.value == pytest.approx(mmd(x, y), rel=1e-9)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("scale", "truth"), [(2, 27), (1, 0)])
def test_the_interval_is_as_wide_as_fresh_samples_scatter_and_covers_the_truth(scale, truth):
    """Of 40 intervals of 95 % fewer than 36 hold the truth with a chance of 5 %.

    Between equal distributions the bootstrap is too wide, by a factor of two here: the first term
    of the statistic's expansion is zero there. So only that it is not too narrow is checked.
    """
    fresh, covered, deviations = [], 0, []
    for i in range(40):
        x, y = normal(150, 1), scale * normal(150, 1)
        found = whole_distance(Held(x), Held(y), Draws(i))
        fresh.append(found.value)
        deviations.append(found.deviation)
        covered += found.low <= truth <= found.high
    assert np.mean(deviations) > 0.5 * np.std(fresh)
    if truth:
        assert np.mean(deviations) < 1.5 * np.std(fresh)
    assert covered >= 36
    # Unbiased also under the bootstrap: leaving self-pairs in would lift it far above.
    assert np.mean(fresh) == pytest.approx(truth, abs=4 * np.std(fresh) / 40**0.5)


def test_equal_images_are_at_distance_zero_in_every_repeat():
    # Each average of the kernel over pairs is that of one pair, if pairs are counted right.
    x, y = torch.ones(30, 4, dtype=torch.float64), torch.ones(20, 4, dtype=torch.float64)
    found = whole_distance(Held(x), Held(y), Draws(0))
    assert found == pytest.approx((0, 0, 0, 0), abs=1e-9)

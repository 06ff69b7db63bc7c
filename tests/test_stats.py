from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from lightning_gan3d.stats import holm, mean_interval, mean_test, why_none


def test_the_interval_is_that_of_the_table_of_t():
    """Mean 2, deviation 1, n = 3: half-width 4.303 / sqrt(3)."""
    low, high = mean_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert mean_interval([5.0] * 4) == (5.0, 5.0)


@pytest.mark.parametrize("n", [3, 5])
def test_it_covers_the_true_mean_at_the_stated_rate(n):
    draws = np.random.default_rng(0).normal(7.0, 2.0, (2000, n))
    held = np.mean([low <= 7 <= high for low, high in map(mean_interval, draws.tolist())])
    assert held == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_fewer_than_three_values_have_none(values):
    assert mean_interval(values) is None
    assert f"from {len(values)} seed" in why_none(len(values))


def test_the_test_agrees_with_scipy():
    rng = np.random.default_rng(1)
    for n in (3, 4, 9):
        values = rng.normal(0.5, 1, n).tolist()
        assert mean_test(values) == pytest.approx(ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert mean_test([1.0, 2.0]) is None
    assert mean_test([5.0] * 4) is None


def test_holm():
    """Worked example: the smallest of four times 4, the next times 3, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_weighted_holm_is_the_closure_of_weighted_bonferroni_tests():
    """p of i: the largest weighted Bonferroni p of any set of hypotheses with i."""
    rng = np.random.default_rng(2)
    p, weights = rng.uniform(0, 0.1, 6).tolist(), rng.uniform(0.1, 3, 6).tolist()

    def bonferroni(members):
        total = sum(weights[j] for j in members)
        return min(1.0, *(total * p[j] / weights[j] for j in members))

    sets = [s for n in range(1, 7) for s in combinations(range(6), n)]
    expected = [max(bonferroni(s) for s in sets if i in s) for i in range(6)]
    assert holm(p, weights) == pytest.approx(expected)


def test_holm_with_other_tests_that_are_never_rejected():
    p = [0.01, 0.02, 0.03]
    assert holm(p) == pytest.approx([0.03, 0.04, 0.04])
    assert holm(p, others=2.0) == pytest.approx([0.05, 0.08, 0.09])
    assert holm([*p, 1.0, 1.0])[:3] == pytest.approx(holm(p, others=2.0))

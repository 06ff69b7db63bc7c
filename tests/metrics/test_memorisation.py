import pytest
import torch

from lightning_gan3d.metrics.distribution.feature_store import Held
from lightning_gan3d.metrics.distribution.memorisation import memorisation, share_below

G = torch.Generator().manual_seed(9)
TRAIN, HELD_OUT = torch.rand(400, 12, generator=G), torch.rand(150, 12, generator=G)


def found(samples, held_out=HELD_OUT):
    return memorisation(Held(samples), Held(TRAIN), Held(held_out))


def test_a_memoriser_is_caught_with_the_images_that_it_repeats():
    repeated = torch.randint(400, (200,), generator=G)
    copies = TRAIN[repeated] + 0.01 * torch.randn(200, 12, generator=G)
    it = found(copies)
    assert it.nearer > 0.99
    assert it.excess == 1
    assert torch.equal(it.samples.indices[:, 0], repeated)
    assert it.distinct == len(repeated.unique())
    assert it.samples.indices.shape == (200, 3)
    assert float(it.samples.distances[:, 0].mean()) == pytest.approx(0.01, rel=0.1)
    some = found(torch.cat([copies[:100], torch.rand(100, 12, generator=G)]))
    assert some.excess == pytest.approx(0.5, abs=0.15)
    assert some.nearer == pytest.approx(0.75, abs=0.05)


def test_fresh_images_are_neutral():
    it = found(torch.rand(2000, 12, generator=G))
    assert it.nearer == pytest.approx(0.5, abs=0.05)
    assert it.excess == pytest.approx(0, abs=0.15)


def test_held_out_images_themselves_are_neutral():
    same = Held(HELD_OUT)
    it = memorisation(same, Held(TRAIN), same)
    assert it.nearer == 0.5
    assert it.excess == pytest.approx(0, abs=0.25)
    copies = found(HELD_OUT + 0.01)
    assert copies.excess < -1  # of the held-out images instead: the other extreme


def test_plain_images_are_near_to_everything_which_the_few_neighbours_betray():
    plain = 0.5 + 0.01 * torch.randn(400, 12, generator=G)
    it = found(plain)
    assert it.nearer > 0.8
    assert it.distinct < 10


def test_the_share_of_pairs_counts_ties_by_half():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0, 0.0])
    # 1 < 2, 1 < 3, not 1 < 0; 2 ties 2, 2 < 3, not 2 < 0.
    assert share_below(a, b) == pytest.approx(3.5 / 6)
    assert share_below(b, a) == pytest.approx(2.5 / 6)
    assert share_below(a, a) == 0.5

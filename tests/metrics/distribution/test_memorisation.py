import pytest
import torch
from stand_in import InMemory

from lightning_gan3d.metrics.distribution.memorisation import memorisation, share_below

G = torch.Generator().manual_seed(9)
TRAIN, HELD_OUT = torch.rand(400, 12, generator=G), torch.rand(150, 12, generator=G)


def compare(samples, held_out=HELD_OUT):
    return memorisation(InMemory(samples), InMemory(TRAIN), InMemory(held_out))


def test_copies_are_detected_with_the_images_that_they_repeat():
    repeated = torch.randint(400, (200,), generator=G)
    copies = TRAIN[repeated] + 0.01 * torch.randn(200, 12, generator=G)
    result = compare(copies)
    assert result.nearer > 0.99
    assert result.excess == 1
    assert torch.equal(result.samples.indices[:, 0], repeated)
    assert result.distinct == len(repeated.unique())
    assert result.samples.indices.shape == (200, 3)
    assert float(result.samples.distances[:, 0].mean()) == pytest.approx(0.01, rel=0.1)
    half = compare(torch.cat([copies[:100], torch.rand(100, 12, generator=G)]))
    assert half.excess == pytest.approx(0.5, abs=0.15)
    assert half.nearer == pytest.approx(0.75, abs=0.05)


def test_fresh_images_are_neutral():
    result = compare(torch.rand(2000, 12, generator=G))
    assert result.nearer == pytest.approx(0.5, abs=0.05)
    assert result.excess == pytest.approx(0, abs=0.15)


def test_held_out_images_themselves_are_neutral():
    same = InMemory(HELD_OUT)
    result = memorisation(same, InMemory(TRAIN), same)
    assert result.nearer == 0.5
    assert result.excess == pytest.approx(0, abs=0.25)
    copies = compare(HELD_OUT + 0.01)
    assert copies.excess < -1  # copies of held-out images: the other extreme


def test_plain_images_are_near_to_everything_but_have_few_different_neighbours():
    plain = 0.5 + 0.01 * torch.randn(400, 12, generator=G)
    result = compare(plain)
    assert result.nearer > 0.8
    assert result.distinct < 10


def test_the_share_of_pairs_counts_ties_half():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0, 0.0])
    # 1 < 2, 1 < 3, not 1 < 0; 2 ties 2, 2 < 3, not 2 < 0.
    assert share_below(a, b) == pytest.approx(3.5 / 6)
    assert share_below(b, a) == pytest.approx(2.5 / 6)
    assert share_below(a, a) == 0.5

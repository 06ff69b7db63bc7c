import pytest
import torch
from stand_in import InMemory

from lightning_gan3d.metrics.distribution import precision_recall as pr
from lightning_gan3d.metrics.distribution.precision_recall import nearest, precision_recall

G = torch.Generator().manual_seed(7)


def normal(n, d=8, shift=0.0, scale=1.0):
    return scale * torch.randn(n, d, generator=G) + shift


def brute_force(real, fake, k):
    """Plain loops in float64, straight from the paper's equations 1 and 2."""

    def on_manifold(points, manifold):
        hits = 0
        for p in points:
            for i, centre in enumerate(manifold):
                others = torch.cat([manifold[:i], manifold[i + 1 :]])
                reach = (others - centre).norm(dim=1).sort().values[k - 1]
                if (p - centre).norm() <= reach:
                    hits += 1
                    break
        return hits / len(points)

    real, fake = real.double(), fake.double()
    return on_manifold(fake, real), on_manifold(real, fake)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_equals_brute_force_in_any_blocks(monkeypatch, shift):
    real, fake = normal(61), normal(47, shift=shift, scale=0.7)
    expected = brute_force(real, fake, 3)
    assert 0 < expected[0] < 1 or 0 < expected[1] < 1
    for block in (10, 1000):
        monkeypatch.setattr(pr, "BLOCK", block)
        monkeypatch.setattr(pr.nearest, "__defaults__", (block,))
        assert precision_recall(InMemory(real), InMemory(fake)) == pytest.approx(expected)


def test_extremes():
    real = normal(200)
    assert precision_recall(InMemory(real), InMemory(normal(100, shift=50.0))) == (0, 0)
    same = precision_recall(InMemory(real), InMemory(real.clone()))
    assert same == (1, 1)
    # One mode of two: high precision, but half of the real images are never generated.
    both = torch.cat([normal(300), normal(300, shift=50.0)])
    one = precision_recall(InMemory(both), InMemory(normal(300)))
    assert one.precision > 0.8
    assert 0.35 < one.recall < 0.5


def test_precision_survives_an_offset():
    real, fake = normal(80), normal(80, scale=0.8)
    near, far = (precision_recall(InMemory(real + x), InMemory(fake + x)) for x in (0, 1000))
    assert far == pytest.approx(near, abs=0.03)


def test_neighbours_are_ascending_and_exclude_the_vector_itself():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    ((d, _),) = nearest(InMemory(line), InMemory(line.clone()), 2)
    assert d[:, 0].tolist() == [0, 0, 0, 0]
    one = InMemory(line)
    blocks = list(nearest(one, one, 2, block=3))
    assert torch.cat([d for d, _ in blocks]).tolist() == [[1, 3], [1, 2], [2, 3], [4, 6]]
    assert torch.cat([w for _, w in blocks]).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_too_few_images_are_rejected():
    with pytest.raises(ValueError, match="more than 3 images"):
        precision_recall(InMemory(normal(3)), InMemory(normal(9)))

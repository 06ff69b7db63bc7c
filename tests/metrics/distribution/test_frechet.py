import numpy as np
import pytest
import torch
from cleanfid import fid
from stand_in import InMemory

from lightning_gan3d.metrics.distribution.frechet import (
    Frechet,
    Moments,
    at_sizes,
    extrapolate,
    infinity_sizes,
    moments,
    moments_of,
)

G = torch.Generator().manual_seed(3)


def distance(a, b):
    return Frechet(a).distance(b)


def features(n, dim, scale=1.0, shift=0.0):
    mix = torch.randn(dim, dim, generator=G, dtype=torch.float64) / dim**0.5
    x = torch.randn(n, dim, generator=G, dtype=torch.float64) @ mix
    return scale * x.relu() + shift


@pytest.mark.parametrize("dim", [16, 128])
def test_full_rank_arrays_give_the_value_of_clean_fid(dim):
    a, b = features(3 * dim, dim), features(4 * dim, dim, 1.3, 0.1)
    expected = fid.frechet_distance(
        a.numpy().mean(0), np.cov(a.numpy().T), b.numpy().mean(0), np.cov(b.numpy().T)
    )
    assert distance(moments_of(a), moments_of(b)) == pytest.approx(expected, rel=1e-6)
    assert distance(moments_of(b), moments_of(a)) == pytest.approx(expected, rel=1e-6)


def gaussian(mean, covariance):
    return Moments(2, torch.tensor(mean).double(), torch.as_tensor(covariance).double())


def test_gaussians_have_their_closed_form():
    # Diagonal ones: sum of (mean gap)^2 + (std gap)^2; rotating both changes nothing.
    a, b = (
        gaussian([0.0, 1.0], torch.diag(torch.tensor([4.0, 1.0]))),
        gaussian([3.0, 1.0], torch.diag(torch.tensor([1.0, 9.0]))),
    )
    assert distance(a, b) == pytest.approx(9 + 1 + 4)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    turned = [Moments(2, turn @ m.mean, turn @ m.scatter @ turn.mT) for m in (a, b)]
    assert distance(*turned) == pytest.approx(14)


def test_fewer_vectors_than_dimensions_are_supported():
    # Both span three of 64 dimensions: the distance is that in three dimensions.
    small_a, small_b = features(40, 3), features(50, 3, 2.0)
    basis = torch.linalg.qr(torch.randn(64, 3, generator=G, dtype=torch.float64))[0]
    expected = distance(moments_of(small_a), moments_of(small_b))
    embedded = distance(moments_of(small_a @ basis.mT), moments_of(small_b @ basis.mT))
    assert embedded == pytest.approx(expected, rel=1e-6)
    x = features(20, 64)
    assert distance(moments_of(x), moments_of(x)) == pytest.approx(0, abs=1e-5)


def test_a_set_is_at_distance_zero_from_itself():
    for n in (20, 300):  # fewer vectors than dimensions, and more
        a = moments_of(features(n, 64))
        assert 0 <= distance(a, a) < 1e-6


def test_streamed_moments_equal_those_of_the_whole_despite_an_offset():
    x = features(1000, 8) + 1e4
    streamed = moments(torch.split(x, 77))
    assert np.allclose(streamed.covariance, np.cov(x.numpy().T), rtol=1e-8)
    assert torch.allclose(streamed.mean, x.mean(0), rtol=1e-14)


def test_sizes_are_prefixes():
    real, fake = features(300, 8), features(700, 8, 1.1)
    frechet = Frechet(moments_of(real))
    points = at_sizes(frechet, InMemory(fake), [100, 512, 600, 700])
    assert [n for n, _ in points] == [100, 512, 600, 700]
    for n, value in points:
        assert value == pytest.approx(frechet.distance(moments_of(fake[:n])), rel=1e-9)


def test_the_extrapolation_removes_the_bias_of_few_images():
    # Fakes and reals of one Gaussian whose moments are known: the true distance is 0.
    dim = 32
    real = gaussian([0.0] * dim, torch.eye(dim))
    errors, plain = [], []
    for _ in range(5):
        fake = torch.randn(4000, dim, generator=G, dtype=torch.float64)
        points = at_sizes(Frechet(real), InMemory(fake), infinity_sizes(500, 4000))
        errors.append(extrapolate(points))
        plain.append(points[-1][1])
    assert abs(np.mean(errors)) < 0.2 * np.mean(plain)
    assert extrapolate([(n, 3 + 40 / n) for n in (10, 20, 50)]) == pytest.approx(3)

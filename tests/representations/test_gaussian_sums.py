"""Sums of Gaussians: against the inverse covariance, by any chunks, and on grids."""

import functools
import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from representations import gaussian_sums
from representations.gaussian_sums import Gaussians, sum_at, sum_layers


def random_gaussians(b=2, n=40, c=2, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.rand, generator=rng, dtype=dtype)
    return Gaussians(
        draw(b, n, 3) - 0.5, 0.02 + 0.2 * draw(b, n, 3), draw(b, n, 4) - 0.5, draw(b, n, c)
    )


def by_covariance(points, gaussians):
    total = torch.zeros(*points.shape[:2], gaussians.values.shape[2], dtype=torch.float64)
    for b, (means, scales, rotations, values) in enumerate(zip(*gaussians, strict=True)):
        turns = torch.from_numpy(Rotation.from_quat(rotations, scalar_first=True).as_matrix())
        covariance = turns @ torch.diag_embed(scales.square()) @ turns.mT
        d = points[b][:, None] - means
        squared = torch.einsum("pni,nij,pnj->pn", d, covariance.inverse(), d)
        total[b] = torch.exp(-squared / 2) @ values
    return total


def test_the_sum_is_that_of_the_covariances(monkeypatch):
    gaussians = random_gaussians()
    points = torch.rand(2, 50, 3, dtype=torch.float64) - 0.5
    expected = by_covariance(points, gaussians)
    assert torch.allclose(sum_at(points, gaussians), expected, atol=1e-12)
    monkeypatch.setattr(gaussian_sums, "PAIRS", 500)  # several chunks, the last one smaller
    assert torch.allclose(sum_at(points, gaussians), expected, atol=1e-12)


def test_tiny_gaussians_keep_their_digits():
    mean = torch.tensor([[[0.43, -0.37, 0.21]]])
    scale = torch.full((1, 1, 3), 1e-4)
    one = Gaussians(mean, scale, torch.tensor([[[1.0, 0, 0, 0]]]), torch.ones(1, 1, 1))
    beside = mean + torch.tensor([1e-4, 0, 0])
    assert float(sum_at(beside, one)) == pytest.approx(math.exp(-0.5), rel=2e-3)


def test_gradients():
    gaussians = random_gaussians(b=1, n=5, c=1)
    points = (torch.rand(1, 7, 3, dtype=torch.float64) - 0.5).requires_grad_()
    inputs = [points, *(x.requires_grad_() for x in gaussians)]
    assert torch.autograd.gradcheck(lambda p, *g: sum_at(p, Gaussians(*g)), inputs)
    assert torch.autograd.gradgradcheck(lambda p: sum_at(p, gaussians), [points])


def test_a_grid_has_the_sums_of_its_points():
    gaussians = random_gaussians(b=1, c=1)._replace(scales=torch.full((1, 40, 3), 0.05).double())
    gaussians.values[0, :5] = 0
    axes = [torch.linspace(-0.6, 0.6, n, dtype=torch.float64) for n in (19, 33, 16)]
    grid = torch.stack(list(sum_layers(gaussians, axes)))
    assert grid.shape == (19, 33, 16)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(1, -1, 3)
    expected = sum_at(points, gaussians).view(grid.shape)
    assert (grid - expected).abs().max() < 3e-3
    assert grid.max() > 0.5
    far = [x + 100 for x in axes]
    assert not torch.stack(list(sum_layers(gaussians, far))).any()


def test_a_block_reads_near_gaussians_only(monkeypatch):
    read = []
    own = gaussian_sums.sum_at
    monkeypatch.setattr(
        gaussian_sums, "sum_at", lambda p, g: read.append(g.means.shape[1]) or own(p, g)
    )
    gaussians = random_gaussians(b=1, c=1)._replace(scales=torch.full((1, 40, 3), 0.02).double())
    list(sum_layers(gaussians, [torch.linspace(-0.5, 0.5, 64, dtype=torch.float64)] * 3))
    assert len(read) == 4**3
    assert sum(read) < 0.1 * 40 * len(read)

import pytest
import torch

from representations.grids import full_precision, sample_plane, sample_volume


def coords_around(num, axes):
    """Points within and outside [-1, 1], at texel borders and far away."""
    g = torch.Generator().manual_seed(0)
    x = 2.6 * torch.rand(2, axes, num, generator=g, dtype=torch.float64) - 1.3
    x[:, :, :3] = torch.tensor([-1.0, 1.0, 9.0])
    return x


def native(volume, coords):
    index = coords.mT[:, None, None]
    return torch.nn.functional.grid_sample(volume, index, align_corners=False)[:, :, 0, 0]


def multilinear(grid, coords):
    """Zero-padded interpolation by its definition: a product of tent functions at each texel."""
    out = grid.new_zeros(*grid.shape[:2], coords.shape[-1])
    weight = 1.0
    for axis, size in enumerate(grid.shape[2:]):
        x = coords[:, grid.ndim - 3 - axis]  # the last axis of the grid is x
        position = ((x + 1) * size - 1) / 2
        tent = (1 - (position[:, None] - torch.arange(size)[:, None]).abs()).clamp_min(0)
        shape = [tent.shape[0], 1, *[1] * (grid.ndim - 2), tent.shape[-1]]
        shape[2 + axis] = size
        weight = weight * tent.reshape(shape)
    out = (grid[..., None] * weight).flatten(2, -2).sum(2)
    return out


@pytest.mark.parametrize("shape", [(5, 4), (4, 5, 6)])
def test_reads_are_multilinear_and_fade_to_zero(shape):
    grid = torch.randn(2, 3, *shape, dtype=torch.float64)
    coords = coords_around(200, len(shape))
    read = sample_plane if len(shape) == 2 else sample_volume
    torch.testing.assert_close(read(grid, coords), multilinear(grid, coords))


def test_slices_read_like_torchs_own_volume_gather():
    volume = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    coords = coords_around(300, 3).requires_grad_()
    weight = torch.randn(2, 3, 300, dtype=torch.float64)
    one = torch.autograd.grad((sample_volume(volume, coords) * weight).sum(), (volume, coords))
    two = torch.autograd.grad((native(volume, coords) * weight).sum(), (volume, coords))
    torch.testing.assert_close(one[0], two[0])
    inner = coords.detach().abs().amax(1) < 1.1  # at the kinks either slope will do
    inner[:, :3] = False
    torch.testing.assert_close(one[1].mT[inner], two[1].mT[inner])


def test_other_layouts_and_large_volumes_are_read_by_torch():
    coords = coords_around(50, 3).float()
    volume = torch.randn(2, 4, 3, 5, 6).transpose(1, 2)
    torch.testing.assert_close(sample_volume(volume, coords), native(volume, coords))
    tall = torch.randn(2, 1, 80, 64, 2)
    torch.testing.assert_close(sample_volume(tall, coords), native(tall, coords))


def test_a_volume_at_the_limit_is_addressed_precisely():
    volume = torch.randn(2, 1, 64, 64, 4)
    coords = coords_around(4000, 3)
    exact = native(volume.double(), coords)
    torch.testing.assert_close(
        sample_volume(volume, coords.float()), exact.float(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("axes", [2, 3])
def test_reads_are_twice_differentiable(axes):
    grid = torch.randn(1, 2, *[4] * axes, dtype=torch.float64, requires_grad=True)
    coords = (coords_around(6, axes)[:1, :, 3:] * 0.6).requires_grad_()
    read = sample_plane if axes == 2 else sample_volume
    assert torch.autograd.gradcheck(read, (grid, coords))
    assert torch.autograd.gradgradcheck(read, (grid, coords))


def test_sixteen_bit_grids_are_read_at_full_coordinates():
    coords = coords_around(50, 2).float()
    plane = torch.randn(2, 3, 8, 8).half()
    assert torch.equal(sample_plane(plane, coords), sample_plane(plane.float(), coords))


def test_half_precision_is_stored_in_full():
    assert full_precision(torch.ones(1, dtype=torch.bfloat16)).dtype is torch.float32
    assert full_precision(torch.ones(1, dtype=torch.float64)).dtype is torch.float64

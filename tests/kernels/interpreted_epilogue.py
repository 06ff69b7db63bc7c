"""Run by test_epilogue.py in a process of its own, where an interpreter stands in for a GPU."""

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.kernels.epilogue import epilogue
from lightning_gan3d.networks.resample import fir as plain_fir


def inputs(fir, channels, per_image, dtype):
    g = torch.Generator().manual_seed(0)
    size = (5, 7)
    x = torch.randn(2, channels, size[0] + fir, size[1] + fir, generator=g)
    x = x.to(dtype, memory_format=torch.channels_last)
    noise = torch.randn(*((2, 1) if per_image else ()), *size, generator=g)
    demod = torch.rand(2, channels, generator=g) + 0.5
    bias, strength = torch.randn(channels, generator=g), torch.tensor(0.7)
    return [y.requires_grad_() for y in (x, demod, bias, strength)], noise


def plain(x, demod, bias, strength, noise, clamp, fir):
    y = plain_fir(x.float(), 1, gain=2.0) if fir else x.float()
    y = y * demod[..., None, None] + bias[:, None, None]
    if noise is not None:
        y = y + noise * strength
    y = F.leaky_relu(y, 0.2)
    return y if clamp is None else y.clamp(-clamp, clamp)


@pytest.mark.parametrize(
    ("fir", "channels", "per_image", "clamp", "dtype", "bound"),
    [
        (False, 6, False, None, torch.float32, 1e-5),
        (True, 70, True, 0.8, torch.float32, 1e-5),
        (True, 6, None, 1.5, torch.float16, 4e-3),
        (False, 6, True, 1.5, torch.bfloat16, 3e-2),
    ],
)
def test_it_is_the_operations_of_torch(fir, channels, per_image, clamp, dtype, bound):
    leaves, noise = inputs(fir, channels, bool(per_image), dtype)
    if per_image is None:
        noise, leaves = None, leaves[:3]
    strength = leaves[3] if noise is not None else None
    found = epilogue(*leaves[:3], noise, strength, clamp, fir)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = plain(*leaves[:3], strength, noise, clamp, fir)
    torch.testing.assert_close(found.float(), wanted, atol=bound, rtol=bound)
    g = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    mine = torch.autograd.grad(found, leaves, g)
    # Of the output as stored, for rounding may cross the clamp.
    theirs = torch.autograd.grad(wanted, leaves, g.float() * (found.float().abs() < (clamp or 9e9)))
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        error = (a.float() - b.float()).abs().max() / b.float().abs().max()
        assert error < bound, error


def test_noise_is_refused_where_it_could_not_be_served():
    (x, demod, bias, strength), noise = inputs(False, 3, False, torch.float32)
    with pytest.raises(ValueError, match="both or neither"):
        epilogue(x, demod, bias, noise)
    with pytest.raises(ValueError, match="detach"):
        epilogue(x, demod, bias, noise.requires_grad_(), strength)

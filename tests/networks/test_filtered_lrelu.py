import dataclasses

import numpy as np
import pytest
import torch

from lightning_gan3d.networks.filtered_lrelu import FilteredActivation, filtered_lrelu


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def along_axes(x, function):
    return np.apply_along_axis(function, 1, np.apply_along_axis(function, 0, x))


def by_definition(x, bias, a):
    """One channel, in NumPy, step by step as the paper describes it."""
    y = x + bias
    spread = np.zeros((y.shape[0] * a.up, y.shape[1] * a.up))
    spread[:: a.up, :: a.up] = y
    wide = np.pad(spread, [tuple(max(p, 0) for p in a.padding)] * 2)
    first, last = (max(-p, 0) for p in a.padding)
    y = wide[first : wide.shape[0] - last, first : wide.shape[1] - last]
    y = along_axes(y, lambda row: np.convolve(row, a.up * a.up_filter.numpy(), "valid"))
    y = np.clip(a.gain * np.where(y > 0, y, a.slope * y), -a.clamp, a.clamp)
    if a.down_filter is not None and a.down_filter.ndim == 2:
        f = a.down_filter.numpy()[::-1, ::-1]
        windows = np.lib.stride_tricks.sliding_window_view(y, f.shape)
        y = (windows * f).sum((2, 3))
    elif a.down_filter is not None:
        y = along_axes(y, lambda row: np.convolve(row, a.down_filter.numpy(), "valid"))
    return y[:: a.down, :: a.down]


CASES = [
    FilteredActivation(torch.ones(1), clamp=1.5),
    FilteredActivation(numbers(12), numbers(12, seed=1), 2, 2, (9, 8), clamp=1.5),
    FilteredActivation(numbers(24), numbers(12, seed=1), 4, 2, (-6, -9), clamp=8.0),
    FilteredActivation(numbers(7), numbers(9, 9, seed=1), 2, 4, (11, -2), 0.7, 0.3, 9.0),
    FilteredActivation(numbers(3), numbers(5, seed=1), 1, 1, (3, 0), clamp=2.0),
    FilteredActivation(numbers(5), None, 4, 4, (0, 1), clamp=2.0),
]


def double(a):
    filters = (None if f is None else f.double() for f in (a.up_filter, a.down_filter))
    return dataclasses.replace(a, **dict(zip(("up_filter", "down_filter"), filters, strict=True)))


@pytest.mark.parametrize("a", CASES)
def test_the_plain_path_follows_the_definition(a):
    a, x, bias = double(a), numbers(2, 3, 13, 14).double(), numbers(3, seed=5).double()
    y = filtered_lrelu(x, bias, a)
    for n, c in np.ndindex(2, 3):
        expected = by_definition(x[n, c].numpy(), float(bias[c]), a)
        torch.testing.assert_close(y[n, c], torch.from_numpy(expected))
        assert y.shape[2:] == (a.size(13)[1], a.size(14)[1])


@pytest.mark.parametrize("a", CASES[:4])
def test_gradients_equal_finite_differences(a):
    x, bias = numbers(1, 2, 13, 14).double(), numbers(2, seed=5).double()
    a = dataclasses.replace(double(a), clamp=None)
    torch.autograd.gradcheck(
        lambda x, b: filtered_lrelu(x, b, a), (x.requires_grad_(), bias.requires_grad_())
    )


def test_invalid_filters_and_sizes_are_rejected():
    one = torch.ones(1)
    with pytest.raises(AssertionError, match="1-D or a square"):
        FilteredActivation(one, numbers(3, 4))
    with pytest.raises(AssertionError, match="2 pixels are too few"):
        filtered_lrelu(numbers(1, 1, 2, 2), numbers(1), FilteredActivation(one, numbers(5)))

import itertools

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.networks import resample
from lightning_gan3d.networks.resample import FIR_TAPS, downsample, fir, resize, upsample


def slow_filter(x, pad, stride, gain):
    """[1, 3, 3, 1] / 8 per axis, sample by sample."""
    dims = x.ndim - 2
    sizes = [(n + 2 * pad - 4) // stride + 1 for n in x.shape[2:]]
    out = x.new_zeros(*x.shape[:2], *sizes)
    for at in itertools.product(*map(range, sizes)):
        for tap in itertools.product(range(4), repeat=dims):
            source = [stride * a + t - pad for a, t in zip(at, tap, strict=True)]
            if all(0 <= s < n for s, n in zip(source, x.shape[2:], strict=True)):
                weight = gain**dims
                for t in tap:
                    weight *= FIR_TAPS[t]
                out[(..., *at)] += weight * x[(..., *source)]
    return out


def zeros_between(x):
    for axis in range(2, x.ndim):
        x = torch.stack([x, torch.zeros_like(x)], dim=axis + 1).flatten(axis, axis + 1)
    return x


@pytest.fixture(params=["matrix", "convolution"])
def _path(request, monkeypatch):
    monkeypatch.setattr(resample, "SMALL", 64 if request.param == "matrix" else 0)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)])
def test_filter_matches_slow_reference(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(fir(x, 2, 1, 1.5), slow_filter(x, 2, 1, 1.5))
    torch.testing.assert_close(fir(x, 1, 2), slow_filter(x, 1, 2, 1.0))
    slow_up = slow_filter(zeros_between(x), 2, 1, 2.0)[(..., *[slice(0, -1)] * len(size))]
    torch.testing.assert_close(upsample(x), slow_up)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("dims", [2, 3])
def test_filters_keep_constants_inside(dims):
    x = torch.ones(1, 2, *[8] * dims)
    inner = (..., *[slice(2, -2)] * dims)
    for y in (fir(x, 2), upsample(x), downsample(x)):
        torch.testing.assert_close(y[inner], torch.ones_like(y[inner]))


@pytest.mark.usefixtures("_path")
def test_resampling_aligns_pixel_areas():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    up, down = upsample(ramp)[0, 0], downsample(ramp)[0, 0]
    torch.testing.assert_close(up[8, 2:-2], (torch.arange(32.0)[2:-2] - 0.5) / 2)
    torch.testing.assert_close(down[4, 1:-1], torch.arange(8.0)[1:-1] * 2 + 0.5)
    torch.testing.assert_close(upsample(ramp.mT), upsample(ramp).mT)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("dims", [2, 3])
def test_downsampling_is_the_adjoint_of_upsampling(dims):
    x = torch.randn(1, 2, *[5] * dims, dtype=torch.float64)
    y = torch.randn(1, 2, *[10] * dims, dtype=torch.float64)
    torch.testing.assert_close((upsample(x) * y).sum(), 2**dims * (x * downsample(y)).sum())


def test_a_filter_cached_in_inference_mode_can_train():
    x = torch.randn(1, 1, 11, 13, requires_grad=True)
    with torch.inference_mode():
        fir(x, 2, gain=1.25)
    fir(x, 2, gain=1.25).square().sum().backward()
    assert x.grad is not None


def test_resize_antialiases_shrinking_axes_only():
    x = torch.randn(1, 3, 12, 12)
    assert resize(x, 12) is x
    reference = F.interpolate(x, (24, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(x, 24), reference)
    reference = F.interpolate(x, (5, 5), mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(x, 5), reference)
    assert (resize(x, 5, antialias=False) - reference).abs().max() > 0.1
    assert resize(x, (6, 24)).shape == (1, 3, 6, 24)

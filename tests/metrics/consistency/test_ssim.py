import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lightning_gan3d.metrics.consistency.image_similarity import psnr, ssim_map


def images(num=3, size=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(num, 3, size, size, generator=g)
    return a, (a + 0.2 * torch.randn(a.shape, generator=g)).clamp(0, 1)


def everywhere(a):
    return torch.ones_like(a[:, :1], dtype=torch.bool)


def mean_ssim(a, b, valid):
    result, counts = ssim_map(a, b, valid)
    return result[counts].mean()


@pytest.mark.parametrize("size", [11, 16, 40])
def test_with_all_pixels_it_is_the_usual_ssim(size):
    """Torchmetrics mirrors the borders, which does not affect windows inside the image."""
    a, b = images(size=size)
    _, full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    result, counts = ssim_map(a, b, everywhere(a))
    assert counts.all()
    assert torch.allclose(result, full[..., 5 : size - 5, 5 : size - 5].mean(dim=1), atol=1e-5)


def test_psnr_is_the_usual_one():
    a, b = images()
    expected = peak_signal_noise_ratio(a, b, data_range=1.0)
    assert float(psnr((a - b).square().mean())) == pytest.approx(float(expected), abs=1e-4)


def test_equal_images_have_one_and_opposite_ones_less_than_none():
    a, _ = images()
    valid = everywhere(a)
    assert float(mean_ssim(a, a, valid)) == pytest.approx(1.0, abs=1e-5)
    assert float(mean_ssim(a, 1 - a, valid)) < 0


@pytest.mark.parametrize("value", [0.0, 1e3, float("nan")])
def test_invalid_pixels_have_no_effect(value):
    a, b = images()
    valid = everywhere(a)
    valid[..., 9:13] = False
    before = mean_ssim(a, b, valid)
    b = torch.where(valid, b, value)
    assert float(mean_ssim(a, b, valid)) == pytest.approx(float(before), abs=1e-6)


def test_windows_are_weighted_by_their_valid_pixels():
    """Against sums written out for one window: the one around the middle of an 11 x 11 image."""
    a, b = (x.double() for x in images(num=1, size=11))
    valid = torch.rand(1, 1, 11, 11, generator=torch.Generator().manual_seed(3)) < 0.7
    valid[..., 5, 5] = True
    d = torch.arange(11, dtype=torch.float64) - 5
    w = torch.exp(-(d[:, None] ** 2 + d[None] ** 2) / (2 * 1.5**2)) * valid[0, 0]
    w = w / w.sum()
    expected = []
    for x, y in zip(a[0], b[0], strict=True):
        mx, my = (w * x).sum(), (w * y).sum()
        vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
        cov = (w * (x - mx) * (y - my)).sum()
        c1, c2 = 1e-4, 9e-4
        expected.append(
            (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        )
    result, counts = ssim_map(a, b, valid)
    assert result.shape == (1, 1, 1)
    assert bool(counts)
    assert float(result) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-9)


def test_windows_count_if_centre_and_half_of_the_weight_are_valid():
    a, b = images(num=1, size=21)
    valid = everywhere(a)
    valid[..., :10] = False  # the centre of column 10 keeps a little more than half
    _, counts = ssim_map(a, b, valid)
    assert counts[0].any(dim=0).tolist() == [False] * 5 + [True] * 6
    lonely = torch.zeros_like(valid)
    lonely[..., 10, 10] = True
    assert not ssim_map(a, b, lonely)[1].any()


def test_images_smaller_than_a_window_have_none():
    a, b = images(size=10)
    result, counts = ssim_map(a, b, everywhere(a))
    assert result.numel() == counts.numel() == 0

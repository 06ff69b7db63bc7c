import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.networks.augment import (
    SYM6,
    Augment,
    AugmentConfig,
    colour,
    geometry,
    transform,
)
from lightning_gan3d.networks.resample import resize


def make(p):
    return Augment(AugmentConfig(mode="fixed", probability=p))


def smooth(n, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 5, 5, generator=generator)
    return F.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


def identity(n, dtype=torch.float32):
    return torch.eye(3, dtype=dtype).expand(n, 3, 3), torch.eye(3, 4, dtype=dtype).expand(n, 3, 4)


def numbers(n, seed=0):
    draws = Draws(seed=seed)
    return (
        draws.uniform("g", (n, 12)),
        draws.normal("g", (n, 4)),
        draws.uniform("c", (n, 7)),
        draws.normal("c", (n, 3)),
    )


def test_filter_is_orthonormal_to_its_even_shifts():
    h = torch.tensor(SYM6, dtype=torch.float64)
    assert h.sum().item() == pytest.approx(math.sqrt(2))
    products = [(h[2 * k :] * h[: 12 - 2 * k]).sum().item() for k in range(6)]
    assert products == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-9)
    signs = (-1.0) ** torch.arange(12)
    moments = [(h * signs * torch.arange(12.0) ** k).sum().item() for k in range(6)]
    assert moments == pytest.approx([0] * 6, abs=1e-6)


@pytest.mark.parametrize("raw", [8, 16, 7])
def test_probability_0_changes_nothing(raw):
    images = Images(torch.randn(4, 3, 16, 16), torch.randn(4, 3, raw, raw))
    out = make(0.0)(images, Draws(seed=0))
    torch.testing.assert_close(out.image, images.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.image_raw, images.image_raw, atol=1e-4, rtol=0)
    assert Augment(AugmentConfig())(images, Draws(seed=0)) is images


def test_image_and_raw_image_are_transformed_alike():
    image = smooth(6, 64)
    out = make(0.9)(Images(image, image.clone()), Draws(seed=1))
    assert torch.equal(out.image, out.image_raw)
    assert (out.image - image).abs().mean() > 0.3
    # The same at another size: warped small is warped large, then reduced.
    out = make(0.9)(Images(image, resize(image, 32)), Draws(seed=1))
    error = (resize(out.image, 32) - out.image_raw)[..., 4:-4, 4:-4].abs().mean()
    assert error < 0.05
    other = make(0.9)(Images(image, resize(image, 32)), Draws(seed=2))
    assert (resize(out.image, 32) - other.image_raw).abs().mean() > 0.3


def test_draws_key_the_transforms():
    images = Images(smooth(1, 16).repeat(3, 1, 1, 1), smooth(1, 8).repeat(3, 1, 1, 1))
    pipeline = make(0.8)
    out = pipeline(images, Draws(seed=0, step=4))
    assert torch.equal(pipeline(images, Draws(seed=0, step=4)).image, out.image)
    assert not torch.equal(pipeline(images, Draws(seed=0, step=5)).image, out.image)
    assert not torch.allclose(out.image[0], out.image[1])


def test_depth_is_dropped():
    depth = torch.rand(2, 1, 8, 8)
    images = Images(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), depth, depth)
    out = make(0.5)(images, Draws(seed=0))
    assert out.depth is None
    assert out.opacity is None


def test_warps_move_pixels_as_computed_by_hand():
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    warp, colours = identity(1, torch.float64)
    moved = warp.clone()
    moved[0, :2, 2] = torch.tensor([3, -2]) * 2 / 16  # reads 3 pixels right, 2 up
    y = transform(x, moved, colours)
    torch.testing.assert_close(y[..., 2:, :13], x[..., :14, 3:])
    # Beyond the border, its mirror image.
    torch.testing.assert_close(y[..., 4:, 13], x[..., 2:14, 15], atol=0.5, rtol=0)
    x = smooth(1, 16).double()
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]], dtype=torch.float64)
    y = transform(x, turned, colours)
    torch.testing.assert_close(y, x.rot90(1, (2, 3)), atol=0.3, rtol=0)
    assert (y - x.rot90(1, (2, 3))).square().mean().sqrt() < 0.05


def test_images_are_reflected_beyond_the_border():
    x = smooth(1, 32).double()
    warp, colours = identity(1, torch.float64)
    moved = warp.clone()
    moved[0, 0, 2] = 20 * 2 / 32  # reads 20 pixels right
    y = transform(x, moved, colours)[..., 16:]
    assert (y - x[..., 12:28].flip(3)).abs().mean() < 0.02
    moved[0, 0, 2] = -20 * 2 / 32
    y = transform(x, moved, colours)[..., :16]
    assert (y - x[..., 4:20].flip(3)).abs().mean() < 0.02


def test_ranges_of_geometry_without_mirroring():
    u, n, _, _ = numbers(2000)
    warp = geometry(u, n, torch.tensor(1.0), 32)
    assert (torch.linalg.det(warp) > 0).all()
    assert torch.equal(geometry(u, n, torch.tensor(0.0), 32), torch.eye(3).expand(2000, 3, 3))
    # The determinant is the squared isotropic scale: log2 has deviation 2 * 0.2.
    assert torch.linalg.det(warp).log2().std().item() == pytest.approx(0.4, rel=0.1)
    angles = torch.atan2(warp[:, 1, 0], warp[:, 0, 0])
    counts = torch.histc(angles, 8, -math.pi, math.pi)
    assert counts.min() > 180  # every direction
    at = torch.tensor(0.3)
    same = (geometry(u, n, at, 32) == torch.eye(3)).all(dim=(1, 2)).float().mean().item()
    # Of seven coins, both rotations' together have one probability; 1 in 4 quarter turns is none.
    expected = (1 - 0.3 * 0.75) * (1 - 0.3) ** 5
    assert same == pytest.approx(expected, abs=0.04)


def test_whole_translations_are_whole_pixels():
    u, n, _, _ = numbers(500)
    u[:, 0], u[:, 2:7] = 1.0, 1.0  # only that coin falls
    shift = geometry(u, n, torch.tensor(0.999), 32)[:, :2, 2] * 16
    torch.testing.assert_close(shift, shift.round())
    assert shift.abs().max().item() == pytest.approx(4)


def test_colour_maps_are_affine_and_keep_grey():
    _, _, u, n = numbers(2000)
    maps = colour(u, n, torch.tensor(1.0))
    grey = maps[:, :, :3].sum(2)
    torch.testing.assert_close(grey, grey[:, :1].expand(-1, 3), atol=1e-5, rtol=1e-5)
    assert (grey[:, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)  # luma reversed
    assert torch.allclose(colour(u, n, torch.tensor(0.0)), torch.eye(3, 4), atol=1e-6)
    offset = colour(u, n, torch.tensor(0.3))[:, 0, 3]
    assert (offset != 0).float().mean().item() == pytest.approx(0.3, abs=0.04)
    only = u.clone()
    only[:, 1:5] = 1.0
    offset = colour(only, n, torch.tensor(0.999))[:, 0, 3]
    assert offset[u[:, 0] < 0.999].std().item() == pytest.approx(0.2, rel=0.1)


def test_hue_rotates_about_the_grey_axis():
    u, n = torch.ones(1, 7), torch.zeros(1, 3)
    u[:, 3], u[:, 6] = 0.0, 5 / 6  # a third of a turn: red to green
    maps = colour(u, n, torch.tensor(0.999))[0, :, :3]
    turned = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(maps, turned, atol=1e-5, rtol=0)


def test_differentiates_twice():
    pipeline = make(0.9).double()
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    raw = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def squared(image, raw):
        out = pipeline(Images(image, raw), Draws(seed=0))
        return out.image.square(), out.image_raw.square()

    assert torch.autograd.gradcheck(squared, (image, raw), fast_mode=True)
    assert torch.autograd.gradgradcheck(squared, (image, raw), fast_mode=True)


def test_probability_adapts():
    pipeline = Augment(AugmentConfig(mode="ada", target=0.6, speed_kimg=10.0))
    assert pipeline.p == 0
    pipeline.update(torch.tensor(0.9), num_images=1000)
    assert pipeline.p.item() == pytest.approx(0.1)
    pipeline.update(torch.tensor(0.2), num_images=500)
    assert pipeline.p.item() == pytest.approx(0.05)
    pipeline.update(torch.tensor(-1.0), num_images=5000)
    assert pipeline.p == 0
    pipeline.update(torch.tensor(1.0), num_images=20_000)
    assert pipeline.p == 2  # no ceiling, as ADA
    images = Images(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4))
    assert all(x.isfinite().all() for x in pipeline(images, Draws(seed=0))[:2])
    assert "p" in pipeline.state_dict()


def test_a_fixed_probability_does_not_change():
    pipeline = make(0.25)
    pipeline.update(torch.tensor(1.0), num_images=10_000)
    assert pipeline.p == 0.25


def test_images_must_be_square():
    with pytest.raises(ValueError, match="square"):
        make(0.5)(Images(torch.randn(1, 3, 4, 8), torch.randn(1, 3, 4, 4)), Draws(seed=0))

import torch

from lightning_gan3d.images import Images, blur, blur_kernel, blur_pair, real_pair, resize, to_float


def stored(v=2, size=16):
    return torch.randint(256, (v, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()


def test_image_raw_of_reals_is_an_antialiased_reduction():
    pair = real_pair(stored(), 8, reduced=False)
    torch.testing.assert_close(pair.image, to_float(stored()))
    torch.testing.assert_close(pair.image_raw, resize(to_float(stored()), 8))


def test_without_super_resolution_reals_are_reduced_too():
    pair = real_pair(stored(), 8, reduced=True)
    torch.testing.assert_close(pair.image, resize(resize(to_float(stored()), 8), 16))
    assert pair.image.std() < 0.8 * to_float(stored()).std()
    full = real_pair(stored(), 16, reduced=True)
    torch.testing.assert_close(full.image, to_float(stored()))


def test_blur_kernel_weights():
    kernel = blur_kernel(1.5)
    assert len(kernel) == 2 * 4 + 1
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))
    torch.testing.assert_close(kernel[4] / kernel[1], torch.tensor(2.0 ** ((3 / 1.5) ** 2)))
    torch.testing.assert_close(kernel, kernel.flip(0))


def test_blur_preserves_constants_inside_and_is_symmetric():
    plain = blur(torch.ones(1, 3, 32, 32), 1.0)
    torch.testing.assert_close(plain[..., 3:-3, 3:-3], torch.ones(1, 3, 26, 26))
    assert plain[..., 0, 0].max() < 0.6  # zero beyond the border
    point = torch.zeros(1, 1, 15, 15)
    point[..., 7, 7] = 1
    spread = blur(point, 1.3)
    torch.testing.assert_close(spread, spread.mT)
    torch.testing.assert_close(spread[0, 0, 7, 7], blur_kernel(1.3).max() ** 2)


def test_a_small_blur_does_nothing():
    x = torch.randn(1, 3, 8, 8)
    assert blur(x, 0.3) is x
    images = Images(x, x)
    assert blur_pair(images, 0.0, real=True, eg3d=False) is images


def test_both_images_are_blurred_in_proportion_or_as_eg3d():
    x, raw = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 8, 8)
    for real in (True, False):
        alike = blur_pair(Images(x, raw), 4.0, real, eg3d=False)
        torch.testing.assert_close(alike.image, blur(x, 4.0))
        torch.testing.assert_close(alike.image_raw, blur(raw, 1.0))
    of_real = blur_pair(Images(x, raw), 4.0, real=True, eg3d=True)
    torch.testing.assert_close(of_real.image_raw, blur(raw, 4.0))
    of_fake = blur_pair(Images(x, raw), 4.0, real=False, eg3d=True)
    assert of_fake.image_raw is raw

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from renderers.picture import Picture, PictureRenderer, PictureRendererConfig


def test_each_camera_of_a_picture_sees_the_picture():
    picture = Picture(torch.rand(2, 3, 8, 8))
    out = PictureRenderer(PictureRendererConfig())(picture, Cameras.orbit(6), 4)
    assert out.feature.shape == (6, 3, 8, 8)
    for i in range(6):
        assert torch.equal(out.feature[i], picture.image[i // 3])
    assert out.depth is None
    assert out.opacity is None


def test_cameras_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="5 cameras for 2 pictures: use a multiple of 2"):
        PictureRenderer(PictureRendererConfig())(
            Picture(torch.rand(2, 3, 8, 8)), Cameras.orbit(5), 4
        )

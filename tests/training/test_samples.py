import math

import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.experiment import make_networks
from lightning_gan3d.images import Images
from lightning_gan3d.training.config import LoggingConfig
from lightning_gan3d.training.samples import sample_cameras, sample_grid, save_png, shown_depth

CPU = torch.device("cpu")


def labels():
    elevation = torch.tensor([0.1, 0.9, 0.4, 0.2, 0.8])
    return Cameras.on_sphere(torch.linspace(0.3, 5, 5), elevation, 3.0, focal=1.5).to_label()


@pytest.mark.parametrize(("views", "swing"), [(5, 0.8), (3, 0.2), (1, 0.8)])
def test_columns_swing_around_the_front_at_the_median_elevation(views, swing):
    cameras = sample_cameras(labels(), LoggingConfig(sample_views=views, sample_swing=swing))
    x, y, z = cameras.origins.unbind(1)
    expected = torch.linspace(-swing, swing, views) if views > 1 else torch.zeros(1)
    torch.testing.assert_close(torch.atan2(x, z), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(y, torch.full((views,), 3.0 * math.sin(0.4)))
    centre, _ = cameras.project(torch.zeros(views, 1, 3))
    torch.testing.assert_close(centre, torch.full((views, 1, 2), 0.5))


@pytest.mark.parametrize(("kind", "rows"), [("triplane", 2), ("image2d", 1)])
def test_a_grid_has_latents_down_and_cameras_across(tiny, kind, rows):
    config = tiny(kind=kind)
    generator = make_networks(config, 16)[0].eval()
    cfg = LoggingConfig(sample_latents=3, sample_views=2)
    cameras = sample_cameras(labels(), cfg)
    grid = sample_grid(generator, cameras, cfg, 0, CPU)
    assert grid.shape == (3 * rows * 16, 2 * 16, 3)
    assert torch.equal(grid, sample_grid(generator, cameras, cfg, 0, CPU))
    assert not torch.equal(grid, sample_grid(generator, cameras, cfg, 1, CPU))
    first, second = grid[:16, :16], grid[16 * rows : 16 * rows + 16, :16]
    assert not torch.equal(first, second)


def test_near_is_light_and_nothing_is_black():
    depth = torch.tensor([[1.0, 2.0], [3.0, 9.0]])[None, None]
    opacity = torch.tensor([[1.0, 1.0], [1.0, 0.0]])[None, None]
    shown = shown_depth(Images(depth.expand(-1, 3, -1, -1), depth, depth, opacity), 2)[0, 0]
    assert shown[0, 0] > shown[0, 1] > shown[1, 0] > shown[1, 1]
    assert shown[0, 0] == 255
    assert shown[1, 1] == 0
    nothing = shown_depth(Images(depth, depth, depth, opacity * 0), 2)
    assert nothing.sum() == 0


def test_pictures_are_written_as_png(tmp_path):
    grid = torch.randint(256, (4, 6, 3)).byte()
    save_png(grid, tmp_path / "a b" / "grid.png")
    with Image.open(tmp_path / "a b" / "grid.png") as image:
        assert image.size == (6, 4)

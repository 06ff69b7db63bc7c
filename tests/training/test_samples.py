import math

import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.experiment import make_networks
from lightning_gan3d.images import Images
from lightning_gan3d.training.callbacks import (
    depth_image,
    relief,
    sample_cameras,
    sample_grid,
    save_png,
    scene_statistics,
    scene_warnings,
)
from lightning_gan3d.training.config import LoggingConfig

CPU = torch.device("cpu")


def labels():
    elevation = torch.tensor([0.1, 0.9, 0.4, 0.2, 0.8])
    return Cameras.on_sphere(torch.linspace(0.3, 5, 5), elevation, 3.0, focal=1.5).to_label()


@pytest.mark.parametrize(("views", "swing"), [(5, 0.8), (3, 0.2), (1, 0.8)])
def test_columns_rotate_around_the_front_at_the_median_elevation(views, swing):
    cameras = sample_cameras(labels(), LoggingConfig(sample_views=views, sample_swing=swing))
    x, y, z = cameras.origins.unbind(1)
    expected = torch.linspace(-swing, swing, views) if views > 1 else torch.zeros(1)
    torch.testing.assert_close(torch.atan2(x, z), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(y, torch.full((views,), 3.0 * math.sin(0.4)))
    centre, _ = cameras.project(torch.zeros(views, 1, 3))
    torch.testing.assert_close(centre, torch.full((views, 1, 2), 0.5))


@pytest.mark.parametrize(("kind", "rows"), [("triplane", 2), ("image2d", 1)])
def test_rows_are_latents_and_columns_cameras(tiny, kind, rows):
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


def test_near_is_light_and_background_is_black():
    depth = torch.tensor([[1.0, 2.0], [3.0, 9.0]])[None, None]
    opacity = torch.tensor([[1.0, 1.0], [1.0, 0.0]])[None, None]
    grey = depth_image(Images(depth.expand(-1, 3, -1, -1), depth, depth, opacity), 2)[0, 0]
    assert grey[0, 0] > grey[0, 1] > grey[1, 0] > grey[1, 1]
    assert grey[0, 0] == 255
    assert grey[1, 1] == 0
    background = depth_image(Images(depth, depth, depth, opacity * 0), 2)
    assert background.sum() == 0


def test_pictures_are_written_as_png(tmp_path):
    grid = torch.randint(256, (4, 6, 3)).byte()
    save_png(grid, tmp_path / "a b" / "grid.png")
    with Image.open(tmp_path / "a b" / "grid.png") as image:
        assert image.size == (6, 4)


def cameras(v=2):
    """Distant cameras: nearly parallel rays."""
    return Cameras.on_sphere(torch.linspace(0, 2, v), torch.full((v,), 0.3), 30.0, focal=14.0)


def plane(tilt):
    """Depth of a plane through the origin, tilted from facing the camera."""
    view = cameras()
    rays = view.rays(16)
    facing = view.cam2world[:, :3, 2] * math.cos(tilt) + view.cam2world[:, :3, 0] * math.sin(tilt)
    t = -(rays.origins * facing[:, None]).sum(-1) / (rays.dirs * facing[:, None]).sum(-1)
    return t.view(2, 1, 16, 16)


def ball(radius=1.0):
    rays = cameras().rays(16)
    b = (rays.origins * rays.dirs).sum(-1)
    inside = b**2 - (rays.origins.square().sum(-1) - radius**2)
    depth = torch.where(inside > 0, -b - inside.clamp(min=0).sqrt(), 31.0)
    return depth.view(2, 1, 16, 16), (inside > 0).float().view(2, 1, 16, 16)


@pytest.mark.parametrize("tilt", [0.0, 0.6])
def test_a_plane_of_any_orientation_has_no_relief(tilt):
    depth = plane(tilt)
    assert relief(depth, torch.ones_like(depth), cameras()) < 1e-3
    statistics = scene_statistics(picture(depth, torch.ones_like(depth)), cameras(), 2.0)
    assert "flat scene: the surface is a billboard" in scene_warnings(statistics)


def test_a_ball_has_relief_for_any_background():
    depth, opacity = ball()
    statistics = scene_statistics(picture(depth, opacity), cameras(), 2.0)
    # Height z over a uniform disc: z^2 is uniform, the variance 1/2 - (2/3)^2; the box is 2.
    assert statistics["scene/relief"] == pytest.approx(math.sqrt(1 / 18) / 2, rel=0.1)
    assert statistics["scene/opacity"] == pytest.approx(float(opacity.mean()))
    assert scene_warnings(statistics) == []
    beyond = torch.where(opacity > 0.5, depth, 100.0)
    again = scene_statistics(picture(beyond, opacity), cameras(), 2.0)
    assert again["scene/relief"] == pytest.approx(statistics["scene/relief"], rel=1e-4)


@pytest.mark.parametrize(("opacity", "message"), [(0.0, "empty"), (1.0, "opaque")])
def test_empty_and_opaque_scenes_have_a_warning(opacity, message):
    depth = ball()[0]
    statistics = scene_statistics(picture(depth, torch.full_like(depth, opacity)), cameras(), 2.0)
    assert any(message in text for text in scene_warnings(statistics))
    assert ("scene/relief" in statistics) == (opacity > 0)


def test_pictures_have_no_statistics():
    image = torch.zeros(2, 3, 16, 16)
    assert scene_statistics(Images(image, image), cameras(), 2.0) == {}
    assert scene_warnings({}) == []


def picture(depth, opacity):
    image = torch.zeros(2, 3, 16, 16)
    return Images(image, image, depth, opacity)

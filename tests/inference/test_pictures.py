import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan3d.cameras import Cameras, Orbit
from lightning_gan3d.config import ConfigError
from lightning_gan3d.images import Images
from lightning_gan3d.inference.pictures import (
    EMPTY,
    GAP,
    PAGE,
    Tile,
    contact_sheet,
    depth_colours,
    depth_step,
    enlarged,
    normal_colours,
    pictures,
    save_png,
    with_alpha,
    write_contact_sheets,
)


def ball(cameras, size=64, radius=0.8):
    """Depth and mask of a sphere at the origin."""
    rays = cameras.rays(size)
    along = -(rays.origins * rays.dirs).sum(-1)
    inside = radius**2 - (rays.origins**2).sum(-1) + along**2
    depth = along - inside.clamp(min=0).sqrt()
    shape = (len(depth), 1, size, size)
    return depth.view(shape), (inside > 0).view(shape)


def test_normals_of_a_ball_point_away_from_its_centre():
    cameras = Cameras.orbit(3, 0.4, 3.0, 1.4)
    depth, solid = ball(cameras)
    colours = normal_colours(depth, solid, cameras)
    valid = (colours != EMPTY).any(-1) & solid[:, 0].numpy()
    assert valid.mean() > 0.2
    middle = colours[:, 31:33, 31:33].reshape(-1, 3).mean(0)
    assert middle == pytest.approx([127.5, 127.5, 255], abs=6)  # toward the viewer
    assert colours[0, 32, 44, 0] > 160  # right
    assert colours[0, 20, 32, 1] > 160  # up
    rays = cameras.rays(64)
    points = rays.origins + rays.dirs * depth.flatten(2).mT
    expected = torch.nn.functional.normalize(points, dim=-1) @ cameras.cam2world[:, :3, :3]
    expected = (expected * torch.tensor([1.0, -1.0, -1.0])).view(3, 64, 64, 3).numpy()
    normals = colours / 127.5 - 1
    error = np.degrees(np.arccos(np.clip((normals * expected).sum(-1)[valid], -1, 1)))
    assert np.median(error) < 2


def test_depth_colours():
    depth = np.array([[2.0, 3.0]], dtype=np.float32)
    colours = depth_colours(depth, None, (2.0, 3.0)).astype(int).sum(-1)
    assert colours[0, 0] > colours[0, 1]  # near is brighter
    empty = depth_colours(depth, np.zeros((1, 2), np.float32), (2.0, 3.0))
    assert np.unique(empty).tolist() == [EMPTY[0]]


def test_the_range_of_depth_pictures_follows_the_camera(models):
    model, size = models["triplane"], (1, 1, 4, 4)
    assert model.generator.cfg.scene.box == 2
    for distance in (0.5, 3.2, 9.0):
        cameras = Cameras.on_sphere(torch.zeros(1), torch.zeros(1), distance, 1.5)
        for share in (0.0, 0.5, 1.0):  # of the range, from far to near
            low = max(distance - 1, 0)
            depth = torch.full(size, distance + 1 - share * (distance + 1 - low))
            images = Images(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), depth, depth * 0 + 1)
            (picture,) = pictures(model, images, cameras, "depth")
            expected = depth_colours(np.full((4, 4), 1 - share, np.float32), None, (0.0, 1.0))
            assert np.abs(picture.astype(int) - expected).max() <= 3
    assert model.orbit.radius == pytest.approx(3.2, abs=1e-5)


def test_alpha_undoes_the_background(models):
    torch.manual_seed(0)
    colour, alpha = torch.rand(2, 3, 8, 8) * 2 - 1, torch.rand(2, 1, 8, 8)
    image = alpha * colour + (1 - alpha) * 1.0  # white, the renderer's background
    rgba = with_alpha(models["triplane"], Images(image, image, alpha, alpha))
    shown = torch.from_numpy(np.stack(rgba)).permute(0, 3, 1, 2)
    assert (shown[:, 3:] / 255 - alpha).abs().max() < 1 / 255
    solid = (alpha > 0.2).expand(-1, 3, -1, -1)
    assert (shown[:, :3] / 127.5 - 1 - colour)[solid].abs().max() < 0.03


def test_what_a_picture_lacks_is_named(models):
    model, image = models["image2d"], torch.zeros(1, 3, 8, 8)
    for output in ("depth", "normals", "opacity"):
        with pytest.raises(ConfigError, match=f"outputs={output}: image2d renders no depth"):
            pictures(model, Images(image, image), model.orbit.cameras(1), output)
    with pytest.raises(ConfigError, match="image2d renders no opacity"):
        with_alpha(model, Images(image, image))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_files_hold_command_and_settings(tmp_path, channels, mode):
    pixels = np.arange(4 * 4 * channels, dtype=np.uint8).reshape(4, 4, channels)
    save_png(tmp_path / "a.png", pixels, {"psi": 0.7, "name": "ü"})
    with Image.open(tmp_path / "a.png") as file:
        assert file.mode == mode
        assert json.loads(file.text["Settings"]) == {"psi": 0.7, "name": "ü"}
        assert file.text["Command"].startswith("gan3d")
        assert file.text["Software"].startswith("lightning_gan3d ")
        assert np.array_equal(np.asarray(file).reshape(pixels.shape), pixels)


def test_steps_of_16_bit_depth_span_the_box(models):
    model = models["triplane"]
    assert depth_step(model, model.orbit.cameras(2)) == pytest.approx(1e-4)
    far = Orbit.around_box(2.0, radius=40.0).cameras(2)
    assert depth_step(model, far) == pytest.approx(1e-3)


def test_enlarging_repeats_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(enlarged(pixels, 3)[::3, ::3], pixels)
    assert enlarged(pixels, 3).shape == (6, 6, 3)


def tile(i, views=2, size=8):
    return Tile(
        f"{i}", [np.full((size, size, 3), (10 + i % 200, 0, v), np.uint8) for v in range(views)]
    )


def test_a_sheet_shows_every_picture_once():
    tiles = [tile(i) for i in range(7)]
    pixels = contact_sheet(tiles, columns=3).reshape(-1, 3)
    for i in range(7):
        for v in range(2):
            assert (pixels == (10 + i, 0, v)).all(-1).sum() == 96 * 96


def test_hundreds_of_latents_need_several_pages_of_bounded_size(tmp_path):
    tiles = [tile(i, views=3, size=200) for i in range(150)]
    files = write_contact_sheets(tmp_path / "a.png", tiles, {})
    assert [Path(file).name for file in files] == ["a.png", "a_2.png"]
    sheets = [np.asarray(Image.open(file)) for file in files]
    assert max(n for sheet in sheets for n in sheet.shape) <= PAGE
    assert {*np.unique(np.concatenate([s[..., 0].ravel() for s in sheets]))} >= {*range(10, 160)}


def test_large_pictures_are_scaled_to_the_columns():
    sheet = contact_sheet([tile(i, views=2, size=1024) for i in range(12)], columns=4)
    assert sheet.shape[0] < sheet.shape[1] <= PAGE
    assert (sheet == (10, 0, 1)).all(-1).sum() == ((PAGE // 4 - GAP) // 2 - GAP) ** 2

import math

import pytest
import torch

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.images import Images
from lightning_gan3d.training.alarms import alarms, relief, scene_statistics


def cameras(v=2):
    """From so far that the view is nearly parallel."""
    return Cameras.on_sphere(torch.linspace(0, 2, v), torch.full((v,), 0.3), 30.0, focal=14.0)


def plane(tilt):
    """Depth of a plane through the origin, turned by `tilt` from facing the camera."""
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
def test_a_plane_has_no_relief_however_it_is_turned(tilt):
    depth = plane(tilt)
    assert relief(depth, torch.ones_like(depth), cameras()) < 1e-3
    found = scene_statistics(picture(depth, torch.ones_like(depth)), cameras(), 2.0)
    assert "the surface is flat: pictures on a board" in alarms(found)


def test_a_ball_has_relief_and_the_background_does_not_count():
    depth, opacity = ball()
    found = scene_statistics(picture(depth, opacity), cameras(), 2.0)
    # Height z over a disc seen evenly: z^2 is uniform, the variance 1/2 - (2/3)^2; the box is 2.
    assert found["scene/relief"] == pytest.approx(math.sqrt(1 / 18) / 2, rel=0.1)
    assert found["scene/opacity"] == pytest.approx(float(opacity.mean()))
    assert alarms(found) == []
    beyond = torch.where(opacity > 0.5, depth, 100.0)
    again = scene_statistics(picture(beyond, opacity), cameras(), 2.0)
    assert again["scene/relief"] == pytest.approx(found["scene/relief"], rel=1e-4)


@pytest.mark.parametrize(("value", "words"), [(0.0, "empty"), (1.0, "wall")])
def test_nothing_and_everything_are_named(value, words):
    depth = ball()[0]
    found = scene_statistics(picture(depth, torch.full_like(depth, value)), cameras(), 2.0)
    assert any(words in text for text in alarms(found))
    assert ("scene/relief" in found) == (value > 0)


def test_pictures_have_no_statistics():
    image = torch.zeros(2, 3, 16, 16)
    assert scene_statistics(Images(image, image), cameras(), 2.0) == {}
    assert alarms({}) == []


def picture(depth, opacity):
    image = torch.zeros(2, 3, 16, 16)
    return Images(image, image, depth, opacity)

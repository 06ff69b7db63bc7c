import math
from dataclasses import dataclass, replace

import pytest
import torch
from einops import rearrange
from metric_views import Labels, Perturbed, context, figures
from torch import Tensor

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.draws import Draws
from lightning_gan3d.images import Images
from lightning_gan3d.metrics.config import ConsistencyConfig, MotionConfig
from lightning_gan3d.metrics.consistency.sticking import (
    blurred,
    coarse_motion,
    measure_sticking,
    slopes,
    sticking,
    surface_motion,
)
from lightning_gan3d.metrics.consistency.warp import surfaces
from lightning_gan3d.metrics.selftest.perturbations import azimuth_of
from lightning_gan3d.metrics.sources import ViewSource

SIDE = 64
PIXEL = torch.arange(SIDE) + 0.5
Y, X = torch.meshgrid(PIXEL, PIXEL, indexing="ij")


class Waves:
    """A random pattern of plane waves with wavelengths in pixels, three channels."""

    def __init__(self, shortest, longest, seed):
        draws, count = Draws(seed), 40
        angle = 2 * math.pi * draws.uniform("angle", (count,))
        length = shortest + (longest - shortest) * draws.uniform("length", (count,))
        self.k = torch.stack([angle.cos(), angle.sin()]) * (2 * math.pi / length)
        self.phase = 2 * math.pi * draws.uniform("phase", (3, count))

    def __call__(self, shift):
        """The pattern, shifted by (x, y) pixels; its standard deviation is 0.5."""
        at = torch.stack([X - shift[0], Y - shift[1]], dim=-1) @ self.k
        return (at + self.phase[:, None, None]).cos().sum(-1) * (0.5 * (2 / self.k.shape[1]) ** 0.5)


COARSE, FINE, OTHER = Waves(24, 48, 1), Waves(4, 8, 2), Waves(4, 8, 3)


def scene(stuck, shift):
    """A coarse picture that moves over detail of which a part is stuck, in [-1, 1]."""
    still = torch.zeros(2)
    moving = COARSE(shift) + (1 - stuck) ** 0.5 * 0.3 * FINE(shift)
    return 0.5 * (moving + stuck**0.5 * 0.3 * OTHER(still))


@dataclass
class Pictures(ViewSource):
    """A picture without depth for each camera, by the distance in pixels that it has turned."""

    picture: object

    def base(self, items: Tensor) -> Cameras:
        return Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]]).repeat(len(items), 1))

    def views(self, items: Tensor, cameras: Cameras) -> Images:  # noqa: ARG002
        turned = azimuth_of(cameras) * SIDE / 4
        image = torch.stack([self.picture(float(t)) for t in turned])
        return Images(image, image)


class Data(Labels):
    resolution = SIDE


def measured(source, **options):
    cfg = replace(MotionConfig(items=2), **options)
    metrics = measure_sticking(context(source, train=Data(), motion=cfg))
    assert [m.name for m in metrics] == ["motion.sticking", "motion.sticking_depth"]
    return metrics


def of_scene(stuck, contrast=1.0, **options):
    picture = lambda t: contrast * scene(stuck, torch.tensor([t, 0.5 * t]))  # noqa: E731
    return measured(Pictures(picture), **options)[0]


@pytest.mark.parametrize("stuck", [0.0, 0.5, 1.0])
def test_sticking_is_the_share_of_the_detail_that_stays_on_the_screen(stuck):
    metric = of_scene(stuck)
    assert metric.value == pytest.approx(stuck, abs=0.05)
    assert metric.n == 2
    assert float(metric.note.partition("%")[0].split()[-1]) > 25  # of the pixels


def test_it_does_not_depend_on_contrast():
    assert of_scene(0.5, 0.6).value == pytest.approx(of_scene(0.5).value, abs=0.02)


def test_larger_steps_bias_it_by_the_known_amount():
    # The slope of a wave is tan(x) / x for a motion of 2 x radians: up to 10 % at a pixel.
    small, large = of_scene(0.0, step=0.3).value, of_scene(0.0, step=0.9).value
    assert -0.03 < small < 0.01
    assert -0.15 < large < small


def test_the_motion_of_the_coarse_picture_is_known():
    shift = torch.tensor([0.4, -0.3])
    frames = torch.stack([scene(1.0, t * shift) for t in range(6)]) / 2 + 0.5
    flow, other, known = coarse_motion(rearrange(frames, "(n f) c h w -> n f c h w", n=2))
    assert known.float().mean() > 0.9
    inside = flow[..., 12:-12, 12:-12].mean(dim=(0, 1, 3, 4))
    torch.testing.assert_close(inside, shift, atol=0.02, rtol=0)
    assert torch.equal(flow[0], other[1])


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("noise over a still picture", lambda t: scene(0.0, [0, 0]) + noise(t, 0.05)),
        ("noise alone", lambda t: noise(t, 0.3)),
        ("a still picture", lambda _: scene(0.0, [0, 0])),
        ("one colour", lambda _: torch.full((3, SIDE, SIDE), 0.3)),
        ("all detail blurred", lambda t: blurred(scene(0.0, [t, 0]), 3.0)),
    ],
)
def test_without_motion_or_detail_it_is_missing(name, picture):
    metric = measured(Pictures(picture))[0]
    assert metric.value is None, name
    assert "detail and known motion" in metric.note


def noise(t, amount):
    return amount * Draws(round(1e6 * t) + 10**7).normal("noise", (3, SIDE, SIDE))


def test_slopes_of_a_wave_are_exact():
    k = 2 * math.pi / 8
    frames = torch.stack([torch.sin(k * (X - 0.1 * t)) for t in range(2)])[None, :, None]
    level, x, y, change = (m[0, 0, 0, 20:-20, 20:-20] for m in slopes(frames, 0.8, 2.0))
    gain = math.exp(-((0.8 * k) ** 2) / 2) - math.exp(-((2 * k) ** 2) / 2)
    at = (X - 0.05)[20:-20, 20:-20]
    torch.testing.assert_close(level, gain * torch.sin(k * at), atol=3e-3, rtol=0)
    torch.testing.assert_close(x, gain * k * torch.cos(k * at), atol=3e-3, rtol=0)
    torch.testing.assert_close(change, -0.1 * x, atol=3e-3, rtol=0)
    assert y.abs().max() < 1e-5


def textured_sphere(cameras, stuck=False):
    """A sphere with coarse and fine texture, antialiased; `stuck`: the fine one on the screen."""
    draws, waves = Draws(3), 40
    scale = torch.tensor([6.0] * 20 + [0.0 if stuck else 40.0] * 20)[:, None]
    way = torch.nn.functional.normalize(draws.normal("way", (waves, 3)), dim=-1)
    frequency = way * scale * (0.7 + 0.6 * draws.uniform("scale", (waves, 1)))
    phase, colour = 6.3 * draws.uniform("phase", (waves, 1)), draws.normal("colour", (3, waves))

    def trace(size):
        rays = cameras.rays(size)
        along = (rays.origins * rays.dirs).sum(-1)
        root = along.square() - rays.origins.square().sum(-1) + 0.65**2
        hit, t = root > 0, -along - root.clamp(min=0).sqrt()
        points = rays.origins + rays.dirs * t[..., None]
        image = 0.1 * colour @ torch.sin(frequency @ points.mT + phase)
        maps = (torch.where(hit[:, None], image, 1.0), torch.where(hit, t, 4.2), hit.float())
        return [x.view(len(hit), -1, size, size) for x in maps]

    image = torch.nn.functional.avg_pool2d(trace(3 * SIDE)[0], 3)
    _, depth, opacity = trace(SIDE)
    if stuck:
        image = image + 0.3 * OTHER([0, 0]) * torch.nn.functional.avg_pool2d(opacity, 5, 1, 2)
    return Images(image, image, depth, opacity)


@pytest.mark.parametrize("stuck", [False, True])
def test_on_a_sphere_both_motions_agree(stuck):
    base = Cameras.on_sphere(torch.tensor([0.2]), torch.tensor([0.3]), 2.7, 1.7)
    cameras = base.rotate_y((torch.arange(6) - 2.5) * 1.2 / SIDE)
    views = textured_sphere(cameras, stuck)
    image = rearrange(views.image / 2 + 0.5, "(n f) c h w -> n f c h w", n=2)
    exact = surface_motion(surfaces(views.image, views, cameras, ConsistencyConfig()), 2)
    by_depth, used = sticking(image, exact, 0.01)
    assert float(by_depth) == pytest.approx(float(stuck), abs=0.03)
    assert used > 0.05
    coarse, used = sticking(image, coarse_motion(image), 0.01)
    assert float(coarse) == pytest.approx(float(stuck), abs=0.08)
    assert used > 0.1


def test_objects_with_depth_are_measured_and_reasons_are_given():
    plain = measured(figures(SIDE))
    assert abs(plain[0].value) < 0.3
    assert "detail and known motion" in plain[1].note  # figures have outlines, but no texture

    def change(source, items, cameras):
        return Images(*(x * torch.nan for x in source.views(items, cameras)[:2]))

    assert all("not finite" in m.note for m in measured(Perturbed(figures(SIDE), change)))
    assert "no depth" in measured(Pictures(lambda t: scene(0.0, [t, 0])))[1].note
    without = Labels(torch.full((4, 25), torch.nan))
    metrics = measure_sticking(context(figures(), train=without, motion=MotionConfig(items=1)))
    assert all("without cameras" in m.note for m in metrics)
    assert measure_sticking(context(figures(), motion=MotionConfig(items=None))) == []


def test_small_images_have_no_pixel_away_from_the_border():
    image = torch.rand(2, 3, 3, 16, 16)
    value, used = sticking(image, coarse_motion(image), 0.01)
    assert bool(value.isnan().all())
    assert float(used) == 0


@pytest.mark.parametrize("other", [{"items": 1}, {"step": 0.5}, {"detail": 0.02}])
def test_each_option_has_an_effect(other):
    base, changed = (measured(figures(SIDE), **x)[0] for x in ({}, other))
    assert (base.value, base.n) != (changed.value, changed.n)


@pytest.mark.parametrize(("field", "value"), [("items", 0), ("step", 2), ("detail", 1)])
def test_invalid_options_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(MotionConfig, [f"{field}={value}"])

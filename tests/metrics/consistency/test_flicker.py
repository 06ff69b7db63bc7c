import pytest
import torch
from metric_views import Perturbed, context, figures

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.draws import Draws
from lightning_gan3d.metrics.config import ConsistencyConfig, FlickerConfig
from lightning_gan3d.metrics.consistency.flicker import flicker_sums, measure_flicker
from lightning_gan3d.metrics.consistency.warp import Surfaces

CFG = FlickerConfig(items=4, frames=6)


def measured(source, cfg=CFG):
    metrics = measure_flicker(context(source, consistency=ConsistencyConfig(flicker=cfg)))
    return {m.key.removeprefix("consistency."): m for m in metrics}


def with_noise(amount):
    def change(source, items, cameras):
        rendered = source.views(items, cameras)
        image = rendered.image + amount * Draws(3).normal("noise", rendered.image.shape)
        return rendered._replace(image=image, image_raw=image)

    return Perturbed(figures(), change)


def still_frames(offsets):
    """Frames of a plane from one camera: [-1, 1] images that differ by these offsets."""
    cameras = Cameras.look_at(torch.tensor([[0.0, 0.0, 3.0]])).rotate_y(torch.zeros(len(offsets)))
    image = torch.tensor(offsets)[:, None, None, None].expand(-1, 3, 8, 8)
    z = torch.full((len(offsets), 1, 8, 8), 3.0)
    return Surfaces(image, cameras, z, torch.ones_like(z), z > 0)


@pytest.mark.parametrize(
    ("offsets", "residual", "motion"),
    [
        ([0.0, 0.1, 0.2, 0.3], 0.0, 0.05),  # even change is no flicker
        ([0.0, 0.2, 0.0, 0.2], 0.1, 0.0),  # 0.2 of [-1, 1] is 0.1 of the range
        ([0.1, 0.1, 0.3], 0.05, 0.05),
    ],
)
def test_known_frames_have_known_flicker(offsets, residual, motion):
    sums = flicker_sums(still_frames(offsets), len(offsets), 0.02)
    assert float(sums.compared) == (len(offsets) - 2) * 64
    assert float(sums.residual / sums.compared) == pytest.approx(residual, abs=1e-6)
    assert float(sums.motion / sums.compared) == pytest.approx(motion, abs=1e-6)


def test_it_grows_with_noise_from_the_floor_of_ground_truth():
    result = [measured(with_noise(a)) for a in (0.0, 0.02, 0.04, 0.08)]
    for kind in ("flicker", "flicker_share"):
        values = [f[kind].value for f in result]
        assert sorted(values) == values
        assert values[-1] > 5 * values[0]
    assert result[0]["flicker"].value < 0.003
    # Independent noise of deviation s in [-1, 1] leaves s / 2 * sqrt(1 + 1 / 2) of a Gaussian, less
    # what bilinear interpolation averages away.
    expected = 0.08 / 2 * (1 + 0.5 * 0.44) ** 0.5 * (2 / torch.pi) ** 0.5
    assert result[-1]["flicker"].value == pytest.approx(expected, rel=0.1)


def test_without_texture_the_share_is_undefined():
    def constant(source, items, cameras):
        metrics = source.views(items, cameras)
        return metrics._replace(image=metrics.image * 0, image_raw=metrics.image * 0)

    metrics = measured(Perturbed(figures(), constant))
    assert metrics["flicker"].value == 0
    assert metrics["flicker_share"].value is None
    assert "without texture" in metrics["flicker_share"].note


def test_without_depth_or_foreground_it_is_missing_with_the_reason():
    def flat(source, items, cameras):
        return source.views(items, cameras)._replace(depth=None)

    def clear(source, items, cameras):
        metrics = source.views(items, cameras)
        return metrics._replace(opacity=metrics.opacity * 0)

    for change, why in ((flat, "no depth"), (clear, "no foreground")):
        metrics = measured(Perturbed(figures(), change))
        assert len(metrics) == 4
        assert all(m.value is None and why in m.note for m in metrics.values())


@pytest.mark.parametrize("other", [{"items": 2}, {"frames": 4}, {"step": 0.06}])
def test_each_option_has_an_effect(other):
    base = {"items": 4, "frames": 6}
    metrics = measured(figures(), FlickerConfig(**{**base, **other}))
    assert metrics["flicker"].value != measured(figures())["flicker"].value


@pytest.mark.parametrize(
    ("field", "value"),
    [("items", 0), ("frames", 2), ("step", 0.3)],
)
def test_invalid_options_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(FlickerConfig, [f"{field}={value}"])

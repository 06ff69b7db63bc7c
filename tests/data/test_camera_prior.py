"""Camera priors: moments against closed forms, geometry, and options that are rejected."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from lightning_gan3d.cameras import LABEL_DIM, Cameras, spherical
from lightning_gan3d.config import ConfigError, build
from lightning_gan3d.data.camera_prior import (
    PRESETS,
    CamerasConfig,
    DistributionConfig,
    draw_cameras,
    fake_labels,
    prior_orbit,
)
from lightning_gan3d.data.camera_sheet import box_edges, draw_camera_sheet
from lightning_gan3d.data.commands import app
from lightning_gan3d.data.dataset import DataConfig, ImageDataset
from lightning_gan3d.data.synthetic.synth import SynthConfig, make_synth
from lightning_gan3d.draws import Draws

NUM = 40_000


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"kind": "uniform", "low": -1.0, "high": 2.0}, stats.uniform(-1, 3)),
        ({"kind": "normal", "mean": 0.5, "std": 0.3}, stats.norm(0.5, 0.3)),
        (
            {"kind": "normal", "mean": 0.5, "std": 0.3, "low": 0.2, "high": 0.6},
            stats.truncnorm(-1, 1 / 3, 0.5, 0.3),
        ),
        (
            {"kind": "normal", "mean": 0.0, "std": 0.4, "low": 0.1},
            stats.truncnorm(0.25, np.inf, 0, 0.4),
        ),
    ],
)
def test_moments_and_distribution(options, law):
    drawn = DistributionConfig(**options).draw("x", NUM, Draws(1)).numpy()
    mean, var = law.stats("mv")
    assert abs(drawn.mean() - mean) < 5 * math.sqrt(var / NUM)
    assert abs(drawn.var() / var - 1) < 0.04
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


def test_directions_on_the_sphere_are_uniform():
    cfg = CamerasConfig("prior", "full_turn", elevation=DistributionConfig("sphere", -1.5, 1.5))
    cameras = draw_cameras(cfg, 2.0, NUM, Draws(0))
    direction = torch.nn.functional.normalize(cameras.origins, dim=1)
    # Second moments of the uniform sphere are 1/3; the caps beyond 1.5 rad are left out.
    covariance = direction.T @ direction / NUM
    y = math.sin(1.5) ** 2 / 3
    expected = torch.diag(torch.tensor([(1 - y) / 2, y, (1 - y) / 2]))
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.01)


def test_a_preset_looks_at_the_origin_from_its_distance_in_boxes():
    for name in PRESETS:
        cfg, box = CamerasConfig("prior", name), 2.0
        cameras = draw_cameras(cfg, box, 100, Draws(0))
        numbers = cfg.distributions
        radius = numbers["radius"].low
        torch.testing.assert_close(cameras.origins.norm(dim=1), torch.full((100,), radius * box))
        uv, _ = cameras.project(torch.zeros(100, 1, 3))
        torch.testing.assert_close(uv, torch.full((100, 1, 2), 0.5))
        expected = 0.5 / math.tan(numbers["fov"].low / 2)
        torch.testing.assert_close(cameras.intrinsics[:, 0, 0], torch.full((100,), expected))
        half = box / 2 * 0.5  # half the box's half edge is inside the image
        point = cameras.origins * 0 + torch.tensor([0.0, half, 0.0])
        assert bool(((cameras.project(point[:, None])[0] - 0.5).abs() < 0.5).all())


def test_roll_turns_the_image_about_its_centre():
    cameras, angle = Cameras.orbit(3, 0.2), torch.tensor([0.0, 0.3, -1.0])
    points = torch.randn(3, 5, 3) * 0.3
    (before, z), (after, z_after) = cameras.project(points), cameras.roll(angle).project(points)
    torch.testing.assert_close(z, z_after)
    x, y = (before - 0.5).unbind(-1)
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    turned = torch.stack([c * x + s * y, c * y - s * x], dim=-1)
    torch.testing.assert_close(after - 0.5, turned, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cameras.roll(angle).origins, cameras.origins)


def test_labels_of_fakes_keep_the_share_of_classes():
    unknown = torch.full((10, LABEL_DIM), torch.nan)
    classes = torch.eye(2)[[0] * 7 + [1] * 3]
    labels = torch.cat([unknown, classes], dim=1)
    assert fake_labels(CamerasConfig(), 1.0, labels).labels is labels
    drawn, source = fake_labels(CamerasConfig("prior", "faces"), 1.0, labels)
    assert source == "cameras of the prior"
    assert not bool(drawn.isnan().any())
    torch.testing.assert_close(
        drawn[:, LABEL_DIM:].mean(0), torch.tensor([0.7, 0.3]), atol=0.01, rtol=0
    )
    azimuth = spherical(Cameras.from_label(drawn).origins).azimuth
    assert abs(float(azimuth.std()) - 0.3) < 0.01


def test_the_orbit_of_a_prior_spans_it():
    assert prior_orbit(CamerasConfig("prior", "full_turn"), 2.0).full
    orbit = prior_orbit(CamerasConfig("prior", "faces"), 1.0)
    low, high = orbit.azimuths
    assert not orbit.full
    assert high == pytest.approx(-low, abs=0.05)
    assert high == pytest.approx(1.645 * 0.3, abs=0.05)  # the middle 90 %
    assert orbit.radius == pytest.approx(2.7, abs=1e-3)


def test_the_edges_of_the_box_are_where_the_camera_sees_them():
    edges = box_edges(Cameras.orbit(1, 0.0, radius=3.0, focal=1.5), 2.0)[0]
    near, far = 1.5 / (3 - 1), 1.5 / (3 + 1)  # half edges of its two faces
    corners = {(round(x, 4), round(y, 4)) for x, y in (edges.reshape(-1, 2) - 0.5).tolist()}
    assert corners == {(a * s, b * s) for s in (near, far) for a in (1, -1) for b in (1, -1)}
    lengths = (edges[:, 0] - edges[:, 1]).norm(dim=1).sort().values
    depth = math.hypot(near - far, near - far)
    expected = sorted([2 * near] * 4 + [2 * far] * 4 + [depth] * 4)
    torch.testing.assert_close(lengths, torch.tensor(expected))


def test_a_sheet_without_cameras_is_an_error(tmp_path):
    make_synth(
        SynthConfig(num_images=4, num_objects=4, resolution=16, holdout=0.0), tmp_path / "data"
    )
    data = ImageDataset(DataConfig(path=str(tmp_path / "data"), labels="none"))
    with pytest.raises(ConfigError, match=r"set cameras.kind=prior, or data.labels=camera"):
        draw_camera_sheet(data, fake_labels(CamerasConfig(), 1.0, data.labels), 1.0, tmp_path / "a")


@pytest.mark.parametrize("prior", [[], ["cameras.kind=prior", "cameras.preset=faces"]])
def test_the_sheet_names_whose_cameras_it_shows(tmp_path, prior):
    make_synth(SynthConfig(num_images=8, num_objects=4, resolution=16), tmp_path / "data")
    options = [f"data.path={tmp_path / 'data'}", "data.resolution=16", *prior]
    result = CliRunner().invoke(
        app, ["cameras", "demo/triplane", *options, f"--sheet={tmp_path}/a.png"]
    )
    assert result.exit_code == 0
    assert ("of the prior" if prior else "of training images") in result.output
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "faces"}, r"cameras.preset with cameras.kind=dataset: set cameras.kind=prior"),
        (
            {"kind": "prior"},
            r"without azimuth, elevation, radius, fov: set each, or cameras.preset",
        ),
        ({"kind": "prior", "preset": "cars", "radius": {"low": 0.2, "high": 1.0}}, r"from 0.6"),
        (
            {"kind": "prior", "preset": "faces", "elevation": {"kind": "normal", "std": 0.5}},
            r"cameras.elevation reaches from -2.5 to 2.5",
        ),
        (
            {"kind": "prior", "preset": "faces", "roll": {"kind": "sphere", "low": 0, "high": 1}},
            r"only elevation has it",
        ),
        ({"kind": "prior", "preset": "faces", "fov": {"low": 1.0}}, r"set low, and high"),
        ({"kind": "prior", "preset": "faces", "azimuth": {"kind": "normal"}}, r"std above 0"),
    ],
)
def test_wrong_priors_name_field_value_and_remedy(options, message):
    with pytest.raises(ConfigError, match=message):
        build(CamerasConfig, options)

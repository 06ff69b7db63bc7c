import math

import pytest
import torch
from metric_views import RealFigures, context, figures

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.metrics.config import PoseConfig
from lightning_gan3d.metrics.pose.accuracy import pose_errors, real_errors
from lightning_gan3d.metrics.pose.estimators import (
    PoseRegressor,
    angle_between,
    cached_regressor,
    rotation_from_6d,
    rotations,
    train_regressor,
)

CFG = PoseConfig(resolution=16, iterations=300, batch=16)


@pytest.fixture(scope="module")
def regressor():
    return train_regressor(RealFigures(600, seed=1), CFG)


@pytest.mark.parametrize("degrees", [0.01, 1, 20, 90, 179])
def test_the_angle_of_a_known_turn(degrees):
    angle = math.radians(degrees)
    a = Cameras.on_sphere(torch.tensor([0.4]), torch.tensor([0.5])).cam2world[:, :3, :3]
    b = Cameras.on_sphere(torch.tensor([0.4 + angle]), torch.tensor([0.5])).cam2world[:, :3, :3]
    assert float(angle_between(a, b)) == pytest.approx(angle, rel=1e-2 if degrees < 1 else 1e-4)
    assert float(angle_between(a, a)) == 0
    assert float(angle_between(b, a)) == pytest.approx(float(angle_between(a, b)))


def test_the_angle_does_not_depend_on_the_world_frame():
    g = torch.Generator().manual_seed(0)
    a, b, frame = (rotation_from_6d(torch.randn(20, 6, generator=g)) for _ in range(3))
    assert torch.allclose(angle_between(frame @ a, frame @ b), angle_between(a, b), atol=1e-4)
    trace = (a.mT @ b).diagonal(dim1=1, dim2=2).sum(-1)
    expected = torch.acos(((trace - 1) / 2).clamp(-1, 1))
    assert torch.allclose(angle_between(a, b), expected, atol=1e-3)


def test_six_numbers_make_a_rotation_and_a_rotation_stays():
    r = rotation_from_6d(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(r.mT @ r, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(r), torch.ones(50), atol=1e-5)
    again = rotation_from_6d(torch.cat([r[:, :, 0], r[:, :, 1]], dim=-1))
    assert torch.allclose(again, r, atol=1e-6)


def test_the_regressor_generalises_to_held_out_images(regressor):
    held_out = context(figures(), RealFigures(4, seed=3), RealFigures(200, seed=2))
    untrained = PoseRegressor(16).eval()
    assert real_errors(regressor, held_out, 200).rad2deg().median() < 20
    assert real_errors(untrained, held_out, 200, batch=64).rad2deg().median() > 60
    assert len(real_errors(regressor, held_out, 70)) == 70


def test_images_from_wrong_cameras_raise_the_error(regressor):
    real = RealFigures(100, seed=2)
    cameras = Cameras.from_label(real.labels)
    image = real.floats()
    right = pose_errors(regressor, image, cameras)
    wrong = pose_errors(regressor, image, cameras.select(torch.arange(100).roll(1)))
    assert (right.rad2deg() <= 20).float().mean() > 0.6
    assert (wrong.rad2deg() <= 20).float().mean() < 0.2


def test_it_depends_on_the_seed_alone():
    torch.manual_seed(123)
    short = PoseConfig(resolution=16, iterations=3, batch=8)
    data = RealFigures(64, seed=1)
    a = train_regressor(data, short, seed=0)
    torch.rand(5)
    b = train_regressor(data, short, seed=0)
    c = train_regressor(data, short, seed=1)
    weights = [torch.cat([p.flatten() for p in r.parameters()]) for r in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("other", [{"resolution": 32}, {"iterations": 4}, {"batch": 9}])
def test_each_option_has_an_effect(other):
    data = RealFigures(64, seed=1)
    base = {"resolution": 16, "iterations": 3, "batch": 8}
    readings = [
        train_regressor(data, PoseConfig(**{**base, **o}))(data.floats()) for o in ({}, other)
    ]
    assert not torch.equal(*readings)


def test_it_is_cached_by_data_and_options(tmp_path, monkeypatch):
    short = PoseConfig(resolution=16, iterations=3, batch=8)
    data = RealFigures(64, seed=1)

    def cached(data, cfg, seed=0):
        return cached_regressor(context(figures(), data, seed=seed, cache=tmp_path), cfg)

    first = cached(data, short)
    monkeypatch.setattr("lightning_gan3d.metrics.pose.estimators.train_regressor", None)
    again = cached(data, short)
    assert torch.equal(first(data.floats()), again(data.floats()))
    wider = PoseConfig(resolution=16, iterations=3, batch=8, threshold_degrees=30.0)
    cached(data, wider)  # the threshold is no part of the training
    with pytest.raises(TypeError):
        cached(RealFigures(64, seed=2), short)
    with pytest.raises(TypeError):
        cached(data, short, seed=1)


def test_rotations_are_those_of_the_labels():
    labels = RealFigures(4, seed=1).labels
    assert torch.equal(rotations(labels), labels[:, :16].view(4, 4, 4)[:, :3, :3])


@pytest.mark.parametrize(
    ("field", "value"),
    [("resolution", 8), ("iterations", 0), ("batch", 0), ("threshold_degrees", 0.0)],
)
def test_invalid_options_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_options(PoseConfig, [f"{field}={value}"])

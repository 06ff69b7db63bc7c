import math

import pytest
import torch
from metric_views import RealFigures, context, figures

from lightning_gan3d.metrics.config import PoseConfig
from lightning_gan3d.metrics.pose.accuracy import PoseReader, without_cameras, world_rotation
from lightning_gan3d.metrics.pose.estimators import angle_between, rotation_from_6d


def random_rotations(num, seed):
    return rotation_from_6d(torch.randn(num, 6, generator=torch.Generator().manual_seed(seed)))


def turn_y(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def metrics_of(estimated, true):
    reader = PoseReader("pose.", lambda x: torch.eye(3).expand(len(x), 3, 3), "a stand-in", 100)
    for part in zip(estimated.split(7), true.split(7), strict=True):
        reader.rotations.append(torch.stack(part))
    ctx = context(figures(), RealFigures(4, seed=1), pose=PoseConfig())
    return {m.key: m for m in reader.metrics(ctx)}


@pytest.mark.parametrize("degrees", [0.0, 35.0, 120.0, 180.0])
def test_a_rotated_world_is_aligned_exactly(degrees):
    true = random_rotations(40, 0)
    metrics = metrics_of(turn_y(degrees) @ true, true)
    assert metrics["pose.median_deg"].value == pytest.approx(degrees, abs=0.05)
    assert metrics["pose.alignment_deg"].value == pytest.approx(degrees, abs=0.05)
    assert metrics["pose.aligned_median_deg"].value == pytest.approx(0, abs=0.05)
    assert metrics["pose.aligned_median_deg"].n == 40


def test_wrong_estimates_of_a_third_of_the_images_hardly_move_it():
    true, world = random_rotations(120, 1), turn_y(50.0)
    estimated = world @ true
    estimated[:40] = turn_y(90.0) @ estimated[:40]
    found = world_rotation(estimated, true)
    assert float(angle_between(found[None], world[None]).rad2deg()) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_it_is_a_rotation_and_no_reflection(seed):
    found = world_rotation(random_rotations(3, seed), random_rotations(3, seed + 10)).double()
    assert torch.allclose(found @ found.mT, torch.eye(3).double(), atol=1e-6)
    assert float(torch.linalg.det(found)) == pytest.approx(1, abs=1e-6)


def test_it_is_missing_for_a_reason():
    broken = random_rotations(10, 0)
    broken[3] = math.nan
    metrics = metrics_of(broken, random_rotations(10, 1))
    ctx = context(figures(), pose=PoseConfig())
    without = {m.key: m for m in without_cameras(ctx, "no cameras")}
    for name in ("pose.aligned_median_deg", "pose.alignment_deg"):
        assert "not finite" in metrics[name].note
        assert without[name].note == "no cameras"
        assert without[name].unit == "deg"

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lightning_gan3d.contract import Field, FieldSample, SceneConfig
from lightning_gan3d.draws import Draws
from lightning_gan3d.training.config import LossConfig
from lightning_gan3d.training.regularizers import density_l1, density_points


@dataclass(frozen=True, eq=False)
class Slope(Field):
    """sigma_raw = slope . p"""

    slope: Tensor
    scene_cfg: SceneConfig

    def __call__(self, points, dirs=None):  # noqa: ARG002  # the contract's
        sigma_raw = (points * self.slope[:, None]).sum(-1, keepdim=True)
        return FieldSample(sigma_raw, torch.zeros(*points.shape))


CPU = torch.device("cpu")


@pytest.mark.parametrize(("points", "half", "scale"), [("box", 1.5, 3.0), ("eg3d", 1.0, 1.0)])
def test_points_fill_the_box_or_eg3ds_cube(points, half, scale):
    cfg = LossConfig(density_reg_points=points, density_reg_num_points=4000)
    p, q = density_points(cfg, 3.0, 2, Draws(0), CPU)
    assert p.abs().max() <= half
    assert p.abs().max() > 0.98 * half
    torch.testing.assert_close((q - p).std(), torch.tensor(0.004 * scale), rtol=0.03, atol=0)


def test_penalty_of_a_slope_is_its_mean_step():
    """E |slope . N(0, d^2 I)| = d |slope| sqrt(2 / pi)."""
    cfg = LossConfig(density_reg_num_points=20_000, density_reg_distance=0.05)
    field = Slope(torch.tensor([[3.0, 0.0, 4.0]]), SceneConfig(box=2.0))
    found = density_l1(field, *density_points(cfg, 2.0, 1, Draws(0), CPU))
    expected = 0.05 * 2.0 * 5.0 * math.sqrt(2 / math.pi)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0.02, atol=0)


def test_flat_density_costs_nothing():
    field = Slope(torch.zeros(2, 3), SceneConfig())
    assert density_l1(field, *density_points(LossConfig(), 1.0, 2, Draws(0), CPU)) == 0

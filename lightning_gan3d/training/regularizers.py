"""Smoothness of the density, a regulariser for scenes that are fields."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_gan3d.contract import Field
from lightning_gan3d.draws import Draws
from lightning_gan3d.training.config import LossConfig


def density_points(
    cfg: LossConfig, box: float, batch: int, draws: Draws, device: torch.device
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 3"]]:
    """Draw points and a neighbour of each.

    EG3D draws in [-1, 1]^3 whatever the box, so that with a box of edge 1 seven of eight points
    fall outside the planes; by default the points fill the box and the distance is to its scale.
    """
    shape = (batch, cfg.density_reg_num_points, 3)
    half, scale = (box / 2, box) if cfg.density_reg_points == "box" else (1.0, 1.0)
    points = (draws.uniform("points", shape, device, on_device=True) * 2 - 1) * half
    step = draws.normal("neighbours", shape, device, on_device=True)
    return points, points + step * (cfg.density_reg_distance * scale)


def density_l1(
    field: Field, points: Float[Tensor, "b n 3"], neighbours: Float[Tensor, "b n 3"]
) -> Float[Tensor, ""]:
    """Mean |sigma_raw(p) - sigma_raw(q)| (Chan et al. 2022, supplement: density regularisation)."""
    sigma_raw = field.density(torch.cat([points, neighbours], dim=1))
    at_points, at_neighbours = sigma_raw.chunk(2, dim=1)
    return (at_points - at_neighbours).abs().mean()

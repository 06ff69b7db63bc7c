import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gan3d.contract import SceneConfig
from lightning_gan3d.cost import PARTS, count_cost, count_flops, make_inputs
from lightning_gan3d.generator import Generator, GeneratorConfig
from lightning_gan3d.networks import fused
from lightning_gan3d.networks.decoder import DecoderConfig
from lightning_gan3d.networks.synthesis import Synthesis3dConfig, SynthesisConfig
from renderers.picture import PictureRendererConfig
from renderers.volume import VolumeRendererConfig
from representations.image2d import Image2dConfig
from representations.nerf_mlp import NerfMlpConfig
from representations.triplane import TriPlaneConfig
from representations.voxel import VoxelConfig


def total(fn: Callable[[], Any]) -> int:
    return count_flops(fn)["Global"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_linear_and_convolution_are_two_flops_per_multiply_add(device: str) -> None:
    linear = nn.Linear(7, 5, device=device)
    assert total(lambda: linear(torch.zeros(3, 7, device=device))) == 2 * 3 * 7 * 5
    conv = nn.Conv2d(6, 4, 3, padding=1, device=device)
    assert total(lambda: conv(torch.zeros(2, 6, 8, 8, device=device))) == 2 * 2 * 64 * 6 * 4 * 9
    conv3 = nn.Conv3d(6, 4, 3, padding=1, groups=2, device=device)
    x = torch.zeros(1, 6, 4, 4, 4, device=device)
    assert total(lambda: conv3(x)) == 2 * 64 * 3 * 4 * 27


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_interpolated_read_is_a_multiply_add_per_corner_and_channel(device: str) -> None:
    plane = torch.zeros(3, 8, 16, 16, device=device)
    points = torch.zeros(3, 1, 100, 2, device=device)
    bilinear = total(lambda: F.grid_sample(plane, points, align_corners=False))
    assert bilinear == 2 * 4 * (3 * 100 * 8)
    grid = torch.zeros(2, 8, 4, 4, 4, device=device)
    points3 = torch.zeros(2, 1, 1, 50, 3, device=device)
    trilinear = total(lambda: F.grid_sample(grid, points3, align_corners=False))
    assert trilinear == 2 * 8 * (2 * 50 * 8)
    nearest = total(lambda: F.grid_sample(plane, points, mode="nearest", align_corners=False))
    assert nearest == 0


def test_a_weighted_embedding_bag_costs_as_much_as_the_same_interpolation() -> None:
    rows, index = torch.rand(256, 8), torch.randint(256, (100, 4))
    weights = torch.rand(100, 4)
    bag = total(lambda: F.embedding_bag(index, rows, per_sample_weights=weights, mode="sum"))
    plane, points = torch.rand(1, 8, 16, 16), torch.rand(1, 1, 100, 2)
    assert bag == total(lambda: F.grid_sample(plane, points, align_corners=False)) == 2 * 4 * 800


def test_resizing_counts_as_interpolation_and_activations_count_nothing() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert total(lambda: F.interpolate(x, (16, 16), mode="bilinear")) == 2 * 4 * (2 * 3 * 256)
    assert total(lambda: F.softplus(x * 2 + 1)) == 0


def test_flops_are_counted_by_module() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    model = Two()
    counts = count_flops(lambda: model(torch.zeros(10, 4)))
    assert counts["Two.first"] == 2 * 10 * 4 * 8
    assert counts["Two.second"] == 2 * 10 * 8 * 2
    assert counts["Global"] == counts["Two"] == counts["Two.first"] + counts["Two.second"]


SCENE = SceneConfig(
    box=2.0, feature_dim=3, decoder=DecoderConfig(hidden_dim=16, activation="lrelu")
)
VOLUME = VolumeRendererConfig(samples_coarse=6, samples_fine=4)
PLANES = TriPlaneConfig(16, 8, synthesis=SynthesisConfig(channels=(12, 10, 8)))
VOXELS = VoxelConfig(8, 5, Synthesis3dConfig(channels=(12, 10)))
MLP = NerfMlpConfig(hidden_dim=20, num_layers=3)


def make(representation: Any, renderer: Any = VOLUME) -> Generator:
    cfg = GeneratorConfig(representation, renderer, z_dim=7, w_dim=9, scene=SCENE)
    return Generator(cfg, 16)


def synthesis_parameters(channels: tuple[int, ...], out: int, dims: int, w_dim: int) -> int:
    """StyleGAN2: a constant; layers of weight, bias, affine, noise strength; output layers."""
    total, below = channels[0] * 4**dims, 0
    for width in channels:
        for in_dim in [width] if below == 0 else [below, width]:
            total += in_dim * width * 3**dims + width + (w_dim + 1) * in_dim + 1
        total += width * out + out + (w_dim + 1) * width
        below = width
    return total


def test_parameters_equal_the_closed_form() -> None:
    decode = lambda c: (c + 1) * 16 + (16 + 1) * 4  # noqa: E731
    got = count_cost(make(PLANES)).parameters
    assert got["mapping"] == (25 + 1) * 9 + (7 + 9 + 1) * 9 + (9 + 1) * 9
    assert got["representation"] == synthesis_parameters((12, 10, 8), 24, 2, 9) + decode(8)
    assert got["renderer"] == got["superresolution"] == 0
    got = count_cost(make(VOXELS)).parameters
    assert got["representation"] == synthesis_parameters((12, 10), 5, 3, 9) + decode(5)
    got = count_cost(make(MLP)).parameters
    layers = (3 + 1) * 20 + 3 * (20 + 1) * 20
    assert got["representation"] == layers + (20 + 1) * 4 + 4 * (9 + 1) * 40


@pytest.mark.parametrize(
    ("representation", "numbers"),
    [(PLANES, 3 * 8 * 16**2), (VOXELS, 5 * 8**3), (MLP, 2 * (3 + 1) * 20)],
)
def test_bytes_of_a_scene_equal_the_closed_form(representation: Any, numbers: int) -> None:
    assert count_cost(make(representation)).scene_bytes == 4 * numbers


def test_bytes_of_a_picture_are_those_of_its_pixels() -> None:
    picture = Image2dConfig(synthesis=SynthesisConfig(channels=(8, 8, 8)))
    assert count_cost(make(picture, PictureRendererConfig())).scene_bytes == 4 * 3 * 16**2


@pytest.mark.parametrize(
    ("representation", "per_point"),
    [
        (PLANES, 2 * 4 * 3 * 8 + 2 * (8 * 16 + 16 * 4)),
        (VOXELS, 2 * 8 * 5 + 2 * (5 * 16 + 16 * 4)),
        (MLP, 2 * (3 * 20 + 3 * 20 * 20 + 20 * 4)),
    ],
)
def test_a_rendering_costs_its_points_times_the_field(representation: Any, per_point: int) -> None:
    generator = make(representation)
    rotation = 2 * 3 * 3  # each ray from camera to world
    for resolution in (4, 16):
        expected = resolution**2 * ((6 + 4) * per_point + rotation)
        assert count_cost(generator, resolution).flops["renderer"] == expected


def test_meta_counts_equal_those_of_real_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = count_cost(make(PLANES))
    assert cost.flops["mapping"] == 2 * (25 * 9 + (7 + 9) * 9 + 9 * 9)
    with torch.device("meta"):
        assert count_cost(make(PLANES)) == cost
    generator = make(PLANES).requires_grad_(False)
    # The counter sees torch's operations only. Which layers fuse depends on the CPU's vector width.
    monkeypatch.setattr(fused, "serves", lambda *_: False)
    generator.renderer.cfg = dataclasses.replace(generator.renderer.cfg, path="plain")
    inputs = make_inputs(generator)
    assert total(lambda: generator(*inputs)) == cost.total_flops


def test_metrics_have_names_units_and_the_counting_rule() -> None:
    rows = {m.key: m for m in count_cost(make(PLANES)).metrics()}
    assert rows["cost.scene_bytes"].value == 4 * 3 * 8 * 16**2
    assert rows["cost.scene_bytes"].unit == "bytes"
    assert rows["cost.flops"].unit == "GFLOP"
    assert "not counted: activations" in rows["cost.flops"].note
    parts = sum(rows[f"cost.{p}_parameters"].value or 0 for p in PARTS)
    assert rows["cost.parameters"].value == parts

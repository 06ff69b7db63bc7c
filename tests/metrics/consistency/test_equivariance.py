import math

import pytest
import torch
from metric_views import context, figure_labels, figures
from torch import nn

from lightning_gan3d.config import ConfigError, from_options
from lightning_gan3d.contract import transformed
from lightning_gan3d.data.camera_prior import FakeLabels
from lightning_gan3d.draws import Draws
from lightning_gan3d.experiment import load_experiment, make_networks
from lightning_gan3d.metrics.config import MotionConfig
from lightning_gan3d.metrics.consistency.equivariance import (
    KINDS,
    draw,
    grid,
    look_up,
    measure_equivariance,
    squared_error,
)
from lightning_gan3d.metrics.evaluate import source_of

SIDE = 32


def pattern(matrix, size=SIDE):
    """Plane waves of 4 to 16 pixels at the input positions of a transform: ideally equivariant."""
    draws = Draws(0)
    angle = 2 * math.pi * draws.uniform("angle", (30,))
    k = torch.stack([angle.cos(), angle.sin()]) * (
        2 * math.pi / (4 + 12 * draws.uniform("length", (30,)))
    )
    at = grid(size) @ matrix[:2, :2].T + matrix[:2, 2] * size
    phase = 2 * math.pi * draws.uniform("phase", (3, 1, 1, 30))
    return (at @ k + phase).cos().mean(dim=-1) * 2


class Network(nn.Module):
    """A picture of `change(transform)`; ignores the styles."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.register_buffer("transform", torch.eye(3), persistent=False)

    def forward(self, ws, *_):
        image = pattern(self.change(self.transform))
        return image.expand(len(ws), -1, -1, -1)


def generator(kind="image2d", change=None):
    config = load_experiment(f"demo/{kind}", [])
    made, _ = make_networks(config, SIDE)
    if change is not None:
        made.representation.synthesis = Network(change)
        made.representation.cfg = type(made.representation.cfg)(output="linear")
    return made.eval()


def measured(made, latents=8):
    source = source_of(made, FakeLabels(figure_labels(), "cameras"))
    metrics = measure_equivariance(context(source, motion=MotionConfig(equivariance=latents)))
    assert [m.name for m in metrics] == [f"motion.{kind}" for kind in KINDS]
    return {m.name.removeprefix("motion."): m for m in metrics}


def swapped(matrix):
    return torch.linalg.inv(matrix)


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (lambda matrix: matrix, 50, 100),  # ideal
        (lambda _: torch.eye(3), 5, 20),  # stuck to the screen
        (swapped, 5, 20),
        (
            lambda matrix: matrix.clone().mul_(torch.tensor([[1, 1, -1], [1, 1, 1], [1, 1, 1]])),
            5,
            20,
        ),
    ],
)
def test_an_ideal_generator_scores_high_and_a_wrong_one_low(change, low, high):
    metrics = measured(generator(change=change))
    for kind in ("eq_t_int", "eq_t_frac"):
        assert low < metrics[kind].value <= high
    assert metrics["eq_t_int"].n == 8
    assert metrics["eq_t_int"].spread >= 0


def test_rotations_are_compared_in_the_common_band():
    assert measured(generator(change=lambda m: m))["eq_r"].value > 60
    assert measured(generator(change=swapped))["eq_r"].value < 20


def test_an_error_of_a_tenth_has_26_decibels():
    """10 log10(2² / 0.1²)."""
    made = generator(change=lambda matrix: matrix)
    network = made.representation.synthesis
    network.register_forward_hook(
        lambda module, _, out: out + 0.1 * (module.transform != torch.eye(3)).any()
    )
    for metric in measured(made).values():
        assert metric.value == pytest.approx(26.02, abs=0.02)


def test_pixels_that_come_from_outside_do_not_count():
    matrix = torch.eye(3)
    matrix[0, 2] = -4 / SIDE  # the picture moves 4 pixels to the right
    image = torch.rand(3, SIDE, SIDE)
    moved = torch.full_like(image, 9.0)
    moved[:, :, 4:] = image[:, :, :-4]
    error, num = squared_error(image, moved, matrix)
    assert error < 1e-8
    assert num == 3 * SIDE * (SIDE - 4)


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_are_drawn_by_kind(kind):
    matrices = torch.stack([draw(kind, Draws(0).at(i), SIDE) for i in range(100)])
    turn, shift = matrices[:, :2, :2], matrices[:, :2, 2] * SIDE
    if kind == "eq_r":
        torch.testing.assert_close(turn @ turn.mT, torch.eye(2).expand(100, 2, 2))
        assert (torch.linalg.det(turn) > 0.99).all()
        assert turn[:, 0, 0].min() < -0.98
        assert not shift.any()
    else:
        assert torch.equal(turn, torch.eye(2).expand(100, 2, 2))
        assert 3.8 < shift.abs().max() <= 4
        assert torch.equal(shift, shift.round()) is (kind == "eq_t_int")


def test_looking_up_pixels_is_exact_and_between_them_band_limited():
    image = torch.rand(3, 12, 12)
    torch.testing.assert_close(look_up(image, grid(12)), image, atol=1e-6, rtol=0)
    one = look_up(torch.ones(1, 12, 12), grid(9) + 0.3)
    torch.testing.assert_close(one, torch.ones(1, 9, 9))
    between = grid(SIDE - 12) + torch.tensor([0.3, -0.4])
    k = torch.tensor([0.5, 0.8])
    wave = torch.sin(grid(SIDE) @ k)[None]
    # Three lobes leave about 1 %.
    error = look_up(wave, between) - torch.sin(between @ k)
    assert error.abs().max() < 0.012


def test_stylegan2_can_be_translated_only_and_scores_low():
    metrics = measured(generator())
    assert 5 < metrics["eq_t_frac"].value < 45
    assert metrics["eq_r"].value is None
    assert "shifted, but not rotated" in metrics["eq_r"].note


def test_stylegan3_is_equivariant_before_training():
    torch.manual_seed(0)
    small = "{num_layers: 5, channel_base: 256, channel_max: 16}"
    options = ["network=stylegan3-r", f"stylegan3={small}", "output=linear"]
    config = load_experiment("demo/image2d", [f"generator.representation.{x}" for x in options])
    made, _ = make_networks(config, SIDE)
    for metric in measured(made.eval(), latents=2).values():
        assert metric.value > 50


def test_generators_without_input_transform_lack_it_for_a_reason():
    for metric in measured(generator("triplane")).values():
        assert metric.value is None
        assert "no input that can be transformed" in metric.note
    of_objects = measure_equivariance(context(figures(), motion=MotionConfig()))
    assert all("no input" in m.note for m in of_objects)
    assert measure_equivariance(context(figures(), motion=MotionConfig(equivariance=None))) == []


def test_a_transform_is_restored_after_an_error():
    representation = generator().representation
    with pytest.raises(NotImplementedError), transformed(representation, torch.zeros(3, 3)):
        representation(torch.zeros(1, representation.num_ws, 64))
    assert torch.equal(representation.input_transform, torch.eye(3))
    assert generator("triplane").representation.input_transform is None


def test_the_transform_of_the_input_moves_the_constant_with_wrap():
    network = generator().representation.synthesis
    const = network.b4.const.detach()
    assert network.moved_constant(2) is None
    network.transform[:2, 2] = torch.tensor([-0.25, 0.5])  # one sample to the right, two up
    expected = const.roll((-2, 1), dims=(1, 2)).expand(2, -1, -1, -1)
    torch.testing.assert_close(network.moved_constant(2), expected, atol=1e-6, rtol=0)
    assert network.train().moved_constant(2) is None  # training ignores it
    network.eval()
    x = torch.arange(4.0)
    with torch.no_grad():
        network.b4.const[:] = torch.sin(torch.pi / 2 * x)
    network.transform[:2, 2] = torch.tensor([-0.1, 0.3])
    expected = torch.sin(torch.pi / 2 * (x - 0.4)).expand(4, 4)
    torch.testing.assert_close(network.moved_constant(1)[0, 0], expected, atol=1e-6, rtol=0)


def test_without_a_transform_nothing_changes_and_no_checkpoint_has_it():
    made = generator()
    ws = torch.randn(2, made.representation.num_ws, made.cfg.w_dim, generator=torch.Generator())
    before = made.representation(ws).image
    with transformed(made.representation, torch.eye(3)):
        assert torch.equal(made.representation(ws).image, before)
    shift = torch.eye(3)
    shift[0, 2] = 0.1
    with transformed(made.representation, shift):
        assert not torch.equal(made.representation(ws).image, before)
    assert torch.equal(made.representation(ws).image, before)
    assert not any("transform" in name for name in made.state_dict())


def test_invalid_numbers_of_latents_name_the_field():
    with pytest.raises(ConfigError, match="equivariance=0"):
        from_options(MotionConfig, ["equivariance=0"])

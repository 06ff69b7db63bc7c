"""Agreement with the official EG3D, by stored numbers and live."""

from pathlib import Path

import numpy as np
import ours
import pytest
import reference
import torch
from reference import CASES, PHASES

from lightning_gan3d.experiment import load_experiment
from lightning_gan3d.training import schedules

GOLDEN = Path(__file__).with_name("golden.npz")
LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4
STORED_GRADIENT_LIMIT = 1e-3
"""Of gradients: of all numbers, and of the stored ones, possibly from another machine. At the kink
of a ReLU or of the L1 of two densities, rounding decides on a whole term."""
WIDER = {"image": 1e-4, "logits": 1e-4, "opacity": 1e-4}
"""Wider limits of relative errors: after many layers; and for opacity, whose 1 - exp(-x) the
official code rounds for almost empty rays (ours: expm1)."""

live = pytest.mark.skipif(
    reference.checkout() is None, reason=f"{reference.VARIABLE} names no checkout of EG3D"
)


@pytest.fixture(scope="module")
def networks():
    """A function that returns our generator and discriminator of a resolution."""
    networks = {}

    def get(resolution):
        if resolution not in networks:
            networks[resolution] = (
                ours.generator(reference.generator_kwargs(resolution)),
                ours.discriminator(reference.discriminator_kwargs(resolution)),
            )
        return networks[resolution]

    return get


def inputs(case):
    return reference.latents(case.batch), reference.labels(case.resolution, case.batch)


def run_ours(networks, case):
    settings = case.psi, case.noise_mode, case.rendering
    return ours.run(*networks(case.resolution), *inputs(case), *settings)


def assert_within(errors):
    for name, error in errors.items():
        assert error <= WIDER.get(name, LIMIT), f"{name}: {error:.1e}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_match_the_golden_arrays(networks, case):
    with np.load(GOLDEN) as arrays:
        names = [n for n in arrays.files if n.startswith(f"{case.name}/")]
        expected = {n.partition("/")[2]: torch.from_numpy(arrays[n]) for n in names}
    actual = reference.thinned(run_ours(networks, case))
    assert actual.keys() == expected.keys()
    assert_within(ours.relative_errors(actual, expected))


def test_the_golden_arrays_detect_a_small_difference(networks):
    case = CASES[0]
    with np.load(GOLDEN) as arrays:
        depth = torch.from_numpy(arrays[f"{case.name}/depth"])
        opacity = torch.from_numpy(arrays[f"{case.name}/opacity"])
    assert depth.std() > 0.05
    assert opacity.min() < 0.1
    assert opacity.max() > 0.9
    generator, discriminator = networks(case.resolution)
    kwargs = reference.generator_kwargs(case.resolution)
    kwargs["rendering_kwargs"] = {**kwargs["rendering_kwargs"], "ray_end": 2.61}
    moved = ours.generator(kwargs)
    settings = case.psi, case.noise_mode, case.rendering
    with_it = ours.run(generator, discriminator, *inputs(case), *settings)
    without = ours.run(moved, discriminator, *inputs(case), *settings)
    errors = ours.relative_errors(without, with_it)
    assert errors["ws"] == errors["planes"] == 0
    assert all(errors[k] > 1e-4 for k in ("image_raw", "depth", "image"))


@live
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_match_a_checkout(networks, case):
    kwargs = reference.generator_kwargs(case.resolution)
    expected = reference.run_official(
        reference.official_generator(kwargs),
        reference.official_discriminator(reference.discriminator_kwargs(case.resolution)),
        *inputs(case),
        case.psi,
        case.noise_mode,
        case.rendering,
    )
    assert_within(ours.relative_errors(run_ours(networks, case), expected))


@pytest.mark.parametrize("phase", PHASES)
def test_losses_and_gradients_match_the_golden_arrays(phase):
    loss, gradient = ours.run_phase(phase)
    with np.load(GOLDEN) as arrays:
        expected = {k: torch.from_numpy(arrays[f"{phase}/{k}"]) for k in ("loss", "gradient")}
    actual = {"loss": loss, **reference.thinned({"gradient": gradient})}
    for name, limit in (("loss", LIMIT), ("gradient", STORED_GRADIENT_LIMIT)):
        assert relative(actual[name], expected[name]) <= limit, name


@live
@pytest.mark.parametrize("phase", PHASES)
def test_losses_and_gradients_match_a_checkout(phase):
    for actual, expected in zip(
        ours.run_phase(phase), reference.run_official_phase(phase), strict=True
    ):
        assert relative(actual, expected) <= GRADIENT_LIMIT


@pytest.mark.parametrize("c_dim", [0, 25])
def test_the_2d_baseline_matches_the_official_stylegan2(c_dim):
    with np.load(GOLDEN) as arrays:
        names = ("ws", "image", "logits")
        expected = {n: torch.from_numpy(arrays[f"stylegan2-{c_dim}/{n}"]) for n in names}
    actual = reference.thinned(ours.run_stylegan2(c_dim))
    for name, limit in (("ws", LIMIT), ("image", LIMIT), ("logits", WIDER["logits"])):
        assert relative(actual[name], expected[name]) <= limit, name


@live
@pytest.mark.parametrize("c_dim", [0, 25])
def test_the_2d_baseline_matches_a_checkout(c_dim):
    expected, actual = reference.run_official_stylegan2(c_dim), ours.run_stylegan2(c_dim)
    assert all(relative(actual[k], v) <= WIDER.get(k, LIMIT) for k, v in expected.items())


def test_schedules_match_the_official_ones():
    config = load_experiment("eg3d/ffhq512_128", ["init_from.schedules=restart"])
    training = config.training
    with np.load(GOLDEN) as arrays:
        expected = arrays["schedules"]
    for images_seen, (sigma, swap, resolution) in zip(reference.SEEN, expected, strict=True):
        assert schedules.blur_sigma(training, images_seen) == pytest.approx(sigma, abs=1e-12)
        assert schedules.swap_probability(training, images_seen) == pytest.approx(swap, abs=1e-12)
        actual = schedules.rendering_resolution(training.rendering_resolution, images_seen, 64)
        assert actual == resolution


@live
def test_the_stored_schedules_match_a_checkout():
    with np.load(GOLDEN) as arrays:
        np.testing.assert_array_equal(arrays["schedules"], np.array(reference.official_schedules()))


def test_lazy_regularisation_scales_adam_as_the_official_code():
    config = load_experiment("eg3d/ffhq512")
    g = schedules.lazy_adam(config.optimizer.generator, config.loss.density_reg_interval)
    d = schedules.lazy_adam(config.optimizer.discriminator, config.loss.r1_interval)
    assert (g.lr, g.betas[1]) == pytest.approx((0.0025 * 4 / 5, 0.99 ** (4 / 5)))
    assert (d.lr, d.betas[1]) == pytest.approx((0.002 * 16 / 17, 0.99 ** (16 / 17)))
    assert g.betas[0] == d.betas[0] == 0


def relative(actual, expected):
    return float((actual - expected).norm() / expected.norm())

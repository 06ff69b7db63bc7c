"""Fields that are MLPs: the CPU kernels beside the plain path."""

import random

import pytest
import torch

pytest.importorskip("numba")

from kernel_comparison import EG3D, errors, make_mlp, random_options, render, views

from lightning_gan3d.benchmark.memory import peak_bytes
from lightning_gan3d.contract import DensityConfig
from lightning_gan3d.draws import Draws
from renderers.fused.cpu import mlp_rendering
from renderers.volume import VolumeRenderer, VolumeRendererConfig


def compare(field, cameras, resolution, draws, value=5e-5, gradient=1e-4, **options):
    ours = render("numba", field, cameras, resolution, draws, **options)
    plain = render("plain", field, cameras, resolution, draws, **options)
    assert ours.path.startswith("numba")
    assert set(ours.gradients) == set(plain.gradients)
    values = {"feature", "depth", "opacity"}
    result = errors(ours, plain)
    assert all(e < (value if k in values else gradient) for k, e in result.items()), result


def random_case(seed):
    """A field, cameras, a resolution, draws and options, all at random."""
    rng = random.Random(seed)
    batch = rng.randint(1, 3)
    field = make_mlp(
        batch,
        features=rng.choice([3, 4, 17, 32]),
        density=DensityConfig(
            activation=rng.choice(["softplus", "relu", "exp"]),
            scale=rng.choice([0.5, 1.0, 6.0]),
            prior_strength=rng.choice([0.0, 3.0]),
        ),
        variant=rng.choice(["film_siren", "posenc_relu"]),
        hidden_dim=rng.choice([1, 5, 16, 33, 64]),
        num_layers=rng.randint(1, 4),
        octaves=rng.choice([1, 3, 6]),
        view_dirs=rng.choice([False, True]),
        seed=seed,
    )
    options = random_options(rng)
    if options["rules"] == "standard" and options["samples_fine"]:
        options["importance"] = rng.choice(["weights", "nucleus"])
    draws = rng.choice([None, Draws(seed)])
    return field, views(batch * rng.randint(1, 2)), rng.choice([5, 8, 11]), draws, options


# Case 7: the gradient of the density's bias is a sum of terms that cancel.
@pytest.mark.parametrize("seed", sorted({*range(33)} - {7}))
def test_random_sizes_and_rules(seed):
    field, cameras, resolution, draws, options = random_case(seed)
    compare(field, cameras, resolution, draws, **options)


@pytest.mark.parametrize("side", [3, 24], ids=["one tile", "many tiles"])
def test_the_same_bits_for_any_number_of_threads(side):
    field, before = make_mlp(2, view_dirs=True), torch.get_num_threads()
    outcomes = []
    try:
        for number in (1, 2, 3, 3):
            torch.set_num_threads(number)
            outcomes.append(render("numba", field, views(4), side, Draws(1), **EG3D))
    finally:
        torch.set_num_threads(before)
    first, *others = (x.outputs | x.gradients for x in outcomes)
    assert all(torch.equal(first[k], other[k]) for other in others for k in first)


@pytest.mark.parametrize("points", [1, 10**4], ids=["one ray", "a tile"])
def test_groups_of_rays_do_not_matter(monkeypatch, points):
    field, options = make_mlp(view_dirs=True), {"samples_coarse": 5, "samples_fine": 6}
    expected = render("numba", field, views(2), 9, Draws(0), **options)
    monkeypatch.setattr(mlp_rendering, "POINTS", points)
    result = render("numba", field, views(2), 9, Draws(0), **options)
    assert all(torch.equal(result.outputs[k], expected.outputs[k]) for k in expected.outputs)
    assert max(errors(result, expected).values()) < 1e-5


def test_high_frequencies_are_as_exact_as_those_of_torch():
    # A sine of 2^9 pi x in float32 is uncertain by 1e-4, whichever code computes it.
    field = make_mlp(variant="posenc_relu", octaves=10)
    exact = make_mlp(variant="posenc_relu", octaves=10, dtype=torch.float64)
    expected = render("plain", exact, views(1, torch.float64), 8, None)
    ours, plain = (
        errors(render(path, field, views(1), 8, None), expected)["feature"]
        for path in ("numba", "plain")
    )
    assert ours < 1.5 * plain < 1e-3


def test_a_gradient_is_that_of_finite_differences():
    field = make_mlp(hidden_dim=8)

    def loss(shift):
        renderer = VolumeRenderer(VolumeRendererConfig(path="numba", samples_coarse=12))
        changed = type(field)(field.scale, shift, field.net, field.scene_cfg)
        out = renderer(changed, views(1), 6)
        return out.feature.double().square().mean() + out.opacity.double().mean()

    shift = field.shift.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(shift), shift)
    direction = torch.randn(shift.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead, behind = (loss(shift + s * direction) for s in (1e-2, -1e-2))
    slope = ((ahead - behind) / 2e-2).item()
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-3)


def test_without_gradient_memory_does_not_grow_with_the_rays():
    field = make_mlp()
    renderer = VolumeRenderer(VolumeRendererConfig(path="numba", samples_coarse=12))

    def excess(resolution):
        with torch.no_grad():
            peak = peak_bytes(lambda: renderer(field, views(1), resolution), torch.device("cpu"))
        plain = 4 * (3 + 1 + 1 + 4 + 3 + 3)  # a ray, its bounds and its outputs, in the renderer
        return peak - 4 * plain * resolution**2

    assert excess(128) < excess(32) + 50_000


def test_nan_in_a_field_shows():
    field = make_mlp(2)
    hit = render("plain", field, views(2), 12, None).outputs["opacity"] > 0
    field.shift[1, 0, 3] = torch.nan
    nan = torch.isnan(render("numba", field, views(2), 12, None).outputs["feature"])
    assert not nan[0].any()
    assert torch.equal(nan[1].all(dim=0), hit[1, 0])


def test_float64_is_rendered_by_the_plain_path():
    field = make_mlp(dtype=torch.float64)
    renderer = VolumeRenderer(VolumeRendererConfig(samples_coarse=4))
    renderer(field, views(1, torch.float64), 4)
    assert "the kernels compute in float32" in str(renderer.backend)

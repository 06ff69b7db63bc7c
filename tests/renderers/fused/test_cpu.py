import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

from kernel_comparison import EG3D, errors, make_field, random_options, render, views

from lightning_gan3d.benchmark.memory import peak_bytes
from lightning_gan3d.contract import DensityConfig
from lightning_gan3d.draws import Draws
from renderers.fused.cpu import numba_renderer
from renderers.fused.cpu.workspace import find_side
from renderers.volume import VolumeRenderer, VolumeRendererConfig

VALUES = ("feature", "depth", "opacity")


@pytest.fixture
def threads():
    """Sets the number of threads; the one before comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def compare(field, cameras, resolution, draws, value=2e-5, gradient=1e-4, **options):
    ours = render("numba", field, cameras, resolution, draws, **options)
    plain = render("plain", field, cameras, resolution, draws, **options)
    assert ours.path.startswith("numba")
    assert plain.path.startswith("PyTorch")
    result = errors(ours, plain)
    assert all(e < (value if n in VALUES else gradient) for n, e in result.items()), result


@pytest.mark.parametrize("kind", ["triplane", "eg3d", "trigrid", "voxel"])
@pytest.mark.parametrize("rules", [{}, EG3D], ids=["standard", "eg3d"])
@pytest.mark.parametrize("draws", [None, Draws(3)], ids=["middles", "drawn"])
def test_every_kind_of_grid_under_both_sets_of_rules(kind, rules, draws):
    compare(make_field(kind, batch=2), views(4), 12, draws, **rules)


def random_case(seed):
    """A field, cameras, a resolution, draws and options, all at random."""
    rng = random.Random(seed)
    density = DensityConfig(
        activation=rng.choice(["softplus", "relu", "exp"]),
        scale=rng.choice([0.5, 1.0, 6.0]),
        prior_strength=rng.choice([0.0, 3.0]),
    )
    batch = rng.randint(1, 3)
    field = make_field(
        rng.choice(["triplane", "eg3d", "trigrid", "voxel"]),
        batch=batch,
        size=rng.randint(4, 20),
        channels=rng.choice([1, 3, 8, 16, 24, 32, 48]),
        hidden=rng.choice([1, 5, 16, 33, 64]),
        features=rng.choice([3, 4, 16, 32, 37]),
        activation=rng.choice(["softplus", "lrelu"]),
        density=density,
        depth=rng.randint(2, 3),
        seed=seed,
    )
    options = random_options(rng)
    draws = rng.choice([None, Draws(seed)])
    return field, views(batch * rng.randint(1, 2)), rng.choice([5, 8, 11, 16]), draws, options


# Case 33 is ill-conditioned: exp of large raw densities turns rounding into 4e-3 of a gradient.
@pytest.mark.parametrize("seed", sorted({*range(41)} - {33}))
def test_random_sizes_and_rules(seed):
    field, cameras, resolution, draws, options = random_case(seed)
    compare(field, cameras, resolution, draws, **options)


@pytest.mark.parametrize("seed", range(12))
def test_a_nucleus_of_random_sizes(seed):
    field, cameras, resolution, draws, options = random_case(100 + seed)
    rng = random.Random(seed)
    options |= {
        "rules": "standard",
        "samples_coarse": rng.randint(1, 40),
        "samples_fine": rng.choice([1, 7, 16, 33]),
        "importance": "nucleus",
        "nucleus_mass": rng.choice([0.3, 0.9, 0.98, 0.999]),
    }
    compare(field, cameras, resolution, draws, **options)


def channels_last(field):
    """The same planes with their channels innermost in memory."""
    planes = field.planes.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return dataclasses.replace(field, planes=planes)


def test_channels_innermost_are_read_in_place_with_equal_results():
    field = make_field(channels=16, batch=2)
    ours = render("numba", field, views(2), 8, None)
    other = render("numba", channels_last(field), views(2), 8, None)
    assert all(torch.equal(ours.outputs[k], other.outputs[k]) for k in ours.outputs)
    assert all(torch.equal(ours.gradients[k], other.gradients[k]) for k in ours.gradients)


@pytest.mark.parametrize("layout", [lambda f: f, channels_last], ids=["first", "last"])
@pytest.mark.parametrize("kind", ["triplane", "voxel"])
def test_bfloat16_grids_are_their_float32_values(kind, layout):
    field = make_field(kind, channels=16)
    if kind == "triplane":
        field = layout(field)
    half = field.to(dtype=torch.bfloat16)
    compare(half, views(1), 8, None, gradient=8e-3)  # gradients are bfloat16
    with torch.no_grad():
        result = render_only("numba", half, 8)
        expected = render_only("plain", half.to(dtype=torch.float32), 8)
    torch.testing.assert_close(result.feature, expected.feature, atol=1e-5, rtol=0)


def render_only(path, field, resolution, **options):
    cfg = VolumeRendererConfig(
        **{"samples_coarse": 12, "samples_fine": 12, **options, "path": path}
    )
    return VolumeRenderer(cfg)(field, views(field.batch), resolution)


@pytest.mark.parametrize("kind", ["triplane", "voxel"])
@pytest.mark.parametrize("side", [3, 24], ids=["one tile", "many tiles"])
def test_the_same_bits_for_any_number_of_threads_and_every_time(threads, kind, side):
    field = make_field(kind, batch=2, channels=16)
    outcomes = []
    for number in (1, 2, 3, 3):
        threads(number)
        outcomes.append(render("numba", field, views(4), side, Draws(1), **EG3D))
    for other in outcomes[1:]:
        for a, b in (
            (outcomes[0].outputs, other.outputs),
            (outcomes[0].gradients, other.gradients),
        ):
            assert all(torch.equal(a[k], b[k]) for k in a)


def test_only_what_requires_a_gradient_gets_one():
    field = make_field()
    decoder = field.decoder
    decoder.requires_grad_(False)
    planes = field.planes.clone().requires_grad_()
    out = render_only("numba", dataclasses.replace(field, planes=planes), 8)
    (alone,) = torch.autograd.grad(out.feature.sum(), planes)
    decoder.requires_grad_(True)
    out = render_only("numba", field, 8)
    weights = torch.autograd.grad(out.feature.sum(), list(decoder.parameters()))
    out = render_only("numba", dataclasses.replace(field, planes=planes), 8)
    both = torch.autograd.grad(out.feature.sum(), [planes, *decoder.parameters()])
    assert torch.equal(alone, both[0])
    assert all(torch.equal(a, b) for a, b in zip(weights, both[1:], strict=True))


def test_gradients_are_those_of_finite_differences():
    field = make_field(size=4, channels=2, hidden=3, features=3, density=DensityConfig(scale=2.0))

    def loss(planes):
        out = render_only("numba", dataclasses.replace(field, planes=planes), 6, samples_fine=0)
        return out.feature.double().square().mean() + out.opacity.double().mean()

    planes = field.planes.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(planes), planes)
    direction = torch.randn(planes.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead, behind = (loss(planes + s * direction) for s in (1e-2, -1e-2))
    assert ((ahead - behind) / 2e-2).item() == pytest.approx(
        (gradient * direction).sum().item(), rel=2e-3
    )


def test_a_second_derivative_is_rejected():
    field = make_field()
    planes = field.planes.clone().requires_grad_()
    out = render_only("numba", dataclasses.replace(field, planes=planes), 8)
    (gradient,) = torch.autograd.grad(out.feature.square().sum(), planes, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (make_field(dtype=torch.float64), "the kernels compute in float32"),
        (make_field().to(dtype=torch.float16), "grids of torch.float16; the kernels read float32"),
    ],
    ids=["float64", "float16"],
)
def test_other_types_are_rejected_with_the_reason(field, reason):
    renderer = VolumeRenderer(VolumeRendererConfig(samples_coarse=4))
    dtype = torch.float64 if field.planes.dtype == torch.float64 else torch.float32
    renderer(field, views(1, dtype), 4)
    assert renderer.backend is not None
    assert reason in renderer.backend.reason


@pytest.mark.parametrize("channels", [6, 16])
def test_default_dtype_and_device_do_not_matter(channels):
    field = make_field(batch=2, channels=channels)
    renderer = VolumeRenderer(VolumeRendererConfig(samples_coarse=8))
    leaves = [field.planes.requires_grad_(), *field.decoder.parameters()]
    requests = []

    def render_request(request):
        requests.append(request)
        return original(request)

    with pytest.MonkeyPatch.context() as patch:
        original = numba_renderer.render_request
        patch.setattr(numba_renderer, "render_request", render_request)
        renderer(field, views(2), 8)

    def results():
        sums = numba_renderer.render_request(requests[-1])
        total = sums.feature.sum() + sums.depth.sum() + sums.opacity.square().sum()
        return [*sums, *torch.autograd.grad(total, leaves, retain_graph=True)]

    expected = results()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            result = results()
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_nan_in_a_field_shows():
    field = make_field()
    field.planes[0, 0, 0, 8, 8] = torch.nan
    out = render_only("numba", field, 8)
    plain = render_only("plain", field, 8)
    assert torch.isnan(out.feature).any()
    assert torch.equal(torch.isnan(out.feature), torch.isnan(plain.feature))


@pytest.mark.parametrize("views_of_it", [1, 2, 3])
@pytest.mark.parametrize("resolution", [8, 10, 16])
def test_images_are_recognised(resolution, views_of_it):
    rays = views(views_of_it).rays(resolution)
    assert find_side(rays.origins.reshape(-1, 3)) == resolution


def test_rays_need_not_form_an_image():
    field = make_field()
    rays = views(1).rays(13)
    some = type(rays)(*(x[:, 20:121] for x in rays))
    result, expected = (
        VolumeRenderer(VolumeRendererConfig(path=p, samples_coarse=9)).render_rays(field, some)
        for p in ("numba", "plain")
    )
    torch.testing.assert_close(result.feature, expected.feature, atol=1e-5, rtol=0)


def test_without_gradient_memory_does_not_grow_with_the_rays():
    field = make_field(channels=16, features=3)

    def excess(resolution):
        with torch.no_grad():
            peak = peak_bytes(lambda: render_only("numba", field, resolution), torch.device("cpu"))
        plain = 4 * (3 + 1 + 1 + 4 + 3 + 3)  # a ray, its bounds and its outputs, in the renderer
        return peak - 4 * plain * resolution**2

    assert excess(128) < excess(32) + 50_000


def test_with_gradient_fine_depths_and_one_copy_are_kept(threads):
    field = channels_last(make_field(channels=16, features=3, size=64))
    planes = field.planes.requires_grad_()
    resolution = 64
    out = render_only("numba", field, resolution)
    saved = out.feature.grad_fn
    while type(saved).__name__ != "_RayMarchingBackward":
        saved = saved.next_functions[0][0]
    fine, *rest = saved.saved_tensors
    assert fine.shape == (1, resolution**2, 12)
    assert any(x is not None and x.data_ptr() == planes.data_ptr() for x in rest)
    threads(4)
    out = render_only("numba", field, resolution)
    peak = peak_bytes(
        lambda: torch.autograd.grad(out.feature.sum(), planes, retain_graph=True),
        torch.device("cpu"),
    )
    gathered = 8 * 64 * 24 * 16 * 4
    assert peak < planes.nbytes + gathered + 2_000_000


COLD = """
import sys
sys.path[:0] = sys.argv[1:]
from kernel_comparison import errors, make_field, random_options, render, views
ours, plain = (render(path, make_field(), views(1), 8, None) for path in ("numba", "plain"))
assert max(errors(ours, plain).values()) < 1e-4
print(ours.path)
"""


@pytest.mark.slow
def test_narrow_vectors_and_a_cache_that_cannot_be_written_cost_time_alone(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    here = Path(__file__)
    places = {"NUMBA_CACHE_DIR": str(blocked), "XDG_CACHE_HOME": str(blocked)}
    done = subprocess.run(
        [sys.executable, "-c", COLD, str(here.parents[1]), str(here.parents[3])],
        env={**os.environ, **places, "TMPDIR": str(tmp_path), "GAN3D_SIMD_WIDTH": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("numba, 128-bit vectors")

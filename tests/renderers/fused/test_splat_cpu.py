"""The CPU kernels of splatting beside PyTorch."""

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

from splat_scenes import around, error, random_splats, render

from renderers import footprints
from renderers.footprints import Footprints
from renderers.fused.cpu import splat_projection, splat_rendering
from renderers.splat import SplatRenderer, SplatRendererConfig, composite


def compare(scene, cameras, resolution, **options):
    (ours, gradients, path), (expected, d_expected, plain) = (
        render(path, scene, cameras, resolution, **options) for path in ("numba", "plain")
    )
    assert path.startswith("numba")
    assert plain.startswith("PyTorch")
    values = [error(a, b) for a, b in zip(ours, expected, strict=True)]
    slopes = [error(a, b) for a, b in zip(gradients, d_expected, strict=True)]
    assert max(values) < 1e-5, values
    assert max(slopes) < 1e-4, slopes


def random_case(seed):
    rng = random.Random(seed)
    batch = rng.randint(1, 3)
    scene = random_splats(
        rng.choice([1, 15, 16, 17, 100, 300]),
        batch,
        rng.choice([3, 4, 7, 32]),
        harmonics=False,
        seed=seed,
        size=rng.choice([0.005, 0.03, 0.15]),
    )
    cameras = around(batch * rng.randint(1, 2), rng.choice([0.5, 1.5]))
    return scene, cameras, rng.choice([1, 5, 16, 23, 48]), rng.choice([True, False])


@pytest.mark.parametrize("seed", range(16))
def test_random_sizes(seed):
    scene, cameras, resolution, antialias = random_case(seed)
    compare(scene, cameras, resolution, antialias=antialias)


def test_colours_that_depend_on_the_direction():
    compare(random_splats(60, 2, harmonics=True), around(4), 20)


def test_gradient_by_cameras():
    cameras = around(2)
    cameras = type(cameras)(*(x.requires_grad_() for x in cameras))
    compare(random_splats(60), cameras, 20)


def test_projection_in_front_of_and_behind_the_camera():
    """Most Gaussians are cut: their means, depths and distances too are those of PyTorch."""
    scene, cameras = random_splats(200, 2, seed=1, size=0.02), around(4, radius=0.2)
    expected, ours = (
        f(scene, cameras, 32, 0.01, True) for f in (footprints.project, splat_projection.project)
    )
    assert 0.1 < float((expected.opacity > 0).float().mean()) < 0.7
    for a, b in zip(ours, expected, strict=True):
        assert error(a, b) < 1e-5


def stacked(depth_z):
    """Large footprints over one another, in an order."""
    n = depth_z.shape[1]
    g = torch.Generator().manual_seed(2)
    mean = 8 + 6 * torch.randn(1, 2, n, generator=g)
    conic = torch.tensor([0.02, 0.005, 0.03])[None, :, None].expand(1, 3, n)
    feature = torch.rand(1, 3, n, generator=g)
    one = torch.ones(1, n)
    return Footprints(mean, conic, 0.3 * one, feature, one, depth_z, 20 * torch.ones(1, 2, n))


@pytest.mark.parametrize("depth", ["equal", "descending", "signed"])
def test_order_by_depth_then_index(depth):
    values = {"equal": torch.ones(40), "descending": torch.linspace(9, 1, 40)}
    values["signed"] = torch.linspace(-2, 2, 40).roll(13)
    f = stacked(values[depth][None])
    ours, expected = (c(f, 20).feature for c in (splat_rendering.composite, composite))
    assert error(ours, expected) < 1e-6
    assert error(composite(f._replace(depth_z=-f.depth_z), 20).feature, expected) > 1e-2 or (
        depth == "equal"
    )


def test_opaque_gaussians():
    """Opacities are cut, without a gradient there, and pixels are finished."""
    scene = random_splats(80, size=0.3)
    compare(dataclasses.replace(scene, opacities=torch.ones_like(scene.opacities)), around(2), 21)


@pytest.mark.parametrize("name", ["mean", "conic", "opacity", "depth_z", "reach"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_footprints_that_are_not_finite_stay_within_memory(name, value):
    f = stacked(torch.linspace(1, 9, 40)[None])
    wrong = getattr(f, name).clone()
    wrong[..., ::7] = value
    leaves = [x.clone().requires_grad_() for x in f._replace(**{name: wrong})[:5]]
    rest = f._replace(**{name: wrong})[5:]
    sums = splat_rendering.composite(Footprints(*leaves, *rest), 20)
    torch.autograd.grad(list(sums), leaves, [torch.ones_like(x) for x in sums])
    if name == "mean" and not value < 1e9:  # culled
        others = Footprints(*(x[..., torch.arange(40) % 7 > 0] for x in f))
        assert error(sums.feature, splat_rendering.composite(others, 20).feature) < 1e-6


@pytest.mark.parametrize("resolution", [16, 40])
def test_views_without_gaussians(resolution):
    scene, cameras = random_splats(30), around(2)
    cameras.cam2world[1, :3, :3] *= -1  # looks away
    out = SplatRenderer(SplatRendererConfig(path="numba"))(scene, cameras, resolution)
    assert float(out.opacity[0].max()) > 0.5
    assert float(out.opacity[1].max()) == 0
    assert torch.equal(out.feature[1], torch.full_like(out.feature[1], -1))
    compare(scene, cameras, resolution)
    compare(scene, cameras.select(slice(1, 2)), resolution)


def test_the_same_bits_for_any_number_of_threads():
    scene, cameras = random_splats(3000, 2, size=0.02), around(4)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out, gradients, _ = render("numba", scene, cameras, 50)
            results.append([*out, *gradients])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["means", "scales", "rotations", "opacities", "features"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0, 1e30])
def test_values_that_are_not_finite_stay_within_memory(name, value):
    """A Gaussian without a position is culled; none makes others or the kernel fail."""
    scene = random_splats(64)
    values = getattr(scene, name).clone()
    values[0, ::7] = value
    out, gradients, _ = render("numba", dataclasses.replace(scene, **{name: values}), around(2), 33)
    assert len(out) + len(gradients) == 8
    if name == "means" and value != 0:
        rest = torch.arange(64) % 7 > 0
        only = scene.map(lambda x: x[:, rest])
        assert error(out[0], render("numba", only, around(2), 33)[0][0]) < 1e-6


NARROW = """
import sys, torch
sys.path[:0] = sys.argv[1:3]
from splat_scenes import around, random_splats
from renderers.splat import SplatRenderer, SplatRendererConfig
torch.set_num_threads(1)
renderer = SplatRenderer(SplatRendererConfig(path="numba"))
with torch.no_grad():
    torch.save(renderer(random_splats(50), around(1), 20)[:3], sys.argv[3])
print(renderer.backend)
"""


def test_narrower_vectors(tmp_path):
    """Values only: gradients take ten seconds to compile."""
    here, file = Path(__file__), tmp_path / "values.pt"
    done = subprocess.run(
        [sys.executable, "-c", NARROW, str(here.parents[1]), str(here.parents[3]), str(file)],
        env={**os.environ, "GAN3D_SIMD_WIDTH": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("numba, 128-bit vectors")
    for a, b in zip(
        torch.load(file), render("plain", random_splats(50), around(1), 20)[0], strict=True
    ):
        assert error(a, b) < 1e-5

"""Run by test_gpu.py in its own process, in Triton's interpreter instead of on a GPU.

The interpreter needs 0.1 s for a block of 64 rays at one sample: use few of both.
"""

import pytest
import torch
import triton
import triton.language as tl
from kernel_comparison import EG3D, errors, make_field, make_mlp, render, views

from lightning_gan3d.cameras import Rays
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import DensityConfig
from lightning_gan3d.draws import Draws
from renderers import backends
from renderers.fused import kernel_check
from renderers.fused.gpu import launches, layer_kernels, mlp_marching
from renderers.volume import VolumeRenderer, VolumeRendererConfig

NEAR_FAR = dict(bounds="near_far", near=2.2, far=4.4)


@pytest.fixture(autouse=True)
def little_work(monkeypatch):
    """Fewer, larger blocks (`test_work_is_split...` sets those of a GPU), and no self-check.

    `compare` checks the same and more; `test_the_self_check_passes` runs it.
    """
    monkeypatch.setattr(backends, "find_fault", lambda *_: "")
    monkeypatch.setattr(launches, "PROGRAMS", 1)
    monkeypatch.setattr(launches, "BACKWARD_TILE", (8, 8))


def compare(field, resolution=4, num=None, draws=None, bound=5e-5, **options):
    options = {"samples_coarse": 3, "samples_fine": 2, **options}
    cameras = views(num or field.batch)
    result = render("triton", field, cameras, resolution, draws, **options)
    assert result.path == f"triton, interpreted, {options.get('precision', 'fp32')}"
    exact = {k: v for k, v in options.items() if k != "precision"}
    expected = render("plain", field, cameras, resolution, draws, **exact)
    assert set(result.gradients) == set(expected.gradients)
    assert max(errors(result, expected).values()) < bound, errors(result, expected)
    return result


def test_planes_of_two_scenes_from_two_views_each():
    compare(make_field(batch=2), num=4)


def test_eg3d_rules_with_draws_and_noise():
    options = dict(**EG3D, **NEAR_FAR, density_noise=0.5, background=1.0)
    compare(make_field("eg3d"), samples_coarse=5, samples_fine=3, draws=Draws(3), **options)


@pytest.mark.parametrize("draws", [None, Draws(3)])
def test_a_nucleus(draws):
    options = dict(importance="nucleus", nucleus_mass=0.9)
    compare(make_field(), samples_coarse=7, samples_fine=3, draws=draws, **options)


def test_odd_sizes_of_a_trigrid():
    density = DensityConfig("relu", scale=9.0)
    field = make_field(
        "trigrid", channels=20, hidden=24, features=17, activation="lrelu", density=density
    )
    compare(field, rules="eg3d", samples_coarse=4, samples_fine=1, draws=Draws(1))


def test_voxels_of_coarse_samples_alone_beyond_the_box():
    field = make_field("voxel", density=DensityConfig("exp", scale=0.7))
    compare(field, samples_fine=0, outside="field", **NEAR_FAR)


def test_pairs_of_coarse_samples_in_a_ball():
    compare(make_field(), samples_fine=0, rules="eg3d", bounds="sphere", draws=Draws(2))


def test_work_is_split_over_tiles_samples_and_programs(monkeypatch):
    monkeypatch.setattr(launches, "PROGRAMS", 5)
    monkeypatch.setattr(launches, "BACKWARD_PROGRAMS", 4)
    monkeypatch.setattr(launches, "TILE", (4, 8))
    monkeypatch.setattr(launches, "BACKWARD_TILE", (4, 8))
    # Two tiles of an image of 8 x 8; five samples fall into parts of 2, 2 and 1.
    compare(make_field(), resolution=8)


@pytest.mark.parametrize("make", [make_field, make_mlp])
@pytest.mark.parametrize(("precision", "bound"), [("tf32", 5e-5), ("fp16", 1e-2)])
def test_fewer_digits(make, precision, bound):
    # The interpreter multiplies tf32 as float32.
    compare(make(), precision=precision, bound=bound)


def test_mlps_of_two_scenes_in_chunks(monkeypatch):
    # Seven rays of each scene in the backward pass, whose points are split in two for the sums.
    monkeypatch.setattr(mlp_marching, "CHUNK", 2 * 7 * 5 * 32 * 4)
    compare(make_mlp(batch=2, view_dirs=True), draws=Draws(0), density_noise=0.5)


def test_an_mlp_with_draws_noise_and_many_features():
    options = dict(**EG3D, **NEAR_FAR, density_noise=0.5, background=1.0)
    field = make_mlp(features=17, hidden_dim=40, num_layers=3)
    compare(field, samples_coarse=5, samples_fine=3, draws=Draws(3), **options)


def test_an_encoded_mlp_of_coarse_samples_alone_beyond_the_box():
    density = DensityConfig("relu", scale=9.0)
    field = make_mlp(variant="posenc_relu", octaves=3, num_layers=1, density=density)
    compare(field, samples_fine=0, outside="field", **NEAR_FAR)


def test_an_encoded_mlp_with_directions():
    field = make_mlp(2, variant="posenc_relu", octaves=4, num_layers=3, view_dirs=True)
    compare(field, num=4, importance="nucleus")


@triton.jit
def sines_kernel(x, result):
    i = tl.arange(0, 4096)
    r, sign = layer_kernels.reduced(tl.load(x + i))
    tl.store(result + i, sign * layer_kernels.sine(r))
    tl.store(result + 4096 + i, sign * layer_kernels.cosine(r))


def test_sines_of_large_arguments():
    x = torch.linspace(-1e4, 1e4, 4096)
    result = torch.empty(2, 4096)
    sines_kernel[(1,)](x, result)
    exact = torch.stack([x.double().sin(), x.double().cos()])
    assert (result - exact).abs().max() < 2e-7


@pytest.mark.parametrize("variant", ["film_siren", "posenc_relu"])
def test_nan_in_an_mlp_shows(variant):
    field = make_mlp(2, variant=variant, octaves=3)
    field.shift[1, 0, 3] = torch.nan
    cfg = VolumeRendererConfig(path="triton", samples_coarse=4, samples_fine=2)
    with torch.no_grad():
        nan = VolumeRenderer(cfg)(field, views(2), 4).feature.isnan()
    assert not nan[0].any()
    assert nan[1].any()


@pytest.mark.parametrize(("make", "kept"), [(make_field, 4 + 4 + 2), (make_mlp, 4)])
def test_bytes_kept_for_the_backward_pass(make, kept):
    saved = []

    def keep(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        render("triton", make(), views(1), 4, Draws(0), samples_coarse=3, samples_fine=2)
    per_sample = [x for x in saved if x.shape == (1, 16, 5)]
    assert sum(x.numel() * x.element_size() for x in per_sample) == 16 * 5 * kept


def test_rays_that_change_before_the_backward_pass_are_noticed():
    field = make_field()
    cfg = VolumeRendererConfig(path="triton", samples_coarse=2, samples_fine=0)
    o = VolumeRenderer(cfg)
    rays = views(1).rays(2)
    rays = Rays(*(x.contiguous() for x in rays))
    out = o.render_rays(field, rays).feature.sum()
    rays.dirs.neg_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (make_field(channels=96), r"\(96, 16, 5\); the kernels support up to 64"),
        (make_field(), "gradients are added atomically, but deterministic"),
    ],
)
def test_unsupported_requests_are_rejected_with_the_reason(monkeypatch, field, reason):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    o = VolumeRenderer(VolumeRendererConfig(path="triton"))
    with pytest.raises(ConfigError, match=f"renderer.path=triton: .*{reason}.*; use auto or"):
        o(field, views(1), 4)


def test_without_gradient_the_order_of_additions_does_not_matter(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    cfg = VolumeRendererConfig(path="triton", samples_coarse=2, samples_fine=0)
    o = VolumeRenderer(cfg)
    with torch.no_grad():
        o(make_field(), views(1), 2)
    assert str(o.backend) == "triton, interpreted, fp32"


def test_gradients_of_an_mlp_are_deterministic(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    outcomes = [
        render("triton", make_mlp(), views(1), 4, None, samples_coarse=3, samples_fine=2)
        for _ in range(2)
    ]
    first, second = (x.outputs | x.gradients for x in outcomes)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("make", [make_field, make_mlp])
def test_the_self_check_passes(monkeypatch, make):
    monkeypatch.setattr(backends, "find_fault", kernel_check.find_fault)
    monkeypatch.setattr(kernel_check, "_faults", {})
    render("triton", make(), views(1), 2, None, samples_coarse=2, samples_fine=0)
    assert list(kernel_check._faults.values()) == [""]

"""Splatting in PyTorch: analytic cases, gradients, gsplat's results, choice of the kernel."""

import dataclasses
import math
import sys
import types
from collections import Counter

import pytest
import torch
from splat_scenes import around, error, random_splats, render

from lightning_gan3d.cameras import Cameras
from lightning_gan3d.config import ConfigError
from lightning_gan3d.contract import SceneConfig
from renderers import footprints, splat
from renderers.footprints import MAX_ALPHA, PIXEL_VARIANCE, project
from renderers.fused import kernel_check, splat_check
from renderers.splat import SplatRenderer, SplatRendererConfig, composite
from representations.splats import Splats

FRONTAL = Cameras.look_at(torch.tensor([[0.0, 0.0, 2.0]]), focal=1.0)


def gaussians(means, scales, opacities, colours):
    """Gaussians that are aligned with the axes."""
    rotations = torch.tensor([1.0, 0, 0, 0]).expand(1, len(means), 4)
    tensors = [torch.tensor([x], dtype=torch.float32) for x in (means, scales, opacities, colours)]
    return Splats(tensors[0], tensors[1], rotations, *tensors[2:], scene_cfg=SceneConfig())


def plain(scene, resolution, **options):
    renderer = SplatRenderer(SplatRendererConfig(path="plain", **options))
    return renderer(scene, FRONTAL, resolution)


def test_one_gaussian_has_its_opacity_at_its_centre():
    scene = gaussians([[0, 0, 0]], [[0.1, 0.1, 0.1]], [0.7], [[1.0, 0.5, 0.0]])
    out = plain(scene, 15, antialias=False)
    assert out.opacity[0, 0, 7, 7] == pytest.approx(0.7)
    assert out.depth[0, 0, 7, 7] == pytest.approx(2.0)
    # The image plane is 2 units away; a pixel is 2 / 15 units wide.
    variance = (0.1 * 15 / 2) ** 2 + PIXEL_VARIANCE
    assert out.opacity[0, 0, 7, 9] == pytest.approx(0.7 * math.exp(-4 / (2 * variance)))
    # feature * 2 - 1 over black
    expected = torch.tensor([0.7, 0.35, 0.0]) * 2 - 1
    assert torch.allclose(out.feature[0, :, 7, 7], expected)


def test_a_gaussian_behind_another_is_seen_through_it():
    """Whatever the order of the tensors."""
    near, far = [[0, 0, 0.5], [0, 0, -0.5]], [[0, 0, -0.5], [0, 0, 0.5]]
    for means, first in ((near, 0), (far, 1)):
        scene = gaussians(means, [[0.2] * 3] * 2, [0.6, 0.6], [[1.0, 0, 0], [0, 1.0, 0]])
        out = plain(scene, 15, antialias=False)
        colour = (out.feature[0, :, 7, 7] + 1) / 2
        assert colour[first] == pytest.approx(0.6)
        assert colour[1 - first] == pytest.approx(0.4 * 0.6)
        depth = (0.6 * 1.5 + 0.24 * 2.5) / 0.84
        assert out.depth[0, 0, 7, 7] == pytest.approx(depth)


def test_opaque_gaussians_are_cut_and_a_pixel_is_finished():
    """T would be 1, 0.01, 1e-4: the second Gaussian would finish the pixel, and is left out."""
    scene = gaussians(
        [[0, 0, 0.5], [0, 0, 0]], [[0.5] * 3] * 2, [1.0, 1.0], [[1.0, 0, 0], [0, 1.0, 0]]
    )
    out = plain(scene, 15, antialias=False)
    assert out.opacity[0, 0, 7, 7] == pytest.approx(MAX_ALPHA)


@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_covariance_of_an_isotropic_gaussian_on_the_axis(scale):
    scene = gaussians([[0, 0, 0]], [[scale] * 3], [0.5], [[1.0, 1, 1]])
    f = project(scene, FRONTAL, 64, 0.01, False)
    variance = (scale * 64 / 2) ** 2 + PIXEL_VARIANCE
    assert torch.allclose(f.conic[0, :, 0], torch.tensor([1 / variance, 0, 1 / variance]))
    assert torch.allclose(f.mean[0, :, 0], torch.tensor([32.0, 32.0]))
    squared = 2 * math.log(0.5 * 255)
    assert torch.allclose(f.reach[0, :, 0], torch.tensor(math.sqrt(squared * variance)))


def test_antialiasing_keeps_the_light_of_a_small_gaussian():
    """Sum of opacity over pixels: o * 2 pi * variance without the pixel filter."""
    scale = 0.012
    scene = gaussians([[0.01, 0.02, 0]], [[scale] * 3], [0.9], [[1.0, 1, 1]])
    total = plain(scene, 64, antialias=True).opacity.sum()
    assert float(total) == pytest.approx(0.9 * 2 * math.pi * (scale * 32) ** 2, rel=0.05)


def test_gradients_by_finite_differences():
    """By Gaussians and by cameras; wide, faint Gaussians stay away from the cuts."""
    scene = random_splats(3, 1, harmonics=True, size=0.4, dtype=torch.float64, seed=3)
    scene = dataclasses.replace(scene, opacities=scene.opacities * 0.3 + 0.3)
    cameras = around(2, 2.5, dtype=torch.float64)
    names = ("means", "scales", "rotations", "opacities", "features", "harmonics")

    def sums(pose, intrinsics, *values):
        moved = dataclasses.replace(scene, **dict(zip(names, values, strict=True)))
        f = project(moved, Cameras(pose, intrinsics), 3, 0.01, True)
        return tuple(composite(f, 3))

    inputs = [x.clone().requires_grad_() for x in (*cameras, *(getattr(scene, n) for n in names))]
    assert min(float(x.detach().min()) for x in sums(*inputs)) > 0.02
    assert torch.autograd.gradcheck(sums, inputs)


GSPLAT = torch.tensor(
    [
        [21.961126, 12.472782, 0.004742, -0.002208, 0.002318, 0.638881, 0.998941],
        [23.8501, 13.933226, 0.008342, 0.000643, 0.012344, 0.703336, 0.996897],
        [5.176186, 9.36532, 0.02292, -0.001601, 0.005359, 0.731253, 0.995755],
        [40.501862, 8.793682, 0.016779, 0.001485, 0.068553, 0.86642, 0.98717],
        [8.437209, 32.657327, 0.037196, 0.002859, 0.049644, 0.877092, 0.986972],
        [-0.024298, 0.379809, 0.020596, -0.006249, 0.020687, 0.882199, 0.993806],
    ],
    dtype=torch.float64,
)
"""Mean, conic, depth and factor of the opacity by `_fully_fused_projection` of gsplat 1.5.3, in
float64 from covariances of `_quat_scale_to_covar_preci`, of the first six Gaussians in view 1.
Two means lie outside of the slopes within which the projection is linearised."""


def test_projection_is_that_of_gsplat():
    scene = random_splats(8, seed=4, size=0.08, dtype=torch.float64)
    cameras = around(2, 0.7, 3.0, dtype=torch.float64)
    cameras.intrinsics[:, 0, 1] = 0
    f = project(scene, cameras, 24, 0.01, True)
    ours = torch.cat([f.mean, f.conic, f.depth_z[:, None]], dim=1)[1, :, :6].T
    assert error(ours, GSPLAT[:, :6]) < 1e-6
    seen = f.opacity[1, :6] > 0
    assert seen.sum() >= 3
    assert error((f.opacity / scene.opacities)[1, :6][seen], GSPLAT[seen, 6]) < 1e-6


GSPLAT_SUMS = torch.tensor(
    [
        [0.057805, 0.100158, 0.066290, 0.168635],
        [0.178407, 0.272171, 0.172629, 0.460321],
        [0.121739, 0.208133, 0.147232, 0.340403],
        [0.122350, 0.281673, 0.188369, 0.404075],
        [0.256982, 0.485479, 0.280476, 0.733705],
        [0.157166, 0.334156, 0.241892, 0.530318],
        [0.091024, 0.199563, 0.146242, 0.266961],
        [0.188606, 0.300682, 0.219195, 0.436876],
        [0.077053, 0.140832, 0.116822, 0.228945],
    ],
    dtype=torch.float64,
)
"""Colours and opacities of 3 x 3 pixels by `accumulate` of gsplat 1.5.3 with the PyTorch functions
of nerfacc 0.5.3, in float64 from our footprints; no Gaussian is dropped or cut. The gradients by
means, conics, opacities and features agreed to 3e-16 of the largest."""


def test_compositing_is_that_of_gsplat():
    scene = random_splats(6, size=0.4, dtype=torch.float64, seed=3)
    scene = dataclasses.replace(scene, opacities=scene.opacities * 0.3 + 0.3)
    cameras = around(2, 2.5, dtype=torch.float64).select(torch.tensor([1]))
    sums = composite(project(scene, cameras, 3, 0.01, True), 3)
    ours = torch.cat([sums.feature, sums.opacity], dim=1)[0].T
    assert error(ours, GSPLAT_SUMS) < 1e-6


def test_a_long_thin_gaussian_has_a_positive_covariance():
    """In float32, xx * yy - xy * xy would be rounded to zero or less."""
    scene = gaussians([[0, 0, 0]], [[300.0, 1e-3, 1e-3]], [0.9], [[1.0, 1, 1]])
    turn = torch.tensor([[[math.cos(0.3), 0, 0, math.sin(0.3)]]])
    f = project(dataclasses.replace(scene, rotations=turn), FRONTAL, 64, 0.01, False)
    a, _, c = f.conic[0, :, 0].double()
    assert a > 0
    assert float(a + c) == pytest.approx(1 / PIXEL_VARIANCE, rel=0.01)


@pytest.fixture
def kernel(monkeypatch):
    """PyTorch under the name of a kernel for CPUs; `spoil`: a fault in its sums."""
    module = types.ModuleType("renderers.fake_splat_kernel")
    module.project, module.spoil, module.calls = footprints.project, lambda sums: sums, []

    def spoiled(f, resolution):
        module.calls.append(resolution)
        return module.spoil(composite(f, resolution))

    module.composite = spoiled
    monkeypatch.setattr(kernel_check, "_faults", {})
    monkeypatch.setattr(kernel_check, "_checks", Counter())
    module.describe = lambda: "a kernel"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(
        splat, "KERNELS", {"numba": (module.__name__, "cpu"), "gsplat": ("", "cuda")}
    )
    return module


def test_backend_is_a_kernel_that_passes_its_self_check(kernel):
    for _ in range(2):
        _, _, backend = render("auto", random_splats(40), FRONTAL, 8)
        assert backend == "a kernel"
    assert kernel.calls == [splat_check.RESOLUTION, 8, 8]  # one self-check


def swapped(sums):
    return sums._replace(feature=sums.feature.roll(1, dims=1))


def too_steep(sums):
    return sums._replace(feature=2 * sums.feature - sums.feature.detach())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swapped, "self-check: feature is off by"),
        (too_steep, "self-check: gradient is off by"),
        (lambda _: 1 / 0, "self-check raised ZeroDivisionError"),
    ],
)
def test_a_wrong_kernel_is_found_by_its_self_check(kernel, spoil, message):
    kernel.spoil = spoil
    for _ in range(2):
        backend = render("auto", random_splats(40), FRONTAL, 8)[2]
        assert backend.startswith(f"PyTorch ({message}")
    assert len(kernel.calls) == 1
    with pytest.raises(ConfigError, match=rf"path=numba: {message}.*use auto or plain"):
        render("numba", random_splats(40), FRONTAL, 8)


def test_a_rendering_of_nothing_proves_nothing(kernel):
    kernel.spoil = swapped
    away = FRONTAL._replace(cam2world=FRONTAL.cam2world * torch.tensor([-1.0, -1, -1, 1]))
    assert render("auto", random_splats(40), away, 8)[2] == "a kernel"
    assert "off by" in render("auto", random_splats(40), FRONTAL, 8)[2]


@pytest.mark.usefixtures("kernel")
def test_a_kernel_that_is_named_but_cannot_run_is_an_error():
    scene = random_splats(4).to(dtype=torch.float64)
    cameras = FRONTAL.to(dtype=torch.float64)
    renderer = SplatRenderer(SplatRendererConfig(path="numba"))
    with pytest.raises(
        ConfigError, match=r"path=numba: a scene of torch\.float64.*use auto or plain"
    ):
        renderer(scene, cameras, 8)
    with pytest.raises(ConfigError, match="gsplat runs on cuda, the scene is on cpu"):
        SplatRenderer(SplatRendererConfig(path="gsplat"))(scene, cameras, 8)
    auto = SplatRenderer(SplatRendererConfig())
    auto(scene, cameras, 8)
    assert "float64" in auto.backend.reason


def test_a_kernel_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setattr(splat, "KERNELS", {"numba": ("renderers.no_such_module", "cpu")})
    renderer = SplatRenderer(SplatRendererConfig())
    renderer(random_splats(4), FRONTAL, 8)
    assert "numba cannot be imported, ModuleNotFoundError" in renderer.backend.reason

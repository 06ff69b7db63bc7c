import dataclasses
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_comparison import EG3D, errors, make_field, make_mlp, render, views

from lightning_gan3d.draws import Draws
from renderers.ray_marching import Jitter, Request
from renderers.sampling import ray_span
from renderers.volume import VolumeRenderer, VolumeRendererConfig

HERE = Path(__file__).parent


@pytest.mark.slow
def test_kernels_agree_with_the_plain_path_in_the_interpreter():
    # Triton decides at import whether it interprets: hence its own process.
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "interpreted_gpu.py"],
        cwd=HERE,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path()},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "28 passed" in result.stdout


def path() -> str:
    return os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])


@pytest.fixture
def compile_launches(monkeypatch, tmp_path):
    """A function that compiles what a rendering and its gradient launch, for Hopper."""
    pytest.importorskip("triton")
    import compiled
    from triton import knobs

    from renderers.fused.gpu import launches, mlp_marching, triton_renderer

    if not compiled.CUOBJDUMP.exists():
        pytest.skip("this build of Triton brings no cuobjdump")
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    usages = []
    for module in launches, mlp_marching:
        for name in vars(module).copy():
            if name.endswith("_kernel"):
                recorder = compiled.Recorder(getattr(module, name), usages)
                monkeypatch.setattr(module, name, recorder)

    def compile_rendering(field, resolution, o):
        rays = views(1).rays(resolution)
        span, _ = ray_span(rays, field.box, o)
        request = Request(o, field, rays, span, Jitter())
        triton_renderer.render_request(request).feature.sum().backward()
        for usage in usages:
            print(usage._replace(ptx=""))
            assert usage.stack == 0, usage._replace(ptx="")
            assert usage.shared <= 227 * 1024 / 2, "room for two programs in a multiprocessor"
        return usages

    return compile_rendering


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_spills_at_the_sizes_of_eg3d(precision, compile_launches):
    # 128 x 128 rays of 48 + 48 samples through planes of 256 x 256 x 32; compute capability 9.0.
    field = make_field(size=256, channels=32, hidden=64, features=32)
    usages = compile_launches(field, 128, VolumeRendererConfig(precision=precision, **EG3D))
    names = [u.name for u in usages]
    assert names.count("sigma_kernel") == names.count("feature_kernel") == 2
    assert len(set(names)) == 8
    added = re.findall(r"red\.\S*global\S*\.v[24]\.f32|red\.\S*v[24]\S*f32", usages[-1].ptx)
    assert len(added) == 12, "several channels of a corner are added at a time"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_spills_in_layers_of_256_units(precision, compile_launches):
    # pi-GAN's; its other hidden layers launch the same kernels as these two.
    field = make_mlp(hidden_dim=256, num_layers=2, view_dirs=True)
    o = VolumeRendererConfig(12, 12, importance="nucleus", precision=precision)
    usages = compile_launches(field, 8, o)
    names = [u.name for u in usages]
    assert "nucleus_kernel" in names
    assert names.count("layer_kernel") == 3 * 4
    assert names.count("layer_backward_kernel") == 3
    assert names.count("weight_gradient_kernel") == 4
    on_tensor_cores = [u for u in usages if u.name == "layer_kernel" and "wgmma" in u.ptx]
    assert len(on_tensor_cores) == 3 * 3, "all but the first layer"


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
RULES = {
    "standard": {},
    "nucleus": dict(importance="nucleus"),
    "eg3d": EG3D,
    "near_far": dict(bounds="near_far", near=2.2, far=4.4, rules="eg3d"),
}


def full_size(kind="triplane"):
    if kind in ("film_siren", "posenc_relu"):
        field = make_mlp(variant=kind, hidden_dim=256, num_layers=8, view_dirs=True).to("cuda")
        field.net.to("cuda")
        return field
    field = make_field(
        kind, size=64 if kind == "voxel" else 256, channels=32, hidden=64, features=32
    )
    field = field.to("cuda")
    field.decoder.to("cuda")
    return field


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("kind", "rules", "precision", "bound"),
    [
        *(("triplane", rules, "fp32", 1e-3) for rules in RULES),
        ("voxel", "eg3d", "fp32", 1e-3),
        ("trigrid", "standard", "fp32", 1e-3),
        ("triplane", "standard", "tf32", 3e-2),
        ("triplane", "eg3d", "fp16", 3e-2),
        *((kind, rules, "fp32", 1e-3) for kind in ("film_siren", "posenc_relu") for rules in RULES),
        ("film_siren", "standard", "tf32", 5e-2),
        ("film_siren", "eg3d", "fp16", 5e-2),
    ],
)
def test_full_size_agrees_with_the_plain_path(kind, rules, precision, bound):
    field, cameras = full_size(kind), views(1).to("cuda")
    counts = dict(samples_coarse=48, samples_fine=48, **RULES[rules])
    draws = Draws(0)
    result = render("triton", field, cameras, 128, draws, **counts, precision=precision)
    expected = render("plain", field, cameras, 128, draws, **counts, recompute=True)
    difference = errors(result, expected)
    # Fine samples of empty rays can differ: so a mean, not the largest difference.
    off = (result.outputs["feature"] - expected.outputs["feature"]).square().mean()
    assert -10 * math.log10(off / 4) > (80 if precision == "fp32" else 60), difference
    worst = {
        k: float((result.gradients[k] - g).norm() / g.norm()) for k, g in expected.gradients.items()
    }
    assert max(worst.values()) < bound, worst


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("precision", "most"), [("fp32", 130e6), ("fp16", 120e6)])
def test_memory_of_a_rendering_with_gradient(precision, most):
    field, cameras = full_size(), views(1).to("cuda")
    counts = dict(samples_coarse=48, samples_fine=48, precision=precision, path="triton")
    o = VolumeRenderer(VolumeRendererConfig(**counts))
    planes = field.planes.clone().requires_grad_()
    scene = dataclasses.replace(field, planes=planes)
    o(scene, cameras, 128).feature.sum().backward()
    planes.grad = None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = o(scene, cameras, 128).feature.sum()
    assert torch.cuda.memory_allocated() - before < 80e6
    out.backward()
    assert torch.cuda.max_memory_allocated() - before < most

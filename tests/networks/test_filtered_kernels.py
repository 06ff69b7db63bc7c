import dataclasses
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_gan3d.benchmark.memory import peak_bytes
from lightning_gan3d.networks.filtered_lrelu import (
    FilteredActivation,
    backend,
    filtered_lrelu,
    plain,
)

pytest.importorskip("numba")

from lightning_gan3d import simd
from lightning_gan3d.networks.fused.filtered_kernels import CODE

T = "separable"
R = "radial"


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_pass(taps, seed=0):
    """A positive filter of sum 1, without symmetry, so that a mirrored one is noticed."""
    f = torch.rand(taps, generator=torch.Generator().manual_seed(seed)) + 0.1
    return f / f.sum()


def random_case(seed):
    """Rates, filters, padding and sizes, from a seed; some filters down are absent, some radial."""
    draw = random.Random(seed)
    up, down = draw.choice([1, 2, 4]), draw.choice([1, 2, 4])
    up_filter = low_pass(draw.randint(up, 6 * up))
    down_filter = low_pass(draw.randint(down, 6 * down), 1)
    if draw.random() < 0.4:
        down_filter = down_filter[:, None] * low_pass(len(down_filter), 2)
    if down == 1 and draw.random() < 0.5:
        down_filter = None
    padding = draw.randint(-6, 20), draw.randint(-6, 20)
    clamp = draw.choice([None, 0.4])
    a = FilteredActivation(up_filter, down_filter, up, down, padding, 1.3, 0.3, clamp)
    size = draw.randint(1, 2), draw.randint(1, 40), draw.randint(8, 30), draw.randint(8, 40)
    try:
        a.size(size[2]), a.size(size[3])
    except AssertionError:  # too small: another one
        return random_case(seed + 1000)
    return a, numbers(*size), numbers(size[1], seed=1)


def results(function, a, x, bias):
    x, bias = (t.detach().clone().requires_grad_() for t in (x, bias))
    y = function(x, bias, a)
    y.backward(numbers(*y.shape, seed=7).to(y.dtype))
    return y.detach(), x.grad, bias.grad


@pytest.mark.parametrize("seed", range(40))
def test_values_and_gradients_equal_the_plain_ones(seed):
    a, x, bias = random_case(seed)
    expected = results(plain, a, x.double(), bias.double())
    for value, exact, bound in zip(
        results(filtered_lrelu, a, x, bias), expected, (1e-6, 1e-5, 1e-5), strict=True
    ):
        assert value.shape == exact.shape
        assert (value - exact).abs().max() <= bound * exact.abs().max() + 1e-12, a


def wide_case(kind=T, channels=20, width=700):
    """A case of several strips, blocks of channels and tasks."""
    down = low_pass(12, 1)
    down = down if kind == T else down[:, None] * low_pass(12, 2)
    a = FilteredActivation(low_pass(12), down, 2, 2, (9, 8), clamp=1.0)
    return a, numbers(1, channels, 8, width), numbers(channels, seed=1)


@pytest.mark.parametrize("kind", [T, R])
def test_strips_and_blocks_of_channels_join(kind):
    a, x, bias = wide_case(kind, channels=5 * simd.WIDTH + 1)
    expected = results(plain, a, x.double(), bias.double())
    for value, exact in zip(results(filtered_lrelu, a, x, bias), expected, strict=True):
        # Some samples lie so close to 0 that their sign is lost.
        assert (value - exact).norm() < 1e-4 * exact.norm()


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_threads(threads):
    case = wide_case(channels=5 * simd.WIDTH)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(filtered_lrelu, *case)
        torch.set_num_threads(threads)
        assert all(map(torch.equal, results(filtered_lrelu, *case), alone))
    finally:
        torch.set_num_threads(before)


def test_the_high_rate_is_never_stored_and_two_bits_of_a_sample_are_kept():
    a, x, bias = wide_case(channels=16, width=200)
    high = a.size(8)[0] * a.size(200)[0] * 16
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = filtered_lrelu(x.requires_grad_(), bias, a)
    assert sum(t.numel() * t.element_size() for t in saved) == high * CODE // simd.WIDTH
    with torch.no_grad():
        peak = peak_bytes(lambda: filtered_lrelu(x, bias, a), x.device)
    scratch = (4 + 6 + 12) * (2 * y.shape[3] + 11) * 4 * simd.WIDTH
    assert peak < 4 * y.numel() + 1.1 * scratch + 50_000
    assert peak_bytes(lambda: plain(x, bias, a), x.device) > 4 * high


def test_second_derivatives_raise():
    a, x, bias = wide_case(width=40)
    y = filtered_lrelu(x.requires_grad_(), bias, a)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice a function"):
        grad.sum().backward()


def test_any_layout_and_bfloat16_are_converted():
    a, x, bias = wide_case(width=40)
    expected = filtered_lrelu(x, bias, a)
    strided = x.repeat_interleave(2, 1)[:, ::2].contiguous(memory_format=torch.channels_last)
    assert torch.equal(filtered_lrelu(strided, bias, a), expected)
    low = filtered_lrelu(x.bfloat16(), bias, a)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, atol=0.05, rtol=0.05)


def test_default_dtype_and_device_do_not_matter():
    case = wide_case(width=40)
    expected = results(filtered_lrelu, *case)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            a, x, bias = case
            x, bias = x.clone().requires_grad_(), bias.clone().requires_grad_()
            y = filtered_lrelu(x, bias, a)
            grads = torch.autograd.grad(y.square().sum(), (x, bias))
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(y, expected[0])
    assert all(g.dtype == torch.float32 for g in grads)


def test_nan_stays_in_its_channel():
    a, x, bias = wide_case(width=40)
    x[0, 3, 4, 10] = float("nan")
    y = filtered_lrelu(x, bias, a)
    assert y[0, 3].isnan().any()
    assert not y[0, 4].isnan().any()


def test_the_backend_is_named(monkeypatch):
    x, a = numbers(1, 3, 8, 8), dataclasses.replace(wide_case()[0], padding=(20, 20))
    assert backend(x, a) == f"numba, {simd.describe()}"
    needs = "kernels need float32 or bfloat16 on cpu or cuda, or float16 on cuda"
    assert backend(x.double(), a) == f"plain torch (torch.float64 on cpu; {needs})"
    assert backend(x.to("meta"), a) == f"plain torch (torch.float32 on meta; {needs})"
    calls = []
    from lightning_gan3d.networks.fused import filtered_cpu

    kernel = filtered_cpu.KERNEL
    counting = kernel._replace(run=lambda *x: calls.append(x) or kernel.run(*x))
    monkeypatch.setattr(filtered_cpu, "KERNEL", counting)
    filtered_lrelu(x.double(), numbers(3), a)
    assert not calls
    filtered_lrelu(x, numbers(3), a)
    assert len(calls) == 1


@pytest.mark.slow
def test_the_gpu_kernel_agrees_in_the_interpreter():
    # Triton decides at import whether it interprets: hence its own process.
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "interpreted_filtered.py"]
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    here = Path(__file__).parent
    result = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert re.findall(r"(\d+) passed", result.stdout) == ["14"], result.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [(T, 0), (R, 16)])
def test_few_registers_spill_on_a_gpu(kind, most, monkeypatch, tmp_path):
    pytest.importorskip("triton")
    import compiled
    from triton import knobs

    from lightning_gan3d.networks.fused import filtered, filtered_gpu

    if not compiled.CUOBJDUMP.exists():
        pytest.skip("this build of Triton brings no cuobjdump")
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    usages = []
    recorder = compiled.Recorder(filtered_gpu.filtered_kernel, usages)
    monkeypatch.setattr(filtered_gpu, "filtered_kernel", recorder)
    a, x, bias = wide_case(kind)
    y = filtered.FilteredLReLU.apply(filtered_gpu.KERNEL, a, True, x.requires_grad_(), bias)
    torch.autograd.grad(y.sum(), x)
    assert len(usages) == 2
    for usage in usages:
        assert usage.stack <= most, usage._replace(ptx="")
        assert usage.shared <= 227 * 1024 / 2, "room for two programs in a multiprocessor"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [T, R])
def test_full_size_on_a_gpu_agrees_with_the_plain_path(kind):
    a, _, _ = wide_case(kind)
    filters = {k: getattr(a, k).cuda() for k in ("up_filter", "down_filter")}
    a, x, bias = dataclasses.replace(a, **filters), numbers(2, 64, 148, 148).cuda(), numbers(64)
    assert backend(x, a).startswith("triton")
    actual = results(filtered_lrelu, a, x, bias.cuda())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = results(plain, a, x, bias.cuda())
    for value, exact in zip(actual, expected, strict=True):
        assert (value - exact).norm() < 1e-4 * exact.norm()

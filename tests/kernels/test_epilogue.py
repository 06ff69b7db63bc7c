import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_gan3d.networks import resample


@pytest.mark.slow
def test_it_agrees_with_torch_in_the_interpreter():
    # Triton decides at import whether it interprets: hence a process of its own.
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "interpreted_epilogue.py"],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "....." in result.stdout  # as many tests as there are


@pytest.mark.slow
def test_nothing_spills(monkeypatch, tmp_path):
    pytest.importorskip("triton")
    import compiled
    from triton import knobs

    from lightning_gan3d.kernels import epilogue as module

    if not compiled.CUOBJDUMP.exists():
        pytest.skip("this build of Triton brings no cuobjdump")
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    usages = []
    for name in ("forward_kernel", "input_kernel", "sums_kernel"):
        monkeypatch.setattr(module, name, compiled.Recorder(getattr(module, name), usages))
    x = torch.zeros(2, 128, 65, 65, dtype=torch.float16, requires_grad=True)
    demod, bias = torch.ones(2, 128, requires_grad=True), torch.ones(128)
    noise, strength = torch.zeros(64, 64), torch.tensor(1.0)
    module.epilogue(x, demod, bias, noise, strength, 256.0, fir=True).sum().backward()
    assert [u.name for u in usages] == ["forward_kernel", "input_kernel", "sums_kernel"]
    for usage in usages:
        assert usage.stack == 0, usage._replace(ptx="")
    for usage in usages[:2]:  # eight 16-bit values at a time
        assert usage.ptx.count("ld.global.v4") + usage.ptx.count("ld.global.v2") >= 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fir", [False, True])
def test_it_agrees_with_torch_at_full_size(fir):
    from lightning_gan3d.kernels.epilogue import epilogue

    x = torch.randn(2, 128, 256 + fir, 256 + fir, device="cuda", dtype=torch.float16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    demod, bias = torch.rand(2, 128, device="cuda") + 0.5, torch.randn(128, device="cuda")
    found = epilogue(x, demod, bias, clamp=2.0, fir=fir)
    y = resample.fir(x.float(), 1, gain=2.0) if fir else x.float()
    y = torch.nn.functional.leaky_relu(y * demod[..., None, None] + bias[:, None, None], 0.2)
    torch.testing.assert_close(found.float(), y.clamp(-2, 2), atol=4e-3, rtol=4e-3)
    mine, theirs = (torch.autograd.grad(z.float().sum(), x)[0] for z in (found, y.clamp(-2, 2)))
    assert (mine - theirs).norm() < 1e-2 * theirs.norm()

import pytest
import torch

from lightning_gan3d import doctor


def test_matching_pairs_pass():
    assert doctor._torch_pair("2.15.0", "0.29.2", ">=2.14.0").state == "ok"
    assert doctor._torch_pair("2.15.0+cpu", "0.29.2+cpu", "==2.15.0").state == "ok"


def test_mismatched_pairs_are_named_with_the_remedy():
    release = doctor._torch_pair("2.13.0", "0.29.2", ">=2.14.0")
    assert release.state == "fault"
    assert "needs torch>=2.14.0" in release.detail
    assert "install both from one index" in release.detail
    build = doctor._torch_pair("2.15.0+cpu", "0.29.2", ">=2.14.0")
    assert build.state == "fault"
    assert "`cpu` and `default` do not mix" in build.detail
    assert doctor._torch_pair("2.10.0", "0.25.0", "==2.10.0").state == "fault"
    assert "torchvision is not installed" in doctor._torch_pair("2.15.0", None, None).detail


def test_the_installed_torchvision_requires_a_version_of_torch():
    required = doctor.required_torch()
    assert required is not None
    assert required[0] in "=><"


def test_the_examination_covers_devices_and_never_raises():
    result = {f.name for f in doctor.examine()}
    assert {"Python", "torch and torchvision", "imports", "CPU", "GPU"} <= result
    assert {"CPU kernels", "GPU kernels", "W&B", "weights inception"} <= result


def test_missing_kernels_are_no_fault():
    cpu, gpu = doctor._cpu_kernels(None), doctor._gpu_kernels(None)
    assert (cpu.state, gpu.state) == ("note", "note")
    assert "plain path; pip install 'lightning-gan3d[numba]'" in cpu.detail
    assert "plain path" in gpu.detail


@pytest.mark.parametrize(
    ("capabilities", "state", "detail"),
    [
        ([], "note", "torch sees no CUDA device"),
        ([(7, 5)], "note", "needs compute capability 8.0: GPU 0 has 7.5; rendering on CUDA"),
        ([(9, 0), (6, 1)], "note", "GPU 1 has 6.1"),
        ([(8, 0)], "ok", "triton 3.9"),
    ],
)
def test_gpu_kernels_need_a_supported_gpu(monkeypatch, capabilities, state, detail):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
    result = doctor._gpu_kernels("3.9")
    assert result.state == state
    assert detail in result.detail


def test_a_broken_driver_is_a_note(monkeypatch):
    def broken():
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    result = doctor._gpu_kernels("3.9")
    assert (result.state, result.detail) == (
        "note",
        "triton 3.9, but CUDA does not respond: driver mismatch",
    )

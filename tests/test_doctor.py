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


def test_the_installed_torchvision_tells_its_torch():
    wanted = doctor.torch_wanted_by_torchvision()
    assert wanted is not None
    assert wanted[0] in "=><"


def test_the_examination_covers_devices_and_never_raises():
    found = {f.what for f in doctor.examine()}
    assert {
        "Python",
        "torch and torchvision",
        "imports",
        "CPU",
        "GPU",
        "W&B",
        "weights inception",
    } <= found


def test_kernels_are_told_and_their_absence_is_no_fault(monkeypatch):
    assert [f.what for f in doctor._kernels()] == ["CPU kernels", "GPU kernels"]
    monkeypatch.setattr(doctor, "version", lambda _: None)
    cpu, gpu = doctor._kernels()
    assert (cpu.state, gpu.state) == ("note", "note")
    assert "plain path; pip install 'lightning-gan3d[numba]'" in cpu.detail
    assert "plain path" in gpu.detail


@pytest.mark.parametrize(
    ("capabilities", "state", "words"),
    [
        ([], "note", "torch sees no CUDA device"),
        ([(7, 5)], "note", "needs compute capability 8.0: GPU 0 has 7.5; renderings on CUDA"),
        ([(9, 0), (6, 1)], "note", "GPU 1 has 6.1"),
        ([(8, 0)], "ok", "triton 3.9"),
    ],
)
def test_gpu_kernels_are_well_only_on_a_gpu_that_runs_them(monkeypatch, capabilities, state, words):
    monkeypatch.setattr(doctor, "version", lambda _: "3.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
    found = doctor._kernels()[1]
    assert found.state == state
    assert words in found.detail


def test_a_driver_that_cannot_be_asked_is_a_note(monkeypatch):
    def broken():
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr(doctor, "version", lambda _: "3.9")
    monkeypatch.setattr(torch.cuda, "is_available", broken)
    found = doctor._kernels()[1]
    assert (found.state, found.detail) == (
        "note",
        "triton 3.9, but CUDA cannot be asked: driver mismatch",
    )

"""Run by test_filtered_kernels.py in its own process, in Triton's interpreter."""

import pytest
import torch
from test_filtered_kernels import R, T, low_pass, numbers, results

from lightning_gan3d.networks.filtered_lrelu import FilteredActivation, backend, plain
from lightning_gan3d.networks.fused import filtered, filtered_gpu

CASES = [
    (T, 2, 2, (9, 8), (2, 3, 18, 9)),
    (T, 4, 2, (-6, -9), (1, 2, 15, 16)),
    (T, 2, 1, (-2, 7), (1, 1, 17, 12)),
    (R, 2, 4, (4, 9), (1, 1, 10, 21)),
    (R, 1, 2, (3, 1), (1, 1, 12, 20)),
]


def on_gpu(x, bias, a):
    keep = x.requires_grad
    return filtered.FilteredLReLU.apply(filtered_gpu.KERNEL, a, keep, x, bias)


@pytest.mark.parametrize(("kind", "up", "down", "padding", "size"), CASES)
def test_values_and_gradients_equal_the_plain_ones(kind, up, down, padding, size):
    taps = low_pass(6 * down, 1) if down > 1 else None
    if kind == R:  # a product per row in the interpreter: few
        taps = low_pass(2 * down, 1)
        taps = taps[:, None] * low_pass(len(taps), 2)
    a = FilteredActivation(low_pass(6 * up), taps, up, down, padding, 1.3, 0.3, 0.4)
    x, bias = numbers(*size), numbers(size[1], seed=1)
    expected = results(plain, a, x.double(), bias.double())
    for value, exact in zip(results(on_gpu, a, x, bias), expected, strict=True):
        assert (value - exact).abs().max() < 1e-5 * exact.abs().max()
    with torch.no_grad():
        assert (on_gpu(x, bias, a) - expected[0]).abs().max() < 1e-5 * expected[0].abs().max()


def test_four_samples_share_a_byte():
    a = FilteredActivation(low_pass(12), low_pass(12), 2, 2, (9, 8))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        on_gpu(numbers(1, 1, 16, 16).requires_grad_(), numbers(1), a)
    rows, columns = a.size(16)[0], (a.size(16)[0] + 3) // 4
    assert [t.numel() * t.element_size() for t in saved] == [rows * columns]


def test_a_faulty_kernel_is_found(monkeypatch):
    check, cpu = filtered_gpu._compare, torch.device("cpu")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert check(cpu) == ""
    finally:
        torch.set_default_dtype(before)
    kernel = filtered_gpu.KERNEL

    def doubled(p, mode, images):
        kernel.run(p, mode, images)
        images.out.mul_(1 if mode == filtered.KEEP else 2)  # the gradient alone

    monkeypatch.setattr(filtered_gpu, "KERNEL", kernel._replace(run=doubled))
    assert check(cpu) == "self-check: gradient off by 100 %"
    monkeypatch.setattr(filtered_gpu, "KERNEL", kernel._replace(run=None))
    assert check(cpu).startswith("self-check raised TypeError")
    monkeypatch.setattr(filtered_gpu, "_faults", {})
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for capturing, fault in ((True, ""), (False, "self-check raised")):  # "" is not cached
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda on=capturing: on)
        assert filtered_gpu.find_fault(cpu)[:17] == fault


class OnCuda(torch.Tensor):
    device = torch.device("cuda", 0)


LAYERS = (4, 24, True), (4, 64, False), (8, 48, False)  # with filter_size=16; lrelu_upsampling=4
COLOURS = (2, 24, True), (4, 48, True), (8, 96, False), (16, 192, False)  # of AliasFreeHead


@pytest.mark.parametrize(("up", "taps", "fits"), LAYERS + COLOURS)
def test_filters_longer_than_a_tile_are_plain(up, taps, fits, monkeypatch):
    monkeypatch.setattr(filtered_gpu, "find_fault", lambda _: "")
    a = FilteredActivation(low_pass(taps), None, up, 1, (taps, taps))
    x, bias = numbers(1, 1, 5, 9), numbers(1, seed=1)
    reason = f"filters of {taps} taps up by {up}, 1 down by 1 exceed the kernel's tile"
    expected = filtered_gpu.KERNEL.name if fits else f"plain torch ({reason})"
    assert backend(x.as_subclass(OnCuda), a) == expected
    if fits:
        expected = results(plain, a, x.double(), bias.double())
        for value, exact in zip(results(on_gpu, a, x, bias), expected, strict=True):
            assert (value - exact).abs().max() < 1e-5 * exact.abs().max()

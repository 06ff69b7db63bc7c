import pytest
import torch
from torch import nn

from lightning_gan3d.benchmark.memory import MemoryUnknownError, measure_peak, peak_bytes

CPU = torch.device("cpu")
KB = 1000


def floats(kilobytes: int) -> torch.Tensor:
    return torch.empty(kilobytes * KB // 4)


def test_peak_of_known_allocations_is_exact() -> None:
    def fn() -> torch.Tensor:
        first, second = floats(4000), floats(8000)  # 12,000 KB alive
        del first
        third = floats(2000)  # 10,000
        del second
        return third

    assert peak_bytes(fn, CPU) == 12_000 * KB


def test_what_is_freed_between_calls_does_not_pile_up() -> None:
    def fn() -> None:
        for _ in range(20):
            floats(1000)

    assert peak_bytes(fn, CPU) == 1000 * KB


def test_memory_held_before_the_call_is_left_out() -> None:
    held = floats(50_000)
    assert peak_bytes(lambda: (held.sum(), floats(1000)), CPU) in range(1000 * KB, 1001 * KB)


def test_what_a_first_call_builds_for_good_is_left_out() -> None:
    cache: list[torch.Tensor] = []

    def fn() -> None:
        if not cache:
            cache.append(floats(9000))
        floats(1000)

    assert peak_bytes(fn, CPU) == 1000 * KB


def test_what_replaces_something_released_before_is_no_growth() -> None:
    kept = [floats(1)]

    def fn() -> None:
        kept.clear()
        kept.append(floats(5000))

    assert peak_bytes(fn, CPU) == 0


def test_an_operations_own_workspace_is_seen() -> None:
    # Sorting makes values and indices; no Python name ever holds them.
    x = torch.rand(250_000)
    assert peak_bytes(lambda: x.sort().values.sum(), CPU) >= x.numel() * (4 + 8)


def test_gradients_and_saved_tensors_count() -> None:
    x, layers = torch.rand(1000, 100), nn.Sequential(*[nn.Sigmoid() for _ in range(10)])
    x.requires_grad_()
    one = x.numel() * 4
    with torch.no_grad():
        plain = peak_bytes(lambda: layers(x), CPU)
    saved = peak_bytes(lambda: layers(x).sum().backward(), CPU)
    assert plain == 2 * one  # the input of a layer and its output
    assert saved >= 11 * one  # ten saved outputs, and a gradient


def test_the_peak_grows_as_the_function_asks() -> None:
    small, large = (
        peak_bytes(lambda n=n: torch.rand(n, n) @ torch.rand(n, n), CPU) for n in (200, 400)
    )
    assert large == 4 * small == 4 * 3 * 200 * 200 * 4


def test_a_device_without_a_record_is_missing_with_a_reason() -> None:
    with pytest.raises(MemoryUnknownError, match="meta"):
        peak_bytes(lambda: None, torch.device("meta"))
    row = measure_peak("memory.view_mb", lambda: None, torch.device("meta"))
    assert row.value is None
    assert "no record" in row.note


def test_a_row_is_in_megabytes_and_says_how() -> None:
    row = measure_peak("memory.view_mb", lambda: floats(3000), CPU, note="one view")
    assert row.value == pytest.approx(3.0)
    assert row.unit == "MB"
    assert row.note.startswith("one view; peak of torch's CPU allocator record")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_on_cuda_is_the_allocators() -> None:
    device = torch.device("cuda")

    def fn() -> torch.Tensor:
        first = torch.empty(16 * 1024**2, dtype=torch.uint8, device=device)
        second = torch.empty(32 * 1024**2, dtype=torch.uint8, device=device)
        del first
        return second

    assert peak_bytes(fn, device) == 48 * 1024**2

import sys

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gan3d.benchmark.memory import (
    MemoryUnknownError,
    measure_memory,
    peak_bytes,
    resident_peak,
)

CPU = torch.device("cpu")
KB = 1000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")


def floats(kilobytes: int) -> torch.Tensor:
    return torch.empty(kilobytes * KB // 4)


def test_the_peak_of_known_allocations_is_exact() -> None:
    def fn() -> torch.Tensor:
        first, second = floats(4000), floats(8000)  # 12,000 KB alive
        del first
        third = floats(2000)  # 10,000
        del second
        return third

    assert peak_bytes(fn, CPU) == 12_000 * KB


def test_memory_freed_within_the_call_does_not_accumulate() -> None:
    def fn() -> None:
        for _ in range(20):
            floats(1000)

    assert peak_bytes(fn, CPU) == 1000 * KB


def test_memory_held_before_the_call_does_not_count() -> None:
    held = floats(50_000)
    assert peak_bytes(lambda: (held.sum(), floats(1000)), CPU) in range(1000 * KB, 1001 * KB)


def test_a_cache_of_the_first_call_does_not_count() -> None:
    cache: list[torch.Tensor] = []

    def fn() -> None:
        if not cache:
            cache.append(floats(9000))
        floats(1000)

    assert peak_bytes(fn, CPU) == 1000 * KB


def test_memory_that_replaces_a_release_is_no_growth() -> None:
    buffers = [floats(1)]

    def fn() -> None:
        buffers.clear()
        buffers.append(floats(5000))

    assert peak_bytes(fn, CPU) == 0


def test_workspaces_inside_operations_count() -> None:
    # Sorting allocates values and indices that no Python name holds.
    x = torch.rand(250_000)
    assert peak_bytes(lambda: x.sort().values.sum(), CPU) >= x.numel() * (4 + 8)


def test_gradients_and_saved_tensors_count() -> None:
    x, layers = torch.rand(1000, 100), nn.Sequential(*[nn.Sigmoid() for _ in range(10)])
    x.requires_grad_()
    one = x.numel() * 4
    with torch.no_grad():
        plain = peak_bytes(lambda: layers(x), CPU)
    saved = peak_bytes(lambda: layers(x).sum().backward(), CPU)
    assert plain == 2 * one  # input and output of a layer
    assert saved >= 11 * one  # ten saved outputs and a gradient


def test_the_peak_scales_with_the_allocations() -> None:
    small, large = (
        peak_bytes(lambda n=n: torch.rand(n, n) @ torch.rand(n, n), CPU) for n in (200, 400)
    )
    assert large == 4 * small == 4 * 3 * 200 * 200 * 4


def test_unknown_memory_is_missing_with_a_reason() -> None:
    with pytest.raises(MemoryUnknownError, match="meta"):
        peak_bytes(lambda: None, torch.device("meta"))
    row = measure_memory("memory.view_mb", lambda: None, torch.device("meta"))
    assert row.value is None
    assert "records no peak memory" in row.note


def test_a_metric_is_in_megabytes_and_names_the_method() -> None:
    row = measure_memory("growth.grid.scene_mb", lambda: floats(3000), CPU, "one scene", at=64.0)
    assert row.key == "growth.grid.scene_mb@64"
    assert row.value == pytest.approx(3.0)
    assert row.unit == "MB"
    assert row.note.startswith("one scene; peak of torch's CPU allocator")


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


@linux
def test_resident_memory_includes_torch_and_other_libraries() -> None:
    def by_torch() -> torch.Tensor:
        x = torch.ones(10_000_000)
        return x + 1  # 40 MB twice

    def by_numpy() -> None:
        np.ones(10_000_000, dtype=np.float32).sum()

    assert resident_peak(by_torch) == pytest.approx(80e6, rel=0.1)
    assert resident_peak(by_numpy) == pytest.approx(40e6, rel=0.15)


@linux
def test_memory_freed_earlier_does_not_hide_the_resident_peak() -> None:
    x = torch.ones(30_000_000)
    del x
    assert resident_peak(lambda: torch.ones(10_000_000)) == pytest.approx(40e6, rel=0.15)

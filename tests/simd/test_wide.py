import numpy as np
import pytest

pytest.importorskip("numba")

from lightning_gan3d.simd import entry, simd
from lightning_gan3d.simd.vector import Int, Registers
from lightning_gan3d.simd.wide import (
    LANES,
    any_lane,
    broadcast_wide,
    clamp,
    each_bit,
    lane_sums,
    load_wide,
    mask_bits,
    store_wide,
    wide_numbers,
    zeros,
)


@simd
def sum_rows(x: Int, y: Int) -> None:
    store_wide(lane_sums([load_wide(x + 64 * i) for i in range(10)]), y)


@simd
def positive(x: Int) -> Int:
    return mask_bits(load_wide(x) > 0.0)


@simd
def some_positive(x: Int) -> Int:
    return any_lane(load_wide(x) > 0.0)


@simd
def sum_places(x: Int, bits: Int, y: Int) -> None:
    sums = Registers([zeros(x)])
    with each_bit(bits) as i:
        sums[0] = sums[0] * 2.0 + broadcast_wide(x + i * 4)
    store_wide(sums[0], y)


@simd
def clamped(x: Int, y: Int) -> None:
    low, high = wide_numbers(x, range(-8, 8)), wide_numbers(x, [3] * LANES)
    store_wide(clamp(load_wide(x), low, high), y)


@entry
def run(x: np.ndarray, out: np.ndarray, bits: int) -> tuple[int, int]:
    at, to = x.ctypes.data, out.ctypes.data
    sum_rows(at, to)
    sum_places(at, bits, to + 64)
    clamped(at, to + 128)
    return positive(at), some_positive(at)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(10, LANES)).astype(np.float32) * 4


@pytest.mark.parametrize("bits", [0, 1, 0b1000_0000_0010_0100, 0xFFFF])
def test_operations(x, bits):
    out = np.zeros((3, LANES), np.float32)
    x[0, 3] = np.nan
    mask, some = run(x, out, bits)
    assert mask == sum(1 << i for i in range(LANES) if x[0, i] > 0)
    assert some == 1
    assert np.allclose(out[0, :10], x.sum(1), rtol=1e-5, equal_nan=True)
    assert not out[0, 10:].any()
    expected = 0.0
    for i in range(LANES):  # the lowest bit first
        if bits >> i & 1:
            expected = 2 * expected + x[0, i]
    assert np.allclose(out[1], expected, rtol=1e-5, equal_nan=True)
    limits = np.arange(-8, 8)
    assert np.allclose(out[2], np.maximum(np.minimum(x[0], 3), limits), equal_nan=True)


def test_no_lane_is_positive(x):
    assert run(-abs(x), np.zeros((3, LANES), np.float32), 0) == (0, 0)

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from lightning_gan3d.simd import WIDTH, entry, simd
from lightning_gan3d.simd.vector import (
    MASK_BYTES,
    Float,
    Int,
    Registers,
    absolute,
    broadcast,
    constant,
    floor,
    fma,
    join,
    load,
    load_bfloat16,
    load_ints,
    load_mask,
    loop,
    maximum,
    minimum,
    reciprocal,
    round_down,
    select,
    split,
    square_root,
    store,
    store_bfloat16,
    store_float,
    store_mask,
    total,
    transposed,
)


@simd
def bfloat16_there_and_back(x: Int, half: Int, back: Int) -> None:
    store_bfloat16(load(x), half)
    store(load_bfloat16(half), back)


@entry
def convert(x: np.ndarray, half: np.ndarray, back: np.ndarray) -> None:
    for i in range(0, x.size, WIDTH):
        bfloat16_there_and_back(
            x.ctypes.data + 4 * i, half.ctypes.data + 2 * i, back.ctypes.data + 4 * i
        )


@simd
def operations(x: Int, y: Int, out: Int, factor: Float) -> None:
    a, b = load(x), load(y)
    both = split(join([a, b, b, a]) * 2.0)
    results = [
        a + b,
        a - b,
        a * b,
        a / b,
        1.0 - a,
        2.0 / b,
        fma(a, b, 0.5),
        maximum(a, b),
        minimum(a, b),
        select(a <= b, a, 0.0),
        floor(a),
        absolute(a),
        square_root(absolute(a)),
        a * factor.splat(),
        a * broadcast(y),
        constant(x, 3.0) + a,
        reciprocal(b),
        both[0],
        both[2],
    ]
    for i, result in enumerate(results):
        store(result, out + 4 * WIDTH * i)
    store_float(total(a), out + 4 * WIDTH * len(results))


@simd
def integers(x: Int, out: Int) -> None:
    whole = round_down(load(x))
    store(whole, out)
    back = load_ints(out)
    store((back << 3) + 1, out + 4 * WIDTH)
    store((back & 6) >> 1, out + 8 * WIDTH)
    store((load(x) < 0.0).as_ints(), out + 12 * WIDTH)


@simd
def add_up(x: Int, count: Int, out: Int) -> None:
    held = Registers([load(out)])
    with loop(count) as i:
        held[0] = held[0] + load(x + i * (4 * WIDTH))
    store(held[0], out)


@entry
def operate(x: np.ndarray, y: np.ndarray, out: np.ndarray, ints: np.ndarray, factor: float) -> None:
    operations(x.ctypes.data, y.ctypes.data, out.ctypes.data, factor)
    integers(x.ctypes.data, ints.ctypes.data)


@entry
def sum_rows(x: np.ndarray, out: np.ndarray) -> None:
    add_up(x.ctypes.data, x.shape[0], out.ctypes.data)


def test_bfloat16_rounds_as_torch():
    edges = np.array([0, -0.0, 1, np.inf, -np.inf, np.nan, 3.4e38, 1e-40, 65504], np.float32)
    ties = np.arange(0x3F800000, 0x3F840000, 0x4000, np.uint32).view(np.float32)
    noise = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    signalling = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    x = np.concatenate([edges, ties, noise, signalling])
    x = np.concatenate([x, np.zeros(-x.size % 16, np.float32)])
    half, back = np.empty(x.size, np.uint16), np.empty_like(x)
    convert(x, half, back)
    expected = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(back, expected.float().numpy())
    numbers = ~np.isnan(x)
    bits = expected.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(half[numbers], bits[numbers])


def test_operations_match_numpys_float32():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, WIDTH)).astype(np.float32) * 3
    out, ints = np.empty((20, WIDTH), np.float32), np.empty((4, WIDTH), np.int32)
    operate(x, y, out, ints, 0.75)
    f64 = x.astype(np.float64) * y + 0.5
    expected = [x + y, x - y, x * y, x / y, 1 - x, 2 / y, f64.astype(np.float32)]
    expected += [np.maximum(x, y), np.minimum(x, y), np.where(x <= y, x, 0), np.floor(x), np.abs(x)]
    expected += [np.sqrt(np.abs(x)), x * np.float32(0.75), x * y[0], 3 + x, 1 / y, 2 * x, 2 * y]
    for i, values in enumerate(expected):
        np.testing.assert_allclose(out[i], values, rtol=1.3e-7, err_msg=str(i))
    assert out[19, 0] == pytest.approx(x.sum(dtype=np.float64), rel=1e-5)
    whole = x.astype(np.int32)
    np.testing.assert_array_equal(ints[0], whole)
    np.testing.assert_array_equal(ints[1], (whole << 3) + 1)
    np.testing.assert_array_equal(ints[2], (whole & 6) >> 1)
    np.testing.assert_array_equal(ints[3], -(x < 0).astype(np.int32))


def test_registers_carry_values_through_loops():
    x = np.random.default_rng(2).standard_normal((7, WIDTH)).astype(np.float32)
    out = np.zeros(WIDTH, np.float32)
    sum_rows(x, out)
    np.testing.assert_allclose(out, x.sum(0), rtol=1e-5)


@simd
def transpose_square(x: Int, out: Int) -> None:
    for i, row in enumerate(transposed([load(x + 4 * WIDTH * i) for i in range(WIDTH)])):
        store(row, out + 4 * WIDTH * i)


@simd
def mark_positive(x: Int, mask: Int, out: Int) -> None:
    store_mask(load(x) > 0.0, mask)
    store(select(load_mask(mask), constant(x, 1.0), -1.0), out)


@entry
def transpose_and_mark(x: np.ndarray, out: np.ndarray, mask: np.ndarray) -> None:
    transpose_square(x.ctypes.data, out[0].ctypes.data)
    for i in range(WIDTH):
        row = x[i].ctypes.data
        mark_positive(row, mask.ctypes.data + MASK_BYTES * i, out[1, i].ctypes.data)


def test_squares_are_transposed_and_masks_kept_in_a_bit_per_lane():
    x = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    out = np.zeros((2, WIDTH, WIDTH), np.float32)
    mask = np.full(MASK_BYTES * WIDTH + 1, 7, np.uint8)
    transpose_and_mark(x, out, mask)
    assert (out[0] == x.T).all()
    assert (out[1] == np.where(x > 0, 1, -1)).all()
    assert mask[-1] == 7, "nothing is written beyond the masks"
    bits = np.unpackbits(mask[:MASK_BYTES], bitorder="little")[:WIDTH]
    assert (bits == (x[0] > 0)).all()
